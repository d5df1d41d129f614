"""What a user's shell sees of `dbt-segments`, and what a platform saw of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from dbt_segments.cli import main
from dbt_segments.sandbox.app import Sandbox
from dbt_segments.sandbox.meta import Meta
from dbt_segments.sandbox.platform import Answer, Clock, Request
from dbt_segments.sandbox.server import Serving, serve
from tests.projects import REPOSITORY, DbtProject

Row = frozenset[tuple[str, str]]
TOKEN = "sandbox-token"


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    def syncs(self) -> dict[str, dict[str, Any]]:
        """Segment -> its row of `--output json`."""
        return {row["segment"]: row for row in json.loads(self.stdout)["syncs"]}

    def sync(self) -> dict[str, Any]:
        """The row of the only sync."""
        (row,) = self.syncs().values()
        return row


def process(
    project: DbtProject, *arguments: str, stdin: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Ended:
    """`dbt-segments` as a process of its own, in the project's folder."""
    done = subprocess.run(
        [sys.executable, "-m", "dbt_segments", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd or project.path,
        env={**os.environ, **project.environment, "PYTHONPATH": str(REPOSITORY), **(env or {})},
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def command(project: DbtProject, *arguments: str) -> Ended:
    """The same command in this process, which saves a second and a half."""
    folders = ["--project-dir", str(project.path), "--profiles-dir", str(project.path)]
    result = CliRunner().invoke(main, [*arguments, *folders], prog_name="dbt-segments")
    return Ended(result.exit_code, result.stdout, result.stderr)


@dataclass
class Platform:
    """A sandbox that also keeps the rows it was sent, with the cells that match nobody alone."""

    serving: Serving
    rows: list[tuple[str, str, Row]] = field(default_factory=list)

    def connection(self) -> dict[str, str]:
        """Its entry for destinations.yml."""
        return {
            "type": "meta",
            "base_url": f"{self.serving.url}/meta",
            "ad_account_id": "1002003004005",
            "access_token": TOKEN,
        }

    def members(self) -> dict[str, set[tuple[str, str]]]:
        """Audience -> every identifier whose person is in it now."""
        return {
            audience["name"]: {(field_, value) for field_, value in audience["keys"]}
            for audience in self.serving.state()["audiences"]
            if not audience["deleted"]
        }

    def people(self) -> dict[str, int]:
        """Audience -> how many people are in it."""
        return {audience["name"]: audience["people"] for audience in self.serving.state(keys=False)["audiences"]}

    def writes(self) -> int:
        """How many requests made an audience or changed its members, so far."""
        with self.serving.sandbox.lock:
            return sum(call["op"] in ("create", "add", "remove", "replace") for call in self.serving.sandbox.calls)

    def requests(self) -> int:
        """How many requests there were at all, so far."""
        return int(self.serving.state(keys=False)["calls"])

    def violations(self) -> list[str]:
        """What a careful sender would not have sent."""
        found: list[str] = self.serving.state(keys=False)["violations"]["meta"]
        return found

    def take_rows(self, op: str) -> dict[str, list[Row]]:
        """Audience -> the rows of one operation since the last call, each without its empty cells."""
        with self.serving.sandbox.lock:
            names = {one.id: one.name for one in self.serving.sandbox.platforms["meta"].audiences.values()}
            taken: dict[str, list[Row]] = {}
            for kind, audience, row in self.rows:
                if kind == op:
                    taken.setdefault(names[audience], []).append(row)
            self.rows[:] = [kept for kept in self.rows if kept[0] != op]
        return taken


class _Recording(Meta):
    """Meta, with a copy of every row that it took."""

    rows: list[tuple[str, str, Row]]

    def answer(self, request: Request) -> Answer:
        answer = super().answer(request)
        if answer.status == 200 and request.op in ("add", "remove"):
            payload = json.loads(request.fields()["payload"])
            audience = request.path.split("/")[2]
            for cells in payload["data"]:
                pairs = zip(payload["schema"], cells, strict=True)
                self.rows.append((request.op, audience, frozenset(pair for pair in pairs if pair[1])))
        return answer


@contextmanager
def platform() -> Iterator[Platform]:
    """A sandbox of its own on a free loopback port."""
    clock = Clock()
    meta = _Recording(clock)
    meta.rows = []
    with serve(sandbox=Sandbox([meta], clock)) as serving:
        yield Platform(serving, meta.rows)
