"""Lists that come with their first members, and what is made from a list afterwards: one list, whatever fails.

Membership is asserted per identifier, on the scripted platform: two members a request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dbt_segments import retry
from dbt_segments.audiences import Resolver
from dbt_segments.destinations.base import Outcome
from dbt_segments.errors import WarehouseError
from dbt_segments.send import Sender
from dbt_segments.values import SyncResult
from tests.projects import DuckDBWarehouse, Warehouse
from tests.scripted.destination import ScriptedBorn, registered
from tests.scripted.server import reports, serve_scripted
from tests.world import KEY, World, email, make_world

FIVE = range(1, 6)
Made = Callable[[Warehouse], World]


class Killed(BaseException):
    """The process died here, as far as an exception can play that."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """A world with five members; nothing waits between tries."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with registered(), serve_scripted() as serving:

        def made(warehouse: Warehouse) -> World:
            world = make_world(tmp_path / "shop", warehouse, serving)
            world.connections = {"acme": {"type": "scripted_born", "base_url": serving.url}}
            world.segments = {"vip": {"label": "VIP", "destinations": ["acme"]}}
            have(world, FIVE)
            return world

        yield made


@pytest.fixture
def world(make: Made, duckdb_warehouse: DuckDBWarehouse) -> World:
    return make(duckdb_warehouse)


def have(world: World, members: Any) -> None:
    world.customers([(n, f"c{n}@example.com") for n in FIVE])
    world.segment(members)


def want(members: Any) -> set[KEY]:
    return {("email", email(f"c{n}@example.com")[1]) for n in members}


def ops(world: World) -> list[str]:
    """What changes anything at the platform, oldest first."""
    return [call["op"] for call in world.calls() if call["op"] not in ("find", "get")]


def fail(world: World, kind: str, op: str = "create", **more: Any) -> None:
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": kind, "match": {"op": op}, **more})


def policy(world: World, **policy: Any) -> None:
    assert world.serving is not None
    next(iter(world.serving.sandbox.platforms.values())).policy.update(policy)


def used(world: World) -> list[str]:
    assert world.serving is not None
    return list(reports(world.serving)["used"])


def notes(result: SyncResult) -> list[str]:
    """Without what every run here says: no dbt was run."""
    return [note for note in result.notes if "builds_unknown" not in note]


def events(world: World) -> list[str]:
    return sorted(row[0] for row in world.state("audiences", "event"))


# -- a list that comes with its first members ------------------------------------------------------------------


def test_the_first_batch_makes_the_list_and_the_others_follow(make: Made, warehouse: Warehouse) -> None:
    """One call makes it, the next ones go to it, then it is put to use; a second sync asks nothing."""
    world = make(warehouse)
    result = world.sync()
    assert (result.status, result.counts.added, result.audience_name) == ("success", 5, "VIP"), result
    assert ops(world) == ["create", "add", "add", "use"]
    assert world.held() == want(FIVE)
    assert result.audience_id == world.audiences()[0]["id"] == used(world)[0]
    assert events(world) == ["attended", "created", "intended"]
    again = world.sync()
    assert (again.status, again.requests, again.audience_id) == ("noop", 0, result.audience_id)
    have(world, [1, 2, 3])
    assert world.sync().counts.removed == 2
    assert world.held() == want([1, 2, 3])
    assert used(world) == [result.audience_id]


def test_the_state_knows_first(world: World) -> None:
    """When the list is made its batch is on record as perhaps sent; when the next batch goes, the list is."""
    seen: dict[str, tuple[set[str], set[str]]] = {}
    original = Sender._http

    def watching(self: Sender, method: str, url: str, *args: Any) -> Any:
        states = {row[0] for row in world.state("sync_batches", "state")}
        seen.setdefault(url.rsplit("/", 1)[1] if method == "POST" else method, (states, set(events(world))))
        return original(self, method, url, *args)

    with mock.patch.object(Sender, "_http", watching):
        world.sync()
    assert seen["lists"] == ({"sending"}, {"intended"})
    assert seen["members"][1] == {"intended", "created"}


@pytest.mark.parametrize("moment", ["before the record", "before the call", "after the call"])
def test_a_run_that_dies_makes_no_second_list(world: World, moment: str) -> None:
    """The next run finds the list by its mark, or makes it where there is none."""
    original = Sender._http

    def dying(self: Sender, method: str, url: str, *args: Any) -> Any:
        lethal = method == "POST" and url.endswith("/lists")
        if lethal and moment == "before the call":
            raise Killed
        reply = original(self, method, url, *args)
        if lethal and moment == "after the call":
            raise Killed
        return reply

    patches = {
        "before the record": mock.patch.object(Resolver, "made", side_effect=Killed),
        "before the call": mock.patch.object(Sender, "_http", dying),
        "after the call": mock.patch.object(Sender, "_http", dying),
    }
    with patches[moment], contextlib.suppress(Killed):
        world.sync()
    assert len(world.audiences()) == (0 if moment == "before the call" else 1)
    result = world.sync()
    assert (result.status, result.exit_code) == ("success", 0), result
    assert len(world.audiences()) == 1
    assert world.held() == want(FIVE)
    assert world.sync().requests == 0


def test_a_list_that_cannot_be_recorded_ends_the_run(world: World) -> None:
    """Nothing goes to a list that the state does not know; the next run finds it."""
    with mock.patch.object(Resolver, "made", side_effect=WarehouseError("gone")):
        result = world.sync()
    assert (result.status, ops(world)) == ("failed", ["create"]), result
    assert "could not be recorded" in result.reason
    assert world.sync().status == "success"
    assert len(world.audiences()) == 1
    assert world.held() == want(FIVE)


@pytest.mark.parametrize("kind", ["reset_after", "reset_before", "html"])
def test_an_answer_that_never_came_ends_the_run(world: World, kind: str) -> None:
    """Another batch could make a second list, so none is sent; the next run knows."""
    fail(world, kind)
    result = world.sync()
    assert (result.status, result.exit_code, result.audience_id) == ("failed", 3, None), result
    assert ops(world) == ["create"]
    have(world, [2, 3, 4, 5])
    assert world.sync().exit_code == 0
    assert len(world.audiences()) == 1
    assert world.held() == want([2, 3, 4, 5])
    assert world.sync().requests == 0


def test_an_answer_that_names_no_list_proves_nothing(world: World) -> None:
    """The destination says that it went well but not where to: in doubt, and the next run looks."""
    original = ScriptedBorn.push

    def silent(self: ScriptedBorn, *args: Any) -> Any:
        yield from original(self, *args)
        return Outcome()

    with mock.patch.object(ScriptedBorn, "push", silent):
        assert world.sync().status == "failed"
    assert ops(world) == ["create"]
    assert world.sync().status == "success"
    assert (len(world.audiences()), world.held()) == (1, want(FIVE))


@pytest.mark.parametrize("code", ["members", "bad_row"])
def test_a_refused_first_batch_leaves_it_to_the_next_one(world: World, code: str) -> None:
    """It is not cut in halves, which could make two lists; the second batch makes it, and the first comes again."""
    fail(world, "status", status=400, code=code)
    result = world.sync()
    assert (result.status, result.counts.added) == ("partial", 3), result
    assert ops(world) == ["create", "create", "add", "use"]
    assert world.sync().status == "success"
    assert (len(world.audiences()), world.held()) == (1, want(FIVE))


def test_refused_credentials_end_the_run_at_once(world: World) -> None:
    """Also where another batch was refused before: no request is made for the rest."""
    fail(world, "status", status=400, code="members")
    fail(world, "expired_token", times=-1)
    result = world.sync()
    assert (result.status, result.reason.split(":")[0]) == ("failed", "token_expired"), result
    assert ops(world) == ["create", "create"]
    assert world.audiences() == []


def test_nobody_is_taken_out_of_a_list_that_is_not_there(world: World) -> None:
    """All who may have been sent have left before there was a list: nothing is asked, and nobody is owed."""
    world.variables = {"hold": {"empty": "ignore"}}
    fail(world, "reset_before")
    world.sync()
    have(world, [])
    result = world.sync()
    assert (result.exit_code, result.counts.pending) == (0, 0), result
    assert (ops(world), world.audiences()) == (["create"], [])
    have(world, [1])
    assert world.sync().status == "success"
    assert world.held() == want([1])


def test_a_plan_shows_the_call_that_makes_the_list(world: World) -> None:
    """Without a list there is no other; with one there is."""
    (shown,) = world.plan(show_requests=1).requests.values()
    assert "/v1/lists (" in shown[0]
    world.sync()
    have(world, [1])
    (shown,) = world.plan(show_requests=1).requests.values()
    assert f"/lists/{world.audiences()[0]['id']}/members" in shown[0]


# -- what is made from a list ----------------------------------------------------------------------------------


def test_what_is_missing_is_asked_for_once_a_run_and_then_no_more(world: World) -> None:
    """A note and never a failure; what is asked counts as a request, and nothing is asked once it is there."""
    policy(world, use_from=5)
    have(world, [1, 2])
    first = world.sync()
    assert (first.status, first.exit_code) == ("success", 0)
    assert "scripted: not in use (too_few)" in first.notes
    waiting = world.sync()
    assert (waiting.status, waiting.exit_code, waiting.requests) == ("noop", 0, 1), waiting
    assert "scripted: not in use (too_few)" in waiting.notes
    have(world, FIVE)
    grown = world.sync()
    assert (grown.status, notes(grown)) == ("success", [])
    assert used(world) == [grown.audience_id]
    assert world.sync().requests == 0


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 500, "times": -1}, {"kind": "expired_token"}])
def test_an_error_of_what_is_missing_fails_no_sync(world: World, fault: dict[str, Any]) -> None:
    """Members are where they should be; the error is told, and the next run asks again."""
    fail(world, op="use", **fault)
    result = world.sync()
    assert (result.status, result.exit_code, len(notes(result))) == ("success", 0, 1), result
    assert world.held() == want(FIVE)
    assert world.serving is not None
    world.serving.sandbox.faults.clear()
    assert (world.sync().requests, len(used(world))) == (1, 1)
    assert world.sync().requests == 0


def test_a_record_of_what_is_there_that_fails_is_made_later(world: World) -> None:
    """The state could not be written: no failure of the sync, and the next run does it again."""
    with mock.patch.object(Resolver, "_record", side_effect=_unless_made(Resolver._record), autospec=True):
        result = world.sync()
    assert (result.status, notes(result)) == ("success", ["gone"]), result
    assert "attended" not in events(world)
    assert world.sync().requests == 1
    assert "attended" in events(world)


def _unless_made(original: Any) -> Any:
    def record(self: Resolver, sync: Any, audience: Any, event: str, mark: str) -> None:
        if event == "attended":
            raise WarehouseError("gone")
        original(self, sync, audience, event, mark)

    return record


def test_a_held_sync_asks_for_nothing(world: World) -> None:
    """Whatever holds it, what is missing waits as well."""
    policy(world, use_from=5)
    have(world, [1, 2])
    world.sync()
    have(world, [])
    result = world.sync()
    assert (result.status, result.requests) == ("held", 0), result


def test_another_account_is_not_asked(world: World) -> None:
    """A list of one account is not put to use in another one."""
    policy(world, use_from=5)
    have(world, [1, 2])
    world.sync()
    world.connections["acme"]["account"] = "acct-2"
    assert world.sync().requests == 0


def test_warnings_of_the_platform_are_told_once(world: World) -> None:
    """What it says against members that it took."""
    original = ScriptedBorn.push

    def warning(self: ScriptedBorn, audience: Any, batch: Any) -> Any:
        outcome = yield from original(self, audience, batch)
        return Outcome(audience=outcome.audience, warnings=("scripted: some rows look odd",))

    with mock.patch.object(ScriptedBorn, "push", warning):
        result = world.sync()
    assert (result.status, notes(result)) == ("success", ["warning: scripted: some rows look odd"])
