"""When a sync runs, as the state remembers it: jobs with jitter, failures that stay due, members soon forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from dbt_segments import cadence, record, retry, warehouse
from dbt_segments import project as projects
from tests.projects import Warehouse
from tests.scripted.destination import registered
from tests.scripted.server import serve_scripted
from tests.world import World, email, make_world, sandbox

MORNING = datetime(2026, 3, 1, 6, tzinfo=timezone.utc)


@dataclass
class Clock:
    """The time that the runner and the warehouse see; nothing else moves it."""

    monkeypatch: pytest.MonkeyPatch
    now: datetime = MORNING

    def set(self, now: datetime, runner_ahead: timedelta = timedelta(0)) -> None:
        self.now = now
        started = (now + runner_ahead).replace(tzinfo=None)
        text = f"cast('{now:%Y-%m-%d %H:%M:%S}' as timestamp)"
        for session in (warehouse._DuckDB, warehouse._Postgres):
            self.monkeypatch.setattr(session, "now", text)
        self.monkeypatch.setattr(record, "_before", lambda elapsed_s: started)

    def pass_(self, **span: float) -> None:
        self.set(self.now + timedelta(**span))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    made = Clock(monkeypatch)
    made.set(MORNING)
    return made


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse, clock: Clock) -> Iterator[World]:
    """Two customers in `vip`, at six in the morning of a first of March."""
    with sandbox() as serving:
        made = make_world(tmp_path / "shop", warehouse, serving)
        made.customers([(1, "ada@example.com"), (2, "bob@example.com")])
        made.segment([1, 2])
        yield made


def schedule(world: World, text: str) -> None:
    world.segments = {"vip": {"destinations": [{"to": "meta", "schedule": text}]}}


@pytest.mark.parametrize("hour", [0, 6, 23])
def test_thirty_daily_jobs_with_jitter_give_thirty_syncs(
    tmp_path: Path, duckdb_warehouse: Warehouse, clock: Clock, hour: int
) -> None:
    """A job a day, up to 20 minutes late and ten minutes long, syncs each day; a second job of the day never does."""
    with sandbox() as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.sql("select 1")
        draw = random.Random(hour)
        done: list[int] = []
        with projects.open_project(world.request().options, 5.0, lambda text: None) as project:
            (sync,) = project.syncs
            for day in range(30):
                for late_s in (draw.randint(0, 1200), 1800):
                    clock.set(datetime(2026, 3, 1, hour, tzinfo=timezone.utc) + timedelta(days=day, seconds=late_s))
                    with project.state.session() as session:
                        last = record.last_success(session, project.store, sync)
                    if cadence.is_due(sync.schedule, last, clock.now, "UTC"):
                        done.append(day)
                        result = replace(record.blank(sync), status="success", elapsed_s=600.0)
                        record.write_run(project, result, f"run-{day}-{late_s}", 5.0, lambda *said: None)
    assert done == list(range(30))


def test_a_slot_syncs_once(world: World) -> None:
    """Within one day the second run is skipped without a call; and `now` overrides."""
    assert world.sync(now=False).status == "success"
    world.segment([1])
    skipped = world.sync(now=False)
    assert (skipped.status, skipped.reason.split(":")[0], skipped.requests, skipped.exit_code) == (
        "skipped",
        "not_due",
        0,
        0,
    )
    assert world.held() == {email("ada@example.com"), email("bob@example.com")}
    assert world.sync(now=True).counts.removed == 1


@pytest.mark.parametrize(("words", "when"), [("daily", "once it is due, or with --now"), ("manual", "only with --now")])
def test_a_plan_says_what_waits_for_its_slot(world: World, words: str, when: str) -> None:
    """The counts are those of the sync to come. With `now`, and where nothing would be sent, nothing is said."""
    said = f"not due: its schedule is {words}; sync sends this {when}"
    schedule(world, words)
    world.sync()
    assert said not in world.plan(now=False).run.syncs[0].notes
    world.segment([1])
    planned = world.plan(now=False).run.syncs[0]
    assert (planned.status, planned.counts.removed, said in planned.notes) == ("success", 1, True)
    assert said not in world.plan().run.syncs[0].notes
    world.variables = {"targets": ["prod"]}
    assert said not in world.plan(now=False).run.syncs[0].notes


def test_the_next_day_is_due(world: World, clock: Clock) -> None:
    """The slot of the day begins at midnight in the project's time zone, whenever the last success was."""
    world.variables = {"timezone": "Europe/Berlin"}
    world.sync(now=False)
    clock.set(datetime(2026, 3, 1, 22, 55, tzinfo=timezone.utc))
    assert world.sync(now=False).status == "skipped"
    clock.set(datetime(2026, 3, 1, 23, 5, tzinfo=timezone.utc))
    assert world.sync(now=False).status == "noop"
    clock.pass_(minutes=10)
    assert world.sync(now=False).status == "skipped"


@pytest.mark.parametrize("how", ["failed", "held"])
def test_what_did_not_succeed_stays_due(world: World, clock: Clock, how: str) -> None:
    """A failed or held sync runs again with the next job, and then not until the next day."""
    assert world.serving is not None
    if how == "failed":
        world.serving.sandbox.faults.add({"kind": "expired_token", "match": {"op": "add"}})
    else:
        world.segment([])
    assert world.sync(now=False).status == how
    clock.pass_(minutes=5)
    world.segment([1, 2])
    assert world.sync(now=False).status == "success"
    clock.pass_(minutes=5)
    assert world.sync(now=False).status == "skipped"
    assert world.held() == {email("ada@example.com"), email("bob@example.com")}


def test_other_schedules(world: World, clock: Clock) -> None:
    """`every run` always syncs, `manual` only on demand, `hourly` once an hour."""
    schedule(world, "every run")
    assert [world.sync(now=False).status for _ in range(2)] == ["success", "noop"]
    schedule(world, "manual")
    assert world.sync(now=False).status == "skipped"
    assert world.sync(now=True).status == "noop"
    schedule(world, "hourly")
    clock.pass_(minutes=59)
    assert world.sync(now=False).status == "skipped"
    clock.pass_(minutes=2)
    assert world.sync(now=False).status == "noop"


def test_a_success_in_the_future_counts_as_now(world: World, clock: Clock) -> None:
    """A runner's clock was two days ahead: the sync is due again with the next slot, not two days later."""
    clock.set(MORNING, runner_ahead=timedelta(days=2))
    world.sync(now=False)
    clock.set(MORNING + timedelta(minutes=5))
    assert world.sync(now=False).status == "skipped"
    clock.pass_(days=1)
    assert world.sync(now=False).status == "noop"


def test_a_renamed_model_goes_on_with_its_schedule(world: World) -> None:
    """The last success of the former sync id counts."""
    world.sync(now=False)
    world.segments = {"gold": {"renamed_from": ["vip"], "destinations": ["meta"]}}
    world.segment([1, 2], "gold")
    assert world.sync(now=False).status == "skipped"


def test_members_are_asserted_again_before_they_are_forgotten(
    tmp_path: Path, warehouse: Warehouse, clock: Clock
) -> None:
    """Where members last 30 days, unchanged ones are sent again between day 15 and 24, and nobody is forgotten."""
    rows: list[tuple[Any, ...]] = [(n, f"c{n}@example.com") for n in range(1, 41)]
    with registered(), serve_scripted() as serving:
        world = make_world(tmp_path / "shop", warehouse, serving)
        world.connections = {"acme": {"type": "scripted_retention", "base_url": serving.url}}
        world.segments = {"vip": {"destinations": ["acme"]}}
        world.customers(rows)
        world.segment(range(1, 41))
        world.sync()
        sent = []
        for days in (14, 4, 3, 4, 14):
            clock.pass_(days=days)
            serving.sandbox.clock.advance(days * 86_400)
            result = world.sync()
            assert (result.counts.members, result.counts.unchanged) == (40, 40)
            calls = [call["rows"] for call in world.calls("add")]
            sent.append(sum(calls) - 40)
        assert sent[0] == 0
        assert 0 < sent[1] < sent[2] <= sent[3] == 40
        assert world.held() == {("email", email(row[1])[1]) for row in rows}


@pytest.fixture
def fading(tmp_path: Path, warehouse: Warehouse, clock: Clock) -> Iterator[World]:
    """Sixty members of a platform that forgets them after 30 days, and is moved on with the clock by `later`."""
    with registered(), serve_scripted() as serving:
        made = make_world(tmp_path / "shop", warehouse, serving)
        made.connections = {"acme": {"type": "scripted_retention", "base_url": serving.url}}
        made.segments = {"vip": {"destinations": ["acme"]}}
        made.customers([(n, f"c{n}@example.com") for n in range(1, 61)])
        made.segment(range(1, 61))
        made.sync()
        yield made


def later(world: World, clock: Clock, days: int) -> None:
    assert world.serving is not None
    clock.pass_(days=days)
    world.serving.sandbox.clock.advance(days * 86_400)


def test_members_past_their_retention_are_sent_as_new(fading: World, clock: Clock) -> None:
    """After a hold of 31 days the platform has forgotten everybody: all are added, and the audience is whole."""
    fading.segment([])
    assert fading.sync().status == "held"
    later(fading, clock, 31)
    assert fading.held() == set()
    fading.segment(range(1, 61))
    result = fading.sync()
    assert (result.status, result.counts.added, result.counts.unchanged) == ("success", 60, 0)
    assert len(fading.held()) == 60
    again = fading.sync()
    assert (again.status, again.requests, again.counts.unchanged) == ("noop", 0, 60)


def test_members_past_their_retention_are_not_lost(fading: World, clock: Clock) -> None:
    """Sixty left and were forgotten, five remain: no threshold holds that, and nobody is counted as removed."""
    later(fading, clock, 29)
    fading.segment(range(1, 6))
    assert fading.sync().status == "held", "a day before, it would be a loss"
    later(fading, clock, 2)
    result = fading.sync()
    assert (result.status, result.counts.added, result.counts.removed) == ("success", 5, 0)
    assert fading.held() == {("email", email(f"c{n}@example.com")[1]) for n in range(1, 6)}
    assert fading.sync().requests == 0


@pytest.mark.slow
def test_members_are_asserted_again_over_days(tmp_path: Path, duckdb_warehouse: Warehouse, clock: Clock) -> None:
    """Of 400 who came in one day no later day sends more than a fifth again, and each is sent once, in time."""
    with registered(), serve_scripted() as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.connections = {"acme": {"type": "scripted_retention", "base_url": serving.url}}
        world.segments = {"vip": {"destinations": ["acme"]}}
        world.customers([(n, f"c{n}@example.com") for n in range(400)])
        world.segment(range(400))
        world.sync()
        sent, daily = 400, []
        for _ in range(26):
            later(world, clock, 1)
            assert world.sync().counts.unchanged == 400
            now = sum(call["rows"] for call in world.calls("add"))
            daily.append(now - sent)
            sent = now
            assert len(world.held()) == 400
        assert max(daily) <= 80
        assert sum(daily) == 400


def test_a_run_that_failed_keeps_the_sync_due(world: World, clock: Clock) -> None:
    """Though another one succeeded today: what it owes, a refusal perhaps, is not left until tomorrow."""
    world.customers([(1, "a@example.com"), (2, "b@example.com")])
    world.segment([1, 2])
    assert world.sync().status == "success"
    assert world.sync(now=False).reason == "not_due"
    clock.pass_(minutes=1)
    world.segment([1])
    world.serving.sandbox.faults.add({"kind": "expired_token", "times": -1})  # type: ignore[union-attr]
    assert world.sync().status == "failed"
    assert world.sync(now=False).status == "failed"
    world.serving.sandbox.faults.clear()  # type: ignore[union-attr]
    clock.pass_(minutes=1)
    assert world.sync(now=False).counts.removed == 1
    assert world.sync(now=False).reason == "not_due"
