"""What a plan for nine ad platforms costs, beside a plan for one of them.

    python -m benchmarks.plan --members 100000 --runs 3

Nothing is on record yet, so every member is read, normalised and counted for every platform; nobody is contacted. A
second segment of 50 members shows what a plan warns of. Both take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import yaml

from benchmarks import people
from benchmarks.process import Cost, measured, sync_command
from benchmarks.tools import WAREHOUSE
from dbt_segments.report import count_of
from tests.projects import REPOSITORY, DuckDBWarehouse, make_project
from tests.world import World

ONE = ("meta",)
NINE = (
    *("google_ads", "meta", "linkedin", "microsoft_ads", "tiktok"),
    *("reddit", "snapchat", "pinterest", "x"),
)
FEW = 50


def plan(folder: Path, members: int, platforms: tuple[str, ...]) -> Cost:
    """Make a project in a folder of its own, and plan both of its segments."""
    people.make(folder / WAREHOUSE, members)
    with duckdb.connect(str(folder / WAREHOUSE)) as connection:
        connection.execute(f"create table few as select customer_id from vip limit {FEW}")
    warehouse = DuckDBWarehouse(folder / WAREHOUSE)
    world = World(make_project(folder / "shop", warehouse, {}), warehouse, "")
    world.identifiers = {name: name for name in people.NORMALISED}
    sample: dict[str, Any] = yaml.safe_load((REPOSITORY / "sample_project" / "destinations.yml").read_text("utf-8"))
    world.connections = {name: {"type": name, **sample[name]} for name in platforms}
    hourly = [{"to": name, "schedule": "hourly"} for name in platforms]
    world.segments = {"vip": {"destinations": list(platforms)}, "few": {"destinations": hourly}}
    world.write()
    command = ["plan" if word == "sync" else word for word in sync_command(world.project.path)]
    return measured(command, folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description="A plan for nine platforms.")
    parser.add_argument("--members", type=int, default=100_000, help="of the segment")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    costs: dict[tuple[str, ...], list[Cost]] = {ONE: [], NINE: []}
    for _ in range(options.runs):
        for platforms, found in costs.items():
            with tempfile.TemporaryDirectory() as name:
                found.append(plan(Path(name), options.members, platforms))
    print(costs[NINE][-1].output)
    print("                   wall s   cpu s   peak MB")
    for platforms, found in costs.items():
        wall_s, cpu_s, peak_mb = (
            statistics.median(getattr(one, name) for one in found) for name in ("seconds", "cpu_s", "peak_mb")
        )
        print(f"{count_of(len(platforms), 'platform'):18}{wall_s:8.1f}{cpu_s:8.1f}{peak_mb:10.0f}")
    ratio = statistics.median(nine.cpu_s / one.cpu_s for one, nine in zip(costs[ONE], costs[NINE], strict=True))
    print(f"nine cost {ratio:.1f} times the processor time of one")


if __name__ == "__main__":
    main()
