"""What is committed before a request goes out, and what happens when commits fail or the state is lost."""

from __future__ import annotations

import json
import re

import pytest

from dbt_segments.state.schema import TABLES
from tests.kill.harness import (
    KILLED,
    Data,
    Person,
    check_members,
    check_mended,
    checkpoint,
    in_flight,
    let_leases_end,
    sandbox_of,
    start,
    sync,
    unanswered,
)
from tests.kill.scenarios import a_first_sync, prepare
from tests.world import World

pytestmark = pytest.mark.slow


def schema(world: World) -> str:
    return f"{world.warehouse.schema}_dbt_segments"


# -- written ahead --------------------------------------------------------------------------------------------


def test_the_intention_to_make_an_audience_is_written_ahead(world: World) -> None:
    """While the platform is asked to make an audience, everybody can read that it may have been made."""
    a_first_sync().write(world)
    with unanswered(world, "create") as release:
        running = start(world)
        in_flight(world, "create", running)
        (found,) = world.state("audiences", "event, audience_id, mark")
        assert found[:2] == ("intended", None)
        assert world.audiences()[0]["description"].split()[-1] == found[2]
        release()
        assert running.end() == 0, running.output
    assert sorted(event for (event,) in world.state("audiences", "event")) == ["created", "intended"]


@pytest.mark.parametrize("op", ["remove", "add"])
def test_a_batch_is_written_ahead(world: World, op: str) -> None:
    """While a batch is under way, everybody can read its members, its units, and that it may have arrived."""
    after = prepare(world, "change")
    with unanswered(world, op) as release:
        running = start(world)
        in_flight(world, op, running)
        token, detail = max(world.state("pointers", "token, detail", "kind = 'generation'"))
        (latest,) = world.state("pointers", "id", f"kind = 'generation' and token = {token}")
        states: dict[int, set[str]] = {}
        for batch, state in world.state("sync_batches", "batch, state", f"generation = '{latest[0]}'"):
            states.setdefault(batch, set()).add(state)
        assert {"sending"} in states.values(), states
        (last_call,) = world.calls(op)[-1:]
        written = written_ahead(world, detail, {batch for batch, found in states.items() if found == {"sending"}})
        assert last_call["rows"] <= written
        release()
        assert running.end() == 0, running.output
    check_members(world, after.expected())


def written_ahead(world: World, detail: str, batches: set[int]) -> int:
    """Rows of these batches, each of which has a unit on record."""
    tables = json.loads(detail)["tables"]
    numbers = ", ".join(map(str, batches))
    rows = world.sql(
        f"select count(distinct p.seq), count(distinct u.seq) from {schema(world)}.{tables['pending']} p "
        f"left join {schema(world)}.{tables['units']} u on u.seq = p.seq where p.batch in ({numbers})"
    )
    assert rows[0][0] == rows[0][1], "a row without units"
    return int(rows[0][0])


# -- commits that fail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("commit sync_batches accepted+sending", 1, "SnapshotError"),
        ("commit sync_batches accepted", 1, "SnapshotError"),
        ("commit pointers ledger", 3, "WarehouseError"),
        ("commit pointers refused pointers generation", 3, "WarehouseError"),
    ],
)
def test_a_commit_that_fails_is_mended(world: World, name: str, code: int, said: str) -> None:
    """Where the state cannot be written the run says so and what follows, and the next run mends it."""
    after = prepare(world, "change")
    output = sync(world, code=code, fail=name)
    assert said in output, output
    check_mended(world, after.expected())


def test_an_audience_that_could_not_be_recorded_is_found_again(world: World) -> None:
    """A commit that fails after the audience was made leads to no second one."""
    data = a_first_sync()
    data.write(world)
    sync(world, code=3, fail="commit audiences created")
    assert world.calls("add") == []
    check_mended(world, data.expected())


# -- state lost -----------------------------------------------------------------------------------------------


def lose_state(world: World) -> None:
    world.sql(f"drop schema {schema(world)} cascade")


@pytest.mark.parametrize("renamed", [False, True])
def test_without_its_state_a_sync_sends_nothing(world: World, renamed: bool) -> None:
    """After a loss of the state the audience is recognised as another state's: no second one, no blind sending.

    Its name does not matter: somebody may have changed it at the platform.
    """
    after = prepare(world, "change")
    held = world.held()
    lose_state(world)
    if renamed:
        with sandbox_of(world).lock:
            for audience in sandbox_of(world).platforms["meta"].audiences.values():
                audience.name = "Very important people"
    before = len(world.calls())
    output = sync(world, code=1)
    assert "foreign_mark" in output, output
    assert {call["method"] for call in world.calls()[before:]} <= {"GET"}
    assert world.held() == held != after.expected()
    sync(world, code=1)
    assert world.held() == held


def test_with_require_state_a_lost_state_ends_the_run(world: World) -> None:
    """`require_state: true` makes a missing state an error before anything is asked or made."""
    prepare(world, "change")
    lose_state(world)
    world.variables = {"require_state": True}
    before = len(world.calls())
    output = sync(world, code=2)
    assert "require_state" in output and schema(world) in output, output
    assert len(world.calls()) == before
    assert world.sql(f"select 1 from information_schema.schemata where schema_name = '{schema(world)}'") == []


def test_without_a_table_a_run_ends_before_it_asks(on_duckdb: World, request: pytest.FixtureRequest) -> None:
    """Without one of its tables the state is not used, and the table is named."""
    world = on_duckdb
    prepare(world, "change")
    with checkpoint(world, request) as saved:
        for table in TABLES:
            saved.restore()
            refuses_without(world, table)


def test_without_a_table_of_its_ledger_a_sync_sends_nothing(world: World, request: pytest.FixtureRequest) -> None:
    """A ledger of which a table is gone is never taken for a first sync; the table is named."""
    people: dict[int, Person] = {key: (f"m{key}@example.com", None, True) for key in range(1, 31)}
    data = Data(people, set(people))
    data.write(world)
    sync(world, rows=100)
    data.customers[1] = ("new@example.com", None, True)  # too small a change to be merged into the ledger's base
    data.write(world)
    sync(world, rows=100)
    data.members.discard(2)
    data.write(world)
    with checkpoint(world, request) as saved:
        tables = newest_tables(world, "ledger")
        assert sorted(tables) == ["delta_members", "delta_units", "members", "units"]
        for table in tables.values():
            saved.restore()
            refuses_without(world, table)


def test_without_what_was_under_way_a_sync_sends_nothing(world: World, request: pytest.FixtureRequest) -> None:
    """What a killed run had under way is not forgotten because its table is gone; the table is named."""
    prepare(world, "change")
    assert start(world, kill=("after", "commit sync_batches accepted+sending")).end() == KILLED
    let_leases_end(world)
    with checkpoint(world, request) as saved:
        tables = newest_tables(world, "generation")
        assert sorted(tables) == ["pending", "units"]
        for table in tables.values():
            saved.restore()
            refuses_without(world, table)


def newest_tables(world: World, kind: str) -> dict[str, str]:
    """Role -> table of the newest pointer of a kind."""
    found: dict[str, str] = json.loads(max(world.state("pointers", "token, seq, detail", f"kind = '{kind}'"))[2])[
        "tables"
    ]
    return found


def refuses_without(world: World, table: str) -> None:
    """Drop a table of the state: a sync names it, ends with code 2 and asks the destination nothing."""
    world.sql(f"drop table {schema(world)}.{table}")
    held = world.held()
    output = sync(world, code=2)
    assert table in output and "restore" in output, output
    assert world.calls() == []
    assert world.held() == held


# -- rubbish --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["write drop table seen", "write drop table flagged", "commit pointers refused pointers generation"]
)
def test_what_a_dead_run_left_is_collected(on_duckdb: World, point: str) -> None:
    """Tables that no pointer names are gone after a day; those of refusals hold identifiers as they are."""
    world = on_duckdb
    after = prepare(world, "change")
    known = tables_of(world)
    assert start(world, kill=("before", point)).end() == KILLED
    left = tables_of(world) - known
    assert any(name.startswith("refusals_") for name in left), left
    for name in left:
        world.sql(f"alter table {schema(world)}.{name} rename to {a_day_older(name)}")
    check_mended(world, after.expected())
    orphans = {name for name in tables_of(world) if name.startswith(("refusals_", "seen_", "flagged_"))}
    assert not orphans


def tables_of(world: World) -> set[str]:
    rows = world.sql(f"select table_name from information_schema.tables where table_schema = '{schema(world)}'")
    return {name for (name,) in rows}


def a_day_older(name: str) -> str:
    """The name that a scratch table would have if it had been made two days ago; the time is in its name."""
    return re.sub(r"_(1[0-9]{9})_", lambda found: f"_{int(found[1]) - 2 * 86_400}_", name)
