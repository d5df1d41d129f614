"""`mode: replace` at Google: everybody is asserted, then whoever else is in the list is swept out, never our own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dbt_segments.deliver import Courier
from dbt_segments.destinations.base import Audience, Reply
from dbt_segments.destinations.google_ads import GoogleAds
from dbt_segments.errors import ConfigError
from dbt_segments.sandbox.google_ads import GoogleAds as Platform
from dbt_segments.sandbox.google_ads_upload import CODEC, Reader
from dbt_segments.sandbox.server import Serving, build, serve
from dbt_segments.values import SyncResult
from tests.one_click.case_google_ads import CASE
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world, sha

ADA, BOB, CYD, EVE = (f"{name}@example.com" for name in ("ada", "bob", "cyd", "eve"))
SYNC = {"to": "google_ads", "mode": "replace", "identifiers": ["email"]}


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> Iterator[World]:
    with serve(sandbox=build(("google_ads",))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.segments = {"vip": {"label": "VIP buyers", "syncs": [SYNC]}}
        world.connections = {"google_ads": CASE.connection(f"{serving.url}/google_ads", tmp_path)}
        world.customers([(1, ADA), (2, BOB), (3, CYD)])
        world.segment([1, 2])
        yield world
        assert platform(world).violations == []


def platform(world: World) -> Platform:
    serving = world.serving
    assert isinstance(serving, Serving)
    found = serving.sandbox.platforms["google_ads"]
    assert isinstance(found, Platform)
    return found


def emails(*addresses: str) -> set[tuple[str, str]]:
    return {("EMAIL", sha(address)) for address in addresses}


def enter(world: World, address: str) -> None:
    """Somebody else put a person in, long ago."""
    [audience] = [one for one in platform(world).audiences.values() if not one.deleted]
    audience.members.add([CODEC.encode("EMAIL", sha(address))], platform(world).clock.today())


def age(world: World, hours: float) -> None:
    """Whatever was ingested so far was so long before."""
    for keys in platform(world)._ingested.values():
        for key in keys:
            keys[key] -= hours * 3600


def fault(world: World, **fault: Any) -> None:
    assert world.serving is not None
    world.serving.sandbox.faults.add(fault)


def pass_days(world: World, days: int, *tables: str) -> None:
    """What the state has logged so far was logged so many days before."""
    for table in tables:
        column = "committed_at" if table == "pointers" else "recorded_at"
        name = f"{world.warehouse.schema}_dbt_segments.{table}"
        world.sql(f"update {name} set {column} = {column} - interval '{days} days'")


def until_quiet(world: World, mine: set[tuple[str, str]], most: int = 12) -> list[SyncResult]:
    """Sync until nothing is asked any more; whoever is ours is in at each step."""
    results = []
    for _ in range(most):
        before = len(world.calls())
        results.append(world.sync())
        if platform(world).jobs and all(job.state != "PROCESSING" for job in platform(world).jobs.values()):
            assert mine <= world.held()
        if len(world.calls()) == before:
            return results
    raise AssertionError(f"no end after {most} syncs")


def test_others_go_once_everybody_is_confirmed(world: World) -> None:
    """Not in the run that sends, nor before the job has ended; afterwards there is nothing more to do."""
    sent = world.sync()
    enter(world, EVE)
    assert "once that is confirmed, a later run removes whom others put in" in " ".join(sent.notes)
    assert world.calls("sweep") == []
    [planned] = world.plan().run.syncs
    assert "once everybody is confirmed, everybody else who was put in before" in " ".join(planned.notes)
    asked = world.sync()
    assert world.held() == emails(ADA, BOB, EVE)
    done = world.sync()
    assert "is being removed" in " ".join(asked.notes)
    assert "has been removed" in " ".join(done.notes)
    assert world.held() == emails(ADA, BOB)
    assert not [note for note in world.plan().run.syncs[0].notes if "replace" in note]
    quiet = world.sync()
    assert (quiet.status, quiet.requests) == ("noop", 0), quiet
    assert not [note for note in quiet.notes if "replace" in note]
    assert [row[0] for row in world.state("sync_batches", "state", "phase = 'sweep' order by recorded_at")] == [
        "sending",
        "submitted",
        "accepted",
    ]


def test_a_sweep_ends_once_also_where_the_clock_was_set_back(world: World) -> None:
    """What was logged of it before is younger than its end, by the warehouse's clock."""
    world.sync()
    assert "is being removed" in " ".join(world.sync().notes)
    pass_days(world, -1, "sync_batches", "pointers")
    assert "has been removed" in " ".join(world.sync().notes)
    quiet = world.sync()
    assert (quiet.status, quiet.requests) == ("noop", 0), quiet


@pytest.mark.slow
def test_a_change_sends_everybody_anew_so_that_none_of_ours_is_old(world: World) -> None:
    """Members who were ingested long ago stay, also while their jobs run for hours."""
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    world.segment([1, 2, 3])
    platform(world).policy["polls"] = 3
    plan = world.plan()
    assert "everybody is sent" in " ".join(plan.run.syncs[0].notes)
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB, CYD)
    assert len(world.calls("sweep")) == 2
    world.segment([1])
    until_quiet(world, emails(ADA))
    assert world.held() == emails(ADA)


def test_a_mirror_leaves_others_alone(world: World) -> None:
    """The same without `replace`; who goes over to it sends everybody once."""
    world.segments = {"vip": {"label": "VIP buyers", "syncs": [{**SYNC, "mode": "mirror"}]}}
    until_quiet(world, set())
    enter(world, EVE)
    age(world, 24)
    world.segment([1])
    until_quiet(world, emails(ADA))
    assert world.held() == emails(ADA, EVE)
    assert world.calls("sweep") == []
    world.segments = {"vip": {"label": "VIP buyers", "syncs": [SYNC]}}
    until_quiet(world, emails(ADA))
    assert world.held() == emails(ADA)


@pytest.mark.slow
def test_no_sweep_follows_while_one_batch_is_in_doubt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most are confirmed, one is not: that one may be in as of old, and would go."""
    monkeypatch.setattr(GoogleAds, "limits", dataclasses.replace(GoogleAds.limits, members=1))
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    world.segment([1, 2, 3])
    platform(world).policy["polls"] = 100
    world.sync()
    adds = [job for job in platform(world).jobs.values() if job.op == "add"][2:]
    assert len(adds) == 3
    platform(world).policy["polls"] = 1
    doubtful = next(job for job in adds if CODEC.encode("EMAIL", sha(BOB)) in job.rows[0])
    doubtful.rows, doubtful.total = [], 0
    swept = len(world.calls("sweep"))
    world.sync()
    assert len(world.calls("sweep")) == swept
    assert emails(ADA, BOB) <= world.held()
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB, CYD)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({"fail": "INTERNAL_ERROR"}, marks=pytest.mark.slow),
        pytest.param({"lose": 1}, marks=pytest.mark.slow),
        pytest.param({"forget_jobs": True}, marks=pytest.mark.slow),
    ],
)
def test_no_sweep_follows_a_job_that_did_not_take_everybody(world: World, policy: dict[str, object]) -> None:
    """Nobody knows who of ours was put in again: they are asserted once more first."""
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    world.segment([1, 2, 3])
    platform(world).policy.update(policy)
    world.sync()
    world.sync()
    assert len(world.calls("sweep")) == 1
    platform(world).policy.update(fail=None, lose=0, forget_jobs=False)
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB, CYD)


def test_no_sweep_follows_refusals_that_name_nobody(world: World) -> None:
    """Somebody of ours may be in as of old; that is told, and everybody is in it again with the next change."""
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    world.segment([1, 2, 3])
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "partial", "match": {"op": "add"}})
    notes = [" ".join(world.sync().notes) for _ in range(3)]
    assert "refused 1 member without naming them, who might go as well" in notes[2]
    assert len(world.calls("sweep")) == 1
    assert world.held() >= emails(ADA, EVE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
def test_a_sweep_without_an_answer_is_asked_for_again_with_the_same_time(world: World, kind: str) -> None:
    """Whether it was applied or not."""
    world.sync()
    enter(world, EVE)
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": kind, "times": 20, "match": {"op": "sweep"}})
    told = world.sync()
    assert "not removed yet" in " ".join(told.notes)
    assert told.exit_code == 0
    world.serving.sandbox.faults.clear()
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB)
    moments = {job.before for job in platform(world).jobs.values() if job.op == "sweep"}
    assert len(moments) == 1


@pytest.mark.slow
def test_a_sweep_that_fails_is_told_and_tried_again(world: World) -> None:
    world.sync()
    enter(world, EVE)
    world.sync()
    platform(world).policy["fail"] = "INTERNAL_ERROR"
    told = world.sync()
    assert "failed (FAILED:INTERNAL_ERROR); it is tried again" in " ".join(told.notes)
    platform(world).policy["fail"] = None
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB)


@pytest.mark.parametrize("hours", [-1, pytest.param(1, marks=pytest.mark.slow)])
def test_the_warehouse_s_clock_may_be_wrong(world: World, hours: int) -> None:
    """The moment is one of the platform's own clock, so nobody of ours goes and everybody else does."""
    assert world.serving is not None
    world.serving.sandbox.clock.advance(hours * 3600)
    world.sync()
    enter(world, EVE)
    world.segment([1, 2, 3])
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB, CYD)


@pytest.mark.slow
def test_a_sweep_that_is_refused_holds_nothing_up(world: World) -> None:
    """Surely nothing was done: it is asked for again, and nobody is sent again because of it."""
    world.sync()
    enter(world, EVE)
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "status", "status": 400, "times": 20, "match": {"op": "sweep"}})
    told = world.sync()
    assert "not removed yet" in " ".join(told.notes)
    world.segment([1, 2, 3])
    for _ in range(4):
        world.sync()
    assert len(world.calls("add")) == 2
    world.serving.sandbox.faults.clear()
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB, CYD)


@pytest.mark.slow
def test_a_run_that_dies_before_it_sends_everybody_is_made_up_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has changed in the segment, so nothing else would ask for it."""
    world.segments = {"vip": {"label": "VIP buyers", "syncs": [{**SYNC, "mode": "mirror"}]}}
    until_quiet(world, set())
    enter(world, EVE)
    world.segments = {"vip": {"label": "VIP buyers", "syncs": [SYNC]}}

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Courier, "deliver", dies)
        world.sync()
    age(world, 24)
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB)


@pytest.mark.slow
def test_who_enters_while_a_sweep_runs_is_asserted_once_more(world: World) -> None:
    """What crossed a sweep is followed by none: everybody is sent again when that one has ended, and then by one."""
    world.sync()
    enter(world, EVE)
    world.segment([1, 2, 3])
    world.sync()  # asks for the sweep, then sends everybody
    platform(world).policy["polls"] = 2
    crossed = len(world.calls("add"))
    until_quiet(world, emails(ADA, BOB))
    assert (crossed, len(world.calls("add")), len(world.calls("sweep"))) == (2, 3, 2)
    assert world.held() == emails(ADA, BOB, CYD)


def test_a_held_sync_sweeps_nobody(world: World) -> None:
    world.sync()
    enter(world, EVE)
    world.connections["google_ads"].pop("customer_match_terms")
    assert world.sync().status == "held"
    assert world.calls("sweep") == []
    world.connections["google_ads"]["customer_match_terms"] = "accepted"
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB)


@pytest.mark.slow
def test_a_refusal_beside_a_sweep_is_obeyed(world: World) -> None:
    """Who opts out while a sweep runs goes by a removal of their own."""
    world.suppress = ["opt_outs"]
    world.opt_outs([])
    world.sync()
    world.sync()
    world.opt_outs([2])
    until_quiet(world, emails(ADA))
    assert world.held() == emails(ADA)


def test_a_replace_cannot_keep_who_has_left(world: World) -> None:
    world.segments = {"vip": {"label": "VIP buyers", "syncs": [{**SYNC, "removals": False}]}}
    with pytest.raises(ConfigError, match="a `replace` cannot keep who has left"):
        world.sync()


# -- nobody of ours goes: what is not on record is no evidence ------------------------------------------------


def test_no_sweep_follows_a_batch_that_was_never_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of ours may be in through others; as long as they were not put in by us, they would go."""
    monkeypatch.setattr(GoogleAds, "limits", dataclasses.replace(GoogleAds.limits, members=1, concurrency=1))
    fault(world, kind="status", status=403, times=-1, after=1, match={"op": "add"})
    world.sync()
    for address in (ADA, BOB, EVE):
        enter(world, address)
    for _ in range(3):
        world.sync()
        assert world.calls("sweep") == []
        assert emails(ADA, BOB) <= world.held()
    assert world.serving is not None
    world.serving.sandbox.faults.clear()
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB)


def test_no_sweep_follows_once_the_record_of_what_was_sent_is_gone(world: World) -> None:
    """Refusals that named nobody were logged there: a log that expires takes no warning with it."""
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    world.segment([1, 2, 3])
    fault(world, kind="partial", match={"op": "add"})
    for _ in range(2):
        world.sync()
    pass_days(world, 100, "sync_batches", "pointers", "gc_runs")
    world.variables = {"retention": {"sync_batches": 90}}
    for _ in range(3):
        world.sync()
    assert world.state("sync_batches") == []
    assert len(world.calls("sweep")) == 1
    assert emails(ADA, EVE) <= world.held()


@pytest.mark.slow
def test_a_former_name_sweeps_no_more(world: World) -> None:
    """A deployment that was not told of the rename knows nothing of who was put in since, and warns of it."""
    old, new = world.segments, {"vip2": {"label": "VIP buyers", "renamed_from": ["vip"], "syncs": [SYNC]}}
    until_quiet(world, set())
    world.segments = new
    world.segment([1, 2, 3], "vip2")
    until_quiet(world, set())
    assert world.held() == emails(ADA, BOB, CYD)
    age(world, 24)
    swept = len(world.calls("sweep"))
    world.segments = old
    said = [" ".join(world.sync(full=full).notes) for full in (True, False, False)]
    assert "goes on under another id" in said[-1]
    assert len(world.calls("sweep")) == swept
    assert emails(CYD) <= world.held()
    enter(world, EVE)
    world.segments = new
    world.segment([1, 3], "vip2")
    until_quiet(world, emails(ADA, CYD))
    assert world.held() == emails(ADA, CYD)


@pytest.mark.slow
def test_a_name_that_came_back_begins_anew(world: World) -> None:
    """What was asserted under it says nothing of members who were to be put in under the other one, and were not."""
    old, new = world.segments, {"vip2": {"label": "VIP buyers", "renamed_from": ["vip"], "syncs": [SYNC]}}
    world.sync()
    for address in (CYD, EVE):
        enter(world, address)
    world.segments = new
    world.segment([1, 2, 3], "vip2")
    fault(world, kind="partial", rows=3, match={"op": "add"})
    world.sync()
    assert "without naming them" in " ".join(world.sync().notes)
    world.segments = {"vip": {**old["vip"], "renamed_from": ["vip2"]}}
    world.segment([1, 2, 3])
    until_quiet(world, emails(ADA, BOB, CYD))
    assert world.held() == emails(ADA, BOB, CYD)


@pytest.mark.slow
def test_an_empty_segment_sweeps_nobody(world: World) -> None:
    """Its members are removed by name; that everybody else should go is more than an empty model says."""
    until_quiet(world, set())
    enter(world, EVE)
    world.variables = {"hold": {"empty": "ignore", "remove_fraction": 1.0}}
    world.segment([])
    until_quiet(world, set())
    assert world.held() == emails(EVE)


def test_a_threshold_holds_the_sweep_too(world: World) -> None:
    """A segment that has lost most of its members holds everything that removes somebody."""
    world.sync()
    enter(world, EVE)
    world.variables = {"hold": {"remove_members": 0, "remove_fraction": 0.1}}
    world.segment([1])
    held = world.sync()
    assert (held.status, held.reason.split(":")[0]) == ("held", "too_many_removals"), held
    assert world.calls("sweep") == []
    world.segment([1, 2])
    until_quiet(world, emails(ADA, BOB))
    assert world.held() == emails(ADA, BOB)


@pytest.mark.slow
def test_a_foreign_mark_holds_the_sweep_too(world: World) -> None:
    """The list was taken over by another project: nobody is swept out of what is not certainly ours."""
    world.sync()
    [audience] = platform(world).audiences.values()
    enter(world, EVE)
    audience.description = "dbt-segments:another:sync:0"
    held = world.sync()
    assert (held.status, held.reason.split(":")[0]) == ("held", "foreign_mark"), held
    assert world.calls("sweep") == []


@pytest.mark.slow
def test_a_removal_that_keeps_failing_sends_nobody_else(world: World) -> None:
    """It is tried again in every run, alone, and what others put in goes all the same."""
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    world.segment([1])
    fault(world, kind="status", status=400, times=-1, match={"op": "remove"})
    before = len(world.calls("add"))
    for _ in range(5):
        world.sync()
    assert len(world.calls("add")) == before + 1
    assert world.held() == emails(ADA)


@pytest.mark.slow
def test_who_is_refused_by_name_and_was_there_before_is_not_swept_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member whom we sent before, and whom Google refuses now, may still be wanted there."""
    until_quiet(world, set())
    age(world, 24)
    enter(world, EVE)
    read = Reader._identifier

    def picky(self: Reader, one: Any, where: str) -> Any:
        if one == {"emailAddress": sha(BOB)}:
            self._blame(where, "INVALID_FORMAT")
            return None
        return read(self, one, where)

    world.segment([1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_identifier", picky)
        said = [" ".join(world.sync().notes) for _ in range(3)][-1]
    assert "refused 1 member whom it had taken before, who might go as well" in said
    assert len(world.calls("sweep")) == 1
    assert emails(ADA, BOB, CYD, EVE) == world.held()
    assert set(platform(world).violations) == {"add: INVALID_FORMAT"}
    platform(world).violations.clear()


@pytest.mark.slow
def test_an_answer_to_a_later_request_says_nothing_of_an_earlier_one(world: World) -> None:
    """A sweep that got no answer may run for a day, although the next one was refused."""
    world.sync()
    enter(world, EVE)
    fault(world, kind="reset_before", times=20, match={"op": "sweep"})
    world.sync()
    assert world.serving is not None
    world.serving.sandbox.faults.clear()
    fault(world, kind="status", status=400, match={"op": "sweep"})
    world.sync()
    world.segment([1, 2, 3])
    fault(world, kind="status", status=400, match={"op": "sweep"})
    world.sync()
    asked = len(world.calls("sweep"))
    for _ in range(3):
        world.sync()
    assert len(world.calls("sweep")) == asked
    pass_days(world, 2, "sync_batches", "pointers")
    until_quiet(world, emails(ADA, BOB, CYD))
    assert len(world.calls("sweep")) == asked + 1
    assert world.held() == emails(ADA, BOB, CYD)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_the_platform_s_time_is_utc_however_it_is_written(world: World, zone: str) -> None:
    settings = {name: value for name, value in world.connections["google_ads"].items() if name != "type"}
    destination = GoogleAds(GoogleAds.settings_model.model_validate(settings))
    flow = destination.clock(Audience("7"))
    next(flow)
    with pytest.raises(StopIteration) as ended:
        flow.send(Reply(200, {"date": f"Tue, 24 Nov 2026 09:00:00 {zone}"}))
    assert ended.value.value == datetime(2026, 11, 24, 9, tzinfo=timezone.utc)
