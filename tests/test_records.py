"""Classic syncs: what a mapping writes to a destination of records, in every mode, on both warehouses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbt_segments import inventory, pipeline, retry
from dbt_segments.sandbox import Serving
from tests.projects import Warehouse
from tests.scripted.records import Records, RecordsPlatform, serve_records
from tests.world import World, make_world

SYNC = "shop.vip.crm"
ADA, BOB, CYD, DAN = (f"{name}@example.com" for name in ("ada", "bob", "cyd", "dan"))


@pytest.fixture
def crm(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Serving, RecordsPlatform]]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with serve_records() as served:
        yield served


@pytest.fixture
def platform(crm: tuple[Serving, RecordsPlatform]) -> RecordsPlatform:
    return crm[1]


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse, crm: tuple[Serving, RecordsPlatform]) -> World:
    """Three customers, two of them in the segment `vip`, which is mirrored into the CRM under `Id`."""
    world = make_world(tmp_path / "shop", warehouse, crm[0])
    world.connections = {"crm": {"type": "scripted_records", "base_url": crm[0].url}}
    mapped(world, "mirror")
    world.customers([(1, ADA, "1"), (2, BOB, None), (3, CYD, "3")])
    world.segment([1, 2])
    return world


def mapped(world: World, mode: str, key: str = "customer_id", **more: Any) -> None:
    item = {"to": "crm", "mode": mode, "key": {"Id": key}, "fields": {"Mail": "email", "Vip": {"value": True}}, **more}
    world.segments = {"vip": {"syncs": [item]}}


def held(platform: RecordsPlatform, sync: str = SYNC) -> dict[str, Any]:
    """The records by their key, as JSON."""
    return {str(json.loads(key)["Id"]): values for key, values in platform.records[sync].items()}


def said(platform: RecordsPlatform) -> list[tuple[str, Any]]:
    """What was asked for since the last call: (op, id)."""
    rows = [(row["op"], row["key"]["Id"]) for _, row in platform.rows]
    platform.rows.clear()
    return sorted(rows)


# -- modes ----------------------------------------------------------------------------------------------------


def test_a_mirror_upserts_and_deletes(world: World, platform: RecordsPlatform) -> None:
    """Who is in is there with today's values, who left is deleted, and nothing else is sent; there is no audience."""
    first = world.sync()
    (known,) = pipeline.status(world.request()).syncs
    assert (known.members, known.audience_id, known.audience_name) == (2, None, "")
    assert inventory.audiences(world.request().options) == ()
    assert (first.status, first.counts.added, first.audience_id, first.audience_name) == ("success", 2, None, "")
    assert held(platform) == {"1": {"Mail": ADA, "Vip": True}, "2": {"Mail": BOB, "Vip": True}}
    assert said(platform) == [("upsert", 1), ("upsert", 2)]
    assert world.sync().status == "noop"
    world.customers([(1, DAN, "1"), (2, BOB, None), (3, CYD, "3")])
    world.segment([1, 3])
    counts = world.sync().counts
    assert (counts.added, counts.changed, counts.removed) == (1, 1, 1)
    assert held(platform) == {"1": {"Mail": DAN, "Vip": True}, "3": {"Mail": CYD, "Vip": True}}
    assert said(platform) == [("delete", 2), ("upsert", 1), ("upsert", 3)]


@pytest.mark.parametrize(
    ("mode", "word", "again"),
    [
        ("upsert", "upsert", [("upsert", 1), ("upsert", 3)]),
        ("update", "update", [("update", 1), ("update", 3)]),
        ("create", "create", [("create", 3)]),
        ("append", "insert", [("insert", 3)]),
        ("delete", "delete", [("delete", 3)]),
    ],
)
def test_other_modes_never_delete_who_left(
    world: World, platform: RecordsPlatform, mode: str, word: str, again: list[tuple[str, int]]
) -> None:
    """One changes, one leaves, one enters: each mode says its own words, once; a full resync repeats no insert."""
    mapped(world, mode)
    world.sync()
    assert said(platform) == [(word, 1), (word, 2)]
    world.customers([(1, DAN, "1"), (2, BOB, None), (3, CYD, "3")])
    world.segment([1, 3])
    assert world.sync().status == "success"
    assert said(platform) == again
    assert world.sync().status == "noop"
    repeated = world.sync(full=True)
    once = mode in ("create", "append", "delete")
    assert said(platform) == ([] if once else [(word, 1), (word, 3)])
    assert repeated.status == ("noop" if once else "success")


def test_a_replace_sends_everybody_whenever_anything_changed(world: World, platform: RecordsPlatform) -> None:
    """The whole set goes out in one session, over several requests, and stands in for what was there."""
    mapped(world, "replace")
    world.customers([(n, f"c{n}@example.com") for n in range(1, 26)])
    world.segment(range(1, 24))
    world.sync()
    platform.records[SYNC]['{"Id": 99}'] = {"Mail": "somebody else's"}
    assert world.sync().status == "noop"
    world.segment(range(2, 26))
    result = world.sync()
    assert (result.counts.added, result.counts.removed, result.requests) == (2, 1, 3)
    assert set(held(platform)) == {str(n) for n in range(2, 26)}


def test_a_replace_that_broke_is_sent_again(world: World, platform: RecordsPlatform) -> None:
    """The second of three parts is refused: nothing was swapped in, so nobody counts as there."""
    assert world.serving is not None
    mapped(world, "replace")
    world.customers([(n, f"c{n}@example.com") for n in range(1, 26)])
    world.segment(range(1, 26))
    world.serving.sandbox.faults.add({"kind": "status", "match": {"op": "rows"}, "after": 1, "times": 1, "status": 400})
    broken = world.sync()
    assert (broken.status, broken.counts.added) == ("failed", 0)
    world.segment(range(1, 11))
    mended = world.sync(allow_removals=("vip",))
    assert (mended.status, mended.counts.unchanged) == ("success", 0)
    assert set(held(platform)) == {str(n) for n in range(1, 11)}
    assert world.sync().status == "noop"


def test_a_replace_keeps_nobody(world: World) -> None:
    """`removals: false` cannot be kept by it, so the two do not go together."""
    mapped(world, "replace", removals=False)
    _, (problem,) = pipeline.validate(world.request())
    assert "a `replace` cannot keep who has left" in problem.message


def test_a_mode_that_sends_once_begins_where_the_last_one_was(world: World, platform: RecordsPlatform) -> None:
    """After an upsert `create` makes nobody again; `delete` deletes them, and `create` makes them anew."""
    mapped(world, "upsert")
    world.sync()
    said(platform)
    for mode, word in (("create", []), ("delete", ["delete"]), ("append", ["insert"])):
        mapped(world, mode)
        world.sync()
        assert said(platform) == [(one, number) for one in word for number in (1, 2)], mode
        assert world.sync().status == "noop"


def test_a_broken_segment_deletes_nobody(world: World, platform: RecordsPlatform) -> None:
    """`delete` holds where it would delete a large share of the entity, and can be released."""
    mapped(world, "delete")
    world.customers([(n, f"c{n}@example.com") for n in range(1, 121)])
    world.segment(range(1, 121))
    result = world.sync()
    assert (result.status, result.reason.split(":")[0], said(platform)) == ("held", "too_many_removals", [])
    assert world.sync(allow_removals=("vip",)).counts.added == 120


# -- keys -----------------------------------------------------------------------------------------------------


def test_a_changed_key_deletes_the_record_under_the_old_one(world: World, platform: RecordsPlatform) -> None:
    """The record is found by its e-mail: the old one goes, unless somebody else has taken it over."""
    mapped(world, "mirror", key="email")
    world.sync()
    said(platform)
    world.customers([(1, DAN), (2, ADA), (3, CYD)])
    world.sync()
    assert set(held(platform)) == {DAN, ADA}
    assert said(platform) == [("delete", BOB), ("upsert", ADA), ("upsert", DAN)]
    assert world.sync().status == "noop"
    world.customers([(1, DAN), (2, None), (3, CYD)])
    assert "1 member loses its record: it has no key of its own; counted as unusable" in world.sync().notes
    assert set(held(platform)) == {DAN}


def test_a_key_of_two_members_is_sent_for_one(world: World, platform: RecordsPlatform) -> None:
    """The first by the entity's key is sent; the other is counted and logged, and takes its place when it leaves."""
    mapped(world, "mirror", key="email", fields={"Phone": "phone"})
    world.customers([(1, ADA, "1"), (2, ADA, "2"), (3, None, "3")])
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.counts.added, result.counts.unusable) == (1, 2)
    assert held(platform) == {ADA: {"Phone": "1"}}
    reasons = [("2", "key_not_unique"), ("3", "no_key")]
    assert sorted(world.state("rejects", "key, reason")) == reasons
    assert world.sync().status == "noop"
    world.segment([2, 3])
    world.sync()
    assert held(platform) == {ADA: {"Phone": "2"}}
    world.segment([1, 2, 3])
    world.sync()
    assert held(platform) == {ADA: {"Phone": "1"}}
    assert world.sync().status == "noop"


# -- values ---------------------------------------------------------------------------------------------------


def test_values_keep_their_types(world: World, platform: RecordsPlatform, warehouse: Warehouse) -> None:
    """Numbers, booleans, arrays, nulls and awkward texts arrive as what they are; decimals and times as exact texts."""
    schema = warehouse.schema
    world.sql(
        f"drop table {schema}.vip; create table {schema}.vip as select 1 as customer_id, 42 as points, "
        f"cast(1.50 as decimal(10, 2)) as spent, cast(0.5 as double precision) as score, "
        f"cast('NaN' as double precision) as ratio, true as is_new, "
        f"cast(null as varchar(9)) as nothing, '' as empty, '\"a\\b\"\n,é' as odd, "
        f"array['x', null, 'y,z'] as tags, timestamp '2026-01-02 03:04:05.5' as seen, date '2026-01-02' as day"
    )
    names = ("points", "spent", "score", "ratio", "is_new", "nothing", "empty", "odd", "tags", "seen", "day")
    mapped(world, "upsert", fields={name.title(): name for name in names})
    world.sync()
    assert held(platform) == {
        "1": {
            "Points": 42,
            "Spent": "1.50",
            "Score": 0.5,
            "Ratio": None,
            "Is_New": True,
            "Nothing": None,
            "Empty": "",
            "Odd": '"a\\b"\n,é',
            "Tags": ["x", None, "y,z"],
            "Seen": "2026-01-02T03:04:05.500000",
            "Day": "2026-01-02",
        }
    }
    assert world.sync().status == "noop"


def test_fields_of_a_relation_are_sent(world: World, platform: RecordsPlatform, warehouse: Warehouse) -> None:
    """`rep.name` is the employee's, who changes without the customer; without one it is null."""
    schema = warehouse.schema
    world.sql(
        f"create table {schema}.staff (id varchar(9), name varchar(9)); insert into {schema}.staff values ('1', 'Eve')"
    )
    world.related = {"rep": {"model": "staff", "on": "phone", "key": "id"}}
    mapped(world, "upsert", fields={"Rep": "rep.name"})
    world.sync()
    assert held(platform) == {"1": {"Rep": "Eve"}, "2": {"Rep": None}}
    world.sql(f"update {schema}.staff set name = 'Fay'")
    said(platform)
    assert world.sync().counts.changed == 1
    assert held(platform)["1"] == {"Rep": "Fay"}
    assert said(platform) == [("upsert", 1)]


def test_a_changed_mapping_is_sent_to_everybody(world: World, platform: RecordsPlatform) -> None:
    """Another field, or another type of the same column, is a change of every record."""
    world.sync()
    mapped(world, "mirror", fields={"Mail": "email", "Vip": {"value": "yes"}})
    assert world.sync().counts.changed == 2
    assert {values["Vip"] for values in held(platform).values()} == {"yes"}


# -- refusals, rejects, faults --------------------------------------------------------------------------------


def test_suppressed_members_are_not_sent_and_leave_a_mirror(world: World, platform: RecordsPlatform) -> None:
    """Suppression governs every sync; consent for ads governs ads, unless the sync names the channel."""
    world.consent = {"ads": "ads_consent"}
    world.customers([(1, ADA, None, None, False), (2, BOB, None, None, True), (3, CYD)])
    world.segment([1, 2, 3])
    world.sync()
    assert set(held(platform)) == {"1", "2", "3"}
    world.suppress = ["opt_outs"]
    world.opt_outs([2])
    world.sync()
    assert set(held(platform)) == {"1", "3"}
    mapped(world, "mirror", channel="ads")
    world.sync()
    assert set(held(platform)) == set()


def test_who_refuses_is_deleted_where_that_is_asked_for(world: World, platform: RecordsPlatform) -> None:
    """An opt-out stops no deletion."""
    world.suppress = ["opt_outs"]
    world.opt_outs([2])
    mapped(world, "delete")
    assert world.sync().counts.refused == 0
    assert said(platform) == [("delete", 1), ("delete", 2)]


def test_who_refuses_stays_on_record_where_nobody_is_deleted(world: World, platform: RecordsPlatform) -> None:
    """An upsert sends them no more and says that it removed nobody; a mirror that takes its place deletes them."""
    mapped(world, "upsert")
    world.sync()
    world.suppress = ["opt_outs"]
    world.opt_outs([2])
    said(platform)
    stopped = world.sync()
    assert (stopped.status, stopped.counts.removed, stopped.counts.refused, said(platform)) == ("noop", 0, 1, [])
    mapped(world, "mirror")
    world.sync()
    assert said(platform) == [("delete", 2)]


def test_a_key_goes_to_who_may_be_sent(world: World, platform: RecordsPlatform) -> None:
    """The first of two with one key loses consent: the other one takes its place, and the record stays."""
    world.consent = {"ads": "ads_consent"}
    mapped(world, "mirror", key="email", fields={"Phone": "phone"}, channel="ads")
    world.customers([(1, ADA, "1", None, True), (2, ADA, "2", None, True)])
    world.sync()
    assert held(platform) == {ADA: {"Phone": "1"}}
    world.customers([(1, ADA, "1", None, None), (2, ADA, "2", None, True)])
    world.sync()
    assert held(platform) == {ADA: {"Phone": "2"}}
    assert world.sync().status == "noop"


def test_a_renamed_model_goes_on_with_its_records(world: World, platform: RecordsPlatform) -> None:
    """They stay under the id that they were written under."""
    world.sync()
    world.segment([1, 3], name="vip2")
    world.segments = {"vip2": {"renamed_from": ["vip"], **world.segments["vip"]}}
    assert world.sync().counts.removed == 1
    assert set(held(platform)) == {"1", "3"}
    assert set(platform.records) == {SYNC}


def test_a_refused_row_costs_itself_only(world: World, platform: RecordsPlatform) -> None:
    """It is logged with the platform's code, not sent again as it is, and sent when it changes."""
    platform.policy["refuse"] = {'{"Id": 2}': "bad_mail"}
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.counts.added, result.counts.rejected) == (2, 1)
    assert set(held(platform)) == {"1", "3"}
    assert world.state("rejects", "key, reason") == [("2", "bad_mail")]
    said(platform)
    world.sync()
    assert said(platform) == []
    platform.policy["refuse"] = {}
    world.customers([(1, ADA, "1"), (2, DAN, None), (3, CYD, "3")])
    world.sync()
    assert held(platform)["2"] == {"Mail": DAN, "Vip": True}


@pytest.mark.parametrize("fault", ["reset_before", "reset_after"])
def test_a_lost_answer_is_mended(world: World, platform: RecordsPlatform, fault: str) -> None:
    """Whether the batch was applied or not, the next sync leaves every record as it should be."""
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": fault, "match": {"op": "rows"}, "times": 50})
    assert world.sync().status == "failed"
    world.serving.sandbox.faults.clear()
    world.segment([1])
    assert world.sync().status == "success"
    assert held(platform) == {"1": {"Mail": ADA, "Vip": True}}
    assert world.sync().status == "noop"


# -- the whole entity, plans, mistakes ------------------------------------------------------------------------


def test_another_account_holds(world: World, platform: RecordsPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one account holds says nothing of another one: nothing is sent there until the sync has a new id."""
    world.sync()
    monkeypatch.setattr(Records, "account", lambda self: "crm-2")
    world.segment([1, 3])
    said(platform)
    result = world.sync()
    assert (result.status, result.reason.split(":")[0], said(platform)) == ("held", "account_changed", [])
    mapped(world, "mirror", id="crm-2")
    assert world.sync().counts.added == 2
    assert set(held(platform, "crm-2")) == {"1", "3"}


def test_a_whole_entity_is_synced(world: World, platform: RecordsPlatform) -> None:
    """Every record of the entity, under an id of its own, beside the segments."""
    world.segments = {"vip": {}}
    world.syncs = [
        {"to": "crm", "mode": "mirror", "object": "Contact", "key": {"Id": "customer_id"}, "fields": {"Mail": "email"}}
    ]
    result = world.sync()
    assert (result.sync_id, result.segment, result.entity) == ("shop.customers.crm.Contact", "customer", "customer")
    assert held(platform, result.sync_id) == {"1": {"Mail": ADA}, "2": {"Mail": BOB}, "3": {"Mail": CYD}}
    world.customers([(1, ADA), (3, DAN)])
    assert world.sync().status == "success"
    assert held(platform, result.sync_id) == {"1": {"Mail": ADA}, "3": {"Mail": DAN}}


def test_an_entity_is_synced_with_its_membership(world: World, platform: RecordsPlatform) -> None:
    """Every record carries the sorted names of its segments, an empty array if none, and changes with them."""
    world.segments = {"vip": {}, "new": {}}
    world.segment([2, 3], "new")
    world.syncs = [{"to": "crm", "mode": "upsert", "fields": {"Segments": "segment_membership"}}]
    assert world.plan().run.syncs[0].counts.added == 3
    result = world.sync()
    assert result.status == "success"
    found = {
        json.loads(key)["customer_id"]: values["Segments"] for key, values in platform.records[result.sync_id].items()
    }
    assert found == {1: ["vip"], 2: ["new", "vip"], 3: ["new"]}
    assert world.sync().status == "noop"
    world.segment([2])
    counts = world.sync().counts
    assert (counts.changed, counts.added) == (1, 0)
    assert platform.records[result.sync_id]['{"customer_id": 1}'] == {"Segments": []}


def test_an_id_that_a_platform_forgets_is_not_enough(world: World) -> None:
    """Meta forgets external ids: with no other identifier `validate` says so, instead of counting all as unusable."""
    world.identifiers = {"external_id": "customer_id"}
    world.connections = {"meta": world.meta()}
    world.segments = {"vip": {"destinations": ["meta"]}}
    _, (problem,) = pipeline.validate(world.request())
    assert "meta could match nobody by the identifiers of entity `customer` (external_id)" in problem.message
    assert "external_id" not in (problem.hint or "")


def test_a_plan_shows_masked_rows(world: World) -> None:
    """Counts as they would be, and a request without anybody's values."""
    planned = world.plan(show_requests=1)
    assert planned.run.syncs[0].counts.added == 2
    (shown,) = planned.requests[SYNC]
    assert '"op": "upsert"' in shown and '"Mail": "***"' in shown
    assert ADA not in shown


def test_a_plan_masks_fields_that_bear_names_of_ours(world: World) -> None:
    """What users call `type` or `op` is a member's value like any other."""
    world.segments["vip"]["syncs"][0]["fields"] = {"type": "email", "op": "email"}
    (shown,) = world.plan(show_requests=1).requests[SYNC]
    assert '"op": "upsert"' in shown and '"type": "***"' in shown and '"op": "***"' in shown
    assert ADA not in shown


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"mode": "wipe"}, "", ""),
        ({"object": "Deal"}, "there is no object `Deal`", ""),
        ({"audience_name": "x"}, "scripted_records takes records", "map columns"),
        ({"fields": {"Id": "email"}}, "`Id` is in `key` and in `fields`", "write it once"),
        ({"fields": {"Rep": "rep.name"}}, "`rep.name`: entity `customer` has no relation `rep`", "under `related`"),
        ({"fields": {"Segments": "segment_membership"}}, "is a value of the whole entity", "entity: syncs:"),
    ],
    ids=["mode", "object", "audience", "twice", "relation", "membership"],
)
def test_mistakes_are_named(world: World, change: dict[str, Any], message: str, hint: str) -> None:
    """Each with its model and key, before anything is sent."""
    mapped(world, **{"mode": "mirror", **change})
    _, problems = pipeline.validate(world.request())
    (problem,) = problems
    assert (problem.model, problem.key.startswith("segment.syncs[0]")) == ("vip", True)
    assert message in problem.message and hint in (problem.hint or "")
