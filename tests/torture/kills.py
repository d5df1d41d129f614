"""Real processes that are killed from outside, by the round: `dbt-segments sync` and `dbt build`.

After every few kills the command runs to its end, and who is in the audience is compared with the warehouse,
identifier by identifier; then it runs again and must have nothing to do.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.kill.harness import (
    KILLED,
    Checkpoint,
    check_members,
    check_mended,
    furnish,
    let_leases_end,
    points,
    sandbox_of,
    some_people,
    start,
    sync,
)
from tests.kill.scenarios import SCENARIOS, prepare
from tests.postgres import PostgresServer
from tests.projects import DbtProject, PostgresWarehouse, Warehouse, make_project
from tests.world import World, make_world, sandbox

# Kind, warehouse, and its share of all rounds.
KINDS = (
    ("kill_cli", "duckdb", 0.35),
    ("kill_cli", "postgres", 0.2),
    ("kill_point", "duckdb", 0.15),
    ("kill_point", "postgres", 0.1),
    ("kill_dbt", "duckdb", 0.1),
    ("kill_dbt", "postgres", 0.1),
)
_LATENCY_S = 0.01
KILLS_A_ROUND = 10


def play(kind: str, folder: Path, warehouse: Warehouse, seed: int) -> dict[str, Any]:
    """One round; how many processes were killed. Raises AssertionError where a rerun does not mend it."""
    luck = random.Random(f"{kind} {seed}")
    with sandbox() as serving:
        world = make_world(folder / "shop", warehouse, serving)
        furnish(world)
        return {"killed": _ROUNDS[kind](world, luck)}


def _cli(world: World, luck: random.Random) -> int:
    """Killed at any time while the data change, several requests in flight."""
    world.connections = {"meta": world.meta()}
    sandbox_of(world).platforms["meta"].policy["latency_s"] = _LATENCY_S
    data = some_people(luck)
    ever = {key: data.sent(key) for key in range(1, 21)}
    data.write(world)
    began = time.monotonic()
    sync(world)
    lasts_s = time.monotonic() - began
    killed = 0
    while killed < KILLS_A_ROUND:
        for _ in range(luck.randint(1, 3)):
            data = some_people(luck)
            data.write(world)
            ever = {key: units | data.sent(key) for key, units in ever.items()}
            running = start(world)
            time.sleep(luck.uniform(0, lasts_s))
            if running.runs:
                running.send(signal.SIGKILL)
            code = running.end()
            assert code in (0, KILLED), running.output
            killed += code == KILLED
            let_leases_end(world)
        # Requests of the dead process that are still under way are its own, not those of the run that mends.
        time.sleep(10 * _LATENCY_S)
        check_mended(world, data.expected(), perhaps={unit for key in data.refusing() for unit in ever[key]})
    return killed


def _points(world: World, luck: random.Random) -> int:
    """Killed before or after named points of the two scenarios."""
    after = prepare(world, luck.choice(sorted(SCENARIOS)))
    found = world.warehouse
    server = PostgresServer(found.database.port) if isinstance(found, PostgresWarehouse) else None
    saved = Checkpoint(world, server)
    try:
        names = points(world)
        for _ in range(KILLS_A_ROUND):
            moment, number = luck.choice(("before", "after")), luck.randint(1, len(names))
            saved.restore()
            killed = start(world, kill=(moment, number))
            assert killed.end() == KILLED, killed.output
            try:
                check_mended(world, after.expected())
            except AssertionError as error:
                raise AssertionError(f"killed {moment} point {number}, {names[number - 1]}: {error}") from None
    finally:
        saved.close()
    return KILLS_A_ROUND


# -- dbt build ------------------------------------------------------------------------------------------------

_ENTITY = {
    "name": "customer",
    "kind": "person",
    "key": "customer_id",
    "identifiers": {"email": "email", "phone": {"column": "phone", "country": "country"}},
    "consent": {"ads": "ads_consent"},
    "suppress": ["refusals"],
}
_SEGMENT = {"entity": "customer", "destinations": [{"to": "meta", "schedule": "every run"}]}
_SCHEMA = {
    "models": [
        {"name": "people", "config": {"meta": {"dbt_segments": {"entity": _ENTITY}}}},
        {"name": "picked", "config": {"meta": {"dbt_segments": {"segment": _SEGMENT}}}},
    ]
}
_HEAD = "{{ config(materialized='table') }} select * from {{ target.schema }}."


def dbt_project(world: World) -> DbtProject:
    """The world as a real dbt project: its models read the world's tables, and `dbt build` syncs."""
    files = {
        "models/people.sql": _HEAD + "customers",
        "models/refusals.sql": _HEAD + "opt_outs",
        "models/picked.sql": f"-- depends_on: {{{{ ref('people') }}}} {{{{ ref('refusals') }}}}\n{_HEAD}vip",
        "models/schema.yml": yaml.safe_dump(_SCHEMA),
        "destinations.yml": yaml.safe_dump(world.connections),
    }
    return make_project(world.project.path.parent / "built", world.warehouse, files, package=True, inside=True)


def start_dbt(project: DbtProject, *options: str) -> subprocess.Popen[str]:
    """`dbt build` as a process."""
    words = [str(Path(sys.executable).with_name("dbt")), "build", *project.options(), *options]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=project.path,
        env={**os.environ, **project.environment},
    )


def end_dbt(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it printed."""
    said = running.communicate(timeout=300)[0]
    return running.returncode, said


def _dbt(world: World, luck: random.Random) -> int:
    """`dbt build` is killed while it builds or syncs."""
    world.connections = {"meta": world.meta()}
    sandbox_of(world).platforms["meta"].policy["latency_s"] = 0.05
    project = dbt_project(world)
    data = some_people(luck)
    ever = {key: data.sent(key) for key in range(1, 21)}
    data.write(world)
    began = time.monotonic()
    build(project)
    lasts_s = time.monotonic() - began
    killed = 0
    while killed < KILLS_A_ROUND:
        for _ in range(luck.randint(1, 3)):
            data = some_people(luck)
            data.write(world)
            ever = {key: units | data.sent(key) for key, units in ever.items()}
            running = start_dbt(project)
            time.sleep(luck.uniform(0.3, 1.0) * lasts_s)
            running.kill()
            code, said = end_dbt(running)
            assert code in (0, KILLED), said
            killed += code == KILLED
            let_leases_end(world)
        build(project)
        perhaps = {unit for key in data.refusing() for unit in ever[key]}
        check_members(world, data.expected(), perhaps)
        before = len(world.calls())
        build(project)
        assert len(world.calls()) == before, "the build after the mending one sent requests"
    return killed


def build(project: DbtProject, *options: str) -> None:
    """`dbt build` that must succeed."""
    code, said = end_dbt(start_dbt(project, *options))
    assert code == 0, said


_ROUNDS = {"kill_cli": _cli, "kill_point": _points, "kill_dbt": _dbt}
