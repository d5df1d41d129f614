"""Platforms that keep several identifiers in one field: an id is one thing there, whichever column it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dbt_segments.sandbox.server import build, serve
from tests.one_click.case import Case, cases
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world, sha

SHARED = "AEBE52E7-03EE-455A-B3C4-E57283966239"
OTHER = "CDDA802E-FB9C-47AD-9866-0794D394C912"
# Platform -> what it holds of a mobile id whose system is not known, and of an iOS one.
HELD = {
    "reddit": ("MAID_SHA256", lambda text: sha(text)),
    "pinterest": ("record", lambda text: sha(text.lower())),
}


@pytest.fixture(params=[case for case in cases() if case.name in HELD], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, case: Case) -> Iterator[World]:
    """Mobile ids lie in the columns of e-mail (iOS) and phone (system unknown)."""
    with serve(sandbox=build((case.name,))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.identifiers = {"idfa": "email", "maid": "phone"}
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path)}
        world.segments = {"vip": {"destinations": [case.name]}}
        yield world


def test_an_id_in_two_columns_stays_while_somebody_has_it(world: World, case: Case) -> None:
    """One member has it as iOS id, another without a system; it stays until both have left."""
    field, digest = HELD[case.name]
    world.customers([(1, SHARED), (2, None, SHARED), (3, OTHER)])
    world.segment([1, 2, 3])
    world.sync()
    assert world.held() == {(field, digest(SHARED)), (field, digest(OTHER))}
    world.segment([2, 3])
    result = world.sync()
    assert world.held() == {(field, digest(SHARED)), (field, digest(OTHER))}, result
    world.segment([3])
    world.sync()
    assert world.held() == {(field, digest(OTHER))}
    assert world.sync().status == "noop"


def test_an_id_that_one_member_has_twice_is_sent_once(world: World, case: Case) -> None:
    """And taken out with it."""
    field, digest = HELD[case.name]
    world.customers([(1, SHARED, SHARED), (3, OTHER)])
    world.segment([1, 3])
    assert world.sync().status == "success"
    world.segment([3])
    world.sync()
    assert world.held() == {(field, digest(OTHER))}
    assert world.sync().status == "noop"
