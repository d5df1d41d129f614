"""What PostgreSQL makes of the statements of a sync: nothing that reads a table once per member."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dbt_segments import pipeline, retry, warehouse
from tests.projects import PostgresWarehouse
from tests.scripted.destination import registered
from tests.scripted.server import serve_scripted
from tests.world import World, make_world

_MEMBERS = 300
# What is on record of audiences has a few rows a sync.
_AUDIENCES = "sync_id, connection, account, audience_id"


pytestmark = pytest.mark.postgres


@pytest.fixture(params=["scripted_async", "scripted_replace", "scripted_sweep", "scripted_retention"])
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_warehouse: PostgresWarehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """One segment on PostgreSQL to a platform of some shape."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with registered(), serve_scripted() as serving:
        world = make_world(tmp_path / "shop", postgres_warehouse, serving)
        world.connections = {"acme": {"type": request.param, "base_url": serving.url}}
        item = {"to": "acme", **({"mode": "replace"} if request.param == "scripted_sweep" else {})}
        world.segments = {"vip": {"syncs" if "mode" in item else "destinations": [item]}}
        world.consent, world.suppress = {"ads": "ads_consent"}, ["opt_outs"]
        yield world


def test_no_statement_reads_a_table_once_per_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """First sync, nothing new, jobs that end, changes, leavers, shared identifiers, refusals: no plan has a subplan."""
    read: set[str] = set()
    slow: set[str] = set()
    ordinary, fetch = warehouse._Postgres._run, warehouse._Postgres.fetch

    def explain(session: Any, sql: str, parameters: Sequence[Any]) -> None:
        is_of_members = " from " in sql and " view " not in sql and not sql.startswith(f"select {_AUDIENCES}")
        if is_of_members and sql.lstrip().startswith(("select", "with", "insert", "create", "delete", "update")):
            read.add(sql)
            plan = ordinary(session, f"explain {sql}", parameters).fetchall()
            if any("SubPlan" in line for (line,) in plan):
                slow.add(sql)

    def explained(session: Any, sql: str, parameters: Sequence[Any]) -> Any:
        explain(session, sql, parameters)
        return ordinary(session, sql, parameters)

    def fetched(session: Any, sql: str, *rest: Any) -> None:
        explain(session, sql, ())
        fetch(session, sql, *rest)

    monkeypatch.setattr(warehouse._Postgres, "_run", explained)
    monkeypatch.setattr(warehouse._Postgres, "fetch", fetched)
    shared = "shared@example.com"
    world.customers([(n, f"c{n}@example.com", f"+1 201 55{n:05}", "US", n % 9 != 0) for n in range(1, _MEMBERS)])
    world.segment(range(1, _MEMBERS))
    world.opt_outs([4, 5])
    for _ in range(3):
        world.sync()
    world.customers(
        [(n, shared if n % 7 == 0 else f"d{n}@example.com", None, "US", n % 8 != 0) for n in range(1, _MEMBERS)]
    )
    world.segment(n for n in range(1, _MEMBERS) if n % 5)
    world.opt_outs([6, 7])
    world.sync(full=True)
    for _ in range(3):
        world.sync()
    world.plan()
    pipeline.status(world.request())
    assert len(read) > 100
    assert not slow, "\n\n".join(sorted(slow))
