"""What is measured: each tool says what it is, and how it syncs a warehouse to a server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.people import NORMALISED
from benchmarks.process import sync_command
from tests.projects import DuckDBWarehouse, make_project
from tests.world import World

WAREHOUSE = "warehouse.duckdb"


@dataclass(frozen=True)
class Job:
    """One sync as a command; the same command is run for every scenario."""

    command: list[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    """One contestant.

    versions  of itself, and of what does its work
    does      what its sync does, and does not, in a few words
    prepare   (folder with the warehouse, server's URL) -> its sync
    """

    name: str
    versions: Mapping[str, str]
    does: str
    prepare: Callable[[Path, str], Job]


def ours() -> Tool:
    """The command `dbt-segments sync`, as a user runs it."""
    names = ("dbt-segments", "dbt-core", "duckdb", "phonenumbers")
    return Tool(
        "dbt-segments",
        {name: version(name) for name in names},
        "compares every row, removes who left and what changed, parses phone numbers, writes ahead what it sends",
        _our_project,
    )


def _our_project(folder: Path, url: str) -> Job:
    """A project whose manifest is written by hand: what dbt does before a sync is not measured."""
    warehouse = DuckDBWarehouse(folder / WAREHOUSE)
    world = World(make_project(folder / "shop", warehouse, {}), warehouse, url)
    world.identifiers = {name: name for name in NORMALISED}
    world.connections = {"meta": {"type": "meta", "base_url": url, "ad_account_id": "1", "access_token": "none"}}
    world.write()
    return Job(sync_command(world.project.path), folder)


def limit() -> Tool:
    """The bare limit."""

    def prepare(folder: Path, url: str) -> Job:
        arguments = [str(folder / name) for name in (WAREHOUSE, "snapshot.duckdb")]
        command = [sys.executable, "-m", "benchmarks.limit", *arguments, url]
        return Job(command, Path(__file__).parents[1])

    return Tool(
        "bare limit", {"duckdb": version("duckdb")}, "compares every row, removes who left and what changed", prepare
    )


def fresh(template: Path, folder: Path, name: str) -> Path:
    """A new folder below `folder` with a copy of the warehouse and nothing else."""
    home = folder / f"run-{name.replace(' ', '-')}"
    home.mkdir()
    shutil.copy(template, home / WAREHOUSE)
    return home
