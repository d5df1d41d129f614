"""A command as a process of its own, and what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 4000

# The peak of a new process counts that of the process which started it, so a small one starts what is measured.
_LAUNCHER = """
import json, os, sys, time
began = time.monotonic()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)
cost = [time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]
with open(sys.argv[1], "w") as file:
    json.dump(cost, file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Cost:
    """Wall and processor time from start to end, interpreter included, and the most memory that the process held."""

    seconds: float
    cpu_s: float
    peak_mb: float
    output: str


def measured(command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end. Raises RuntimeError with the end of what it said where it fails.

    Python may keep what it compiled, whatever the shell says: else every start compiles all modules again.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.NamedTemporaryFile("r") as figures:
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, figures.name, *command]
        done = subprocess.run(
            launch, cwd=folder, env={**inherited, **(environment or {})}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-_SHOWN:]
            raise RuntimeError(f"the command ended with {done.returncode}:\n{said}")
        seconds, cpu_s, peak_mb = json.load(figures)
    return Cost(seconds, cpu_s, peak_mb, done.stdout)


def sync_command(project: Path) -> list[str]:
    """The command line of a sync, due or not, with the profile in the project's folder."""
    folder = str(project)
    return [sys.executable, "-m", "dbt_segments", "sync", "--now", "--project-dir", folder, "--profiles-dir", folder]
