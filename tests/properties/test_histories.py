"""Random histories of people, refusals, faults and deaths: in the end the destination holds what it should.

`python -m tests.properties.history SHAPE SEED -v` plays one of them step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import DuckDBWarehouse, Warehouse
from tests.properties.history import EVERY_SHAPE, LARGE, SMALL, run, surroundings
from tests.world import World, email, make_world, phone, sandbox

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", ["meta", "scripted_async"])
def test_a_history_ends_right(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, shape: str) -> None:
    """Faults gone, one sync (more for jobs) makes the members right, and one more sends nothing."""
    run(tmp_path / "shop", duckdb_warehouse, shape, 1, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 12))
@pytest.mark.parametrize("shape", EVERY_SHAPE)
def test_histories_end_right(tmp_path: Path, warehouse: Warehouse, shape: str, seed: int) -> None:
    """The same for every shape of destination on both warehouses."""
    run(tmp_path / "shop", warehouse, shape, seed, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("shape", ["meta", "scripted"])
def test_large_histories_end_right(tmp_path: Path, warehouse: Warehouse, shape: str, seed: int) -> None:
    """The same where thresholds hold syncs until they are released; refusals go out meanwhile."""
    run(tmp_path / "shop", warehouse, shape, seed, LARGE)


# -- what random histories have found, each at its smallest ---------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        yield make_world(tmp_path / "shop", warehouse, serving)


def test_identifiers_that_are_no_longer_sent_are_removed(world: World) -> None:
    """A sync that stops sending phones takes out the phones that it had sent."""
    world.customers([(1, "a@example.com", "+1 201 555 0101"), (2, "b@example.com")])
    world.segment([1, 2])
    world.sync()
    world.identifiers = {"email": "email"}
    result = world.sync()
    assert result.status == "success", result
    assert world.held() == {email("a@example.com"), email("b@example.com")}
    assert (world.sync().status, world.serving.state()["violations"]["meta"]) == ("noop", [])  # type: ignore[union-attr]


def test_a_unit_comes_back_when_its_refusal_is_lifted(world: World) -> None:
    """A member gets the shared e-mail back once nobody refuses it any more; until then every sync is a no-op."""
    world.suppress = ["opt_outs"]
    world.customers([(1, "a@example.com", "+1 201 555 0101"), (2, "a@example.com"), (3, "b@example.com")])
    world.segment([1, 3])
    world.opt_outs([2])
    world.sync()
    assert world.held() == {phone("12015550101"), email("b@example.com")}
    again = world.sync()
    assert (again.status, again.requests, again.counts.unchanged) == ("noop", 0, 2), again
    world.opt_outs([])
    restored = world.sync()
    assert (restored.status, restored.counts.changed) == ("success", 1), restored
    assert world.held() == {email("a@example.com"), phone("12015550101"), email("b@example.com")}
    assert world.sync().status == "noop"


@pytest.mark.parametrize("policy", [{"fail_after_polls": 1}, {"lose_after_polls": 1}])
def test_a_lost_job_is_sent_again(tmp_path: Path, warehouse: Warehouse, policy: dict[str, int]) -> None:
    """A job that failed, or of which the platform knows nothing any more, holds nobody up: its members go again."""
    with surroundings("scripted_async", SMALL) as serving:
        world = make_world(tmp_path / "shop", warehouse, serving)
        world.connections = {"meta": {"type": "scripted_async", "base_url": serving.url}}
        world.customers([(1, "a@example.com")])
        world.segment([1])
        assert world.sync().counts.pending == 1
        platform = serving.sandbox.platforms["scripted-platform"]
        platform.policy.update(policy)
        world.sync()
        platform.policy.update(fail_after_polls=None, lose_after_polls=None)
        world.sync()
        assert {value for _, value in world.held()} == {email("a@example.com")[1]}
        assert (world.sync().status, world.sync().requests) == ("noop", 0)


@pytest.mark.parametrize("shape", ["scripted", "scripted_replace"])
def test_a_refused_shared_unit_keeps_nobody_busy(tmp_path: Path, warehouse: Warehouse, shape: str) -> None:
    """A member who is sent without a shared, refused e-mail is a no-op next time, whatever the platform takes."""
    with surroundings(shape, SMALL) as serving:
        world = make_world(tmp_path / "shop", warehouse, serving)
        world.connections = {"meta": {"type": shape, "base_url": serving.url}}
        world.suppress = ["opt_outs"]
        world.customers([(1, "a@example.com", "+1 201 555 0101"), (2, "a@example.com"), (3, "b@example.com")])
        world.segment([1, 3])
        world.opt_outs([2])
        world.sync()
        assert {value for _, value in world.held()} == {phone("12015550101")[1], email("b@example.com")[1]}
        again = world.sync()
        assert (again.status, again.requests) == ("noop", 0), again


def test_a_rejected_member_without_a_shared_unit_is_not_tried_again(tmp_path: Path, warehouse: Warehouse) -> None:
    """A row that the platform refused is not sent again as long as it is the same, its e-mail refused or not."""
    with surroundings("scripted", SMALL) as serving:
        world = make_world(tmp_path / "shop", warehouse, serving)
        world.connections = {"meta": {"type": "scripted", "base_url": serving.url}}
        world.suppress = ["opt_outs"]
        world.customers([(1, "a@example.com", "+1 201 555 0101"), (2, "a@example.com"), (3, "b@example.com")])
        world.segment([1, 3])
        world.opt_outs([2])
        platform = serving.sandbox.platforms["scripted-platform"]
        platform.policy["refuse"] = {phone("12015550101")[1]: "unwelcome"}
        world.sync()
        assert {value for _, value in world.held()} == {email("b@example.com")[1]}
        assert world.sync().requests == 0


def test_who_gave_an_email_away_stays_in_when_its_new_owner_leaves(world: World) -> None:
    """An e-mail passes from one member to another, so the platform takes both for one person; then one leaves."""
    world.customers([(1, "a@example.com", "+1 201 555 0101"), (2, None, "+1 201 555 0102"), (3, "c@example.com")])
    world.segment([1, 2, 3])
    world.sync()
    world.customers([(1, None, "+1 201 555 0101"), (2, "a@example.com", "+1 201 555 0102"), (3, "c@example.com")])
    world.sync()
    world.segment([1, 3])
    world.sync()
    assert world.held() == {phone("12015550101"), email("c@example.com")}


def test_two_members_linked_by_one_who_left_are_not_lost_together(world: World) -> None:
    """Who left had one member's e-mail and another's phone; when one of these two leaves as well, the other stays."""
    world.customers(
        [(1, "a@example.com", "+1 201 555 0101"), (2, "a@example.com"), (3, "c@example.com", "+1 201 555 0101")]
    )
    world.segment([1, 2, 3])
    world.sync()
    world.segment([2, 3])
    world.sync()
    world.segment([2])
    world.sync()
    assert world.held() == {email("a@example.com")}
