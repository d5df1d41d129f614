"""The contract that every destination keeps, as tests; for destinations kept elsewhere, and for our own. Needs pytest.

    class TestAcme(DestinationContract):
        def destination(self): return Acme(AcmeSettings(api_key="s3cret"))
        def answer(self, request): ...    # the platform: keeps what it is sent, refuses what it refuses
        def held(self): ...               # the numbers of the members that it has now

Nothing leaves the process: requests are answered by `answer`, and the suite breaks some on their way. What counts is
whom the platform holds in the end, not the calls that it saw.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import httpx
import pytest

from dbt_segments.destinations.base import Audience, Batch, Destination, Op, Outcome, Row, Support, Target
from dbt_segments.errors import AuthError, DestinationError, UnknownError
from dbt_segments.retry import Budget
from dbt_segments.send import Sender, Sent

__all__ = ["DestinationContract"]

RUN_ID = "20261123T100000Z-c0ffee"
LONGEST_BATCH = 2_000
ASKED_S = 7
MOST_POLLS = 5


class DestinationContract:
    """Subclass it under a name that pytest collects; state of the platform belongs into `setup_method`.

    bad                  number of a member that the platform refuses; None: it refuses nobody singly
    secrets              texts of the settings that nothing may show
    fields               of a positional row, as `Batch.fields`
    refused_credentials  how the platform says so
    throttled            how it asks for a pause; None: it never does
    """

    bad: ClassVar[int | None] = None
    secrets: ClassVar[Sequence[str]] = ()
    fields: ClassVar[tuple[str, ...]] = ()
    refused_credentials: ClassVar[int] = 401
    throttled: ClassVar[int | None] = 429

    # -- what a subclass says ---------------------------------------------------------------------------------

    def destination(self) -> Destination:
        """A destination with settings that the platform accepts."""
        raise NotImplementedError

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The platform. Not asked where the destination brings a transport of its own."""
        raise NotImplementedError

    def held(self) -> Iterable[int]:
        """The numbers of the members that the platform has, one as often as it has it."""
        raise NotImplementedError

    def row(self, number: int, op: Op) -> str:
        """One member as SQL would write it; by default a record with the key `id` and a field `name`."""
        head = self.destination().head(self.target(), op)
        values = None if op is Op.REMOVE else {"name": f"Member {number}"}
        return json.dumps({**head, "key": {"id": number}, "values": values}, separators=(",", ":"))

    def target(self) -> Target:
        """What a destination of records is told to write."""
        mode = "mirror" if "mirror" in self.destination().modes else self.destination().modes[0]
        return Target("shop.vip.contract", "vip", "", mode, ("id",), ("name",), {"id": "integer", "name": "text"})

    def audience(self, sender: Sender) -> Audience:
        """Where members go; destinations that make audiences make one here."""
        return Audience("shop.vip.contract")

    # -- the contract -----------------------------------------------------------------------------------------

    def test_declarations_are_whole(self) -> None:
        """Every operation says whether it is there; match units are made of identifiers; a row fits a request."""
        destination = self.destination()
        assert destination.type
        assert destination.limits.members >= 1
        assert destination.limits.concurrency >= 1
        assert all(isinstance(support, Support) for support in destination.operations.values())
        assert Support.FULL in destination.operations.values()
        known = {*destination.identifiers, *(("key",) if destination.records else ())}
        assert all(known.issuperset(unit) for unit in destination.units)
        assert destination.settings_model is type(destination.settings)
        replaces = destination.operations.get(Op.REPLACE) is Support.FULL
        assert not (replaces and destination.row is Row.SINGLE), "a replace sends whole members"

    def test_an_empty_batch_makes_no_call(self) -> None:
        """Nobody to add, nobody to remove: nothing is asked of the platform."""
        with self._world() as world:
            for op in self._ops():
                assert world.send(self._batch([], op)).fate == "accepted"
            assert world.line.requests == []

    def test_members_are_added(self) -> None:
        """All of them, once, each with one outcome."""
        with self._world() as world:
            sent = world.send(self._batch([1, 2, 3], Op.ADD))
            assert (sent.fate, dict(sent.refused)) == ("accepted", {})
        assert sorted(self.held()) == [1, 2, 3]

    def test_members_are_removed(self) -> None:
        """Those who left, and nobody else."""
        if Op.REMOVE not in self._ops():
            pytest.skip("the platform cannot remove")
        with self._world() as world:
            world.send(self._batch([1, 2, 3], Op.ADD))
            assert world.send(self._batch([2], Op.REMOVE, name="leave")).fate == "accepted"
        assert sorted(self.held()) == [1, 3]

    def test_limits_hold(self) -> None:
        """A batch as large as the destination says goes out whole, in bodies no larger than it says."""
        destination = self.destination()
        size = min(destination.limits.members, LONGEST_BATCH)
        with self._world() as world:
            assert world.send(self._batch(list(range(10, 10 + size)), Op.ADD)).fate == "accepted"
            longest = max(len(request.content) for request in world.line.requests)
        assert destination.limits.body_bytes is None or longest <= destination.limits.body_bytes
        assert sorted(self.held()) == list(range(10, 10 + size))

    def test_one_bad_row_costs_one_row(self) -> None:
        """The others are in, and the refusal is counted."""
        if self.bad is None:
            pytest.skip("the platform refuses nobody singly")
        with self._world() as world:
            if world.destination.limits.members == 1:
                sent = world.send(self._batch([self.bad], Op.ADD))
                assert sent.fate == "rejected" or 0 in sent.refused
                return
            sent = world.send(self._batch([1, self.bad, 3], Op.ADD))
        unattributed = sent.outcome.unattributed if sent.outcome else 0
        assert sent.fate == "accepted"
        assert dict.fromkeys(sent.refused) == {1: None} or (not sent.refused and unattributed == 1)
        assert sorted(self.held()) == [1, 3]

    def test_refused_credentials_end_the_run(self) -> None:
        """An AuthError, after one renewal at most, with nobody added."""
        with self._world() as world:
            world.line.always = lambda request: httpx.Response(self.refused_credentials)
            sent = world.send(self._batch([1], Op.ADD))
            assert isinstance(sent.error, AuthError)
            assert sent.fate == "unsent"
            assert len(world.line.requests) <= 2
        assert sorted(self.held()) == []

    def test_a_throttled_call_waits_as_long_as_it_is_told(self) -> None:
        """`Retry-After` is kept, and the call repeated."""
        if self.throttled is None:
            pytest.skip("the platform never asks for a pause")
        with self._world() as world:
            answer = httpx.Response(self.throttled, headers={"Retry-After": str(ASKED_S)})
            world.line.plan = [lambda request: answer]
            assert world.send(self._batch([1], Op.ADD)).fate == "accepted"
            assert sum(world.waits) >= ASKED_S
        assert sorted(self.held()) == [1]

    def test_a_batch_whose_answer_is_lost_may_be_sent_again(self) -> None:
        """The platform took it and the connection broke: in doubt, and after a repeat each member is there once."""
        with self._world() as world:
            world.line.plan = [self._lose] * world.tries
            assert world.send(self._batch([1, 2], Op.ADD)).fate == "unknown"
            world.line.plan = []
            assert world.send(self._batch([1, 2], Op.ADD)).fate == "accepted"
        assert sorted(self.held()) == [1, 2]

    def test_a_server_error_leaves_doubt(self) -> None:
        """It may have been applied, whatever the platform says."""
        with self._world() as world:
            world.line.always = lambda request: httpx.Response(500)
            sent = world.send(self._batch([1], Op.ADD))
            assert isinstance(sent.error, UnknownError)
            assert sent.fate == "unknown"

    def test_a_redirect_is_not_followed(self) -> None:
        """Members and credentials go nowhere but where they were meant to."""
        with self._world() as world:
            world.line.always = lambda request: httpx.Response(302, headers={"Location": "https://elsewhere.example"})
            sent = world.send(self._batch([1], Op.ADD))
            assert isinstance(sent.error, DestinationError)
            assert {request.url.host for request in world.line.requests} == {world.line.requests[0].url.host}
            assert sent.fate != "accepted"
        assert sorted(self.held()) == []

    def test_nothing_shows_a_secret_or_a_member(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither settings, calls, errors nor log lines; no URL holds a member."""
        caplog.set_level(logging.INFO)
        shown: list[object] = []
        batch = self._batch([1], Op.ADD)
        with self._world() as world:
            shown += [world.destination, world.destination.settings, world.destination.account(), world.sender, batch]
            call = next(world.destination.push(world.audience, batch))
            shown += [call, call.path]
            for status in (400, self.refused_credentials, 500):
                answer = httpx.Response(status, text=batch.rows)
                world.line.always = _always(answer)
                sent = world.send(batch)
                shown += [sent, sent.error, sent.error.hint if sent.error else None]
        text = "\n".join(f"{one!r} {one!s}" for one in shown) + caplog.text
        assert not [secret for secret in self.secrets if secret in text]
        assert batch.rows not in text + str(call.query)

    # -- how ----------------------------------------------------------------------------------------------------

    def _world(self) -> _World:
        return _World(self)

    def _ops(self) -> list[Op]:
        operations = self.destination().operations
        return [op for op in (Op.ADD, Op.REMOVE) if operations.get(op) is Support.FULL]

    def _batch(self, numbers: Sequence[int], op: Op, name: str = "batch") -> Batch:
        records = self.destination().records
        return Batch(
            op=op,
            rows=",".join(self.row(number, op) for number in numbers),
            count=len(numbers),
            number=1,
            last=True,
            total=len(numbers),
            id=f"contract-{op.value}-{name}",
            session=zlib.crc32(f"{op.value}-{name}".encode()) + 1,
            fields=("id", "name") if records else self.fields,
            target=self.target() if records else None,
            run_id=RUN_ID,
        )

    @staticmethod
    def _lose(request: httpx.Request) -> None:
        """Marks a request that is applied and not answered."""


def _always(answer: httpx.Response) -> _Step:
    return lambda request: answer


_Step = Callable[[httpx.Request], "httpx.Response | None"]


class _Line(httpx.BaseTransport):
    """The way to the platform. Each step of `plan` answers one request in its place, `always` every one of them.

    A step that answers nothing lets the platform take the request, and loses the answer.
    """

    def __init__(self, platform: httpx.BaseTransport) -> None:
        self.platform = platform
        self.plan: list[_Step] = []
        self.always: _Step | None = None
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        step = self.plan.pop(0) if self.plan else self.always
        answer = step(request) if step is not None else None
        if answer is not None:
            return answer
        given = self.platform.handle_request(request)
        if step is not None:
            raise httpx.ReadTimeout("no answer", request=request)
        return given


class _World:
    """One destination, its sender and the way to its platform; waiting takes no time."""

    tries = 2

    def __init__(self, contract: DestinationContract) -> None:
        self.destination = contract.destination()
        self.line = _Line(self.destination.transport() or httpx.MockTransport(contract.answer))
        self.waits: list[float] = []
        self._now = 0.0
        self.sender = Sender(
            self.destination,
            clock=lambda: self._now,
            sleep=self._sleep,
            jitter=lambda: 0.0,
            budget=Budget(tries=self.tries),
            transport=self.line,
        )
        self.audience = contract.audience(self.sender)
        self.line.requests.clear()

    def send(self, batch: Batch) -> Sent:
        """What became of a batch, of a job once it has ended. Asserts that each row has one outcome."""
        sent = self._ended(self.sender.send(self.audience, batch))
        outcome = sent.outcome or Outcome()
        assert set(sent.refused) <= set(range(batch.count)), "a refusal of a row that was not sent"
        assert len(sent.refused) + outcome.unattributed <= batch.count, "more refusals than rows"
        return sent

    def _ended(self, sent: Sent) -> Sent:
        """Follow the job of a submitted batch; one that has not ended after so many looks stays submitted."""
        if sent.fate != "submitted" or sent.outcome is None or sent.outcome.job is None:
            return sent
        for _ in range(MOST_POLLS):
            outcome = self.sender.play(self.destination.poll(self.audience, sent.outcome.job))
            if outcome.lost:
                return Sent(outcome=outcome, fate="unknown", refused=sent.refused)
            if outcome.done:
                return Sent(outcome=outcome, refused={**sent.refused, **outcome.refused})
        return sent

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._now += seconds

    def __enter__(self) -> _World:
        return self

    def __exit__(self, *error: Any) -> None:
        self.sender.close()
