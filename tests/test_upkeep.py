"""Grants, retention, `state gc` and the sizes in `status`, on both warehouses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dbt_segments import pipeline
from dbt_segments import settings as settings_
from dbt_segments.cli import main
from dbt_segments.deliver import Courier
from dbt_segments.errors import SettingsError, StateError
from dbt_segments.state import schema, upkeep
from dbt_segments.state.store import Store, digest
from dbt_segments.state.upkeep import Rubbish, kind_of
from tests.projects import DuckDBWarehouse, PostgresWarehouse, Warehouse
from tests.world import World, email, make_world, sandbox

SYNC = "shop.vip.meta"
STAMPS = {"sync_runs": "finished_at", "pointers": "committed_at", "model_builds": "built_at"}
LOGS = tuple(settings_.RetentionBlock.model_fields)


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        yield filled(tmp_path, warehouse, serving)


def filled(path: Path, warehouse: Warehouse, serving: Any) -> World:
    """Three runs that each changed something, so that the first two left what nobody needs."""
    world = make_world(path / "shop", warehouse, serving)
    world.suppress = ["opt_outs"]
    world.opt_outs([])
    world.customers([(number, f"p{number}@example.com") for number in range(1, 6)])
    for keys in ([1], [1, 2], [1, 2, 3]):
        world.segment(keys)
        assert world.sync().status == "success"
    return world


def collect(world: World, *, dry_run: bool = False) -> Rubbish:
    return pipeline.collect(world.request(), lambda sync_id, text: None, dry_run=dry_run)


def place(world: World) -> str:
    return f"{world.warehouse.schema}_dbt_segments"


def tables(world: World) -> set[str]:
    found = world.sql(
        f"select table_name from information_schema.tables "
        f"where table_schema = '{place(world)}' and table_type = 'BASE TABLE'"
    )
    return {name for (name,) in found}


def make(world: World, *names: str) -> None:
    for name in names:
        world.sql(f"create table {place(world)}.{name} (key text)")


def age(world: World, *logs: str) -> None:
    """Make every row of these logs years old, and keep their order."""
    for log in logs:
        stamp = STAMPS.get(log, "recorded_at")
        more = ", started_at = started_at - interval '5 years'" if log == "sync_runs" else ""
        world.sql(f"update {place(world)}.{log} set {stamp} = {stamp} - interval '5 years'{more}")


def count(world: World, log: str) -> int:
    return int(world.state(log, "count(*)")[0][0])


# -- tables ---------------------------------------------------------------------------------------------------


def test_tables_of_dead_runs_go_and_all_others_stay(world: World) -> None:
    """An earlier token without a pointer and an old scratch table go; what is live, young or not ours stays."""
    mine, now = digest(SYNC), int(time.time())
    dead = {f"pending_shop_vip_meta_{mine}_1_1", f"flagged_shop_{mine}_{now - 90_000}_0_0a1b2c3d", f"lock_{mine}_1"}
    alive = {
        f"pending_shop_vip_meta_{mine}_3_9",
        f"flagged_shop_{mine}_{now - 60}_0_0a1b2c3d",
        "pending_shop_other_00000000_1_1",
        "members",
        "our_own_units_2024_1",
    }
    before = tables(world)
    make(world, *(dead | alive) - before)
    lasting = before | alive
    found = collect(world, dry_run=True)
    assert set(found.tables) == dead
    assert tables(world) == lasting | dead
    assert set(collect(world).tables) == dead
    assert tables(world) == lasting - dead
    assert collect(world) == Rubbish()
    assert world.sync().status == "noop"
    assert world.held() == {email(f"p{number}@example.com") for number in (1, 2, 3)}
    assert world.state("gc_runs", "dropped_tables, pruned_rows", "dropped_tables > 0") == [(3, 0)]


def test_what_a_run_of_the_last_token_left_goes_after_a_day(world: World) -> None:
    """A sync that died and never runs again leaves nothing for ever."""
    dead = f"pending_shop_vip_meta_{digest(SYNC)}_3_9"
    make(world, dead)
    assert collect(world).tables == ()
    age(world, "leases")
    assert collect(world).tables == (dead,)


def test_every_kind_of_table_is_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run makes, `gc` can tell what it is; a new kind must be taught."""
    named: set[str] = set()
    name = Store.name

    def noted(self: Store, kind: str, *rest: Any) -> str:
        named.add(kind)
        return name(self, kind, *rest)

    monkeypatch.setattr(Store, "name", noted)
    world.customers([(number, f"new{number}@example.com") for number in range(1, 5)] + [(5, None)])
    world.segment([1, 2, 4, 5, 77])
    world.opt_outs([1])
    world.run()
    assert {"frozen", "refusals", "members", "pending", "keys", "flagged", "rejected"} <= named
    assert named - set(upkeep.KINDS) == set()
    assert {table for table in tables(world) if kind_of(table) is None} == set(schema.TABLES)


@pytest.mark.postgres
def test_a_table_that_a_view_reads_stays(tmp_path: Path, postgres_warehouse: PostgresWarehouse) -> None:
    """Somebody's view over an old table keeps it, and the rest goes."""
    with sandbox() as serving:
        world = filled(tmp_path, postgres_warehouse, serving)
        read, dead = (f"{kind}_shop_{digest(SYNC)}_1_1" for kind in ("units", "members"))
        make(world, read, dead)
        world.sql(f"create view public.mine as select * from {place(world)}.{read}")
        found = collect(world)
        assert (found.tables, set(found.kept)) == ((dead,), {read})
        assert "Depend" in found.kept[read]


def test_a_damaged_state_is_not_collected(world: World) -> None:
    """Where a table is missing that the state refers to, nothing is thrown away."""
    (detail,) = world.state("pointers", "detail", "kind = 'ledger' order by token desc, seq desc limit 1")[0]
    world.sql(f"drop table {place(world)}.{json.loads(detail)['tables']['members']}")
    before = tables(world)
    with pytest.raises(StateError, match="is missing although the state refers to it"):
        collect(world)
    assert tables(world) == before


# -- rows -----------------------------------------------------------------------------------------------------


def test_old_rows_go_and_the_next_run_knows_everything(world: World) -> None:
    """With every log limited and years passed, a sync finds its audience, its members and its last success."""
    world.sql(
        f"create table {place(world)}.model_builds (invocation_id text, unique_id text, resource_type text, "
        f"command text, status text, is_empty boolean, is_sample boolean, built_at timestamp, protocol integer); "
        f"insert into {place(world)}.model_builds values "
        f"('a', 'model.shop.vip', 'model', 'run', 'error', false, false, '2026-01-01', 1), "
        f"('b', 'model.shop.vip', 'model', 'run', 'success', false, false, '2026-01-02', 1)"
    )
    age(world, *LOGS)
    rows = {log: count(world, log) for log in LOGS}
    assert collect(world).rows == {}, "nothing is limited"
    world.variables["retention"] = dict.fromkeys(LOGS, 30)
    age(world, "gc_runs")
    found = collect(world, dry_run=True)
    assert collect(world).rows == found.rows
    assert {log: rows[log] - count(world, log) for log in LOGS if log != "gc_runs"} == {
        log: found.rows.get(log, 0) for log in LOGS if log != "gc_runs"
    }
    assert {"sync_runs", "sync_batches", "segment_sizes", "membership_changes", "pointers", "leases"} <= set(found.rows)
    assert (count(world, "sync_runs"), count(world, "model_builds")) == (1, 1)
    assert world.state("model_builds", "status") == [("success",)]
    (line,) = pipeline.status(world.request()).syncs
    assert (line.members, line.last_status) == (3, "success")
    result = world.sync()
    assert (result.status, result.counts.unchanged) == ("noop", 3)
    world.segment([2, 3, 4])
    assert world.sync().status == "success"
    assert world.held() == {email(f"p{number}@example.com") for number in (2, 3, 4)}
    assert len(world.audiences()) == 1


def test_open_batches_stay_whatever_their_age(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run died after its batch was accepted: the log row that says so is needed, and nothing is sent twice."""

    deliver = Courier.deliver

    def dies(self: Courier, *arguments: Any) -> Any:
        deliver(self, *arguments)
        raise KeyboardInterrupt

    world.segment([1, 2, 3, 4])
    with monkeypatch.context() as patch:
        patch.setattr(Courier, "deliver", dies)
        with pytest.raises(KeyboardInterrupt):
            world.sync()
    sent = len(world.calls())
    age(world, *[log for log in LOGS if log not in ("model_builds", "leases")])
    world.variables["retention"] = dict.fromkeys(LOGS, 1)
    assert "sync_batches" in collect(world).rows
    assert world.state("sync_batches", "state") == [("sending",), ("accepted",)]
    result = world.sync()
    assert (result.status, result.counts.unchanged) == ("noop", 4)
    assert len(world.calls()) == sent


def test_a_sync_prunes_once_a_day(world: World) -> None:
    """The first run after a day deletes what is too old and says so in `gc_runs`; the next one leaves it."""
    world.variables["retention"] = {"segment_sizes": 30}
    age(world, "segment_sizes")
    world.sync()
    assert count(world, "segment_sizes") == 1
    (detail,) = world.state("gc_runs", "detail")[0]
    assert json.loads(detail) == {"segment_sizes": 3}
    age(world, "segment_sizes")
    world.sync()
    assert count(world, "segment_sizes") == 2
    age(world, "gc_runs")
    world.sync()
    assert count(world, "segment_sizes") == 2
    assert world.state("segment_sizes", "count(*)", "recorded_at < current_timestamp - interval '1 year'") == [(0,)]


def test_a_log_that_cannot_be_pruned_is_told(world: World) -> None:
    """A name that is no log, and a log that recovery needs whole, are mistakes with the nearest spelling."""
    world.variables["retention"] = {"sync_run": 30, "audiences": 5, "rejects": 0}
    with pytest.raises(SettingsError) as error:
        world.run()
    text = str(error.value.message)
    assert "vars.dbt_segments.retention.sync_run" in text
    assert "sync_runs" in text
    assert "vars.dbt_segments.retention.audiences" in text
    assert "vars.dbt_segments.retention.rejects" in text


# -- grants ---------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_roles_may_read_logs_and_views_only(tmp_path: Path, postgres_warehouse: PostgresWarehouse) -> None:
    """A role of `grants` reads membership and logs, new views too; tables with raw identifiers it does not."""
    role = f"reader_{postgres_warehouse.database.dbname}"
    with sandbox() as serving:
        world = filled(tmp_path, postgres_warehouse, serving)
        world.sql(f'create role "{role}"')
        world.variables["grants"] = {"select": role}
        world.sync()

        def reads(table: str) -> list[tuple[Any, ...]]:
            return world.sql(f'set role "{role}"; select count(*) from {place(world)}.{table}')

        assert reads("customer_segment_membership") == [(5,)]
        assert reads("sync_runs") == [(4,)]
        (frozen,) = [name for name in tables(world) if name.startswith("frozen_")][:1]
        with pytest.raises(Exception, match="permission denied"):
            reads(frozen)
        world.sql(f"drop view {place(world)}.customer_segment_membership")
        world.sync()
        assert reads("customer_segment_membership") == [(5,)]
        world.sql(f'drop owned by "{role}"; drop role "{role}"')


@pytest.mark.postgres
def test_a_role_that_does_not_exist_stops_before_anything_is_sent(
    tmp_path: Path, postgres_warehouse: PostgresWarehouse
) -> None:
    """The message names the setting, the role and the remedy."""
    with sandbox() as serving:
        world = filled(tmp_path, postgres_warehouse, serving)
        world.variables["grants"] = {"select": ["nobody_here"]}
        world.segment([1])
        sent = len(world.calls())
        with pytest.raises(SettingsError, match=r"grants\.select: nobody_here: .*does not exist"):
            world.sync()
        assert len(world.calls()) == sent


def test_duckdb_has_nobody_to_grant_to(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> None:
    """The setting is for all targets of a project, so on DuckDB it is accepted and without effect."""
    with sandbox() as serving:
        world = filled(tmp_path, duckdb_warehouse, serving)
        world.variables["grants"] = {"select": ["analysts"]}
        assert world.sync().status == "noop"


# -- commands -------------------------------------------------------------------------------------------------


def run(world: World, *words: str) -> str:
    world.write()
    folder = str(world.project.path)
    done = CliRunner().invoke(main, [*words, "--project-dir", folder, "--profiles-dir", folder])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_gc_lists_and_drops(world: World) -> None:
    """`--dry-run` lists, without it the same goes; both as JSON too."""
    name = f"units_shop_{digest(SYNC)}_1_1"
    make(world, name)
    assert run(world, "state", "gc", "--dry-run").splitlines()[-2:] == [f"table {name}", "1 table and 0 rows would go"]
    found = json.loads(run(world, "state", "gc", "--output", "json"))
    assert (found["dry_run"], found["tables"]) == (False, [name])
    assert run(world, "state", "gc") == "nothing to collect\n"


def test_status_says_how_large_the_state_is(world: World) -> None:
    """Each table with what the catalog estimates; bytes where the warehouse has them."""
    if world.warehouse.type == "postgres":
        world.sql("analyze")
    state = json.loads(run(world, "status", "--output", "json"))["state"]
    assert state["schema"] == place(world)
    found = {table["name"]: table for table in state["tables"]}
    assert set(found) == tables(world)
    assert found["sync_runs"]["rows"] == 3
    assert (found["sync_runs"]["bytes"] is None) == (world.warehouse.type == "duckdb")
    assert {table["kind"] for table in found.values()} >= {"frozen", "members", "membership", "sync_runs"}
    assert run(world, "status").splitlines()[-1].startswith(f"state {place(world)}: {len(found)} tables, about ")
