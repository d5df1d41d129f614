"""Other tools that send rows of a warehouse over HTTP, each in a throwaway environment of its own.

They are installed from the package index, wheels only, at the versions that their settings here were written for. One
that does not install is reported with the reason. Each sends batches of 10,000, without a rate limit and without
telemetry. None of them computes a difference on DuckDB: changes are found by a cursor on `updated_at`, which does not
see who left, nor under what somebody was sent before.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.people import MEMBERS_SQL, NORMALISED
from benchmarks.tools import WAREHOUSE, Job, Tool

_HASHED = ", ".join(f"sha256({expression}) as {name}" for name, expression in NORMALISED.items())
QUERY = f"select {_HASHED}, updated_at from {MEMBERS_SQL}"
BATCH = 10_000


@dataclass(frozen=True)
class Peer:
    """A tool from the package index.

    requires   the pinned packages; the first is the tool
    shows      packages whose versions are reported
    prepare    (its environment's bin folder, folder with the warehouse, server's URL) -> its sync; None: `does` says
               why it is not measured here
    """

    name: str
    requires: tuple[str, ...]
    shows: tuple[str, ...]
    does: str
    prepare: Callable[[Path, Path, str], Job] | None = None


@dataclass(frozen=True)
class Absent:
    """A tool that could not be measured, and why."""

    name: str
    requires: str
    reason: str


def _drt(programs: Path, folder: Path, url: str) -> Job:
    """A `rest_api` destination in batch mode; the hashes are part of the model's SQL."""
    (folder / "syncs").mkdir()
    (folder / ".drt").mkdir()
    (folder / "drt_project.yml").write_text('name: shop\nversion: "0.1"\nprofile: shop\n')
    profile = {"shop": {"type": "duckdb", "database": str(folder / WAREHOUSE), "fetch_size": BATCH}}
    (folder / ".drt" / "profiles.yml").write_text(json.dumps(profile))
    sync = {
        "name": "vip",
        "model": QUERY,
        "destination": {
            "type": "rest_api",
            "url": f"{url}/rows",
            "headers": {"Content-Type": "application/json"},
            "body_mode": "batch",
            "batch_template": "{{ rows | tojson_safe }}",
        },
        "sync": {
            "mode": "incremental",
            "cursor_field": "updated_at",
            "batch_size": BATCH,
            "rate_limit": {"requests_per_second": 100_000},
        },
    }
    (folder / "syncs" / "vip.yml").write_text(json.dumps(sync))
    return Job([str(programs / "drt"), "run"], folder, {"HOME": str(folder), "DO_NOT_TRACK": "1"})


def _dlt(programs: Path, folder: Path, url: str) -> Job:
    """A custom destination that is given Arrow batches, for which it has a faster path than for rows."""
    script = Path(__file__).parent / "dlt_pipeline.py"
    command = [str(programs / "python"), str(script), str(folder), QUERY, f"{url}/rows", str(BATCH)]
    return Job(command, folder, {"HOME": str(folder), "RUNTIME__DLTHUB_TELEMETRY": "false"})


PEERS = (
    Peer(
        "drt",
        ("drt-core[duckdb]==1.2.1",),
        ("drt-core", "duckdb"),
        "settings used: a cursor finds changes, nobody is removed",
        _drt,
    ),
    Peer(
        "dlt",
        ("dlt==1.31.0", "duckdb", "pyarrow"),
        ("dlt", "duckdb", "pyarrow"),
        "settings used: Arrow batches, a cursor finds changes, nobody is removed",
        _dlt,
    ),
    Peer("condor-retl", ("condor-retl[duckdb]==0.1.1",), (), "its Meta destination has no setting for another address"),
    Peer("pyreverseetl", ("pyreverseetl==3.5.3",), (), "nothing was written for it, since it had no wheel"),
)


def install(peer: Peer, folder: Path) -> Tool | Absent:
    """Make the peer's environment below `folder`."""
    environment = folder / peer.name
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--only-binary", ":all:", *peer.requires],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return Absent(peer.name, peer.requires[0], why(done.stderr))
    if peer.prepare is None:
        return Absent(peer.name, peer.requires[0], peer.does)
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True)
    found = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    play = peer.prepare
    versions = {name: found[name] for name in peer.shows}
    return Tool(peer.name, versions, peer.does, lambda home, url: play(python.parent, home, url))


def why(errors: str) -> str:
    """The reason in what pip said: another Python is needed, or there is no wheel. No address and no path."""
    python = re.search(r"Requires-Python (\S+)", errors)
    if python:
        return f"needs Python {python[1].rstrip(';')}"
    if "No matching distribution found" in errors:
        return "no wheel for this Python and platform"
    return "pip failed"
