"""While a run waits for a platform, nobody has to wait for its DuckDB file; and what no request parts shares one."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from dbt_segments import warehouse as warehouses
from dbt_segments.destinations.base import Limits
from dbt_segments.send import Sender
from tests.projects import DuckDBWarehouse, PostgresWarehouse, make_project
from tests.scripted.destination import Scripted, registered
from tests.scripted.server import serve_scripted
from tests.test_cadence_engine import MORNING, Clock
from tests.test_warehouse import access, can_open
from tests.world import World, make_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see which files are open")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(monkeypatch)
    made.set(MORNING)
    return made


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, clock: Clock) -> Iterator[World]:
    """Forty members at a platform that answers at once, and at one that makes jobs, in batches of ten."""
    limits = Limits(members=10, concurrency=3)
    kept = mock.patch.object(warehouses, "_KEPT_S", 60.0)  # what these tests find does not hang on a slow machine
    with kept, mock.patch.object(Scripted, "limits", limits), registered(), serve_scripted() as serving:
        made = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        kinds = {"acme": "scripted", "slow": "scripted_async"}
        made.connections = {name: {"type": kind, "base_url": serving.url} for name, kind in kinds.items()}
        made.segments = {"vip": {"destinations": list(kinds)}}
        made.customers([(number, f"p{number}@example.com") for number in range(1, 51)])
        made.segment(range(1, 41))
        yield made


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    return str(path) in map(os.path.realpath, Path("/proc/self/fd").iterdir())


class Watch:
    """Looks at the file in the moment in which a request begins; `held` are those that found it open."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.requests = 0
        self.held: list[str] = []
        self._http = Sender._http

    def __call__(self, sender: Sender, method: str, url: str, *rest: object) -> object:
        self.requests += 1
        if is_open(self.path):
            self.held.append(f"{method} {url}")
        return self._http(sender, method, url, *rest)  # type: ignore[arg-type]


def watched(world: World) -> Watch:
    assert isinstance(world.warehouse, DuckDBWarehouse)
    return Watch(world.warehouse.path)


def test_every_request_of_a_run_leaves_the_file_free(world: World, clock: Clock) -> None:
    """Audiences made, members put in and taken out, jobs and sizes asked for: the file is free in each request.

    Several writers begin at once, and to close a file may take its time.
    """
    watch = watched(world)
    closing = warehouses.Warehouse._disconnect

    def close_slowly(one: warehouses.Warehouse, connection: object) -> None:
        time.sleep(0.1)
        closing(one, connection)

    slowly = mock.patch.object(warehouses.Warehouse, "_disconnect", close_slowly)
    with slowly, mock.patch.object(Sender, "_http", lambda sender, *args: watch(sender, *args)):
        assert {one.status for one in world.run().syncs} == {"success"}
        first = watch.requests
        world.segment(range(5, 51))
        world.run()
        clock.pass_(days=2)
        before = watch.requests
        assert {one.status for one in world.run().syncs} == {"noop"}
    assert first >= 10
    assert watch.requests > before, "no size was asked for"
    assert watch.held == []


def test_what_no_request_parts_shares_a_connection(world: World) -> None:
    """Two syncs with nothing to do open the file twice: to begin, and for all that follows."""
    for _ in range(3):
        world.run()
    opened: list[object] = []
    opening = warehouses._open_file

    def counted(connection: object) -> object:
        opened.append(connection)
        return opening(connection)

    with mock.patch.object(warehouses, "_open_file", counted):
        assert {one.status for one in world.run().syncs} == {"noop"}
    assert len(opened) == 2
    assert isinstance(world.warehouse, DuckDBWarehouse)
    assert not is_open(world.warehouse.path.resolve())


def test_a_connection_rests_until_the_block_ends(world: World) -> None:
    """The file stays open between two sessions of the block, and no longer."""
    opened = access(world.project)
    with opened.resting():
        with opened.session() as session:
            session.execute("create temp table mark as select 1 as one")
        assert not can_open(world.project)
        with opened.session() as session:
            assert session.value("select one from mark") == 1
    assert can_open(world.project)


def test_a_session_that_failed_leaves_no_connection(world: World) -> None:
    """Nobody knows what state it is in: the next session has another one."""
    opened = access(world.project)
    with opened.resting():
        with pytest.raises(ValueError, match="boom"), opened.session() as session:
            session.execute("begin")
            session.execute("create table main.never as select 1 as one")
            raise ValueError("boom")
        assert can_open(world.project)
        with opened.session() as session:
            assert not session.has_table("main", "never")


def test_nobody_rests_while_anybody_is_away(world: World) -> None:
    """A thread that waits frees the file, and a session that ends meanwhile closes it; then one may rest again."""
    opened = access(world.project)
    waits, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        with opened.away():
            waits.set()
            may_end.wait(20)

    thread = threading.Thread(target=wait)
    with opened.resting():
        with opened.session():
            pass
        assert not can_open(world.project)
        thread.start()
        assert waits.wait(20)
        assert can_open(world.project)
        with opened.session() as session:
            assert session.value("select 1") == 1
            assert not can_open(world.project)
        assert can_open(world.project)
        may_end.set()
        thread.join()
        with opened.session():
            pass
        assert not can_open(world.project)
    assert can_open(world.project)


def test_a_session_that_is_open_when_somebody_leaves_does_not_rest(world: World) -> None:
    """It began before the wait and ends in it."""
    opened = access(world.project)
    with opened.resting():
        session = opened.session()
        session.__enter__()
        with opened.away():
            assert not can_open(world.project)
            session.__exit__(None, None, None)
            assert can_open(world.project)


@pytest.mark.parametrize("where", ["in a session", "at rest"])
def test_a_connection_is_not_kept_for_long(world: World, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A run of many syncs without any request lets others have the file in between."""
    opened = access(world.project)
    with opened.resting():
        with opened.session() as session:
            session.execute("create temp table mark as select 1 as one")
            if where == "in a session":
                monkeypatch.setattr(warehouses, "_KEPT_S", 0.0)
        assert can_open(world.project) is (where == "in a session")
        monkeypatch.setattr(warehouses, "_KEPT_S", 0.0)
        with opened.session() as session:
            assert session.value("select count(*) from duckdb_tables() where table_name = 'mark'") == 0


@pytest.mark.postgres
def test_a_connection_that_ended_while_it_rested_is_opened_anew(
    tmp_path: Path, postgres_warehouse: PostgresWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may end it at any time; the next session does not know of it."""
    monkeypatch.setattr(warehouses, "_KEPT_S", 60.0)
    opened = access(make_project(tmp_path / "shop", postgres_warehouse, {}))
    pids = []
    with opened.resting():
        for ends in (False, True, False):
            with opened.session() as session:
                pids.append(session.value("select pg_backend_pid()"))
            if ends:
                assert postgres_warehouse.sql(f"select pg_terminate_backend({pids[-1]}, 5000)") == [(True,)]
    assert pids[0] == pids[1] != pids[2]


def test_a_session_that_has_ended_says_nothing_more(world: World) -> None:
    """Also where its connection is kept for the next one."""
    opened = access(world.project)
    with opened.resting():
        with opened.session() as session:
            pass
        with pytest.raises(AttributeError):
            session.value("select 1")
