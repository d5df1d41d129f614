"""`<entity>_segment_membership`, `segment_sizes` and `membership_changes`, on both warehouses."""

from __future__ import annotations

import contextlib
import datetime as dt
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbt_segments import membership
from dbt_segments.freeze import HeldError
from dbt_segments.frozens import Frozens
from dbt_segments.membership import MembershipTable
from dbt_segments.project import open_project
from dbt_segments.state.store import Store
from dbt_segments.workbench import open_workbench
from tests.projects import DuckDBWarehouse, PostgresWarehouse, Warehouse
from tests.world import World, make_world, sandbox

ADA, BOB, EVE = (1, "ada@example.com"), (2, "bob@example.com"), (3, "eve@example.com")
FIRST = {("1", "vip", "enter"), ("2", "vip", "enter"), ("2", "lapsed", "enter")}


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        yield fill(make_world(tmp_path / "shop", warehouse, serving))


def fill(world: World) -> World:
    """Three customers, one of them in both segments and one in none; `lapsed` goes nowhere."""
    world.segments = {"vip": {"destinations": ["meta"]}, "lapsed": {}}
    world.customers([ADA, BOB, EVE])
    world.segment([1, 2])
    world.segment([2], "lapsed")
    return world


def members(world: World) -> dict[str, list[str]]:
    """Key -> segments, as a second connection reads them through the view."""
    rows = world.state("customer_segment_membership", "key, segments")
    assert len(rows) == len(dict(rows)), "a key stands there once"
    return {key: list(segments) for key, segments in rows}


def since(world: World) -> dict[str, dt.datetime]:
    return dict(world.state("customer_segment_membership", "key, since"))


def changes(world: World) -> list[tuple[Any, ...]]:
    return sorted(world.state("membership_changes", "key, segment, change"))


def sizes(world: World) -> list[tuple[Any, ...]]:
    """Segment, members and reason, as the newest run logged them."""
    newest = max(world.state("segment_sizes", "recorded_at, run_id"))[1]
    return sorted(world.state("segment_sizes", "segment, members, reason", f"run_id = '{newest}'"))


@contextlib.contextmanager
def refreshing(world: World) -> Iterator[Any]:
    """`refresh()` as a sync of the whole entity calls it, in the middle of a run."""
    request = world.request()
    with (
        open_project(request.options, 20.0, lambda text: None) as project,
        Frozens(project, 20.0) as frozens,
        open_workbench("256MB") as bench,
        project.sessions(20.0) as (models, state),
    ):
        (entity,) = project.registry.entities

        def refresh() -> MembershipTable:
            return membership.refresh(
                project, frozens, models, state, bench, entity, run_id="a-run", tell=lambda text: None
            )

        refresh.state = state  # type: ignore[attr-defined]
        yield refresh


def test_every_record_has_its_segments(world: World) -> None:
    """Who is in none has an empty list; a segment without a destination counts as well; the first time all enter."""
    world.run()
    assert members(world) == {"1": ["vip"], "2": ["lapsed", "vip"], "3": []}
    assert sizes(world) == [("lapsed", 1, None), ("vip", 2, None)]
    assert set(changes(world)) == FIRST


def test_names_are_sorted_by_code_points(world: World) -> None:
    """The order of a list is the same on every warehouse, whatever its collation; a quote is only a quote."""
    names = ["Zebra", "apple", "o'hara", "Ärger", "_x", "10", "9"]
    world.segments = {f"s{number}": {"name": name} for number, name in enumerate(names)}
    for name in world.segments:
        world.segment([1], name)
    world.run()
    assert members(world)["1"] == sorted(names)


def test_changes_are_logged_once_and_since_moves_with_them(world: World) -> None:
    """Only who changed has a new `since`; who leaves the entity exits; a run without a change logs sizes only."""
    world.run()
    before, pointers = since(world), world.state("pointers", "id", "kind = 'membership'")
    world.run()
    assert since(world) == before
    assert world.state("pointers", "id", "kind = 'membership'") == pointers
    assert (len(changes(world)), len(world.state("segment_sizes"))) == (3, 4)
    world.segment([2, 3], "lapsed")
    world.customers([ADA, EVE, (4, "zoe@example.com")])
    world.run()
    assert members(world) == {"1": ["vip"], "3": ["lapsed"], "4": []}
    assert since(world)["1"] == before["1"]
    assert since(world)["3"] > before["3"]
    assert set(changes(world)) - FIRST == {("2", "lapsed", "exit"), ("2", "vip", "exit"), ("3", "lapsed", "enter")}
    assert len(changes(world)) == 6


def test_consent_and_suppression_do_not_matter(world: World) -> None:
    """Membership counts who is in the segment, not who may be sent."""
    world.consent, world.suppress = {"ads": "ads_consent"}, ["opt_outs"]
    world.opt_outs([2])
    world.run()
    assert members(world)["1"] == ["vip"]
    assert members(world)["2"] == ["lapsed", "vip"]


def test_a_run_that_is_not_due_refreshes_too(world: World) -> None:
    """Membership follows the models at each run, whatever the schedules of syncs."""
    world.run()
    world.segment([1, 2, 3])
    assert world.run(now=False).syncs[0].reason == "not_due"
    assert members(world)["3"] == ["vip"]


def test_a_segment_that_failed_today_loses_nobody(world: World) -> None:
    """Its last good set counts, the log says so, and the next good build moves on."""
    world.run()
    world.sql(f"drop table {world.warehouse.schema}.lapsed")
    world.run()
    assert members(world)["2"] == ["lapsed", "vip"]
    ((_, number, reason), _) = sizes(world)
    assert number == 1
    assert reason.startswith("not_built: lapsed")
    world.segment([1], "lapsed")
    world.run()
    assert members(world) == {"1": ["lapsed", "vip"], "2": ["vip"], "3": []}


def test_a_view_that_cannot_be_read_loses_nobody(world: World) -> None:
    """Its rows cannot be computed today: its last good set counts, and the other segments go on."""
    world.run()
    schema = world.warehouse.schema
    world.sql(
        f"drop table {schema}.lapsed; create table {schema}.words as select 'x' as word; "
        f"create view {schema}.lapsed as select cast(word as integer) as customer_id from {schema}.words"
    )
    world.segment([1])
    world.run()
    assert members(world) == {"1": ["vip"], "2": ["lapsed"], "3": []}
    assert sizes(world)[0][2].startswith("not_readable: lapsed")


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_a_build_that_failed_is_not_counted(world: World, status: str) -> None:
    """Rows of a model that dbt could not build, or of one whose test failed, do not count, though they are there."""
    world.run()
    record_build(world, "model.shop.lapsed", status)
    world.segment([1, 2, 3], "lapsed")
    world.run()
    assert members(world) == {"1": ["vip"], "2": ["lapsed", "vip"], "3": []}
    assert sizes(world)[0][2].startswith("build_")


def test_an_empty_segment_keeps_its_members_unless_the_policy_lets_it(world: World) -> None:
    """A segment without rows is doubted; `hold: {empty: ignore}` believes it."""
    world.run()
    world.segment([], "lapsed")
    world.run()
    assert members(world)["2"] == ["lapsed", "vip"]
    assert sizes(world)[0][2].startswith("segment_empty")
    world.variables["hold"] = {"empty": "ignore"}
    world.run()
    assert members(world)["2"] == ["vip"]


def test_an_entity_that_cannot_be_trusted_changes_nothing(world: World) -> None:
    """Without rows, with a double key, or failed: membership stays, and the run says why."""
    world.run()
    world.segment([1, 2, 3], "lapsed")
    for rows, code in (([], "entity_empty"), ([ADA, ADA], "entity_keys_not_unique")):
        world.customers(rows)
        with refreshing(world) as refresh:
            assert refresh().doubt.code == code
        assert members(world) == {"1": ["vip"], "2": ["lapsed", "vip"], "3": []}
    world.customers([ADA, BOB, EVE])
    record_build(world, "model.shop.customers", "error")
    with refreshing(world) as refresh:
        assert refresh().doubt.code == "build_failed"


def test_without_any_membership_a_doubtful_entity_is_held(world: World) -> None:
    """There is nothing to fall back to, so who asks for it is held; a run goes on and tells."""
    world.customers([ADA, ADA])
    with refreshing(world) as refresh, pytest.raises(HeldError) as error:
        refresh()
    assert error.value.code == "entity_keys_not_unique"
    assert world.run().syncs[0].status == "held"


def test_a_segment_that_is_declared_no_more_is_left(world: World) -> None:
    """Everybody exits a segment that the project gave up."""
    world.run()
    del world.segments["lapsed"]
    world.run()
    assert members(world)["2"] == ["vip"]
    assert ("2", "lapsed", "exit") in changes(world)


def test_a_renamed_model_keeps_its_members(world: World) -> None:
    """A model under a new name counts with the last good set of its old name until it is built."""
    world.run()
    world.segments = {"vip": {"destinations": ["meta"]}, "sleepers": {"name": "lapsed", "renamed_from": ["lapsed"]}}
    world.run()
    assert members(world)["2"] == ["lapsed", "vip"]
    assert len(changes(world)) == 3


def test_keys_are_the_text_that_syncs_use(tmp_path: Path, warehouse: Warehouse) -> None:
    """A numeric key reads as a whole number, as everywhere in the state."""
    with sandbox() as serving:
        world = fill(make_world(tmp_path / "shop", warehouse, serving))
        world.customers([ADA, BOB], key="numeric(12, 2)")
        world.run()
        assert members(world) == {"1": ["vip"], "2": ["lapsed", "vip"]}


def test_who_asks_during_a_run_gets_a_table(world: World) -> None:
    """A sync of the entity reads key, JSON text and `since` in one query; the second question costs nothing."""
    with refreshing(world) as refresh:
        found = refresh()
        rows = sorted(refresh.state.rows(f"select key, segments from ({found.rows}) m"))
        assert rows == [("1", '["vip"]'), ("2", '["lapsed","vip"]'), ("3", "[]")]
        assert refresh() is found
        assert found.doubt is None
        assert len(refresh.state.rows(f"select key, segments, since from {found.table}")) == 3


def test_a_run_that_dies_leaves_all_or_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the pointer, nothing was logged; the next run logs everything once."""
    world.run()
    world.segment([3], "lapsed")
    point = Store.point

    def dies(self: Store, session: Any, owner: str, kind: str, *rest: Any) -> Any:
        if kind == "membership":
            raise KeyboardInterrupt
        return point(self, session, owner, kind, *rest)

    monkeypatch.setattr(Store, "point", dies)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    monkeypatch.undo()
    assert set(changes(world)) == FIRST
    assert members(world)["2"] == ["lapsed", "vip"]
    world.run()
    assert members(world) == {"1": ["vip"], "2": ["vip"], "3": ["lapsed"]}
    assert len(changes(world)) == 5


@pytest.mark.postgres
def test_of_two_runs_from_the_same_membership_one_wins(tmp_path: Path, postgres_warehouse: PostgresWarehouse) -> None:
    """The second one finds the name of its table taken, logs nothing and uses the winner's."""
    with sandbox() as serving:
        world = fill(make_world(tmp_path / "shop", postgres_warehouse, serving))
        world.run()
        world.segment([3], "lapsed")
        commit, others = membership._Refresh._commit, []

        def late(self: Any, *arguments: Any) -> Any:
            if not others:
                others.append(True)
                world.run()
            return commit(self, *arguments)

        with refreshing(world) as refresh, pytest.MonkeyPatch.context() as patch:
            patch.setattr(membership._Refresh, "_commit", late)
            found = refresh()
        assert world.state(found.name, "count(*)") == [(3,)]
        assert len(world.state("pointers", "id", "kind = 'membership'")) == 2
        assert len(changes(world)) == 5
        leftovers = [
            name for (name,) in world.sql(TABLES) if name.startswith(("keys_", "membership_cust", "membership_e"))
        ]
        assert len(leftovers) == 2


@pytest.mark.postgres
def test_a_reader_of_the_view_blocks_nobody_for_long(tmp_path: Path, postgres_warehouse: PostgresWarehouse) -> None:
    """While a reader holds the view open the run tells and goes on; the next run points it at the newest table."""
    with sandbox() as serving:
        world = fill(make_world(tmp_path / "shop", postgres_warehouse, serving))
        world.run()
        world.segment([3], "lapsed")
        with contextlib.closing(postgres_warehouse.database.connect()) as reader, reader.cursor() as cursor:
            cursor.execute("begin")
            cursor.execute(f"select * from {postgres_warehouse.schema}_dbt_segments.customer_segment_membership")
            told: list[str] = []
            membership_told(world, told)
            assert "still shows the membership before" in "".join(told)
        assert members(world)["2"] == ["lapsed", "vip"]
        world.run()
        assert members(world)["2"] == ["vip"]


def test_the_state_may_lie_in_another_warehouse(tmp_path: Path) -> None:
    """Models in one file, state in another: the view is where the state is."""
    models, state = DuckDBWarehouse(tmp_path / "models.duckdb"), DuckDBWarehouse(tmp_path / "state.duckdb")
    state.sql("select 1")
    with sandbox() as serving:
        world = fill(make_world(tmp_path / "shop", models, serving))
        add_profile(world, "elsewhere", state)
        world.variables["state"] = {"profile": "elsewhere"}
        world.run()
    rows = state.sql("select key, segments from main_dbt_segments.customer_segment_membership order by key")
    assert rows == [("1", ["vip"]), ("2", ["lapsed", "vip"]), ("3", [])]


@pytest.mark.postgres
def test_lists_are_those_of_the_state_s_warehouse(tmp_path: Path, postgres_warehouse: PostgresWarehouse) -> None:
    """Models in DuckDB, state in PostgreSQL."""
    models = DuckDBWarehouse(tmp_path / "models.duckdb")
    with sandbox() as serving:
        world = fill(make_world(tmp_path / "shop", models, serving))
        add_profile(world, "elsewhere", postgres_warehouse)
        world.variables["state"] = {"profile": "elsewhere"}
        world.run()
    table = f"{postgres_warehouse.schema}_dbt_segments.customer_segment_membership"
    rows = postgres_warehouse.sql(f"select key, segments, pg_typeof(segments)::text from {table} order by key")
    assert rows == [("1", ["vip"], "text[]"), ("2", ["lapsed", "vip"], "text[]"), ("3", [], "text[]")]


def test_only_rows_of_models_that_may_have_changed_are_frozen_again(world: World) -> None:
    """A table that dbt built before its last good set is not copied again; one built since, or unknown, is."""
    world.run()
    for name in ("customers", "lapsed"):
        record_build(world, f"model.shop.{name}", "success", "2020-01-01")
    frozen = frozen_tables(world)
    world.run(now=False)
    assert frozen_tables(world)["model.shop.lapsed"] == frozen["model.shop.lapsed"]
    assert frozen_tables(world)["model.shop.vip"] > frozen["model.shop.vip"]
    record_build(world, "model.shop.lapsed", "success", "2200-01-01")
    world.run(now=False)
    assert frozen_tables(world)["model.shop.lapsed"] > frozen["model.shop.lapsed"]


@pytest.mark.slow
def test_a_million_members_stay_in_the_warehouse(tmp_path: Path) -> None:
    """A refresh of a million records with three segments is seconds, and its Python memory does not grow with them."""
    models = DuckDBWarehouse(tmp_path / "models.duckdb")
    with sandbox() as serving:
        world = fill(make_world(tmp_path / "shop", models, serving))
        world.segments = {"a": {}, "b": {}, "c": {}}
        models.sql(
            "create or replace table main.customers as select i as customer_id, 'x' as email, 'x' as phone, "
            "'DE' as country, true as ads_consent from range(1000000) t(i)"
        )
        for number, name in enumerate(world.segments, start=2):
            models.sql(
                f"create table main.{name} as select customer_id from main.customers where customer_id % {number} = 0"
            )
        tracemalloc.start()
        world.run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        models.sql("delete from main.a where customer_id < 10")
        world.run()
    assert world.state("customer_segment_membership", "count(*)") == [(1_000_000,)]
    assert world.state("membership_changes", "count(*)", "change = 'exit'") == [(5,)]
    assert peak < 50_000_000


TABLES = "select table_name from information_schema.tables"


def membership_told(world: World, told: list[str]) -> None:
    """A run whose progress is kept."""
    from dbt_segments import pipeline

    pipeline.sync(world.request(), lambda sync_id, text: told.append(text))


def add_profile(world: World, name: str, warehouse: Warehouse) -> None:
    path = world.project.path / "profiles.yml"
    profiles = yaml.safe_load(path.read_text())
    profiles[name] = {"target": "dev", "outputs": {"dev": warehouse.output()}}
    path.write_text(yaml.safe_dump(profiles))


def frozen_tables(world: World) -> dict[str, int]:
    """Segment model -> number of its last good set."""
    return dict(world.state("pointers", "owner, max(token)", "kind = 'frozen' group by owner"))


def record_build(world: World, unique_id: str, status: str, at: str = "2199-01-01") -> None:
    """What the hook leaves of a dbt run."""
    table = f"{world.warehouse.schema}_dbt_segments.model_builds"
    world.sql(
        f"create table if not exists {table} (invocation_id text, unique_id text, resource_type text, command text, "
        f"status text, is_empty boolean, is_sample boolean, built_at timestamp, protocol integer); "
        f"insert into {table} values ('i', '{unique_id}', 'model', 'run', '{status}', false, false, '{at}', 1)"
    )
