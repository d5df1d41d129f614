"""Taking `consent` or `suppress` away: nobody who refused is sent by it, until that is released by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dbt_segments import pipeline
from dbt_segments.errors import ConfigError
from dbt_segments.guard import lifted
from dbt_segments.prune import prune
from tests.projects import Warehouse
from tests.world import World, email, make_world, sandbox

ADA, BOB, CYD, DAN = (f"{name}@example.com" for name in ("ada", "bob", "cyd", "dan"))


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    """Four members: Bob refuses by consent, Cyd by the entity's suppression, Dan by that of the segment's item."""
    with sandbox() as serving:
        found = make_world(tmp_path / "shop", warehouse, serving)
        rows = [(1, ADA, True), (2, BOB, False), (3, CYD, True), (4, DAN, True)]
        found.customers([(key, address, None, None, yes) for key, address, yes in rows])
        found.segment([1, 2, 3, 4])
        found.opt_outs([3])
        found.opt_outs([4], "blocked")
        found.models = ["blocked"]
        found.consent, found.suppress = {"ads": "ads_consent"}, ["opt_outs"]
        found.segments["vip"]["destinations"] = [{"to": "meta", "suppress": ["blocked"]}]
        yield found


def no_consent(world: World) -> None:
    world.consent = {}


def no_suppression(world: World) -> None:
    world.suppress, world.models = [], ["blocked", "opt_outs"]


def no_suppression_of_the_item(world: World) -> None:
    world.segments["vip"]["destinations"] = ["meta"]


LIFTED = {
    "consent column ads_consent": (no_consent, BOB),
    "suppression model shop.opt_outs": (no_suppression, CYD),
    "suppression model shop.blocked": (no_suppression_of_the_item, DAN),
}


@pytest.mark.parametrize("rule", LIFTED)
def test_a_rule_that_is_gone_holds_until_it_is_released(world: World, rule: str) -> None:
    """Plan and sync name it and how many would be added; the refusing person is not sent; the release is by name."""
    take_away, address = LIFTED[rule]
    assert world.sync().counts.refused == 3
    assert world.held() == {email(ADA)}
    take_away(world)
    for result in (world.plan().run.syncs[0], world.sync(), world.sync(allow_removals=("vip",))):
        assert (result.status, result.exit_code) == ("held", 1)
        assert result.reason == f"refusals_lifted: no longer applied: {rule}; the last run refused 3 members"
        assert result.counts.added == 1
        assert "--lift-refusals vip" in " ".join(result.notes)
    assert world.held() == {email(ADA)}
    assert world.plan(lift_refusals=("shop.vip.meta",)).run.syncs[0].counts.added == 1
    assert world.sync().status == "held"
    assert world.sync(lift_refusals=("vip",)).counts.added == 1
    assert world.held() == {email(ADA), email(address)}
    assert world.sync().status == "noop"


def test_a_rule_that_is_restored_lets_the_sync_go_on(world: World) -> None:
    """Nothing was sent meanwhile, and nothing has to be released."""
    world.sync()
    world.consent = {}
    assert world.sync().status == "held"
    world.consent = {"ads": "ads_consent"}
    assert world.sync().status == "noop"
    assert world.held() == {email(ADA)}


def test_another_column_in_its_place_is_a_rule_that_is_gone(world: World) -> None:
    """Nobody knows whether it refuses the same people."""
    schema = world.warehouse.schema
    world.sync()
    world.sql(f"alter table {schema}.customers add column ok boolean; update {schema}.customers set ok = true")
    world.consent = {"ads": "ok"}
    assert world.sync().reason.startswith("refusals_lifted: no longer applied: consent column ads_consent")


@pytest.mark.parametrize("rules_left", [0, 2])
def test_a_rule_that_goes_with_an_upgrade_holds_too(world: World, rules_left: int) -> None:
    """An older version left no rules on record: what it counted as refused is compared, and the release is the same."""
    world.sync()
    world.sql(f"delete from {world.warehouse.schema}_dbt_segments.pointers where kind = 'rules'")
    if rules_left:
        world.customers([(key, f"{key}@example.com", None, None, True) for key in (1, 2, 3, 4)])
        world.suppress, world.models = [], ["blocked", "opt_outs"]
    else:
        world.consent, world.suppress, world.models = {}, [], ["blocked", "opt_outs"]
        world.segments["vip"]["destinations"] = ["meta"]
    held = world.sync()
    assert (held.status, held.exit_code) == ("held", 1)
    assert held.reason.startswith("refusals_lifted: the last run refused 3 members"), held.reason
    assert world.held() == {email(ADA)}
    assert world.sync(lift_refusals=("vip",)).status == "success"
    assert world.sync().status == "noop"


def test_an_upgrade_alone_holds_nothing(world: World) -> None:
    """The rules of today are taken as they are where as many refuse as before."""
    world.sync()
    world.sql(f"delete from {world.warehouse.schema}_dbt_segments.pointers where kind = 'rules'")
    assert world.sync().status == "noop"


def many(world: World, refusing: range) -> None:
    """30 more members, of whom so many are suppressed by the entity's model."""
    world.customers([(key, f"{key}@example.com", None, None, True) for key in range(1, 31)])
    world.segment(range(1, 31))
    world.opt_outs(refusing)


def test_a_suppression_model_that_has_lost_its_rows_holds(world: World) -> None:
    """The rules are the same, and whom they refused would be sent: it waits, and the last good count is compared."""
    many(world, range(3, 15))
    world.sync(allow_removals=("vip",))
    held = world.held()
    world.opt_outs([])
    for result in (world.plan().run.syncs[0], world.sync(), world.sync(allow_removals=("vip",))):
        assert result.status == "held"
        assert result.reason.startswith("refusals_lifted: the last run refused 12 members, and now it would be 1; ")
    assert world.held() == held
    world.opt_outs(range(3, 15))
    assert world.sync().status == "noop"


def test_who_leaves_with_their_refusal_lifts_nothing(world: World) -> None:
    """They are not sent, whatever the suppression model says; nor is it many who agree one by one."""
    many(world, range(3, 15))
    world.sync(allow_removals=("vip",))
    world.opt_outs(range(3, 10))
    assert world.sync().status == "success"
    world.segment([1, 2])
    world.opt_outs([])
    assert world.sync(allow_removals=("vip",)).status == "success"
    assert world.held() == {email("1@example.com"), email("2@example.com")}


def test_more_rules_hold_nothing(world: World) -> None:
    """Whom they refuse leaves; and they are on record from then on, also where a sync is held by something else."""
    world.consent, world.suppress = {}, []
    world.models = ["blocked", "opt_outs"]
    assert world.sync().counts.added == 3
    world.suppress, world.models = ["opt_outs"], ["blocked"]
    world.segment([])
    held = world.sync()
    assert held.reason.startswith("segment_empty")
    assert world.held() == {email(ADA), email(BOB)}
    world.segment([1, 2, 3, 4])
    no_suppression(world)
    assert world.sync().reason.startswith("refusals_lifted: no longer applied: suppression model shop.opt_outs")


def test_other_refusals_go_out_while_it_is_held(world: World) -> None:
    """As under every hold; nobody else changes."""
    world.sync()
    world.consent = {}
    world.opt_outs([1, 3])
    assert world.sync().status == "held"
    assert world.held() == set()


def test_what_was_sent_for_a_refusing_member_stays_refused(world: World) -> None:
    """A hold in between forgets nothing: an earlier address of hers, which another member has, is still not sent."""
    world.customers([(1, ADA, None, None, True), (2, BOB, None, None, True)])
    world.segment([1, 2])
    world.opt_outs([])
    world.opt_outs([], "blocked")
    world.sync()
    world.customers([(1, CYD, None, None, False), (2, BOB, None, None, True), (3, ADA, None, None, True)])
    world.segment([1, 2, 3])
    world.sync()
    assert world.held() == {email(BOB)}
    world.consent = {}
    world.opt_outs([2])
    assert world.sync().status == "held"
    world.consent = {"ads": "ads_consent"}
    world.opt_outs([])
    world.sync()
    assert world.held() == {email(BOB)}


def test_a_renamed_model_keeps_its_rules(world: World) -> None:
    """They go by the sync, under each of its names."""
    world.sync()
    world.segment([1, 2, 3, 4], "gold")
    world.segments = {"gold": {"renamed_from": ["vip"], "destinations": world.segments["vip"]["destinations"]}}
    world.consent = {}
    assert world.sync().reason.startswith("refusals_lifted")


def test_a_name_that_releases_nothing_is_an_error(world: World) -> None:
    with pytest.raises(ConfigError, match="--lift-refusals vipp: there is no such sync or segment"):
        pipeline.plan(world.request(lift_refusals=("vipp",)), lambda sync_id, text: None)


def test_a_pruned_audience_forgets_no_refusal(world: World) -> None:
    """Emptied and switched on again, it is still not sent what was once sent for somebody who refuses."""
    world.customers([(1, ADA, None, None, True), (2, BOB, None, None, True)])
    world.segment([1, 2])
    world.opt_outs([])
    world.opt_outs([], "blocked")
    world.sync()
    world.customers([(1, CYD, None, None, False), (2, BOB, None, None, True), (3, ADA, None, None, True)])
    world.segment([1, 2, 3])
    world.sync()
    item = world.segments["vip"]["destinations"][0]
    world.segments["vip"]["destinations"] = [{**item, "enabled": False}]
    request = world.request()
    (pruned,) = prune(request.options, (), "empty", act=True, lock_timeout_s=20.0, tell=lambda sync_id, text: None)
    assert (pruned.done, world.held()) == ("emptied", set())
    world.segments["vip"]["destinations"] = [item]
    assert world.sync().status == "success"
    assert world.held() == {email(BOB)}
    world.consent = {}
    assert world.sync().reason.startswith("refusals_lifted")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a"}, {"a"}, None),
        (set(), {"a"}, None),
        ({"b", "a"}, set(), "refusals_lifted: no longer applied: a, b"),
        ({"a"}, {"b"}, "refusals_lifted: no longer applied: a"),
    ],
)
def test_fewer_rules_hold(before: set[str], now: set[str], said: str | None) -> None:
    assert lifted(before, now, 0) == said
