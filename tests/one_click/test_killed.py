"""Real processes that send to each ad platform are killed at their requests; the next runs mend what they left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbt_segments.sandbox.server import build, serve
from tests.kill.harness import KILLED, start, sync
from tests.one_click.case import KEY, Case, Person, cases
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world

pytestmark = pytest.mark.slow

ADA = Person(1, "ada@example.com", "12015550101")
BOB = Person(2, "bob@example.com", "12015550102")
CY = Person(3, "cy@example.com")
# Requests of one run that are of interest: tokens and look-ups come first, uploads after them.
_REQUESTS = 9


@pytest.fixture(params=cases(), ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, case: Case) -> Iterator[World]:
    with serve(sandbox=build((case.name,))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.identifiers = case.identifiers
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": [case.name]}}
        world.customers([one.row for one in (ADA, BOB, CY)])
        yield world
        assert serving.state()["violations"][case.name] == []


def _want(case: Case, people: list[Person]) -> set[KEY]:
    return set().union(*(case.keys(one) for one in people))


def _mend(world: World, case: Case, want: set[KEY]) -> None:
    for _ in range(2 * case.syncs):
        sync(world)
    assert world.held() == want
    assert "up to date" in sync(world)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_each_request(world: World, case: Case, moment: str) -> None:
    """First while a list is made, then in the middle of changes: there is one list, with exactly the members."""
    world.segment([1, 2, 3])
    killed = 0
    members = itertools.cycle([[ADA, CY], [BOB, CY], [ADA, BOB]])
    want = _want(case, [ADA, BOB, CY])
    for number in range(1, _REQUESTS + 1):
        if start(world, kill_request=(moment, number)).end() == KILLED:
            killed += 1
        elif number > 1:
            break
        if number % 3 == 0:
            _mend(world, case, want)
            people = next(members)
            world.segment([one.number for one in people])
            want = _want(case, people)
    _mend(world, case, want)
    assert len(world.audiences()) == 1
    assert killed >= 2, killed  # TikTok and X fetch no token, so they make few requests
