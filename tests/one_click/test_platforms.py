"""Every ad platform against its sandbox: what its audience holds in the end, identifier by identifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest

from dbt_segments import doctor, prune
from dbt_segments.sandbox.server import build, serve
from dbt_segments.send import Sender
from dbt_segments.values import SyncResult
from tests.one_click.case import KEY, Case, Person, cases
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world

ADA = Person(1, "ada@example.com", "12015550101")
BOB = Person(2, "bob@example.com", "12015550102")
CY = Person(3, "cy@example.com")
DEE = Person(4, "dee@example.com", "12015550104")
# Syncs until everything must be right after a fault: a few, and those that jobs need.
_MENDS = 3


class Killed(BaseException):
    """The process died here, as far as an exception can play that."""


class Shop:
    """A world with one segment that goes to one platform."""

    def __init__(self, world: World, case: Case) -> None:
        self.world = world
        self.case = case
        self.waits: list[float] = []

    def have(self, people: Iterable[Person], members: Iterable[Person] | None = None) -> None:
        """Write the entity, and the segment: everybody unless `members` says whom."""
        people = list(people)
        self.world.customers([one.row for one in people])
        self.world.segment([one.number for one in (people if members is None else members)])

    def sync(self, **options: Any) -> SyncResult:
        return self.world.sync(**options)

    def settle(self) -> list[SyncResult]:
        """As many syncs as one change takes."""
        return [self.sync() for _ in range(self.case.syncs)]

    def held(self) -> set[KEY]:
        return self.world.held()

    def want(self, *people: Person) -> set[KEY]:
        return set().union(*(self.case.keys(one) for one in people))

    def fault(self, **fault: Any) -> None:
        assert self.world.serving is not None
        self.world.serving.sandbox.faults.add(fault)

    def violations(self) -> list[str]:
        assert self.world.serving is not None
        return list(self.world.serving.state()["violations"][self.case.name])


@pytest.fixture(params=cases(), ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def shop(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, case: Case) -> Iterator[Shop]:
    with serve(sandbox=build((case.name,))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.identifiers = case.identifiers
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": [case.name]}}
        found = Shop(world, case)

        def wait(seconds: float) -> None:
            found.waits.append(seconds)

        with mock.patch("dbt_segments.pipeline.Sender", lambda *args, **more: Sender(*args, **{**more, "sleep": wait})):
            yield found
        assert found.violations() == []


def test_a_first_sync_then_nothing(shop: Shop) -> None:
    """Everybody is in, under a list of the segment's label; the next sync asks nothing of the platform."""
    shop.have([ADA, BOB, CY])
    results = shop.settle()
    assert {one.status for one in results} <= {"success", "noop"}, results
    assert results[0].counts.added + results[0].counts.pending == 3
    assert shop.held() == shop.want(ADA, BOB, CY)
    assert [shop.case.label(one["name"]) for one in shop.world.audiences()] == ["VIP buyers"]
    again = shop.sync()
    assert (again.status, again.requests, again.counts.unchanged) == ("noop", 0, 3), again


def test_who_enters_leaves_and_changes(shop: Shop) -> None:
    """One enters, one leaves, one has another e-mail: exactly today's identifiers are there, removals included."""
    shop.have([ADA, BOB, CY])
    shop.settle()
    changed = Person(1, "ada.king@example.com", ADA.digits)
    shop.have([changed, BOB, CY, DEE], [changed, CY, DEE])
    for _ in range(2 * shop.case.syncs):
        last = shop.sync()
    assert shop.held() == shop.want(changed, CY, DEE), last
    assert shop.sync().status == "noop"


def test_a_spelling_that_means_the_same_changes_nothing(shop: Shop) -> None:
    """Upper case and white space are no change, so nothing is sent."""
    shop.have([ADA, CY])
    shop.settle()
    shop.have([Person(1, " ADA@Example.com ", ADA.digits), CY])
    result = shop.sync()
    assert (result.status, result.requests) == ("noop", 0), result
    assert shop.held() == shop.want(ADA, CY)


def test_a_shared_identifier_stays_while_somebody_has_it(shop: Shop) -> None:
    """Two share an e-mail and one of them leaves: the other stays in; then she leaves too."""
    twin = Person(5, ADA.email, "12015550105")
    shop.have([ADA, twin, CY])
    shop.settle()
    shop.have([ADA, twin, CY], [twin, CY])
    for _ in range(2 * shop.case.syncs):
        shop.sync()
    assert shop.held() == shop.want(twin, CY)
    shop.have([ADA, twin, CY], [CY])
    for _ in range(2 * shop.case.syncs):
        shop.sync()
    assert shop.held() == shop.want(CY)
    assert shop.sync().status == "noop"


def test_everybody_may_leave(shop: Shop) -> None:
    """Held as a mass loss would be no test of removal here, so the guard's policy for an empty segment is off."""
    shop.have([ADA, CY])
    shop.settle()
    shop.world.variables = {"hold": {"empty": "ignore"}}
    shop.have([ADA, CY], [])
    for _ in range(2 * shop.case.syncs):
        shop.sync()
    assert shop.held() == set()


def test_a_value_that_cannot_be_valid_is_not_sent(shop: Shop) -> None:
    """It is counted as unusable with a reason; the others are in."""
    nobody = Person(6, "not an address")
    shop.have([ADA, nobody])
    results = shop.settle()
    assert results[0].counts.unusable == 1, results
    assert shop.held() == shop.want(ADA)
    assert shop.world.state("rejects", "key, reason, class") == [("6", "email_invalid", "data")]


@pytest.mark.parametrize("op", ["add", "remove"])
def test_an_expired_token(shop: Shop, op: str) -> None:
    """It is renewed where it can be, and else the run fails and says so; in the end everything is right."""
    shop.have([ADA, BOB, CY])
    if op == "remove":
        shop.settle()
        shop.have([ADA, BOB, CY], [ADA, CY])
    shop.fault(kind="expired_token", match={"op": getattr(shop.case, op)})
    first = shop.sync()
    if shop.case.renews:
        assert first.exit_code == 0, first
    else:
        assert (first.status, first.exit_code) == ("failed", 1), first
    for _ in range(2 * shop.case.syncs):
        last = shop.sync()
    assert last.exit_code == 0, last
    assert shop.held() == (shop.want(ADA, BOB, CY) if op == "add" else shop.want(ADA, CY))


@pytest.mark.parametrize("asked_s", [None, 7])
def test_too_many_calls(shop: Shop, asked_s: int | None) -> None:
    """The call is repeated after a while: what `Retry-After` asks for, or what backing off makes of it."""
    shop.have([ADA, CY])
    shop.fault(kind="throttle", match={"op": shop.case.add}, retry_after=asked_s)
    results = shop.settle()
    assert results[0].exit_code == 0, results
    assert results[0].retries == 1
    assert sum(shop.waits) >= (asked_s or 0.001)
    assert shop.held() == shop.want(ADA, CY)


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "html", "truncated", "empty", "duplicate"])
@pytest.mark.parametrize("op", ["add", "remove"])
def test_an_answer_that_proves_nothing(shop: Shop, op: str, kind: str) -> None:
    """The call may have been applied or not: the next syncs make it right, with nobody lost or left behind."""
    if (op, kind) == ("add", "duplicate") and not shop.case.twice:
        pytest.skip("the call that adds them makes a list, too")
    shop.have([ADA, BOB, CY])
    if op == "remove":
        shop.settle()
        shop.have([ADA, BOB, CY], [ADA, CY])
    shop.fault(kind=kind, match={"op": getattr(shop.case, op)})
    for _ in range(_MENDS * shop.case.syncs):
        last = shop.sync()
    assert last.exit_code == 0, last
    assert shop.held() == (shop.want(ADA, BOB, CY) if op == "add" else shop.want(ADA, CY))
    assert shop.sync().status == "noop"


def test_an_audience_that_was_deleted_is_not_made_again(shop: Shop) -> None:
    """The platform's own error says so; the sync fails, and there is no second list."""
    shop.have([ADA, CY])
    shop.settle()
    assert shop.world.serving is not None
    for audience in shop.world.serving.sandbox.platforms[shop.case.name].audiences.values():
        audience.deleted = True
    shop.have([ADA, CY, DEE])
    result = shop.sync()
    assert (result.status, result.exit_code) == ("failed", 1), result
    assert "no longer exists" in result.reason
    assert shop.world.audiences() == []


def test_an_audience_that_was_deleted_is_made_again_by_policy(shop: Shop) -> None:
    """With `gone: recreate` the sync that finds it deleted makes another one, with everybody in it."""
    shop.have([ADA, BOB])
    shop.settle()
    assert shop.world.serving is not None
    for audience in shop.world.serving.sandbox.platforms[shop.case.name].audiences.values():
        audience.deleted = True
    shop.world.variables["gone"] = "recreate"
    shop.have([ADA, BOB, CY])
    results = shop.settle()
    assert {one.status for one in results} <= {"success", "noop", "partial"}, results
    assert shop.held() == shop.want(ADA, BOB, CY)


@pytest.mark.parametrize("policy", ["empty", "delete"])
def test_an_audience_that_nobody_needs_is_cleared_away(shop: Shop, policy: Literal["empty", "delete"]) -> None:
    """The segment is deleted: its audience is emptied of ours, or deleted itself, once that is asked for."""
    shop.have([ADA, CY])
    shop.settle()
    shop.world.segments = {}
    for _ in range(2 * shop.case.syncs):
        options = shop.world.request().options
        found = prune.prune(options, (), policy, act=True, lock_timeout_s=20.0, tell=lambda *said: None)
        assert {one.done for one in found} <= {"emptied", "waiting", "deleted", "kept"}, found
    audiences = shop.world.audiences()
    stays = policy == "empty" or not shop.case.deletes
    assert [one["keys"] for one in audiences] == ([[]] if stays else [])


def test_what_doctor_says_of_a_good_connection(shop: Shop) -> None:
    """Nothing is wrong with it, something was asked, and nothing was changed or made."""
    (found,) = doctor.examine(shop.world.request().options)
    assert [one for one in found.findings if doctor.level(one) == "wrong"] == []
    assert any(one.what == "credentials" and one.good for one in found.findings), found.findings
    assert shop.world.audiences() == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("request_number", [1, 2, 3])
def test_a_run_that_dies_is_mended_by_the_next(shop: Shop, moment: str, request_number: int) -> None:
    """Whichever request it dies at: in the end there is one list, with exactly the members."""
    shop.have([ADA, BOB, CY])
    original = Sender._http
    left = request_number

    def dying(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            raise Killed
        reply = original(*args)
        if left == 0:
            raise Killed
        return reply

    with mock.patch.object(Sender, "_http", dying), contextlib.suppress(Killed):
        shop.sync()
    for _ in range(_MENDS * shop.case.syncs):
        last = shop.sync()
    assert last.exit_code == 0, last
    assert shop.held() == shop.want(ADA, BOB, CY)
    assert len(shop.world.audiences()) == 1
    shop.have([ADA, BOB, CY], [BOB, CY])
    for _ in range(2 * shop.case.syncs):
        shop.sync()
    assert shop.held() == shop.want(BOB, CY)


def test_another_name_helps_where_one_was_refused(shop: Shop) -> None:
    """The platform refuses to make the list; the user writes another name, and that one is made, once."""
    shop.have([ADA, CY])
    shop.fault(kind="status", status=400, match={"op": "create"})
    assert shop.sync().status == "failed"
    shop.world.segments["vip"]["destinations"] = [{"to": shop.case.name, "audience_name": "Best buyers"}]
    for _ in range(_MENDS * shop.case.syncs):
        last = shop.sync()
    assert last.exit_code == 0, last
    assert [shop.case.label(one["name"]) for one in shop.world.audiences()] == ["Best buyers"]
    assert shop.held() == shop.want(ADA, CY)
