"""The scripted destinations and their server: each capability shape ends with the right members.

Flows are played by `send.Sender` over HTTP, and what is asserted is who is in the list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dbt_segments.destinations import registry
from dbt_segments.destinations.base import Audience, Batch, Op
from dbt_segments.errors import AuthError, GoneError, RefusedError
from dbt_segments.retry import Budget
from dbt_segments.sandbox import Serving
from dbt_segments.send import Sender
from tests.scripted import destination as scripted
from tests.scripted.server import SHAPES, reports, serve_scripted

ANN = hashlib.sha256(b"ann@example.com").hexdigest()
BOB = hashlib.sha256(b"bob@example.com").hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serve_scripted() as one:
        yield one


@pytest.fixture
def serving(server: Serving) -> Serving:
    server.sandbox.reset()
    return server


class Sync:
    """A destination of one shape, its sender, and one list that it made."""

    def __init__(self, serving: Serving, cls: type[scripted.Scripted], **settings: Any) -> None:
        self.url = serving.url
        self.destination = cls(scripted.ScriptedSettings(base_url=serving.url, timeout_s=5, **settings))
        self.sender = Sender(self.destination, sleep=lambda seconds: None, budget=Budget())
        self.audience = self._made(Audience("", "VIP", "dbt-segments:s:x:1"))

    def _made(self, wanted: Audience) -> Audience:
        """The list; where it comes with its first member, that one is Ann."""
        if not self.destination.made_with_members:
            return self.sender.play(self.destination.create(wanted.name, wanted.mark))
        row = json.dumps({"email": ANN})
        outcome = self.sender.send(wanted, Batch(Op.ADD, row, 1, 1, True, 1, "b0", 1, ("email",))).outcome
        assert outcome is not None
        assert outcome.audience is not None
        return outcome.audience

    def push(self, op: Op, *rows: Any, batch: str = "b1", number: int = 1, last: bool = True) -> Any:
        text = ",".join(json.dumps(row) for row in rows)
        fields = ("email", "external_id")
        made = Batch(op, text, len(rows), number, last, len(rows), id=batch, session=1, fields=fields)
        return self.sender.send(self.audience, made)

    def control(self, path: str, body: Any) -> None:
        httpx.post(f"{self.url}/_sandbox/{path}", json=body).raise_for_status()


@pytest.fixture
def make(serving: Serving) -> Iterator[Any]:
    made: list[Sync] = []

    def one(cls: type[scripted.Scripted], **settings: Any) -> Sync:
        made.append(Sync(serving, cls, **settings))
        return made[-1]

    yield one
    for sync in made:
        sync.sender.close()


def members(serving: Serving) -> set[str]:
    return {value for _, value in serving.state()["audiences"][-1]["keys"]}


def person(email: str, external_id: str) -> dict[str, str]:
    return {"email": email, "external_id": external_id}


def test_every_shape_is_a_type_of_its_own(serving: Serving) -> None:
    """Each class can be registered under its name, and the server knows each name."""
    assert {cls.type for cls in scripted.ALL} == SHAPES.keys()
    with scripted.registered():
        assert all(registry.get(cls.type) is cls for cls in scripted.ALL)
    assert "scripted" not in registry.names()


@pytest.mark.parametrize("cls", scripted.ALL)
def test_lists_are_found_by_mark_and_by_name(make: Any, cls: type[scripted.Scripted]) -> None:
    """A list is found by its mark, with or without the nonce, and by its name; adopting changes the mark."""
    sync = make(cls)
    play, flow = sync.sender.play, sync.destination
    for mark, name in (("dbt-segments:s:x:1", "-"), ("dbt-segments:s:x", "-"), ("other", "VIP")):
        assert play(flow.find(mark, name)) == [sync.audience]
    assert play(flow.find("dbt-segments:s", "-")) == [sync.audience]
    assert play(flow.find("dbt-segments:s:y", "vip")) == []
    assert play(flow.adopt(sync.audience, "dbt-segments:t:x:2")).mark == "dbt-segments:t:x:2"
    assert play(flow.get(sync.audience.id)).mark == "dbt-segments:t:x:2"


def test_keyed_rows_are_refused_by_index(serving: Serving, make: Any) -> None:
    """The refused row is named, the other one is in."""
    sync = make(scripted.Scripted)
    sync.control("policy", {"refuse": {"c-1": "blocked"}})
    sent = sync.push(Op.ADD, person(ANN, "c-1"), person(BOB, "c-2"))
    assert (sent.fate, dict(sent.refused)) == ("accepted", {0: "blocked"})
    assert members(serving) == {BOB, "c-2"}


def test_a_bad_row_refuses_the_request_until_it_is_alone(serving: Serving, make: Any) -> None:
    """The platform does not say which row is bad; halves find it."""
    sync = make(scripted.Scripted)
    sent = sync.push(Op.ADD, person(ANN, "c-1"), {"email": "ann@example.com"}, person(BOB, "c-2"))
    assert (sent.fate, dict(sent.refused)) == ("accepted", {1: "bad_row"})
    assert members(serving) == {ANN, "c-1", BOB, "c-2"}


def test_a_job_changes_members_only_when_it_is_done(serving: Serving, make: Any) -> None:
    """Submitted is not accepted: two polls say "running", the third has the outcome."""
    sync = make(scripted.ScriptedAsync)
    sync.control("policy", {"finish_after_polls": 3, "refuse": {"c-2": "blocked"}})
    sent = sync.push(Op.ADD, person(ANN, "c-1"), person(BOB, "c-2"))
    assert sent.fate == "submitted"
    outcomes = []
    for _ in range(3):
        assert members(serving) == set()
        outcomes.append(sync.sender.play(sync.destination.poll(sync.audience, sent.outcome.job)))
    assert [one.done for one in outcomes] == [False, False, True]
    assert dict(outcomes[-1].refused) == {1: "blocked"}
    assert members(serving) == {ANN, "c-1"}
    assert reports(serving)["jobs"] == [{"id": "job-1", "state": "done", "op": "add"}]


def test_jobs_may_be_done_in_another_order(serving: Serving, make: Any) -> None:
    """Of two jobs the second one is done first, so a removal that was sent first takes out who was added after it."""
    sync = make(scripted.ScriptedAsync)
    sync.control("policy", {"stagger": 3})
    jobs = [sync.push(op, person(ANN, "c-1"), batch=op.value).outcome.job for op in (Op.ADD, Op.REMOVE, Op.ADD)]

    def done() -> list[bool]:
        return [sync.sender.play(sync.destination.poll(sync.audience, job)).done for job in jobs[1:]]

    assert [done(), done(), done()] == [[False, False], [False, True], [True, True]]
    assert members(serving) == set()


@pytest.mark.parametrize(
    ("policy", "code", "applied"),
    [
        ({"fail_after_polls": 3, "finish_after_polls": 9}, "job_failed", False),
        ({"lose_after_polls": 3, "finish_after_polls": 9}, "job_not_found", False),
        ({"lose_after_polls": 3, "finish_after_polls": 9, "lost_applied": True}, "job_not_found", True),
    ],
)
def test_a_job_may_fail_or_lose_its_status(serving: Serving, make: Any, policy: Any, code: str, applied: bool) -> None:
    """After two polls without news its fate is unknown; only the members tell whether it was applied."""
    sync = make(scripted.ScriptedAsync)
    sync.control("policy", policy)
    job = sync.push(Op.ADD, person(ANN, "c-1")).outcome.job
    for _ in range(2):
        assert not sync.sender.play(sync.destination.poll(sync.audience, job)).done
    for _ in range(2):
        assert sync.sender.play(sync.destination.poll(sync.audience, job)).lost == code
    assert members(serving) == ({ANN, "c-1"} if applied else set())


def test_single_rows_carry_one_type_a_request(serving: Serving, make: Any) -> None:
    """One identifier a row; two types in one request are refused."""
    sync = make(scripted.ScriptedSingle)
    assert sync.push(Op.ADD, {"type": "email", "value": ANN}, {"type": "email", "value": BOB}).fate == "accepted"
    mixed = sync.push(Op.ADD, {"type": "email", "value": ANN}, {"type": "external_id", "value": "c-1"}, batch="b2")
    assert (mixed.fate, mixed.error.code) == ("rejected", "mixed_types")
    assert sync.push(Op.REMOVE, {"type": "email", "value": BOB}, batch="b3").fate == "accepted"
    assert members(serving) == {ANN}


def test_positional_rows_have_a_cell_for_every_field(serving: Serving, make: Any) -> None:
    """Empty cells are absent; a row of another length is refused."""
    sync = make(scripted.ScriptedPositional)
    assert sync.push(Op.ADD, [ANN, "c-1"], [BOB, ""]).fate == "accepted"
    short = sync.push(Op.ADD, ["0" * 64], batch="b2")
    assert (short.fate, short.error.code) == ("rejected", "bad_row")
    assert members(serving) == {ANN, "c-1", BOB}


def test_a_platform_may_know_replace_only(serving: Serving, make: Any) -> None:
    """Additions are refused; a replace takes effect with its last batch."""
    sync = make(scripted.ScriptedReplace)
    assert sync.push(Op.ADD, person(ANN, "c-1")).error.code == "no_such_operation"
    sync.push(Op.REPLACE, person(ANN, "c-1"), batch="r0")
    sync.push(Op.REPLACE, person(BOB, "c-2"), batch="r1", last=False)
    assert members(serving) == {ANN, "c-1"}
    sync.push(Op.REPLACE, {"external_id": "c-3"}, batch="r2", number=2)
    assert members(serving) == {BOB, "c-2", "c-3"}


def test_a_dedup_id_makes_a_repeat_harmless(serving: Serving, make: Any) -> None:
    """A batch whose answer was lost is sent again by the sender, recognised, and applied once."""
    sync = make(scripted.ScriptedDedup)
    sync.control("faults", {"kind": "reset_after", "match": {"op": "add"}})
    assert sync.push(Op.ADD, person(ANN, "c-1")).fate == "accepted"
    assert (reports(serving)["repeated"], reports(serving)["replayed"]) == (0, 1)
    other = sync.push(Op.ADD, person(BOB, "c-2"))
    assert (other.fate, other.error.code) == ("rejected", "dedup_id_reused")
    assert members(serving) == {ANN, "c-1"}


def test_without_idempotency_a_lost_answer_is_not_repeated(serving: Serving, make: Any) -> None:
    """The sender leaves the fate unknown; a repeat would be counted by the server."""
    sync = make(scripted.ScriptedBlind)
    sync.control("faults", {"kind": "reset_after", "match": {"op": "add"}})
    assert sync.push(Op.ADD, person(ANN, "c-1")).fate == "unknown"
    assert reports(serving)["repeated"] == 0
    sync.push(Op.ADD, person(ANN, "c-1"))
    assert reports(serving)["repeated"] == 1


def test_access_tokens_end_and_are_renewed(serving: Serving, make: Any) -> None:
    """An expired token is renewed once with the rotated refresh token; a refused refresh token is final."""
    sync = make(scripted.ScriptedOAuth)
    sync.control("clock", {"advance_s": 7200})
    assert sync.push(Op.ADD, person(ANN, "c-1")).fate == "accepted"
    sync.control("policy", {"refresh_ok": False})
    sync.control("clock", {"advance_s": 7200})
    with pytest.raises(AuthError, match="invalid_grant"):
        sync.sender.play(sync.destination.get(sync.audience.id))
    assert members(serving) == {ANN, "c-1"}


def test_a_sweep_takes_out_whoever_was_put_in_before(serving: Serving, make: Any) -> None:
    """As a job: whoever was put in since stays, and who was put in again."""
    sync = make(scripted.ScriptedSweep)
    play, flow = sync.sender.play, sync.destination

    def done(job: str) -> bool:
        return bool(play(flow.poll(sync.audience, job)).done)

    assert done(sync.push(Op.ADD, person(ANN, "c-1"), person(BOB, "c-2")).outcome.job)
    sync.control("clock", {"advance_s": 3600})
    began = play(flow.clock(sync.audience))
    assert done(sync.push(Op.ADD, {"email": BOB}, batch="b2").outcome.job)
    sweep = play(flow.sweep(sync.audience, began)).job
    assert members(serving) == {ANN, "c-1", BOB, "c-2"}
    assert done(sweep)
    assert members(serving) == {BOB, "c-2"}


def test_members_are_forgotten_after_their_retention(serving: Serving, make: Any) -> None:
    """By the server's clock: external ids reach nobody after 10 days, members are gone after 30."""
    sync = make(scripted.ScriptedRetention)
    sync.push(Op.ADD, person(ANN, "c-1"), person(BOB, "c-2"))
    sync.control("clock", {"advance_s": 20 * 86_400})
    sync.push(Op.REMOVE, {"external_id": "c-1"}, batch="b2")
    sync.push(Op.ADD, person(BOB, "c-2"), batch="b3")
    assert members(serving) == {ANN, BOB, "c-2"}
    sync.control("clock", {"advance_s": 11 * 86_400})
    assert members(serving) == {BOB, "c-2"}
    assert sync.sender.play(sync.destination.size(sync.audience)).lower == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"kind": "gone"}, GoneError), ({"kind": "too_small"}, RefusedError), ({"kind": "expired_token"}, AuthError)],
)
def test_faults_speak_the_platforms_words(serving: Serving, make: Any, fault: Any, error: type[Exception]) -> None:
    """The sandbox's faults work on this platform too."""
    sync = make(scripted.Scripted)
    sync.control("faults", fault)
    sent = sync.push(Op.ADD, person(ANN, "c-1"))
    assert isinstance(sent.error, error)
    assert members(serving) == set()
