"""Refusals in data as they come: other key types, other columns, held syncs, shared identifiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import Warehouse
from tests.world import World, email, make_world, own_id, phone, sandbox

ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        found = make_world(tmp_path / "shop", warehouse, serving)
        found.suppress = ["opt_outs"]
        found.opt_outs([])
        yield found


def test_a_key_of_another_numeric_type_is_the_same_key(world: World) -> None:
    """A suppression list whose keys became decimals (a nullable column of a CSV) still refuses."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    schema = world.warehouse.schema
    world.sql(
        f"drop table {schema}.opt_outs; create table {schema}.opt_outs (customer_id decimal(10, 2)); "
        f"insert into {schema}.opt_outs values (1)"
    )
    assert world.sync().status == "success"
    assert world.held() == {email(BOB)}


def test_a_suppression_list_of_unknown_keys_holds(world: World) -> None:
    """A list of which not one key is known would refuse nobody: nothing is sent, and the reason says so."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.opt_outs([77])
    result = world.sync()
    assert (result.status, result.reason.split(":")[0]) == ("held", "suppression_keys_unknown")
    assert world.audiences() == []


def test_a_suppression_list_without_the_key_holds(world: World) -> None:
    """With several columns and none named like the key, no column is guessed."""
    world.customers([(1, ADA)])
    world.segment([1])
    schema = world.warehouse.schema
    world.sql(f"drop table {schema}.opt_outs; create table {schema}.opt_outs (loaded_at date, cust_id integer)")
    result = world.sync()
    assert (result.status, result.reason.split(":")[0]) == ("held", "key_missing")


@pytest.mark.parametrize("consents", [False, True])
def test_an_entity_without_its_key_holds(world: World, consents: bool) -> None:
    """Whoever refuses could not be told apart: held with the column's name, and not a failure of the warehouse."""
    world.suppress = ["opt_outs"]
    world.consent = {"ads": "ads_consent"} if consents else {}
    world.customers([(1, ADA)])
    world.segment([1])
    world.opt_outs([2])
    world.sql(f"alter table {world.warehouse.schema}.customers rename column customer_id to id")
    result = world.sync()
    assert (result.status, result.reason.split(":")[0], result.exit_code) == ("held", "key_missing", 1), result


def test_an_identifier_that_the_segment_yields_is_refused_too(world: World) -> None:
    """The e-mail comes from the segment, two members share it, one refuses: it is sent for nobody."""
    world.customers([(1, None), (2, None, "+1 201 555 0102")])
    schema = world.warehouse.schema
    world.sql(
        f"drop table if exists {schema}.vip; create table {schema}.vip (customer_id integer, email varchar(200)); "
        f"insert into {schema}.vip values (1, '{ADA}'), (2, '{ADA}')"
    )
    world.opt_outs([1])
    world.sync()
    assert world.held() == {phone("12015550102")}


def test_refusals_go_out_although_the_last_good_set_lacks_a_column(world: World) -> None:
    """The sync reads a new column and is held before it was ever frozen: who refuses leaves all the same."""
    world.identifiers = {"email": "email"}
    world.customers([(1, ADA, "+1 201 555 0101"), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.identifiers = {"email": "email", "phone": "phone"}
    world.segment([])
    world.opt_outs([1])
    assert world.sync().status == "held"
    assert world.held() == {email(BOB)}


def test_a_sharer_of_a_refused_unit_is_sent_once(world: World) -> None:
    """A unit that is refused now and on record is one unit: rows and counts are not multiplied."""
    world.identifiers = {"email": "email", "external_id": "customer_id", "phone": "phone"}
    world.customers([(1, ADA, "+1 201 555 0101"), (2, ADA, "+1 201 555 0101"), (3, BOB)])
    world.segment([1, 2, 3])
    world.sync()
    world.opt_outs([1])
    world.customers([(1, ADA, "+1 201 555 0101"), (2, ADA, "+1 201 555 0102"), (3, BOB)])
    before = len(world.calls("add"))
    result = world.sync()
    assert sum(call["rows"] for call in world.calls("add")[before:]) == 1
    assert sum("1 members share" in note for note in result.notes) == 1
    assert world.held() == {phone("12015550102"), own_id("2"), email(BOB), own_id("3")}
