"""Refusals in data as they come: other key types, other columns, held syncs, shared identifiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbt_segments import pipeline
from dbt_segments.errors import ConfigError
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


def test_a_suppression_model_that_cannot_be_computed_is_named(world: World) -> None:
    """It fails on a value of its own in every run, so it does not pass by itself; the value is not quoted."""
    world.suppress = ["opt_outs"]
    world.customers([(1, "ada@example.com")])
    world.segment([1])
    schema = world.warehouse.schema
    world.sql(
        f"drop table if exists {schema}.opt_outs; "
        f"create view {schema}.opt_outs as select cast(email as integer) as customer_id from {schema}.customers"
    )
    for result in (world.sync(), world.plan().run.syncs[0]):
        assert (result.status, result.exit_code) == ("failed", 1)
        said = "StatementError: customers, opt_outs: who refuses of entity customer cannot be read: "
        assert result.reason.startswith(said), result
        assert result.notes == ("mend the SQL or the values of customers, opt_outs",)
        assert "ada@" not in str(result)


def test_consent_that_is_neither_a_yes_nor_a_no_holds(world: World) -> None:
    """A word that nobody understands may be a refusal: nothing is added, and who clearly refuses goes out."""
    world.consent = {"ads": "ads_consent"}
    world.customers([(1, ADA, None, None, True), (2, BOB, None, None, True), (3, "c@example.com", None, None, True)])
    world.segment([1, 2])
    assert world.sync().status == "success"
    schema = world.warehouse.schema
    world.sql(
        f"alter table {schema}.customers alter column ads_consent type varchar(9); "
        f"update {schema}.customers set ads_consent = "
        "case customer_id when 1 then 'Nein' when 2 then 'No' else 'yes' end"
    )
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.status, result.reason.split(":")[0]) == ("held", "consent_unclear"), result
    assert "the consent column ads_consent has 1 value beyond yes and no" in result.reason
    assert world.held() == {email(ADA)}


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
    assert sum("1 member shares" in note for note in result.notes) == 1
    assert world.held() == {phone("12015550102"), own_id("2"), email(BOB), own_id("3")}


def test_a_full_replace_sends_who_lost_a_unit_to_a_refusal(world: World) -> None:
    """Nothing has changed of them, and yet a full resync is for everybody: the platform may have lost them."""
    world.identifiers = {"email": "email", "phone": "phone"}
    world.segments = {"vip": {"syncs": [{"to": "meta", "mode": "replace"}]}}
    world.customers([(1, ADA, "+1 201 555 0101"), (2, BOB, "+1 201 555 0101")])
    world.segment([1, 2])
    world.opt_outs([2])
    world.sync()
    assert world.sync().requests == 0
    before = len(world.calls("replace"))
    assert world.sync(full=True).status == "success"
    assert [call["rows"] for call in world.calls("replace")[before:]] == [1]
    assert world.held() == {email(ADA)}


# -- per destination ------------------------------------------------------------------------------------------


def two_accounts(world: World) -> None:
    """`vip` goes to two ad accounts, `meta` and `emea`."""
    world.connections = {"meta": world.meta(), "emea": {**world.meta(ad_account_id="77"), "type": "meta"}}
    world.segments = {"vip": {"destinations": ["meta", "emea"]}}


def held_by(world: World) -> dict[str, set[tuple[str, str]]]:
    """Account -> the identifiers in its only audience."""
    return {one["account"]: {(name, value) for name, value in one["keys"]} for one in world.audiences()}


META, EMEA = "1002003004005", "77"


def test_consent_of_a_destination_wins_over_its_channel(world: World) -> None:
    """`emea` has a column of its own, `meta` goes by the channel; who refuses there later leaves there only."""
    two_accounts(world)
    world.consent = {"ads": "ads_consent", "emea": "emea_consent"}
    world.customers([(1, ADA, None, None, True), (2, BOB, None, None, False)])
    table = f"{world.warehouse.schema}.customers"
    world.sql(f"alter table {table} add column emea_consent boolean")
    world.sql(f"update {table} set emea_consent = true")
    world.segment([1, 2])
    world.run()
    assert held_by(world) == {META: {email(ADA)}, EMEA: {email(ADA), email(BOB)}}
    world.sql(f"update {table} set emea_consent = false where customer_id = 1")
    world.segment([])
    assert {one.status for one in world.run().syncs} == {"held"}
    assert held_by(world) == {META: {email(ADA)}, EMEA: {email(BOB)}}


def test_consent_of_a_type_is_between_connection_and_channel(world: World) -> None:
    """Both connections are of the type; one of them has a column of its own besides."""
    two_accounts(world)
    world.consent = {"ads": "ads_consent", "facebook": "type_consent", "emea": "emea_consent"}
    world.customers([(1, ADA, None, None, False), (2, BOB, None, None, True)])
    table = f"{world.warehouse.schema}.customers"
    world.sql(
        f"alter table {table} add column type_consent boolean; alter table {table} add column emea_consent boolean"
    )
    world.sql(f"update {table} set type_consent = true, emea_consent = customer_id = 1")
    world.segment([1, 2])
    world.run()
    assert held_by(world) == {META: {email(ADA), email(BOB)}, EMEA: {email(ADA)}}


def test_a_consent_key_that_means_nothing_is_a_mistake(world: World) -> None:
    """A misspelt destination would let everybody pass; the nearest spelling is named."""
    world.customers([(1, ADA)])
    world.segment([1])
    world.consent = {"emeta": "ads_consent"}
    _, (problem,) = pipeline.validate(world.request())
    assert (problem.model, problem.key) == ("customers", "entity.consent.emeta")
    assert "meta" in problem.hint
    with pytest.raises(ConfigError):
        world.run()


@pytest.mark.parametrize("where", ["item", "connection", "segment"])
def test_suppression_of_one_destination(world: World, where: str) -> None:
    """Named by the item, by its connection, or by the segment for all its destinations."""
    two_accounts(world)
    world.suppress = []
    world.models = ["blocked"]
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.opt_outs([], "blocked")
    world.run()
    if where == "item":
        world.segments["vip"]["destinations"] = ["meta", {"to": "emea", "suppress": ["blocked"]}]
    elif where == "connection":
        world.connections["emea"]["suppress"] = "blocked"
    else:
        world.segments["vip"]["suppress"] = ["blocked"]
    world.opt_outs([1], "blocked")
    world.segment([])
    assert {one.status for one in world.run().syncs} == {"held"}, "a refusal goes out although the sync is held"
    others = {email(BOB)} if where == "segment" else {email(ADA), email(BOB)}
    assert held_by(world) == {META: others, EMEA: {email(BOB)}}


def test_suppression_of_a_destination_reaches_every_unit_ever_sent(world: World) -> None:
    """An address that was sent long ago, and whoever has it now, leaves this destination only."""
    two_accounts(world)
    world.suppress = []
    world.models = ["blocked"]
    world.segments["vip"]["destinations"] = ["meta", {"to": "emea", "suppress": ["blocked"]}]
    world.opt_outs([], "blocked")
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.run()
    world.customers([(1, "new@example.com"), (2, ADA)])
    world.opt_outs([1], "blocked")
    world.run()
    assert held_by(world) == {META: {email("new@example.com"), email(ADA)}, EMEA: set()}


def test_a_suppression_model_that_is_not_there_is_a_mistake(world: World) -> None:
    """In the item, and in destinations.yml, where the file and the connection are named."""
    two_accounts(world)
    world.connections["emea"]["suppress"] = ["nobody"]
    world.segments["vip"]["destinations"] = [{"to": "meta", "suppress": ["noone"]}, "emea"]
    _, problems = pipeline.validate(world.request())
    places = {(problem.file.rsplit("/", 1)[-1], problem.model, problem.key) for problem in problems}
    assert places == {
        ("schema.yml", "vip", "segment.destinations[0].suppress"),
        ("destinations.yml", "emea", "suppress"),
    }


def test_a_suppression_model_of_a_destination_must_be_built(world: World) -> None:
    """As those of the entity: if it failed, only the syncs that read it are held."""
    two_accounts(world)
    world.suppress = []
    world.models = ["blocked"]
    world.segments["vip"]["destinations"] = ["meta", {"to": "emea", "suppress": ["blocked"]}]
    world.customers([(1, ADA)])
    world.segment([1])
    world.opt_outs([], "blocked")
    world.write()
    results = {
        "metadata": {"generated_at": "2030-01-01T00:00:00Z", "invocation_id": "1"},
        "args": {"which": "run"},
        "results": [{"unique_id": "model.shop.blocked", "status": "error"}],
    }
    world.project.write("target/run_results.json", json.dumps(results))
    assert {one.destination: one.status for one in world.run().syncs} == {"meta": "success", "emea": "held"}


def test_limited_data_use_is_said_of_everybody_who_is_sent(world: World) -> None:
    """Meta's columns stand behind the identifiers of an addition; a removal has none; a wrong state is a mistake."""
    limits = {"data_processing_options": ["LDU"], "data_processing_options_country": 1}
    world.connections = {"meta": world.meta(**limits, data_processing_options_state=1000)}
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    (text,) = world.plan(show_requests=1).requests["shop.vip.meta"]
    assert '"DATA_PROCESSING_OPTIONS","DATA_PROCESSING_OPTIONS_COUNTRY","DATA_PROCESSING_OPTIONS_STATE"' in text
    assert world.sync().status == "success"
    assert world.held() == {email(ADA), email(BOB)}
    world.segment([1])
    assert world.sync().counts.removed == 1
    assert world.held() == {email(ADA)}
    assert world.serving is not None
    assert world.serving.state()["violations"]["meta"] == []
    world.connections = {"meta": world.meta(**limits, data_processing_options_state=7)}
    _, (problem,) = pipeline.validate(world.request())
    assert problem.key == "data_processing_options_state"
