"""A command as a process of its own, and what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SHOWN = 4000


@dataclass(frozen=True)
class Cost:
    """Wall and processor time from start to end, interpreter included, and the most memory that the process held."""

    seconds: float
    cpu_s: float
    peak_mb: float
    output: str


def measured(command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end. Raises RuntimeError with the end of what it said where it fails."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, cwd=folder, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        text = _read(output)
        if process.returncode != 0:
            said = (text + _read(errors))[-_SHOWN:]
            raise RuntimeError(f"the command ended with {process.returncode}:\n{said}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def sync_command(project: Path) -> list[str]:
    """The command line of a sync, due or not, with the profile in the project's folder."""
    folder = str(project)
    return [sys.executable, "-m", "dbt_segments", "sync", "--now", "--project-dir", folder, "--profiles-dir", folder]
