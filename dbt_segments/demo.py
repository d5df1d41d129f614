"""`dbt-segments demo`: a sample dbt project on DuckDB, synced over real HTTP to a local sandbox of the Meta API.

It syncs once, once more with nothing changed, and again after a change in the data, with the very commands that a user
would type; each time it asks the sandbox who is in its audiences now and compares that with what must have happened.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os.path
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dbt_segments import settings
from dbt_segments.errors import SettingsError
from dbt_segments.sandbox import server

Echo = Callable[[str], None]
Key = tuple[str, str]  # a match key as Meta was sent it: field, value
Members = dict[str, frozenset[Key]]  # audience name -> the match keys in it

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_project"
READERS = "Newsletter readers"

_PROGRAMS = {"dbt": "dbt.cli.main", "dbt-segments": "dbt_segments"}
_WRITES = ("create", "add", "remove", "replace")
_MADE_BY_DBT = shutil.ignore_patterns("package-lock.yml", "target", "dbt_packages", "logs", "*.duckdb*", "__pycache__")


class _StepError(Exception):
    """A command of the demo failed; its output has been shown."""


@dataclass(frozen=True)
class Change:
    """What the demo changes in its data, and what that does to the audience of newsletter readers."""

    says: str
    came: frozenset[Key]
    gone: frozenset[Key]


@dataclass(frozen=True)
class _Stage:
    """Where the demo plays: a copy of the sample project, a running sandbox, and a screen."""

    folder: Path
    serving: server.Serving
    echo: Echo
    env: Mapping[str, str] = field(repr=False)

    def type(self, line: str) -> None:
        """Run a command as a user would, and show it with what it prints. Raises _StepError where it fails."""
        self.echo(f"$ {line}")
        program, *words = line.split()
        command = [sys.executable, "-m", _PROGRAMS[program], *words]
        done = subprocess.run(  # noqa: S603 - our own words
            command,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        failed = done.returncode != 0
        # what goes to stderr is progress, unless something is wrong
        for text in (done.stdout + (done.stderr if failed else "")).splitlines():
            self.echo(text)
        if failed:
            raise _StepError(f"{line}: exit code {done.returncode}")

    def members(self) -> Members:
        """Who is in the sandbox's audiences."""
        audiences = self.serving.state()["audiences"]
        return {audience["name"]: frozenset(map(tuple, audience["keys"])) for audience in audiences}

    def sends(self) -> int:
        """How many requests so far created an audience or changed its members."""
        with self.serving.sandbox.lock:
            return sum(call["op"] in _WRITES for call in self.serving.sandbox.calls)

    def show(self) -> None:
        """Print what the sandbox says of its audiences."""
        self.echo("\nThe sandbox has:")
        for audience in sorted(self.serving.state(keys=False)["audiences"], key=lambda one: str(one["name"])):
            self.echo(f"  {audience['name']}: {audience['people']} people")


def run(folder: Path | None, echo: Echo) -> int:
    """Play the demo in `folder`, which is kept, or in a temporary one; 0 if all came as it must, else 1.

    Raises SettingsError where the sample project is not there or `folder` is in use.
    """
    if not SAMPLE.is_dir():
        raise SettingsError(
            "demo: the sample project is not part of an installed package",
            hint="clone the repository and run `make demo` in it",
        )
    with _folder(folder) as place, server.serve() as serving:
        shutil.copytree(SAMPLE, place, ignore=_MADE_BY_DBT, dirs_exist_ok=True)
        # the copy has left the repository, whose root is the dbt package
        (place / "packages.yml").write_text(f"packages:\n  - local: {json.dumps(str(ROOT))}\n", encoding="utf-8")
        stage = _Stage(place, serving, echo, _environment(settings.environment(), serving.url))
        try:
            wrong = _play(stage)
        except _StepError as error:
            wrong = [str(error)]
    for text in wrong:
        echo(f"\nThe demo failed: {text}")
    return 1 if wrong else 0


def _play(stage: _Stage) -> list[str]:
    """The three acts; what did not come as it must."""
    stage.echo(f"1. A shop's dbt project in DuckDB, three segments, and Meta as a sandbox at {stage.serving.url}\n")
    stage.type("dbt deps --quiet")
    stage.type("dbt build --quiet")
    stage.type("dbt-segments validate")
    stage.type("dbt-segments sync --now")
    stage.show()
    first, sends = stage.members(), stage.sends()

    stage.echo("\n2. Once more: nothing has changed, so nothing is sent\n")
    stage.type("dbt-segments sync --now")
    second, sends_again = stage.members(), stage.sends()

    change = change_data(stage.folder / "seeds")
    stage.echo(f"\n3. A change in the data: {change.says}\n")
    stage.type("dbt build --quiet")
    stage.type("dbt-segments plan --now")
    stage.type("dbt-segments sync --now")
    stage.show()

    if wrong := judge(first, second, stage.members(), change, sends_again - sends):
        return wrong
    stage.echo("\nAs it must be: the second sync sent nothing; the third sent that change and nothing else.")
    return []


def judge(first: Members, second: Members, third: Members, change: Change, sends_again: int) -> list[str]:
    """What is wrong with the membership after each sync, in words; empty where all is as it must be.

    sends_again  requests of the second sync that changed something
    """
    before, after = second.get(READERS, frozenset()), third.get(READERS, frozenset())
    others = {name: keys for name, keys in second.items() if name != READERS}
    checks = {
        "the first sync left an audience empty": len(first) == 3 and all(first.values()),
        "the second sync sent something": sends_again == 0,
        "the second sync changed an audience": second == first,
        "the third sync did not add exactly what came": after - before == change.came,
        "the third sync did not remove exactly what left": before - after == change.gone,
        "the third sync changed another audience": {name: third.get(name) for name in others} == others,
    }
    return [text for text, holds in checks.items() if not holds]


def change_data(seeds: Path) -> Change:
    """Change three customers who have ordered nothing, so that only the newsletter's readers change."""
    with (seeds / "raw_customers.csv").open(encoding="utf-8", newline="") as file:
        customers = list(csv.DictReader(file))
    elsewhere = _ids(seeds / "raw_orders.csv") | _ids(seeds / "raw_opt_outs.csv")
    emails = [_email(customer) for customer in customers]
    simple = [
        customer
        for customer, email in zip(customers, emails, strict=True)
        if customer["customer_id"] not in elsewhere and customer["ads_consent"] == "true" and emails.count(email) == 1
    ]
    moves, leaves = [customer for customer in simple if customer["newsletter"] == "true"][:2]
    enters = next(customer for customer in simple if customer["newsletter"] == "false")

    old = _email_key(moves)
    moves["email"] = f"new.{_email(moves)}"
    leaves["newsletter"], enters["newsletter"] = "false", "true"
    with (seeds / "raw_customers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(customers[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(customers)
    return Change(
        says=f"customer {moves['customer_id']} has a new e-mail address, {enters['customer_id']} subscribes to the"
        f" newsletter, {leaves['customer_id']} unsubscribes",
        came=frozenset({_email_key(moves), _email_key(enters), ("EXTERN_ID", enters["customer_id"])}),
        gone=frozenset({old, _email_key(leaves), ("EXTERN_ID", leaves["customer_id"])}),
    )


def _ids(file: Path) -> set[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["customer_id"] for row in csv.DictReader(lines)}


def _email(customer: Mapping[str, str]) -> str:
    return customer["email"].strip().lower()


def _email_key(customer: Mapping[str, str]) -> Key:
    return ("EMAIL", hashlib.sha256(_email(customer).encode()).hexdigest())


@contextmanager
def _folder(named: Path | None) -> Iterator[Path]:
    """The folder to play in: the named one, which must be new or empty, or one that is removed afterwards."""
    if named is None:
        with tempfile.TemporaryDirectory(prefix="dbt-segments-demo-") as name:
            yield Path(name).resolve()
        return
    if named.exists() and any(named.iterdir()):
        raise SettingsError(f"demo: {named} is not empty", hint="name a new folder")
    yield named.resolve()


def _environment(inherited: Mapping[str, str], url: str) -> dict[str, str]:
    """Of the process's environment, all but what would lead dbt elsewhere or leave this machine."""
    env = {name: value for name, value in inherited.items() if not name.startswith(("DBT_", "META_"))}
    paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
    return {
        **env,
        "PYTHONPATH": os.path.pathsep.join(paths),
        "DBT_SEGMENTS_SANDBOX_URL": url,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
