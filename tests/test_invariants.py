"""The invariants of docs/architecture.md, on both warehouses: at least one test each, named test_<invariant>_<what>.

Membership is asserted per identifier. The expected hashes are made here, with hashlib.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from dbt_segments import pipeline, report, retry
from dbt_segments.deliver import Courier
from dbt_segments.destinations.registry import register, unregister
from dbt_segments.errors import ConfigError, LockedError
from dbt_segments.project import open_project
from dbt_segments.state import locks
from dbt_segments.state.schema import TABLES
from dbt_segments.values import SyncResult
from tests.projects import REPOSITORY, Warehouse
from tests.scripted.destination import Scripted, registered
from tests.scripted.server import serve_scripted
from tests.world import KEY, World, email, make_world, own_id, phone, sandbox, sha

ADA, BOB, CYD, DAN = (f"{name}@example.com" for name in ("ada", "bob", "cyd", "dan"))
LANDLINE, MOBILE = "+1 201 555 0101", "+1 201 555 0102"

Acme = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One segment `vip` to the sandbox's Meta; nothing waits between tries."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with sandbox() as serving:
        yield make_world(tmp_path / "shop", warehouse, serving)


@pytest.fixture
def acme(tmp_path: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Acme]:
    """`acme(shape)`: the same with a scripted destination of that shape behind the connection `acme`."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with registered(), serve_scripted() as serving:

        def make(shape: str, **policy: Any) -> World:
            world = make_world(tmp_path / "shop", warehouse, serving)
            world.connections = {"acme": {"type": shape, "base_url": serving.url}}
            world.segments = {"vip": {"destinations": ["acme"]}}
            platform(world).policy.update(policy)
            return world

        yield make


def platform(world: World) -> Any:
    """The only platform of the world's sandbox."""
    assert world.serving is not None
    return next(iter(world.serving.sandbox.platforms.values()))


def fail(world: World, kind: str, op: str, times: int = 1, **more: Any) -> None:
    """Let the next calls of one kind fail."""
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": kind, "match": {"op": op}, "times": times, **more})


def mend(world: World) -> None:
    """Let no further call fail."""
    assert world.serving is not None
    world.serving.sandbox.faults.clear()


def ops(world: World) -> list[str]:
    """What was asked of the platform that may change an audience, oldest first."""
    return [call["op"] for call in world.calls() if call["op"] not in ("find", "get", "poll", "account")]


def crowd(count: int, first: int = 1) -> list[tuple[Any, ...]]:
    """So many customers, each with an e-mail of their own."""
    return [(n, f"c{n}@example.com") for n in range(first, first + count)]


def emails(rows: list[tuple[Any, ...]]) -> set[KEY]:
    return {email(row[1]) for row in rows}


def lower(keys: set[KEY]) -> set[KEY]:
    """The same keys by the scripted platform's field names."""
    return {(name.lower(), value) for name, value in keys}


def held_for(result: SyncResult, code: str) -> bool:
    """Whether the sync was held for this reason, and the run says so to a scheduler."""
    return result.status == "held" and code in result.reason and result.exit_code == 1


# -- 1: converges ---------------------------------------------------------------------------------------------


def test_1_converges(world: World) -> None:
    """First sync, no-op, change: the destination holds exactly what the segment wants, and a no-op sends nothing."""
    world.customers([(1, "a@example.com", LANDLINE), (2, "b@example.com"), (3, "c@example.com")])
    world.segment([1, 2])
    first = world.sync()
    assert (first.status, first.counts.added) == ("success", 2)
    assert world.held() == {email("a@example.com"), phone("12015550101"), email("b@example.com")}
    again = world.sync()
    assert (again.status, again.requests, again.counts.unchanged) == ("noop", 0, 2)
    world.customers([(1, "A2@example.com", LANDLINE), (2, "b@example.com"), (3, "c@example.com")])
    world.segment([1, 3])
    changed = world.sync()
    assert (changed.counts.added, changed.counts.changed, changed.counts.removed) == (1, 1, 1), changed
    assert world.held() == {email("a2@example.com"), phone("12015550101"), email("c@example.com")}
    assert world.sync().status == "noop"


@pytest.mark.parametrize(
    ("kind", "op"),
    [("reset_before", "add"), ("reset_after", "add"), ("truncated", "remove")],
)
def test_1_converges_after_failures(world: World, kind: str, op: str) -> None:
    """However a sync ended, the next one without faults leaves exactly the segment's members, then nothing to do."""
    world.customers([(1, ADA, LANDLINE), (2, BOB), (3, CYD), (4, DAN)])
    world.segment([1, 2])
    world.sync()
    world.customers([(1, "ada2@example.com", LANDLINE), (2, BOB), (3, CYD), (4, DAN)])
    world.segment([1, 3])
    fail(world, kind, op, times=-1, applied=True)
    assert world.sync().exit_code == 3
    mend(world)
    world.segment([1, 4])
    assert world.sync().status == "success"
    assert world.held() == {email("ada2@example.com"), phone("12015550101"), email(DAN)}
    assert world.sync().status == "noop"


# -- 2: written ahead -----------------------------------------------------------------------------------------


def test_2_what_is_sent_was_written_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a request arrives, a second connection sees that it may have been sent: batch, members, and audience."""
    asked: list[tuple[str, set[KEY], set[KEY]]] = []
    answer = platform(world).answer

    def watch(request: Any) -> Any:
        if request.op in ("create", "add", "remove"):
            said = intended(world) if request.op == "create" else written(world)
            asked.append((request.op, wanted(request), said))
        return answer(request)

    monkeypatch.setattr(platform(world), "answer", watch)
    world.customers([(1, ADA, LANDLINE), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.segment([1])
    world.sync()
    assert [op for op, _, _ in asked] == ["create", "add", "remove"]
    assert [keys for _, keys, _ in asked][1:] == [{email(ADA), phone("12015550101"), email(BOB)}, {email(BOB)}]
    for _, keys, said in asked:
        assert keys
        assert keys <= said


def wanted(request: Any) -> set[KEY]:
    """The match keys of an upload, or the name and mark of a creation."""
    fields = request.fields()
    if request.op == "create":
        return {(fields["name"], fields["description"])}
    payload = json.loads(fields["payload"])
    return {(name, cell) for row in payload["data"] for name, cell in zip(payload["schema"], row, strict=True) if cell}


def intended(world: World) -> set[KEY]:
    return {(name, mark) for name, mark in world.state("audiences", "name, mark", "event = 'intended'")}


def written(world: World) -> set[KEY]:
    """The match keys of every batch that the state calls `sending` and of which it knows no end."""
    found: set[KEY] = set()
    for generation, detail in world.state("pointers", "id, detail", "kind = 'generation'"):
        rows = world.state("sync_batches", "batch, state", f"generation = '{generation}'")
        ended = {batch for batch, state in rows if state != "sending"}
        for batch in {batch for batch, state in rows} - ended:
            tables = json.loads(detail)["tables"]
            schema = f"{world.warehouse.schema}_dbt_segments"
            found |= {
                (kind.upper(), value)
                for kind, value in world.sql(
                    f"select u.kind, u.value from {schema}.{tables['units']} u "
                    f"join {schema}.{tables['pending']} p on p.seq = u.seq where p.batch = {batch}"
                )
            }
    return found


def test_2_an_audience_whose_creation_was_not_answered_is_found_again(world: World) -> None:
    """The answer to the creation is lost: the next run uses the audience that was made, and makes no second one."""
    world.customers([(1, ADA)])
    world.segment([1])
    fail(world, "reset_after", "create")
    assert world.sync().exit_code == 3
    made = [audience["id"] for audience in world.audiences()]
    result = world.sync()
    assert (result.status, [result.audience_id]) == ("success", made)
    assert [audience["id"] for audience in world.audiences()] == made
    assert world.held() == {email(ADA)}


@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
def test_2_a_member_whose_addition_was_not_answered_is_removed(world: World, kind: str) -> None:
    """Who was perhaps delivered, and is not wanted any more, is removed; who is still wanted is sent again."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    fail(world, kind, "add", times=-1)
    assert world.sync().counts.pending == 2
    mend(world)
    world.segment([2])
    result = world.sync()
    assert (result.status, result.counts.removed) == ("success", 1)
    assert world.held() == {email(BOB)}
    assert ops(world)[-2:] == ["remove", "add"]
    assert world.sync().status == "noop"


# -- 3: only acknowledgements advance the state ---------------------------------------------------------------


def test_3_an_accepted_job_is_not_a_finished_one(acme: Acme) -> None:
    """Members count as there only once their job has finished, two runs later; until then nothing is sent twice."""
    world = acme("scripted_async", finish_after_polls=2)
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    first = world.sync()
    assert (first.counts.added, first.counts.pending) == (0, 2)
    second = world.sync()
    assert (second.counts.unchanged, second.counts.pending, members(world)) == (0, 2, 0)
    assert world.held() == set()
    third = world.sync()
    assert (third.counts.unchanged, third.counts.pending, members(world)) == (2, 0, 2)
    assert world.held() == lower({email(ADA), email(BOB)})
    assert ops(world) == ["create", "add"]


def members(world: World) -> int:
    """How many the state calls acknowledged."""
    return pipeline.status(world.request()).syncs[0].members


@pytest.mark.parametrize(
    "policy",
    [{"fail_after_polls": 1}, {"lose_after_polls": 1}, {"lose_after_polls": 1, "lost_applied": True}],
    ids=["failed", "lost", "lost but applied"],
)
def test_3_a_job_that_failed_or_is_unknown_acknowledges_nobody(acme: Acme, policy: dict[str, Any]) -> None:
    """A failed job's members are sent again if still wanted, and removed if not: it may have been applied."""
    world = acme("scripted_async", **policy)
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.segment([2])
    assert not any(note.startswith("confirmed") for note in world.sync().notes)
    assert members(world) == 0
    platform(world).policy.update({"fail_after_polls": None, "lose_after_polls": None})
    for _ in range(3):
        world.sync()
    assert world.held() == lower({email(BOB)})
    assert members(world) == 1
    assert world.sync().status == "noop"


def test_3_a_removal_that_still_runs_is_not_crossed_by_an_addition(acme: Acme) -> None:
    """Who comes back while the removal's job runs waits for its end, and is in afterwards."""
    world = acme("scripted_async")
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.sync()
    platform(world).policy["finish_after_polls"] = 3
    world.segment([2])
    world.sync()
    world.segment([1, 2])
    waiting = world.sync()
    assert waiting.counts.pending == 1
    assert ops(world) == ["create", "add", "remove"]
    for _ in range(6):
        world.sync()
    assert world.held() == lower({email(ADA), email(BOB)})


@pytest.mark.parametrize("shape", ["scripted_async", "scripted_piecewise"])
def test_3_a_job_that_ends_well_makes_up_for_no_refused_removal(acme: Acme, shape: str) -> None:
    """A change's removal is refused, its addition becomes a job: when that has ended, the old e-mail is still owed."""
    world = acme(shape)
    world.customers([(1, ADA, LANDLINE), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.sync()
    world.customers([(1, CYD, LANDLINE), (2, BOB)])
    fail(world, "too_small", "remove")
    for _ in range(5):
        world.sync()
    assert world.held() == lower({email(CYD), phone("12015550101"), email(BOB)})
    assert world.sync().status == "noop"


def test_3_a_job_that_ends_well_makes_up_for_no_refused_addition(acme: Acme) -> None:
    """A member's e-mail is refused, the phone becomes a job: when that has ended, the e-mail is sent again."""
    world = acme("scripted_piecewise")
    world.customers([(1, ADA, LANDLINE)])
    world.segment([1])
    fail(world, "status", "add", status=400)
    for _ in range(4):
        world.sync()
    assert world.held() == lower({email(ADA), phone("12015550101")})
    assert world.sync().status == "noop"


@pytest.mark.parametrize(
    ("before", "running", "after", "asked"),
    [
        pytest.param([1, 2], [2], [2, 3], ["create", "add", "remove"], id="addition"),
        pytest.param([2, 3], [1, 2, 3], [1, 2], ["create", "add", "add"], id="removal"),
    ],
)
def test_3_a_running_job_is_not_crossed_by_who_shares_an_identifier(
    acme: Acme, before: list[int], running: list[int], after: list[int], asked: list[str]
) -> None:
    """Members 1 and 3 share an e-mail: while a job of the one runs, the other is neither added nor removed."""
    world = acme("scripted_async")
    world.customers([(1, ADA), (2, BOB), (3, ADA, LANDLINE)])
    world.segment(before)
    world.sync()
    world.sync()
    platform(world).policy["finish_after_polls"] = 3
    world.segment(running)
    world.sync()
    world.segment(after)
    world.sync()
    assert ops(world) == asked
    for _ in range(9):
        world.sync()
    phones = {phone("12015550101")} if 3 in after else set()
    assert world.held() == lower({email(ADA), email(BOB)} | phones)


def test_3_a_removal_of_who_is_no_longer_usable_is_told_while_its_job_runs(acme: Acme) -> None:
    """The member counts as unusable; that the old e-mail may still be in is `unconfirmed`, and then no more."""
    world = acme("scripted_async")
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.sync()
    platform(world).policy["finish_after_polls"] = 2
    world.customers([(1, None), (2, BOB)])
    told = world.sync()
    assert (told.counts.unusable, told.counts.pending, told.unconfirmed) == (1, 0, 1)
    assert world.held() == lower({email(ADA), email(BOB)})
    for _ in range(4):
        ended = world.sync()
    assert (ended.counts.unusable, ended.counts.pending, ended.unconfirmed) == (1, 0, 0)
    assert world.held() == lower({email(BOB)})


# -- 4: a current member is never lost ------------------------------------------------------------------------


def test_4_a_shared_identifier_stays_with_who_stays(world: World) -> None:
    """Two customers share an e-mail and one leaves: the e-mail stays, and the removed phone takes nobody with it."""
    world.customers([(1, ADA, LANDLINE), (2, ADA, MOBILE), (3, CYD)])
    world.segment([1, 2, 3])
    world.sync()
    world.segment([1, 3])
    result = world.sync()
    assert (result.status, result.counts.removed) == ("success", 1)
    assert world.held() == {email(ADA), phone("12015550101"), email(CYD)}
    assert ops(world)[-2:] == ["remove", "add"]


def test_4_an_identifier_is_compared_as_the_platform_reads_it(world: World) -> None:
    """An e-mail in another case and a phone in another format are the same unit: nothing is removed with a leaver."""
    world.customers([(1, "Ada@Example.COM", "(201) 555-0101", "US"), (2, " ada@example.com", LANDLINE)])
    world.segment([1, 2])
    world.sync()
    world.segment([1])
    result = world.sync()
    assert (result.counts.removed, result.requests) == (1, 0), result
    assert world.held() == {email(ADA), phone("12015550101")}
    assert world.sync().status == "noop"


def test_4_another_spelling_is_no_change(world: World) -> None:
    """An e-mail that changes in case and a phone that changes its format are not sent again."""
    world.customers([(1, ADA, LANDLINE, "US")])
    world.segment([1])
    world.sync()
    world.customers([(1, "ADA@example.com", "201-555-0101", "US")])
    result = world.sync()
    assert (result.status, result.requests, result.counts.unchanged) == ("noop", 0, 1)
    assert world.held() == {email(ADA), phone("12015550101")}


def test_4_removals_come_first_and_their_neighbours_are_asserted_again(world: World) -> None:
    """The platform knows both e-mails as one person: adding one before removing the other would lose the member."""
    codec = platform(world).codec
    platform(world).people.seed("ada", [codec.encode(*email(ADA)), codec.encode(*email("new@example.com"))])
    world.customers([(1, ADA), (2, BOB), (3, "new@example.com")])
    world.segment([1, 2])
    world.sync()
    world.customers([(1, "new@example.com"), (2, BOB), (3, "new@example.com")])
    world.sync()
    assert world.held() == {email("new@example.com"), email(BOB)}
    assert ops(world)[-2:] == ["remove", "add"]


def test_4_neighbours_of_neighbours_are_asserted_again(world: World) -> None:
    """A removal's person is known by shared identifiers over three customers; the two who stay are in afterwards."""
    world.customers([(1, ADA, LANDLINE), (2, BOB, LANDLINE), (3, BOB, MOBILE), (4, DAN)])
    world.segment([1, 2, 3, 4])
    world.sync()
    world.segment([2, 3, 4])
    world.sync()
    assert world.held() == {phone("12015550101"), email(BOB), phone("12015550102"), email(DAN)}


def test_4_single_identifiers_keep_the_order_too(acme: Acme) -> None:
    """Where one identifier travels at a time, the shared one stays and the leaver's own one goes."""
    world = acme("scripted_single")
    world.customers([(1, ADA, LANDLINE), (2, ADA, MOBILE)])
    world.segment([1, 2])
    world.sync()
    world.segment([1])
    world.sync()
    assert world.held() == lower({email(ADA), phone("12015550101")})


class Composite(Scripted):
    """Matches by phone alone, and by e-mail and external id only together."""

    type = "scripted_composite"
    units: ClassVar[Any] = (("phone",), ("email", "external_id"))

    def root(self) -> str:
        return super().root().replace(self.type, Scripted.type)


@pytest.fixture
def composite(acme: Acme) -> Iterator[World]:
    register(Composite)
    yield acme(Composite.type)
    unregister(Composite)


def test_4_a_composite_matches_and_leaves_together(composite: World) -> None:
    """A part of a composite makes nobody usable, and a removal repeats all parts of what was sent."""
    world = composite
    world.identifiers = {"email": "email", "phone": "phone", "external_id": "customer_id"}
    world.customers([(1, ADA, LANDLINE), (2, BOB), (3, None), (4, CYD)])
    world.segment([1, 2, 3, 4])
    assert world.sync().counts.unusable == 1
    world.customers([(1, ADA, LANDLINE), (4, CYD)])
    world.segment([1, 4])
    removed: list[Any] = []
    answer = platform(world).answer

    def watch(request: Any) -> Any:
        if request.op == "remove":
            removed.extend(request.fields()["rows"])
        return answer(request)

    platform(world).answer = watch
    world.sync()
    assert removed == [{"email": sha(BOB), "external_id": "2"}]
    ours = {email(ADA), phone("12015550101"), email(CYD)}
    assert world.held() == lower(ours) | {("external_id", "1"), ("external_id", "4")}


def test_4_an_id_that_the_platform_forgets_is_no_removal_of_its_own(world: World) -> None:
    """A member with an e-mail and an external id is removed by both together, never by the id alone."""
    world.identifiers = {"email": "email", "external_id": "customer_id"}
    world.customers([(1, ADA), (2, BOB), (3, None)])
    world.segment([1, 2, 3])
    first = world.sync()
    assert (first.counts.added, first.counts.unusable) == (2, 1)
    assert world.held() == {email(ADA), own_id("1"), email(BOB), own_id("2")}
    assert world.serving is not None
    world.serving.sandbox.clock.advance(100 * 86_400)
    world.segment([2, 3])
    world.sync()
    assert world.held() == {email(BOB), own_id("2")}


# -- 5: removals repeat what was sent -------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["changed", "deleted", "nulled"])
def test_5_a_leaver_is_removed_under_what_was_sent(world: World, fate: str) -> None:
    """Who leaves after the warehouse changed, deleted or emptied the row is removed under the identifiers of then."""
    world.customers([(1, ADA, LANDLINE), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    rows: dict[str, list[tuple[Any, ...]]] = {"changed": [(1, "new@example.com", MOBILE)], "nulled": [(1, None)]}
    world.customers([*rows.get(fate, []), (2, BOB)])
    world.segment([2])
    result = world.sync()
    assert (result.status, result.counts.removed) == ("success", 1)
    assert world.held() == {email(BOB)}


def test_5_an_identifier_that_is_no_longer_sent_is_removed(world: World) -> None:
    """With a shorter list of identifiers the phones that were sent leave, those of leavers too."""
    world.customers([(1, ADA, LANDLINE), (2, BOB, MOBILE)])
    world.segment([1, 2])
    world.sync()
    assert world.held() == {email(ADA), email(BOB), phone("12015550101"), phone("12015550102")}
    world.segments = {"vip": {"destinations": [{"to": "meta", "identifiers": ["email"]}]}}
    world.segment([1])
    assert world.sync().status == "success"
    assert world.held() == {email(ADA)}
    assert world.sync().status == "noop"


def test_5_what_was_sent_stays_on_record_until_its_removal_is_confirmed(world: World) -> None:
    """An e-mail changes while removals fail, then changes again: both earlier ones are gone in the end."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.customers([(1, "ada2@example.com"), (2, BOB)])
    fail(world, "reset_before", "remove", times=-1)
    assert world.sync().counts.changed == 0
    mend(world)
    world.customers([(1, "ada3@example.com"), (2, BOB)])
    world.sync()
    assert world.held() == {email("ada3@example.com"), email(BOB)}


# -- 6: only our own ------------------------------------------------------------------------------------------


def test_6_members_of_others_are_left_alone(world: World) -> None:
    """Whom somebody else put into the audience stays, through changes, a full resync and our last member's leave."""
    world.customers([(1, ADA), (2, BOB), (3, CYD)])
    world.segment([1, 2])
    audience = world.sync().audience_id
    rows = {"rows": [[email("zoe@example.com")]]}
    httpx.post(f"{world.url}/_sandbox/audiences/{audience}/foreign", json=rows).raise_for_status()
    world.segment([3])
    world.sync()
    world.sync(full=True)
    assert world.held() == {email("zoe@example.com"), email(CYD)}


def test_6_two_syncs_on_one_audience_are_refused(world: World) -> None:
    """`validate` refuses two syncs that name one audience, and nothing is sent for either."""
    item = {"to": "meta", "audience_id": "120210000000000001"}
    world.segments = {"vip": {"destinations": [item]}, "new": {"destinations": [item]}}
    world.customers([(1, ADA)])
    world.segment([1])
    world.segment([1], "new")
    _, problems = pipeline.validate(world.request())
    assert ["an audience has one sync" in problem.message for problem in problems] == [True]
    with pytest.raises(ConfigError):
        world.run()
    assert world.calls() == []


def test_6_a_second_sync_is_refused_at_run_time(world: World) -> None:
    """A sync that names the audience that another one made is held, and the audience keeps its members."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    world.segment([2], "new")
    audience = world.sync().audience_id
    world.segments = {"new": {"destinations": [{"to": "meta", "audience_id": audience}]}}
    assert held_for(world.sync(), "audience_taken")
    assert world.held() == {email(ADA)}


def test_6_an_audience_of_the_same_name_is_not_taken(world: World) -> None:
    """Somebody's audience of that name holds the sync; it keeps its members, and no second one is made."""
    form = {"name": "vip", "subtype": "CUSTOM", "customer_file_source": "USER_PROVIDED_ONLY"}
    headers = {"Authorization": "Bearer sandbox-token"}
    url = f"{world.url}/meta/v26.0/act_1002003004005/customaudiences"
    made = httpx.post(url, data=form, headers=headers).raise_for_status().json()["id"]
    rows = {"rows": [[email("zoe@example.com")]]}
    httpx.post(f"{world.url}/_sandbox/audiences/{made}/foreign", json=rows).raise_for_status()
    world.customers([(1, ADA)])
    world.segment([1])
    assert held_for(world.sync(), "name_taken")
    assert world.held() == {email("zoe@example.com")}


# -- 7: one bad row costs one row -----------------------------------------------------------------------------


def test_7_rows_that_are_no_members_cost_themselves_only(world: World) -> None:
    """A null key, an unknown key and conflicting rows are rejected and told of; identical rows are one member."""
    world.customers([(1, ADA), (2, BOB), (3, CYD)])
    schema = world.warehouse.schema
    world.sql(
        f"create table {schema}.vip as select * from (values (1, 'x@example.com'), (2, 'b2@example.com'), "
        f"(2, 'b2@example.com'), (3, 'c2@example.com'), (3, 'c3@example.com'), (null, 'n@example.com'), "
        f"(9, 'u@example.com')) v (customer_id, email)"
    )
    result = world.sync()
    assert (result.counts.members, result.counts.added, result.counts.rejected) == (2, 2, 3)
    assert any("1 conflicting, 1 null_key, 1 unknown_key" in note for note in result.notes), result.notes
    assert world.held() == {email("x@example.com"), email("b2@example.com")}
    logged = ("model.shop.vip", "3", "conflicting", "data"), ("model.shop.vip", "9", "unknown_key", "data")
    assert sorted(world.state("rejects", "sync_id, key, reason, class")) == list(logged)
    assert world.sync().counts.rejected == 3
    assert len(world.state("rejects")) == 2, "the same rejects are logged once"


def test_7_a_member_without_a_usable_identifier_costs_nobody_else(world: World) -> None:
    """A malformed e-mail makes one member unusable, with the reason on record; the others go."""
    world.customers([(1, ADA), (2, "not an address"), (3, CYD)])
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.status, result.counts.added, result.counts.unusable) == ("success", 2, 1)
    assert world.held() == {email(ADA), email(CYD)}
    assert world.state("rejects", "key, reason, class") == [("2", "email_invalid", "data")]


def test_7_who_becomes_unusable_and_leaves_is_told(world: World) -> None:
    """By a narrower list of identifiers, or by their data; not who is still there by somebody else's."""
    world.customers([(1, ADA), (2, BOB, MOBILE), (3, None, LANDLINE), (4, CYD), (5, ADA)])
    world.segment([1, 2, 3, 4, 5])
    world.sync()
    world.identifiers = {"email": "email"}
    world.customers([(1, ADA), (2, BOB, MOBILE), (3, None, LANDLINE), (4, None), (5, None)])
    said = "2 members leave the audience: nothing is left to match them on; counted as unusable"
    plan, result = world.plan().run.syncs[0], world.sync()
    for one in (plan, result):
        assert (one.status, one.counts.unusable, one.counts.removed) == ("success", 3, 0)
        assert [note for note in one.notes if "leave the audience" in note] == [said]
    assert world.held() == {email(ADA), email(BOB)}
    world.customers([(1, ADA), (2, None), (3, None), (4, None), (5, None)])
    plan, result = world.plan().run.syncs[0], world.sync()
    assert [one.status for one in (plan, result)] == ["success", "success"]
    said = "1 member leaves the audience: nothing is left to match it on; counted as unusable"
    assert said in plan.notes and said in result.notes
    assert world.held() == {email(ADA)}
    again = world.sync()
    assert again.status == "noop"
    assert not any("audience" in note for note in again.notes)


def test_7_a_row_that_the_destination_refuses_costs_itself(acme: Acme) -> None:
    """The refused row is kept with its key and reason, is not sent again until it changes, and the others are in."""
    world = acme("scripted", refuse={sha(BOB): "bad_address"})
    world.customers([(1, ADA), (2, BOB), (3, CYD)])
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.counts.added, result.counts.rejected, result.status) == (2, 1, "partial")
    assert world.state("rejects", "key, reason, class") == [("2", "bad_address", "data")]
    assert world.held() == lower({email(ADA), email(CYD)})
    again = world.sync()
    assert (again.requests, again.counts.rejected, again.counts.unchanged) == (0, 1, 2)
    world.customers([(1, ADA), (2, "bob2@example.com"), (3, CYD)])
    mended = world.sync()
    assert (mended.counts.added, mended.counts.rejected) == (1, 0)
    assert world.held() == lower({email(ADA), email("bob2@example.com"), email(CYD)})


def test_7_a_refused_change_keeps_the_old_values_on_record(acme: Acme) -> None:
    """A member's added phone is refused: the e-mail stays in, and is what a later removal takes out."""
    world = acme("scripted", refuse={sha("12015550101"): "bad_phone"})
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.customers([(1, ADA, LANDLINE), (2, BOB)])
    assert world.sync().counts.rejected == 1
    assert world.held() == lower({email(ADA), email(BOB)})
    world.customers([(1, None, LANDLINE), (2, BOB)])
    world.segment([2])
    assert world.sync().counts.removed == 1
    assert world.held() == lower({email(BOB)})


def test_7_a_removal_that_is_refused_stays_owed(world: World) -> None:
    """An audience that would become too small keeps the leaver; every run asks again, until it is allowed."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    platform(world).policy["minimum_members"] = 2
    world.segment([1])
    for _ in range(2):
        refused = world.sync()
        assert (refused.counts.removed, refused.status, refused.exit_code) == (0, "failed", 1)
        assert (refused.counts.pending, any("the removal stays owed" in note for note in refused.notes)) == (1, True)
        assert world.held() == {email(ADA), email(BOB)}
    platform(world).policy["minimum_members"] = 0
    world.sync()
    assert world.held() == {email(ADA)}
    assert world.sync().status == "noop"


def test_7_refusals_that_name_no_row_are_counted(world: World) -> None:
    """A platform that counts an invalid row without naming it: the batch says how many, and the run needs reading."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    fail(world, "partial", "add", rows=1)
    result = world.sync()
    assert (result.status, result.exit_code) == ("partial", 1)
    assert world.state("sync_batches", "members, unattributed", "state = 'accepted'") == [(2, 1)]
    assert any("refused without being named: 1 member" in note for note in result.notes)


# -- 8: one writer per audience -------------------------------------------------------------------------------


def test_8_a_second_run_stops_while_the_first_one_sends(world: World) -> None:
    """While a request of the first run is in flight, a second run sends nothing; afterwards there is nothing to do."""
    assert world.serving is not None
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    fail(world, "slow", "add", seconds=300)
    world.write()
    with subprocess.Popen(cli(world, "sync"), stdout=subprocess.DEVNULL, cwd=REPOSITORY) as first:
        try:
            while "add" not in ops(world):
                assert first.poll() is None
                time.sleep(0.02)
            said = len(world.calls())
            assert second_run(world) == (3, said)
        finally:
            world.serving.sandbox.closing = True  # ends the wait
            assert first.wait(timeout=60) == 0
            world.serving.sandbox.closing = False
    assert world.sync().status == "noop"
    assert world.held() == {email(ADA), email(BOB)}


on_postgres = pytest.mark.parametrize(
    "warehouse", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@on_postgres
def test_8_a_lease_has_one_owner(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes a lease that has not ended; whose has ended and was taken, may start and write nothing any more."""
    monkeypatch.setattr(locks, "LEASE_S", 10.0)
    monkeypatch.setattr(locks, "MARGIN_S", 0.5)
    world.customers([(1, ADA)])
    world.segment([1])
    world.sync()
    with open_project(world.request().options, 20.0, print) as project:

        def hold(timeout_s: float) -> AbstractContextManager[locks.Lock]:
            return locks.hold(project.state, project.store, "x", timeout_s=timeout_s, longest_request_s=0.1, tell=print)

        with hold(0.0) as owner:
            with pytest.raises(LockedError), hold(0.0):
                pass
            end_leases(world)
            with hold(0.0) as taker, project.state.session() as session:
                assert (taker.token, taker.overtaken) == (owner.token + 1, True)
                with pytest.raises(LockedError):
                    owner.fence(session)
                assert (owner.may_start(0.1), taker.may_start(0.1)) == (False, True)


@on_postgres
def test_8_what_an_overtaken_run_commits_late_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run falls asleep while it commits what it is about to send; that commit lands after another run has ended."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    world.sync()
    world.segment([1])
    with monkeypatch.context() as asleep:
        asleep.setattr(locks, "_release", lambda *args: None)
        asleep.setattr(Courier, "deliver", lambda *args: pytest.fail("asleep"))
        with pytest.raises(pytest.fail.Exception):
            world.sync()
    end_leases(world)
    late = world.state("pointers", "*", "kind = 'generation' order by token desc limit 1")
    pointers = f"{world.warehouse.schema}_dbt_segments.pointers"
    world.sql(f"create table late as select * from {pointers} where id = '{late[0][0]}'")
    world.sql(f"delete from {pointers} where id = '{late[0][0]}'")
    world.segment([1, 2])
    assert world.sync().status == "noop"
    world.sql(f"insert into {pointers} select * from late")
    ledger = world.state("pointers", "count(*)", "kind = 'ledger'")
    assert (world.sync().status, world.state("pointers", "count(*)", "kind = 'ledger'")) == ("noop", ledger)


def end_leases(world: World) -> None:
    """What time does to the lease of a run that sleeps."""
    leases = f"{world.warehouse.schema}_dbt_segments.leases"
    world.sql(f"update {leases} set expires_at = expires_at - interval '400 days'")


def second_run(world: World) -> tuple[int, int]:
    """Exit code of a run that does not wait, and how many calls the platform has seen then."""
    try:
        code = world.sync(lock_timeout_s=0.0).exit_code
    except LockedError as error:
        code = error.exit_code
    return code, len(world.calls())


def cli(world: World, command: str, *options: str) -> list[str]:
    """The command line of this project, in a process of its own."""
    folder = str(world.project.path)
    where = ["--project-dir", folder, "--profiles-dir", folder]
    return [sys.executable, "-m", "dbt_segments", command, *(["--now"] if command == "sync" else []), *where, *options]


# -- 9: no mass loss by mistake -------------------------------------------------------------------------------


@pytest.fixture
def many(world: World) -> World:
    """120 members who are in the audience."""
    world.customers(crowd(120))
    world.segment(range(1, 121))
    assert world.sync().counts.added == 120
    return world


def shrink(world: World) -> None:
    world.segment(range(1, 61))


def nobody(world: World) -> None:
    world.segment([])


def retype_keys(world: World) -> None:
    """The keys become texts of another form; the people are the same."""
    world.customers([(f"C-{row[0]}", *row[1:]) for row in crowd(120)], key="varchar(20)")
    world.segment([f"C-{n}" for n in range(1, 121)], key="varchar(20)")


def null_emails(world: World) -> None:
    world.customers([(row[0], None) for row in crowd(120)])


def other_emails(world: World) -> None:
    world.customers([(row[0], f"new-{row[1]}") for row in crowd(120)])


def null_consent(world: World) -> None:
    world.consent = {"ads": "ads_consent"}


def fewer_customers(world: World) -> None:
    world.customers(crowd(40))


@pytest.mark.parametrize(
    ("mistake", "code", "cause"),
    [
        (shrink, "too_many_removals", "shrunk"),
        (nobody, "segment_empty", "no members"),
        (retype_keys, "too_many_removals", "re-typed"),
        (null_emails, "too_many_removals", "null or unusable"),
        (other_emails, "too_many_changes", "would change"),
        (null_consent, "too_many_removals", "consent has become null"),
        (fewer_customers, "too_many_removals", "shrunk"),
    ],
    ids=["shrunk", "empty", "keys", "e-mails null", "e-mails new", "consent null", "entity shrunk"],
)
def test_9_a_mistake_upstream_empties_no_audience(
    many: World, mistake: Callable[[World], None], code: str, cause: str
) -> None:
    """Each way to lose most members at once holds the sync, says the likely cause, and leaves the audience alone."""
    mistake(many)
    result = many.sync()
    assert held_for(result, code), result
    assert cause in result.reason
    assert many.held() == emails(crowd(120))
    assert held_for(many.sync(), code)


@pytest.mark.parametrize("release", ["vip", "shop.vip.meta"])
def test_9_a_release_is_for_one_sync_and_one_run(many: World, release: str) -> None:
    """`allow_removals` lets this sync's members leave, by segment or sync id; another sync stays held."""
    many.segments["big"] = {"destinations": ["meta"]}
    many.segment(range(1, 121), "big")
    many.run()
    many.segment(range(1, 61))
    many.segment(range(1, 61), "big")
    run = many.run(allow_removals=(release,))
    assert {sync.segment: sync.status for sync in run.syncs} == {"vip": "success", "big": "held"}
    assert many.held("vip") == emails(crowd(60))
    assert many.held("big") == emails(crowd(120))
    many.segment(range(1, 3))
    many.customers(crowd(40))
    assert many.run().syncs[0].status == "held"


def test_9_a_small_change_needs_no_release(many: World) -> None:
    """Up to 50 members may leave without a word, and 30 % of a large audience."""
    many.segment(range(1, 72))
    assert many.sync().counts.removed == 49
    assert many.held() == emails(crowd(71))


@pytest.mark.parametrize(
    ("which", "results", "more", "code"),
    [
        ("run", {"model.shop.vip": "error"}, {}, "build_failed"),
        ("build", {"model.shop.customers": "error", "model.shop.vip": "success"}, {}, "build_failed"),
        ("test", {"test.shop.unique": "fail"}, {}, "test_failed"),
        ("build", {"model.shop.vip": "success"}, {"empty": True}, "built_empty"),
        ("run", {"model.shop.vip": "success"}, {"sample": "3 days"}, "built_sample"),
    ],
    ids=["segment failed", "entity failed", "test failed", "empty", "sample"],
)
def test_9_what_dbt_did_not_build_whole_is_not_sent(
    world: World, which: str, results: dict[str, str], more: dict[str, Any], code: str
) -> None:
    """A failed, skipped or partial build, a failed test, --empty and --sample hold until dbt has built it again."""
    world.data_tests = {"unique": "customers"}
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    world.sync()
    world.segment([2])
    dbt_ran(world, which, results, more)
    assert held_for(world.sync(), code)
    assert world.held() == {email(ADA)}
    good = {node: "pass" if node.startswith("test.") else "success" for node in results}
    dbt_ran(world, which, good, {})
    assert world.sync().status == "success"
    assert world.held() == {email(BOB)}


def dbt_ran(world: World, which: str, results: dict[str, str], more: dict[str, Any]) -> None:
    """target/run_results.json of a dbt command that ended just now."""
    content = {
        "metadata": {"generated_at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}Z", "invocation_id": "i"},
        "args": {"which": which, **more},
        "results": [{"unique_id": node, "status": status} for node, status in results.items()],
    }
    world.project.write("target/run_results.json", json.dumps(content))


def test_9_the_macros_record_holds_after_another_dbt_command(world: World) -> None:
    """`run; docs generate; sync`: the file no longer knows of the failed model, the table `model_builds` does."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    world.sync()
    world.segment([2])
    world.sql(
        f"create table {world.warehouse.schema}_dbt_segments.model_builds as select 'i' as invocation_id, "
        f"'model.shop.vip' as unique_id, 'model' as resource_type, 'run' as command, 'error' as status, "
        f"false as is_empty, false as is_sample, cast('2026-01-01 00:00:00' as timestamp) as built_at, 1 as protocol"
    )
    dbt_ran(world, "generate", {"model.shop.vip": "success"}, {})
    assert held_for(world.sync(), "build_failed")
    assert world.held() == {email(ADA)}


def test_9_only_an_allowed_target_sends(world: World) -> None:
    """Another dbt target plans, says what it would send, and sends nothing."""
    world.variables = {"targets": ["prod"]}
    world.customers([(1, ADA)])
    world.segment([1])
    result = world.sync()
    assert (result.status, result.reason.split(":")[0], result.counts.added) == ("skipped", "target_not_allowed", 1)
    assert world.calls() == []


# -- 10: private ----------------------------------------------------------------------------------------------

RAW = (ADA, BOB, "not an address", LANDLINE, "2015550101", "201555010", "sandbox-token")


def test_10_no_identifier_and_no_secret_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither output, results file, other files, log tables nor URLs hold a raw identifier or the token.

    The platform does its worst: it quotes the identifier in its errors, and breaks connections.
    """
    urls: list[str] = []
    classify = platform(world).classify

    def watch(request: Any) -> Any:
        urls.append(f"{request.path}?{request.query}")
        return classify(request)

    monkeypatch.setattr(platform(world), "classify", watch)
    world.customers([(1, ADA, LANDLINE), (2, BOB), (3, "not an address")])
    world.segment([1, 2, 3])
    said = [run_cli(world, "plan", "--show-requests", "5")]
    fail(world, "status", "add", status=400, code=100, message=f"bad value {ADA} of sandbox-token", times=2)
    said += [run_cli(world, "sync")]
    fail(world, "status", "remove", status=403, code=190, message=f"{BOB} sandbox-token")
    world.segment([3])
    said += [run_cli(world, "sync", "--output", "json")]
    said += [path.read_text() for path in world.project.path.rglob("*") if is_report(path)]
    said += [str(world.state(table)) for table in TABLES]
    said += urls
    found = {raw for raw in RAW for text in said if raw.lower() in text.lower()}
    assert found == set()
    assert world.serving is not None
    assert world.serving.state()["violations"] == {"meta": []}
    assert len(urls) >= 6


def run_cli(world: World, command: str, *options: str) -> str:
    """What a command prints, on both streams."""
    world.write()
    done = subprocess.run(cli(world, command, *options), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout
    return done.stdout + done.stderr


def is_report(path: Path) -> bool:
    """Any file that is neither the warehouse itself nor what the user wrote."""
    return path.is_file() and ".duckdb" not in path.name and path.suffix != ".yml"


def test_10_an_error_of_the_warehouse_quotes_no_value(world: World) -> None:
    """A model that fails on a member's e-mail ends the sync, which names the models; nothing quotes the e-mail."""
    world.customers([(1, ADA), (2, BOB)])
    schema = world.warehouse.schema
    world.sql(
        f"create view {schema}.vip as select customer_id, cast(email as integer) as phone from {schema}.customers"
    )
    result = world.sync()
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.reason.startswith("StatementError: vip, customers: segment vip cannot be read: "), result
    said = str(result) + (world.project.target_dir / "dbt_segments_results.json").read_text()
    assert "example.com" not in said


def test_10_a_hash_is_not_hashed_again(world: World) -> None:
    """A column that holds hashes already, in either case, is sent as it is."""
    world.customers([(1, sha(ADA)), (2, sha(BOB).upper()), (3, CYD)])
    world.segment([1, 2, 3])
    world.sync()
    assert world.held() == {email(ADA), email(BOB), email(CYD)}


# -- 11: nothing silent ---------------------------------------------------------------------------------------


def test_11_every_member_is_accounted_for(acme: Acme) -> None:
    """Each member is in exactly one count, and result, results file and `sync_runs` tell the same."""
    world = acme("scripted", refuse={sha("c4@example.com"): "bad_address"})
    world.consent = {"ads": "ads_consent"}
    rows: list[tuple[Any, ...]] = [(n, mail, None, None, True) for n, mail in crowd(6)]
    world.customers([*rows, (7, "broken", None, None, True), (8, DAN, None, None, False)])
    world.segment([1, 2, 3])
    world.sync()
    rows[0] = (1, "other@example.com", None, None, True)
    world.customers([*rows, (7, "broken", None, None, True), (8, DAN, None, None, False)])
    world.segment([1, 2, 4, 5, 6, 7, 8, 99])
    result = world.sync()
    counts = result.counts
    assert vars(counts) == {
        "members": 7,
        "added": 2,
        "changed": 1,
        "removed": 1,
        "unchanged": 1,
        "rejected": 2,
        "unusable": 1,
        "refused": 1,
        "pending": 0,
    }
    assert world.held() == lower({email(f"c{n}@example.com") for n in (2, 5, 6)} | {email("other@example.com")})
    assert (result.status, result.exit_code) == ("partial", 1)
    file = json.loads((world.project.target_dir / "dbt_segments_results.json").read_text())
    assert {name: file["syncs"][0][name] for name in vars(counts)} == vars(counts)
    names = ", ".join(vars(counts))
    logged = world.state("sync_runs", f"{names}, status, exit_code, requests", f"run_id = '{file['run_id']}'")
    assert logged == [(*vars(counts).values(), "partial", 1, result.requests)]


@pytest.mark.parametrize(
    ("kind", "more", "code"),
    [
        ("expired_token", {}, 1),
        ("status", {"status": 500}, 3),
        ("throttle", {"minutes": 60}, 3),
        ("gone", {}, 1),
    ],
    ids=["credentials", "server", "throttled", "gone"],
)
def test_11_a_failure_is_told(world: World, kind: str, more: dict[str, Any], code: int) -> None:
    """Members who could not be sent are pending, the exit code says whether it may pass, and all accounts agree."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1, 2])
    fail(world, kind, "add", times=-1, **more)
    run = world.run()
    result = run.syncs[0]
    assert (result.status, result.counts.added, result.counts.pending) == ("failed", 0, 2)
    assert report.exit_code(run) == code
    assert result.reason
    assert world.state("sync_runs", "status, exit_code, pending, added") == [("failed", code, 2, 0)]
    batches = world.state("sync_batches", "state", "state <> 'sending'")
    assert [state for (state,) in batches] in (["unknown"], ["rejected"])
    assert world.held() == set()


def test_11_a_plan_and_its_sync_tell_the_same(world: World) -> None:
    """A leaver whose identifiers another member has needs no request; plan and sync both call it a success."""
    world.customers([(1, ADA), (2, ADA)])
    world.segment([1, 2])
    world.sync()
    world.segment([1])
    planned, done = world.plan().run.syncs[0], world.sync()
    assert planned.counts == done.counts
    assert (planned.status, done.status, done.counts.removed, done.requests) == ("success", "success", 1, 0)
    assert world.held() == {email(ADA)}


def test_11_one_failing_sync_hides_no_other(world: World) -> None:
    """A segment that cannot be read fails alone; the other is sent, and the run's exit code tells of the failure."""
    world.segments = {"broken": {"destinations": ["meta"]}, "vip": {"destinations": ["meta"]}}
    world.customers([(1, ADA)])
    world.segment([1])
    run = world.run()
    assert {sync.segment: sync.status for sync in run.syncs} == {"broken": "held", "vip": "success"}
    assert report.exit_code(run) == 1
    assert world.held("vip") == {email(ADA)}


# -- 12: the audience is found again, and is the right one ----------------------------------------------------


def test_12_an_audience_is_found_by_its_mark(world: World) -> None:
    """The state lost the row of the creation: the audience is found by its mark, renamed or not, and used on."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    audience = world.sync().audience_id
    world.sql(f"delete from {world.warehouse.schema}_dbt_segments.audiences where event = 'created'")
    platform(world).audiences[audience].name = "renamed by a person"
    world.segment([2])
    result = world.sync()
    assert (result.status, result.audience_id) == ("success", audience)
    assert world.held() == {email(BOB)}


def test_12_another_account_holds(world: World) -> None:
    """The connection names another account: nothing is made or sent there, and the audience keeps its members."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    world.sync()
    world.connections = {"meta": world.meta(ad_account_id="999")}
    world.segment([2])
    assert held_for(world.sync(), "account_changed")
    assert [audience["account"] for audience in world.audiences()] == ["1002003004005"]
    assert world.held() == {email(ADA)}


def test_12_the_mark_of_another_state_holds(world: World) -> None:
    """The audience now carries another project's mark: the sync is held and the audience keeps its members."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    audience = world.sync().audience_id
    platform(world).audiences[audience].description = "dbt-segments:0123456789abcdef:other.vip.meta:00000000"
    world.segment([2])
    assert held_for(world.sync(), "foreign_mark")
    assert world.held() == {email(ADA)}


def test_12_a_lost_state_takes_no_audience_over(world: World) -> None:
    """The state schema is gone while an audience carries its mark: the sync is held, no second audience is made."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    world.sync()
    world.sql(f"drop schema {world.warehouse.schema}_dbt_segments cascade")
    world.segment([2])
    assert held_for(world.sync(), "foreign_mark")
    assert world.held() == {email(ADA)}


def test_12_a_new_label_keeps_the_audience_and_its_name(world: World) -> None:
    """The label names the audience once; changing it later sends nothing and makes no second audience."""
    world.segments = {"vip": {"label": "Our best", "destinations": ["meta"]}}
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    audience = world.sync().audience_id
    world.segments = {"vip": {"label": "Our very best", "destinations": ["meta"]}}
    assert world.sync().requests == 0
    world.segment([1, 2])
    assert world.sync().audience_id == audience
    assert [found["name"] for found in world.audiences()] == ["Our best"]
    assert world.held("Our best") == {email(ADA), email(BOB)}


def test_12_a_renamed_model_keeps_its_audience(world: World) -> None:
    """With `renamed_from` nothing is sent and nothing is made; later changes go to the same audience."""
    world.customers([(1, ADA), (2, BOB), (3, CYD)])
    world.segment([1, 2])
    audience = world.sync().audience_id
    world.segments = {"gold": {"renamed_from": ["vip"], "destinations": ["meta"]}}
    world.segment([1, 2], "gold")
    renamed = world.sync()
    assert (renamed.status, renamed.requests, renamed.counts.unchanged) == ("noop", 0, 2)
    world.segment([2, 3], "gold")
    assert world.sync().audience_id == audience
    assert world.held() == {email(BOB), email(CYD)}


def test_12_a_vanished_audience_fails_and_is_not_made_again(world: World) -> None:
    """Somebody deleted the audience: the sync fails with what to do next, every time, and makes no other one."""
    world.customers([(1, ADA), (2, BOB)])
    world.segment([1])
    audience = world.sync().audience_id
    httpx.delete(f"{world.url}/_sandbox/audiences/{audience}").raise_for_status()
    world.segment([1, 2])
    for _ in range(2):
        result = world.sync()
        assert (result.status, result.exit_code, result.counts.added) == ("failed", 1, 0)
        assert any("set `gone: recreate`" in note for note in result.notes)
    assert world.audiences() == []
    assert ops(world).count("create") == 1


# -- 13: a refusal wins ---------------------------------------------------------------------------------------


def test_13_a_refused_identifier_is_sent_for_nobody(world: World) -> None:
    """One of two who share an e-mail refuses: it leaves for both; the other is still there by a phone of their own."""
    world.consent = {"ads": "ads_consent"}
    world.customers([(1, ADA, LANDLINE, None, True), (2, ADA, MOBILE, None, True), (3, CYD, None, None, True)])
    world.segment([1, 2, 3])
    world.sync()
    world.customers([(1, ADA, LANDLINE, None, True), (2, ADA, MOBILE, None, False), (3, CYD, None, None, True)])
    result = world.sync()
    assert result.counts.refused == 1
    assert world.held() == {phone("12015550101"), email(CYD)}
    assert world.sync().status == "noop"


def test_13_a_refusal_takes_out_every_identifier_ever_sent(world: World) -> None:
    """Who opted out, changed the e-mail and was deleted is removed under the old one; a sharer of it loses it too."""
    world.suppress = ["opt_outs"]
    world.opt_outs([4])
    world.customers([(1, ADA), (2, ADA, MOBILE), (3, CYD), (4, DAN)])
    world.segment([1, 2, 3])
    world.sync()
    world.customers([(2, ADA, MOBILE), (3, CYD), (4, DAN)])
    world.opt_outs([1, 4])
    world.sync()
    assert world.held() == {phone("12015550102"), email(CYD)}
    world.segments = {"vip_2": {"renamed_from": ["vip"], "destinations": ["meta"]}}
    world.segment([2, 3], name="vip_2")
    for _ in range(2):
        assert world.sync().status == "noop"
        assert world.held() == {phone("12015550102"), email(CYD)}


def test_13_what_was_sent_for_a_refused_member_comes_back_when_the_refusal_ends(world: World) -> None:
    """Somebody takes over the e-mail of a member who refuses at the same time: it is sent again after the refusal."""
    world.consent = {"ads": "ads_consent"}
    world.customers([(1, ADA, None, None, True), (2, None, MOBILE, None, True), (3, CYD, None, None, True)])
    world.segment([1, 2, 3])
    world.sync()
    for _ in range(2):
        world.customers([(1, BOB, None, None, False), (2, ADA, MOBILE, None, True), (3, CYD, None, None, True)])
        world.sync()
        assert world.held() == {phone("12015550102"), email(CYD)}
    assert world.sync().status == "noop"
    world.customers([(1, BOB, None, None, None), (2, ADA, MOBILE, None, True), (3, CYD, None, None, True)])
    world.sync()
    assert world.held() == {email(ADA), phone("12015550102"), email(CYD)}
    assert world.sync().status == "noop"


def test_13_refusals_go_out_while_a_threshold_holds(many: World) -> None:
    """Half of the segment vanishes and five people opt out: those five leave at once, everybody else stays."""
    many.suppress = ["opt_outs"]
    many.opt_outs(range(1, 6))
    many.segment(range(1, 61))
    plan, result = many.plan().run.syncs[0], many.sync()
    for one in (plan, result):
        assert held_for(one, "too_many_removals")
    assert (plan.counts.removed, plan.notes[-1]) == (65, "5 members who refuse are removed although it is held")
    assert result.counts.removed == 5
    assert result.notes[-1] == "5 members who refuse were removed although the sync is held"
    assert many.held() == emails(crowd(115, 6))
    for one in (many.plan().run.syncs[0], many.sync()):
        assert held_for(one, "too_many_removals")
        assert not any("who refuse" in note for note in one.notes)


def test_13_refusals_go_out_while_a_failed_build_holds(many: World) -> None:
    """The segment's model failed and two thirds opt out: they leave at once, everybody else stays."""
    many.consent = {"ads": "ads_consent"}
    many.customers([(n, mail, None, None, n > 80) for n, mail in crowd(120)])
    many.segment(range(1, 3))
    dbt_ran(many, "run", {"model.shop.vip": "error"}, {})
    assert "80 members who refuse are removed although it is held" in many.plan().run.syncs[0].notes
    assert held_for(many.sync(), "build_failed")
    assert many.held() == emails(crowd(40, 81))


def test_13_refusals_do_not_count_as_losses(many: World) -> None:
    """Two thirds opt out at once: they leave without a release."""
    many.suppress = ["opt_outs"]
    many.opt_outs(range(1, 81))
    assert many.sync().status == "success"
    assert many.held() == emails(crowd(40, 81))


def test_13_consent_that_is_unknown_is_no_consent(world: World) -> None:
    """Null is not sent; false leaves; who consents again is sent again."""
    world.consent = {"ads": "ads_consent"}
    said: list[Any] = [True, None, False]
    world.customers([(n, f"c{n}@example.com", None, None, value) for n, value in enumerate(said, 1)])
    world.segment([1, 2, 3])
    first = world.sync()
    assert (first.counts.added, first.counts.refused) == (1, 2)
    assert world.held() == {email("c1@example.com")}
    said = [False, True, None]
    world.customers([(n, f"c{n}@example.com", None, None, value) for n, value in enumerate(said, 1)])
    world.sync()
    assert world.held() == {email("c2@example.com")}
    said = [True, True, True]
    world.customers([(n, f"c{n}@example.com", None, None, value) for n, value in enumerate(said, 1)])
    world.sync()
    assert world.held() == emails(crowd(3))


def test_13_a_held_sync_removes_nothing_but_refusals(many: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a sync is held, a removal carries refused identifiers only, not the others of a leaver who shares one."""
    asked: list[set[KEY]] = []
    answer = platform(many).answer

    def watch(request: Any) -> Any:
        if request.op == "remove":
            asked.append(wanted(request))
        return answer(request)

    monkeypatch.setattr(platform(many), "answer", watch)
    rows = crowd(120)
    rows[0], rows[1] = (1, ADA, LANDLINE), (2, ADA)
    many.customers(rows)
    many.sync()
    asked.clear()
    many.suppress = ["opt_outs"]
    many.opt_outs([2])
    many.segment(range(60, 121))
    assert held_for(many.sync(), "too_many_removals")
    assert asked == [{email(ADA)}]
    assert emails(crowd(118, 3)) <= many.held()
