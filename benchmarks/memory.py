"""Peak memory of a first sync, a no-op and a change of 1 %, for audiences of different sizes.

    python -m benchmarks.memory 1000000 4000000

Each sync is a process of its own and talks over HTTP to a sandbox in another process, which parses and stores every
member. Warehouse and workbench each have a memory limit of 256 MB. Printed are seconds, members a second, the peak of
resident memory, and its ratio to that of the first size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import yaml

from benchmarks.process import measured, sync_command
from tests.projects import DuckDBWarehouse, make_project
from tests.world import World

LIMIT = "256MB"


@dataclass(frozen=True)
class Measure:
    """One sync: what it did, how long it took, and the most memory that its process held."""

    members: int
    what: str
    seconds: float
    peak_mb: float
    output: str


def measure(members: int, folder: Path) -> list[Measure]:
    """First sync, no-op, and 1 % changed, of an audience with `members` members."""
    with _sandbox() as url:
        world = _world(members, folder, url)
        found = [_sync(world, members, "first"), _sync(world, members, "no-op")]
        with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
            connection.execute("update customers set email = concat('x', email) where customer_id % 100 = 0")
        return [*found, _sync(world, members, "1 % changed")]


def _world(members: int, folder: Path, url: str) -> World:
    folder.mkdir(exist_ok=True)
    path = folder / "warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            f"create table customers as select i::integer as customer_id, concat('user', i, '@example.com') as email, "
            f"null::varchar as phone, null::varchar as country, true as ads_consent from range({members}) r(i)"
        )
        connection.execute("create table vip as select customer_id from customers")
    warehouse = DuckDBWarehouse(path)
    world = World(make_project(folder / "shop", warehouse, {}), warehouse, url)
    world.identifiers = {"email": "email", "external_id": "customer_id"}
    world.variables = {"memory_limit": LIMIT}
    world.write()
    profiles = folder / "shop" / "profiles.yml"
    content = yaml.safe_load(profiles.read_text())
    content["shop"]["outputs"]["dev"]["settings"] = {"memory_limit": LIMIT}
    profiles.write_text(yaml.safe_dump(content))
    return world


def _sync(world: World, members: int, what: str) -> Measure:
    cost = measured(sync_command(world.project.path))
    return Measure(members, what, cost.seconds, cost.peak_mb, cost.output.splitlines()[0])


@contextmanager
def _sandbox() -> Iterator[str]:
    command = [sys.executable, "-m", "dbt_segments.sandbox", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield next(word for word in line.split() if word.startswith("http")).rstrip("/.,")
        finally:
            process.terminate()


def main(sizes: list[int]) -> None:
    """Measure each size and print a table."""
    first: dict[str, float] = {}
    print(f"{'members':>10}  {'sync':<12} {'seconds':>8} {'members/s':>10} {'peak MB':>8} {'ratio':>6}")
    for members in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for found in measure(members, Path(folder)):
                ratio = found.peak_mb / first.setdefault(found.what, found.peak_mb)
                rate = found.members / found.seconds
                print(
                    f"{found.members:>10,}  {found.what:<12} {found.seconds:>8.1f} {rate:>10,.0f} "
                    f"{found.peak_mb:>8.0f} {ratio:>6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1_000_000, 4_000_000])
