"""One writer per audience: runs that are stopped, overtaken or started twice (invariant 8)."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from typing import Any

import pytest

from dbt_segments.project import open_project
from dbt_segments.state import locks
from dbt_segments.state.locks import Lock
from dbt_segments.warehouse import Session
from tests.kill.harness import (
    Data,
    Running,
    check_batches,
    check_members,
    checkpoint,
    in_flight,
    is_stopped,
    let_leases_end,
    points,
    sandbox_of,
    start,
    sync,
    unanswered,
    until,
)
from tests.kill.scenarios import SCENARIOS, a_change, a_first_sync, prepare
from tests.world import World

pytestmark = pytest.mark.slow

LEASE = (3.0, 0.5)


def overtaken(world: World, after: Data, sleeper: Running, *, real_time: bool = False) -> str:
    """A second run takes over from a stopped one and ends well; then the first wakes up. Returns what that one said.

    It fails, unless it finds that nothing is left to do.
    """
    if not real_time:
        let_leases_end(world)
    token = newest_token(world)
    lease = LEASE if real_time else None
    sync(world, lease=lease)
    assert newest_token(world) == token + 1
    check_members(world, after.expected())
    made, ledger = len(world.calls()), head(world)
    sleeper.send(signal.SIGCONT)
    code = sleeper.end()
    assert code in (0, 1, 3), f"the overtaken run ended with {code}:\n{sleeper.output}"
    assert len(world.calls()) == made, f"the overtaken run sent {world.calls()[made:]}"
    assert head(world) == ledger, "the overtaken run wrote a ledger that counts"
    check_members(world, after.expected())
    before = len(world.calls())
    again = sync(world)
    assert "up to date" in again, again
    assert len(world.calls()) == before
    check_members(world, after.expected())
    check_batches(world, [])
    return sleeper.output


def newest_token(world: World) -> int:
    return int(world.state("leases", "max(token)")[0][0])


def head(world: World) -> Any:
    """The ledger that counts: what the highest token and number point to."""
    return max(world.state("pointers", "token, seq, detail", "kind = 'ledger'"), default=None)


@pytest.mark.postgres
@pytest.mark.parametrize("op", ["add", "remove"])
def test_stopped_in_mid_request_and_overtaken(on_postgres: World, op: str) -> None:
    """A run that sleeps past its lease in mid-request starts no other one when it wakes, and changes nothing."""
    world = on_postgres
    after = prepare(world, "change")
    world.connections = {"meta": world.meta(max_concurrency=1, timeout_s=1.5)}
    sandbox_of(world).faults.add({"kind": "slow", "seconds": 0.5, "match": {"op": op}})
    before = len(world.calls(op))
    sleeper = start(world, lease=LEASE)
    until(lambda: len(world.calls(op)) > before, f"the first {op}")
    sleeper.send(signal.SIGSTOP)
    said = overtaken(world, after, sleeper, real_time=True)
    assert "another run took over" in said or "stopped" in said, said


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_stopped_at_every_point_and_overtaken(
    on_postgres: World, scenario: str, request: pytest.FixtureRequest
) -> None:
    """Wherever a run falls asleep, somebody else can take over, and what the sleeper still writes does not count.

    Not before a request: whoever has asked for leave and is stopped then, sends when it wakes. No lease prevents that.
    """
    world = on_postgres
    after = prepare(world, scenario)
    wrong = []
    with checkpoint(world, request) as saved:
        names = points(world)
        first, last = names.index("commit leases acquired"), names.index("commit leases released")
        moments = [
            (moment, number, name)
            for number, name in enumerate(names[:last], start=1)
            for moment in ("before", "after")
            if number > first + (moment == "before") and not (moment == "before" and name.startswith("request"))
        ]
        for moment, number, name in moments:
            saved.restore()
            sleeper = start(world, stop=(moment, number))
            try:
                until(lambda: is_stopped(sleeper), "the run to stop")  # noqa: B023
                overtaken(world, after, sleeper)
            except AssertionError as error:
                wrong.append(f"stopped {moment} point {number}, {name}: {error}")
            finally:
                sleeper.kill()
    assert not wrong, f"{len(wrong)} of {len(moments)} moments:\n\n" + "\n\n".join(wrong)


def test_a_second_run_waits(world: World) -> None:
    """While a run has a request under way a second one asks nothing; when the first has ended it sends what is new."""
    prepare(world, "change")
    with unanswered(world, "add") as release:
        first = start(world)
        in_flight(world, "add", first)
        later = a_change()
        later.customers[12] = ("l@example.com", None, True)
        later.members.add(12)
        later.write(world)
        made = len(world.calls())
        second = start(world, "--lock-timeout", "100")
        until(lambda: "waiting for another" in second.output, "the second run to wait")
        assert len(world.calls()) == made
        release()
        assert (first.end(), second.end()) == (0, 0), first.output + second.output
    check_members(world, later.expected())
    runs = world.state("sync_batches", "run_id, min(recorded_at), max(recorded_at)", "1 = 1 group by run_id")
    _, (_, _, first_ends), (_, second_begins, _) = sorted(runs, key=lambda run: run[1])
    assert first_ends < second_begins


def test_a_second_run_stops_when_it_may_not_wait(world: World) -> None:
    """After `--lock-timeout` the second run ends with code 3 and has asked and written nothing that counts."""
    after = prepare(world, "change")
    with unanswered(world, "add") as release:
        first = start(world)
        in_flight(world, "add", first)
        made = len(world.calls())
        assert "another" in sync(world, "--lock-timeout", "0.3", code=3)
        assert len(world.calls()) == made
        release()
        assert first.end() == 0, first.output
    check_members(world, after.expected())


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_two_first_runs_at_once(world: World, rounds: int) -> None:
    """Two runs that begin together where there is no state yet make one state and one audience."""
    data = a_first_sync()
    for _ in range(rounds):
        sandbox_of(world).reset()
        world.sql(f"drop schema if exists {world.warehouse.schema}_dbt_segments cascade")
        data.write(world)
        both = [start(world, "--lock-timeout", "60") for _ in range(2)]
        assert [one.end() for one in both] == [0, 0], "\n".join(one.output for one in both)
        check_members(world, data.expected())
        assert len(world.state("state_info")) == 1


@pytest.mark.postgres
def test_a_lease_that_has_ended_is_not_renewed_beside_a_taker(
    on_postgres: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner who wakes at the very moment when somebody takes over does not get leave to send."""
    world = on_postgres
    a_first_sync().write(world)
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    monkeypatch.setattr(locks, "MARGIN_S", 0.1)
    commit = Session.commit

    def commit_late(session: Session) -> None:
        monkeypatch.setattr(Session, "commit", commit)
        owner.may_start(0.1)
        commit(session)

    with open_project(world.request().options, 20.0, print) as project:

        def hold() -> AbstractContextManager[Lock]:
            return locks.hold(project.state, project.store, "x", timeout_s=20.0, longest_request_s=0.1, tell=print)

        with hold() as owner:
            until(lambda: owner._left() < -0.2, "the lease to end")
            monkeypatch.setattr(Session, "commit", commit_late)
            with hold() as taker:
                assert Session.commit is commit
                assert (owner.may_start(0.1), taker.may_start(0.1)) == (False, True)


@pytest.mark.parametrize(
    ("op", "seconds"),
    [("add", None), *(pytest.param(op, 60.0, marks=pytest.mark.slow) for op in ("find", "create", "add"))],
)
def test_dbt_runs_while_a_request_is_under_way(on_duckdb: World, op: str, seconds: float | None) -> None:
    """On DuckDB the file is free while the destination takes its time, so `dbt run` succeeds.

    Where no time is given the destination answers when dbt has ended.
    """
    world = on_duckdb
    data = a_first_sync()
    data.write(world)
    world.connections = {"meta": world.meta(max_concurrency=1, timeout_s=100)}
    world.project.write("models/other.sql", "select 1 as other")
    with unanswered(world, op, seconds or 100.0) as release:
        running = start(world)
        in_flight(world, op, running)
        world.project.dbt("run", "--target-path", "elsewhere")
        assert running.runs, running.output
        if seconds is None:
            release()
        assert running.end() == 0, running.output
    assert world.sql("select other from other") == [(1,)]
    check_members(world, data.expected())
