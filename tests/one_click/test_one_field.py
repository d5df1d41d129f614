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
    "snapchat": ("MOBILE_AD_ID_SHA256", lambda text: sha(text.lower())),
    "x": ("device_id", lambda text: sha(text.lower())),
    "meta": ("MADID", str.lower),
}


@pytest.fixture(params=[case for case in cases() if case.name in HELD], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def ids(*numbers: int) -> list[str]:
    """Mobile ids, in upper case as iOS writes them: the case of Android's is another one at some platforms."""
    return [f"CDDA802E-FB9C-47AD-9866-{number:012}" for number in numbers]


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


def test_both_ids_of_a_member_are_sent(world: World, case: Case) -> None:
    """One on iOS and one elsewhere: both come, both are replaced singly, and both leave with the member."""
    field, digest = HELD[case.name]
    ann, ann_too, bob, cy, dee, dee_too, new = ids(1, 2, 3, 4, 5, 6, 7)
    world.customers([(1, ann, ann_too), (2, bob), (3, None, cy), (4, dee, dee_too)])
    world.segment([1, 2, 3, 4])
    result = world.sync()
    assert (result.status, result.counts.added, result.counts.unusable) == ("success", 4, 0)
    assert world.held() == {(field, digest(one)) for one in (ann, ann_too, bob, cy, dee, dee_too)}
    assert world.sync().status == "noop"
    world.customers([(1, ann, ann_too), (2, bob), (3, None, cy), (4, dee, new)])
    world.segment([2, 3, 4])
    result = world.sync()
    assert (result.counts.changed, result.counts.removed) == (1, 1)
    assert world.held() == {(field, digest(one)) for one in (bob, cy, dee, new)}
    assert world.sync().status == "noop"


def test_the_second_id_of_a_member_stays_while_somebody_has_it(world: World, case: Case) -> None:
    """It is a unit like the first: shared, it stays; refused, it is taken out of everybody's rows."""
    field, digest = HELD[case.name]
    ann, shared, bob, cy = ids(1, 2, 3, 4)
    world.consent = {"ads": "ads_consent"}
    world.customers([(1, ann, shared, None, True), (2, bob, shared, None, True), (3, cy, None, None, True)])
    world.segment([1, 2, 3])
    world.sync()
    world.segment([2, 3])
    assert world.sync().counts.removed == 1
    assert world.held() == {(field, digest(one)) for one in (shared, bob, cy)}
    world.segment([1, 2, 3])
    world.customers([(1, ann, shared, None, False), (2, bob, shared, None, True), (3, cy, None, None, True)])
    world.sync()
    assert world.held() == {(field, digest(one)) for one in (bob, cy)}
    assert world.sync().status == "noop"


@pytest.mark.parametrize("case", [case for case in cases() if case.name == "meta"], ids=str, indirect=True)
def test_a_replaced_audience_has_both_ids(world: World) -> None:
    """A set that is sent whole has every row of a member."""
    world.segments = {"vip": {"syncs": [{"to": "meta", "mode": "replace"}]}}
    ann, ann_too, bob = ids(1, 2, 3)
    world.customers([(1, ann, ann_too), (2, bob)])
    world.segment([1, 2])
    assert world.sync().counts.added == 2
    assert world.held() == {("MADID", one.lower()) for one in (ann, ann_too, bob)}
    world.segment([1])
    world.sync()
    assert world.held() == {("MADID", one.lower()) for one in (ann, ann_too)}
    assert world.sync().status == "noop"
