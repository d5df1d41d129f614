"""Where the demo plays: a copy of the sample project, a running sandbox, and a screen."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbt_segments.sandbox import server

Echo = Callable[[str], None]
Key = tuple[str, str]  # a match key as Meta was sent it: field, value
Members = dict[str, frozenset[Key]]  # audience name -> the match keys in it

PROGRAMS = {"dbt": "dbt.cli.main", "dbt-segments": "dbt_segments"}
_WRITES = ("create", "add", "remove", "replace")
# The platform takes what is added and never answers: whoever dies now cannot know whether it arrived.
_NEVER_ANSWERED = {"kind": "hang", "applied": True, "match": {"op": "add"}}
_PATIENCE_S = 120


class StepError(Exception):
    """A command of the demo did not end as it must; its output has been shown."""


@dataclass(frozen=True)
class Stage:
    """Types commands as a user would, and looks at what arrived."""

    folder: Path
    serving: server.Serving
    echo: Echo
    env: Mapping[str, str] = field(repr=False)

    def type(self, line: str, code: int = 0) -> None:
        """Run a command and show it with what it prints. Raises StepError unless it ends with that exit code."""
        self.echo(f"$ {line}")
        done = subprocess.run(  # noqa: S603 - our own words
            self._command(line),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wrong = done.returncode != code
        # what goes to stderr is progress, unless something is wrong
        for text in (done.stdout + (done.stderr if wrong else "")).splitlines():
            self.echo(text)
        if wrong:
            raise StepError(f"{line}: exit code {done.returncode}")

    def kill(self, line: str) -> None:
        """Run a command in the background, and SIGKILL it when Meta has taken an addition and not yet answered."""
        faults, fault = f"{self.serving.url}/_sandbox/faults", json.dumps(_NEVER_ANSWERED)
        self.echo(f"$ curl --silent --output /dev/null --data '{fault}' {faults}")
        urllib.request.urlopen(faults, fault.encode()).close()  # noqa: S310 - our own sandbox
        with self.serving.sandbox.lock:
            before = self.serving.sandbox.made
        self.echo(f"$ {line} &")
        running = subprocess.Popen(  # noqa: S603 - our own words
            self._command(line),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + _PATIENCE_S
            while not self._is_waiting(before):
                if running.poll() is not None or time.monotonic() > end:
                    raise StepError(f"{line}: ended before it could be killed")
                time.sleep(0.02)
        finally:
            running.kill()
            running.wait()
        self.echo("$ kill -KILL $!")

    def show_file(self, pattern: str, lines: int) -> None:
        """Show the header and the first rows, by their leading number, of the one file of that pattern."""
        self.echo(f"$ sort -n {pattern} | head -n {lines}")
        found = list(self.folder.glob(pattern))
        if len(found) != 1:
            raise StepError(f"{pattern}: {len(found)} files instead of one")
        head, *rows = found[0].read_text(encoding="utf-8").splitlines()
        for text in [head, *sorted(rows, key=lambda row: int(row.partition(",")[0]))][:lines]:
            self.echo(text)

    def members(self) -> Members:
        """Who is in the sandbox's audiences, by platform and name."""
        audiences = self.serving.state()["audiences"]
        return {_name(audience): frozenset(map(tuple, audience["keys"])) for audience in audiences}

    def records(self) -> dict[str, int]:
        """How many records the sandbox's receiver of webhooks has, by path."""
        found: dict[str, int] = self.serving.state(keys=False)["reports"]["webhook"]["records"]
        return found

    def sends(self) -> int:
        """How many requests so far created an audience or changed members or records."""
        with self.serving.sandbox.lock:
            return sum(call["op"] in _WRITES for call in self.serving.sandbox.calls)

    def show(self, note: str = "") -> None:
        """Print what the sandbox says of its audiences and records, with a note on how it counts."""
        self.echo(f"\nThe sandbox has{note}:")
        for audience in sorted(self.serving.state(keys=False)["audiences"], key=_name):
            self.echo(f"  {_name(audience)}: {audience['people']} people")
        for place, count in self.records().items():
            self.echo(f"  {place}: {count} records")

    def _is_waiting(self, before: int) -> bool:
        """Whether a call after that number has met the fault."""
        with self.serving.sandbox.lock:
            return any(call["n"] > before and call["fault"] == "hang" for call in self.serving.sandbox.calls)

    def _command(self, line: str) -> list[str]:
        program, *words = line.split()
        return [sys.executable, "-m", PROGRAMS[program], *words]


def _name(audience: Mapping[str, Any]) -> str:
    """Platform and name of an audience; Pinterest's carries our mark, too."""
    return f"{audience['platform']}: {audience['name'].partition(' [dbt-segments:')[0]}"
