"""Sending: what is tried again, what a batch's fate is, and what never happens. HTTP is httpx's own mock transport."""

from __future__ import annotations

import http.server
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from dbt_segments.destinations.auth import Auth, Bearer, OAuthRefresh
from dbt_segments.destinations.base import (
    Audience,
    Batch,
    Call,
    ConnectionSettings,
    Destination,
    Fault,
    Flow,
    Limits,
    Op,
    Outcome,
    Reply,
)
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)
from dbt_segments.parts import MAX_PARTS, divide, halve, sent_from
from dbt_segments.retry import Budget
from dbt_segments.send import Sender, Sent, encode_form, send_batches

AUDIENCE = Audience("7", "VIP")
Handler = Callable[[httpx.Request], httpx.Response]


class Plain(Destination):
    """A list API: JSON body {"op", "rows"}, answer {"refused": {index: code}} or {"job": id}."""

    type = "plain"
    limits = Limits(members=100)
    credentials: Auth = Bearer(SecretStr("token-1"))
    safe = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(ConnectionSettings(**settings))

    def root(self) -> str:
        return "https://api.example.com/v1"

    def auth(self) -> Auth:
        return self.credentials

    def pace(self, reply: Reply) -> float | None:
        return float(reply.headers["x-pause"]) if "x-pause" in reply.headers else None

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        code = str(reply.status)
        if reply.status >= 500:
            return Fault(UnknownError("server error", code=code), retry=True)
        if reply.status == 429:
            return Fault(TransientError("throttled", code=code), retry=True)
        if reply.status == 401:
            return Fault(AuthError("refused", code=code), renew=True)
        if reply.status == 404:
            return Fault(GoneError("gone", code=code))
        if reply.status >= 400:
            return Fault(RefusedError("refused", code=code, divisible=reply.status == 422, owed=reply.status == 409))
        return None if isinstance(reply.json, dict) else Fault(UnknownError("no proof", code="proof"), retry=True)

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        body = f'{{"op":"{batch.op.value}","rows":[{batch.rows}]}}'
        reply = yield Call("POST", f"/lists/{audience.id}", body=body, safe=self.safe)
        refused = {int(index): code for index, code in reply.json.get("refused", {}).items()}
        return Outcome(refused=refused, job=reply.json.get("job"))


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Server:
    """A list with memory. `plan` answers are given first; "lost" applies and then breaks the connection."""

    def __init__(self, *plan: Any, bad: tuple[int, ...] = ()) -> None:
        self.plan = list(plan)
        self.bad = set(bad)
        self.members: set[int] = set()
        self.requests: list[httpx.Request] = []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            step = self.plan.pop(0) if self.plan else None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, httpx.Response):
            return step
        if step == "lost":
            self._apply(request)
            raise httpx.ReadError("reset", request=request)
        return self._apply(request)

    def _apply(self, request: httpx.Request) -> httpx.Response:
        rows = json.loads(request.content)["rows"] if request.content else []
        if self.bad & set(rows):
            return httpx.Response(422)
        with self._lock:
            self.members |= set(rows)
        return httpx.Response(200, json={})


def make(server: Handler, time: Time | None = None, destination: Destination | None = None, **options: Any) -> Sender:
    time = time or Time()
    return Sender(
        destination or Plain(),
        clock=time.clock,
        sleep=time.sleep,
        jitter=lambda: 1.0,
        transport=httpx.MockTransport(server),
        **options,
    )


def batch(*rows: int, number: int = 1, op: Op = Op.ADD, last: bool = True) -> Batch:
    text = ",".join(str(row) for row in rows)
    return Batch(op, text, len(rows), number, last, len(rows), f"g-{number}", 99, ("email",))


def batches(count: int, op: Op = Op.ADD) -> Iterator[Batch]:
    return (batch(number, number=number, op=op, last=number == count) for number in range(1, count + 1))


def run(server: Handler, given: Iterator[Batch], concurrency: int = 1, **options: Any) -> list[tuple[int, Sent]]:
    destination = options.pop("destination", None) or Plain()
    with make(server, destination=destination, **options) as sender:
        sent = send_batches(sender, destination, AUDIENCE, given, concurrency=concurrency)
        return sorted(((one.number, result) for one, result in sent), key=lambda pair: pair[0])


def one_get(**options: Any) -> Flow[Reply]:
    reply = yield Call("GET", "/lists/7", **options)
    return reply


# -- requests -------------------------------------------------------------------------------------------------


def test_a_call_becomes_a_request() -> None:
    """Path below the root, JSON body with its length, the token in its header and nowhere in the URL."""
    server = Server()
    with make(server) as sender:
        assert sender.send(AUDIENCE, batch(1, 2)).fate == "accepted"
    [request] = server.requests
    assert str(request.url) == "https://api.example.com/v1/lists/7"
    assert json.loads(request.content) == {"op": "add", "rows": [1, 2]}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers["authorization"] == "Bearer token-1"


def test_query_and_form() -> None:
    """A query is escaped into the URL, a form into the body."""

    def flow() -> Flow[None]:
        yield Call("GET", "/lists", query={"name": "a b&c"})
        yield Call("POST", "/lists", form={"name": "a b&c", "rows": '["\u00e9"]'})

    server = Server(httpx.Response(200, json={}), httpx.Response(200, json={}))
    with make(server) as sender:
        sender.play(flow())
    get, post = server.requests
    assert dict(get.url.params) == {"name": "a b&c"}
    assert post.headers["content-type"] == "application/x-www-form-urlencoded"
    assert dict(parse_qsl(post.content.decode())) == {"name": "a b&c", "rows": '["\u00e9"]'}


@given(st.dictionaries(st.text(), st.text()))
def test_forms_are_encoded_as_urllib_does(form: dict[str, str]) -> None:
    """The fast encoder and `urllib.parse.urlencode` agree on every text."""
    assert encode_form(form) == urlencode(form).encode()


def test_credentials_stay_at_home() -> None:
    """An absolute URL of another host, as a reply may name one, is called without our token."""

    def flow() -> Flow[None]:
        yield Call("GET", "https://storage.example.org/upload?signature=1")
        yield Call("GET", "https://api.example.com/v1/next")
        yield Call("GET", "http://api.example.com/v1/next")

    server = Server(*(httpx.Response(200, json={}) for _ in range(3)))
    with make(server) as sender:
        sender.play(flow())
    assert ["authorization" in request.headers for request in server.requests] == [False, True, False]
    assert str(server.requests[0].url) == "https://storage.example.org/upload?signature=1"


def test_stats_count_requests_retries_and_bytes() -> None:
    """Two tries of one body: two requests, one retry, twice the bytes."""
    server = Server(httpx.Response(503))
    with make(server) as sender:
        sender.send(AUDIENCE, batch(1))
        sizes = [len(request.content) for request in server.requests]
        assert (sender.stats.requests, sender.stats.retries, sender.stats.bytes_sent) == (2, 1, sum(sizes))


def test_an_error_is_thrown_into_the_flow() -> None:
    """A flow that catches it goes on: create, on conflict read."""

    def flow() -> Flow[str]:
        try:
            yield Call("POST", "/lists", body="{}")
        except RefusedError as error:
            reply = yield Call("GET", "/lists/7")
            return f"{error.code} {reply.json['id']}"
        return "created"

    server = Server(httpx.Response(400), httpx.Response(200, json={"id": 7}))
    with make(server) as sender:
        assert sender.play(flow()) == "400 7"


# -- what is tried again --------------------------------------------------------------------------------------


def lost() -> Exception:
    return httpx.ReadTimeout("slow")


@pytest.mark.parametrize(
    "failure",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.ConnectTimeout("slow"),
        lambda: httpx.ReadTimeout("slow"),
        lambda: httpx.WriteError("broken pipe"),
        lambda: httpx.RemoteProtocolError("cut"),
        lambda: httpx.Response(500),
        lambda: httpx.Response(503),
        lambda: httpx.Response(429),
        lambda: httpx.Response(200, text="<html>maintenance</html>"),
        lambda: httpx.Response(200, text='{"cut": '),
        lambda: httpx.Response(200),
        lambda: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip")),
    ],
)
def test_what_may_pass_is_tried_again(failure: Callable[[], Any]) -> None:
    """No answer, a server error, a throttle, or a success that proves nothing: the next try decides."""
    server, time = Server(failure()), Time()
    with make(server, time) as sender:
        assert sender.send(AUDIENCE, batch(1)).fate == "accepted"
    assert time.waits == [1.0]


@pytest.mark.parametrize("status", [400, 401, 404, 409, 301])
def test_what_is_final_is_not_tried_again(status: int) -> None:
    """A refusal, a missing audience and a redirect end the call at once."""
    server = Server(httpx.Response(status, headers={"location": "https://elsewhere.example.org"}))
    with make(server) as sender, pytest.raises(DestinationError) as caught:
        sender.play(one_get())
    assert caught.value.code == str(status)
    assert len(server.requests) == 1


def test_tries_are_bounded() -> None:
    """Six tries, then the error; the waits between them double."""
    server, time = Server(*(httpx.Response(503) for _ in range(20))), Time()
    with make(server, time) as sender, pytest.raises(UnknownError):
        sender.play(one_get())
    assert (len(server.requests), time.waits) == (6, [1, 2, 4, 8, 16])


def test_retry_after_is_obeyed() -> None:
    """The next try starts no earlier than the platform asked."""
    server, time = Server(httpx.Response(429, headers={"retry-after": "30"})), Time()
    with make(server, time) as sender:
        sender.send(AUDIENCE, batch(1))
    assert time.now >= 30


def test_a_throttled_account_is_quiet_on_every_thread() -> None:
    """What one call is told to wait delays another call too."""
    server, time = Server(httpx.Response(429, headers={"retry-after": "30"})), Time()
    with make(server, time, budget=Budget(tries=1)) as sender:
        sender.send(AUDIENCE, batch(1))
        assert time.now == 0
        sender.send(AUDIENCE, batch(2))
        assert time.now == 30


def test_a_wait_beyond_the_budget_ends_the_sends() -> None:
    """An hour is for the next run: no waiting, no further request for this account, nothing applied."""
    server, time = Server(httpx.Response(429, headers={"retry-after": "3600"})), Time()
    with make(server, time) as sender:
        results = [sender.send(AUDIENCE, batch(number)) for number in (1, 2)]
    assert [(type(sent.error), sent.fate) for sent in results] == [(TransientError, "unsent")] * 2
    assert (len(server.requests), time.waits) == (1, [])


def test_pace_headers_of_a_success_are_obeyed() -> None:
    """A platform that asks to slow down in a success delays the next call."""
    server, time = Server(httpx.Response(200, json={}, headers={"x-pause": "12"})), Time()
    with make(server, time) as sender:
        sender.send(AUDIENCE, batch(1))
        sender.send(AUDIENCE, batch(2))
    assert time.waits == [12]


def test_requests_are_spaced() -> None:
    """Two a second: five requests take two seconds."""
    time = Time()
    with make(Server(), time, Plain(requests_per_s=2)) as sender:
        for number in range(5):
            sender.send(AUDIENCE, batch(number))
    assert time.now == 2.0


def test_an_unsafe_call_of_unknown_fate_is_not_repeated() -> None:
    """A create that may have been applied is left to the next run, which looks for it."""
    server = Server(lost())
    with make(server) as sender, pytest.raises(UnknownError):
        sender.play(one_get(safe=False))
    assert len(server.requests) == 1


@pytest.mark.parametrize("failure", [lambda: httpx.Response(429), lambda: httpx.ConnectError("refused")])
def test_an_unsafe_call_that_was_surely_not_applied_is_repeated(failure: Callable[[], Any]) -> None:
    """A throttle or a refused connection means that nothing happened."""
    server = Server(failure())
    with make(server) as sender:
        sender.play(one_get(safe=False))
    assert len(server.requests) == 2


def test_a_certificate_error_is_final() -> None:
    """A certificate that is not trusted is never tried again and applies nothing."""
    error = httpx.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    server = Server(error)
    with make(server) as sender:
        sent = sender.send(AUDIENCE, batch(1))
    assert sent.error is not None
    assert (sent.error.code, sent.fate, len(server.requests)) == ("tls", "unsent", 1)


class Dripping(httpx.SyncByteStream):
    """An answer that comes in small pieces, each within the read timeout."""

    def __init__(self, time: Time) -> None:
        self.time = time

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(100):
            self.time.now += 30
            yield b" "


def test_a_dripping_answer_ends_at_the_timeout() -> None:
    """The timeout bounds the request, not only each read: the lease counts on it."""
    time = Time()

    def server(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Dripping(time))

    with make(server, time, budget=Budget(tries=1)) as sender, pytest.raises(UnknownError):
        sender.play(one_get())
    assert time.now <= sender.longest_request_s


def test_a_refused_token_is_renewed_once() -> None:
    """One refresh and one repeat; a second refusal is final."""
    tokens = iter(f"access-{number}" for number in range(1, 9))
    seen: list[str] = []

    def server(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json={"access_token": next(tokens)})
        seen.append(request.headers["authorization"])
        return httpx.Response(200 if seen[-1] == "Bearer access-2" else 401, json={})

    destination = Plain()
    destination.credentials = OAuthRefresh("https://a.example.com/token", "c", SecretStr("s"), SecretStr("r"))
    with make(server, destination=destination) as sender:
        assert sender.send(AUDIENCE, batch(1)).fate == "accepted"
        assert seen == ["Bearer access-1", "Bearer access-2"]
        destination.credentials.renew(2, sender._post)  # another process rotated it: access-3 is refused
        sent = sender.send(AUDIENCE, batch(2))
    assert (type(sent.error), sent.fate) == (AuthError, "unsent")
    assert seen[2:] == ["Bearer access-3", "Bearer access-4"]


def test_a_token_endpoint_that_is_down_is_tried_again() -> None:
    """Its trouble passes like any other, and leaves no doubt about the members."""
    answers = iter([httpx.Response(503), httpx.ReadTimeout("slow"), httpx.Response(200, json={"access_token": "a"})])

    def server(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/token":
            return httpx.Response(400)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    destination = Plain()
    destination.credentials = OAuthRefresh("https://a.example.com/token", "c", SecretStr("s"), SecretStr("r"))
    with make(server, destination=destination) as sender:
        sent = sender.send(AUDIENCE, batch(1))
    assert (type(sent.error), sent.fate) == (RefusedError, "rejected")


# -- the lease ------------------------------------------------------------------------------------------------


def test_no_request_starts_without_leave() -> None:
    """Asked before every request with its longest duration; a no before the first leaves the batch unsent."""
    asked: list[float] = []

    def may_start(timeout_s: float) -> bool:
        asked.append(timeout_s)
        return False

    server = Server()
    with make(server, may_start=may_start) as sender:
        sent = sender.send(AUDIENCE, batch(1))
        assert asked == [sender.longest_request_s]
    assert (type(sent.error), sent.fate, server.requests) == (TransientError, "unsent", [])
    assert asked[0] >= 60


def test_leave_that_ends_between_tries_leaves_doubt() -> None:
    """A first try that got no answer may have been applied: unknown, not unsent."""
    leave = iter([True, False])
    server = Server("lost")
    with make(server, may_start=lambda timeout_s: next(leave)) as sender:
        sent = sender.send(AUDIENCE, batch(1))
    assert (sent.fate, server.members) == ("unknown", {1})


def test_on_request_is_called_before_each_request() -> None:
    """Once per request, retries included, and before it leaves."""
    server = Server(httpx.Response(503))
    seen: list[int] = []
    with make(server, on_request=lambda: seen.append(len(server.requests))) as sender:
        sender.send(AUDIENCE, batch(1))
    assert seen == [0, 1]


def test_close_wakes_a_waiting_thread() -> None:
    """A thread that waits for minutes ends at once, and makes no further request."""
    asked = threading.Event()

    def server(request: httpx.Request) -> httpx.Response:
        asked.set()
        return httpx.Response(429, headers={"retry-after": "300"})

    sender = Sender(Plain(), transport=httpx.MockTransport(server))
    results: list[Sent] = []
    thread = threading.Thread(target=lambda: results.append(sender.send(AUDIENCE, batch(1))), daemon=True)
    thread.start()
    asked.wait(10)
    sender.close()
    thread.join(10)
    assert [sent.fate for sent in results] == ["unsent"]
    assert sender.stats.requests == 1


# -- fates ----------------------------------------------------------------------------------------------------


def sixfold(status: int) -> list[httpx.Response]:
    return [httpx.Response(status) for _ in range(6)]


@pytest.mark.parametrize(
    ("plan", "fate", "error"),
    [
        ([], "accepted", None),
        ([httpx.Response(200, json={"job": "j1"})], "submitted", None),
        ([httpx.Response(400)], "rejected", RefusedError),
        ([httpx.Response(409)], "rejected", RefusedError),
        ([httpx.Response(401)], "unsent", AuthError),
        ([httpx.Response(404)], "unsent", GoneError),
        ([httpx.Response(302)], "unsent", DestinationError),
        (sixfold(429), "unsent", TransientError),
        (sixfold(503), "unknown", UnknownError),
        ([lost() for _ in range(6)], "unknown", UnknownError),
        ([httpx.ConnectError("refused") for _ in range(6)], "unknown", UnknownError),
        ([httpx.Response(200, text="<html>") for _ in range(6)], "unknown", UnknownError),
        # a try that may have been applied leaves doubt, whatever the last answer was ..
        ([lost(), httpx.Response(400)], "unknown", RefusedError),
        ([lost(), httpx.Response(401)], "unknown", AuthError),
        ([httpx.Response(500), *sixfold(429)[1:]], "unknown", TransientError),
        # .. unless a later one was accepted
        ([lost(), httpx.Response(500), httpx.Response(429)], "accepted", None),
        # an answer that blames a row that was not sent proves nothing
        ([httpx.Response(200, json={"refused": {"2": "x"}})], "unknown", UnknownError),
        ([httpx.Response(200, json={"refused": {"-1": "x"}})], "unknown", UnknownError),
    ],
)
def test_the_fate_of_a_batch(plan: list[Any], fate: str, error: type[DestinationError] | None) -> None:
    """Every way in which two rows can end."""
    with make(Server(*plan)) as sender:
        sent = sender.send(AUDIENCE, batch(1, 2))
    assert (sent.fate, type(sent.error)) == (fate, error or type(None))


def test_refused_rows_are_named_by_index() -> None:
    """The platform's own refusals reach the caller; the rest is accepted."""
    with make(Server(httpx.Response(200, json={"refused": {"1": "too_short"}}))) as sender:
        sent = sender.send(AUDIENCE, batch(1, 2, 3))
    assert (sent.fate, dict(sent.refused)) == ("accepted", {1: "too_short"})


def test_an_earlier_success_in_the_same_flow_leaves_doubt() -> None:
    """A first call that was applied and a second that was refused: something may be there."""

    class TwoCalls(Plain):
        def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
            yield Call("POST", "/uploads", body='{"rows":[]}')
            yield Call("POST", "/uploads/start", body='{"rows":[]}')
            return Outcome()

    with make(Server(httpx.Response(200, json={}), httpx.Response(400)), destination=TwoCalls()) as sender:
        assert sender.send(AUDIENCE, batch(1)).fate == "unknown"


# -- halves ---------------------------------------------------------------------------------------------------


@given(rows=st.sets(st.integers(0, 40), min_size=2), data=st.data())
def test_bad_rows_cost_only_themselves(rows: set[int], data: st.DataObject) -> None:
    """Whatever rows are bad, exactly these are refused and the others are in; all bad blames nobody."""
    ordered = sorted(rows)
    bad = data.draw(st.sets(st.sampled_from(ordered), min_size=1, max_size=6))
    server = Server(bad=tuple(bad))
    with make(server) as sender:
        sent = sender.send(AUDIENCE, batch(*ordered))
    assert server.members == rows - bad
    if bad == rows:
        assert (sent.fate, dict(sent.refused)) == ("rejected", {})
    else:
        assert sent.fate == "accepted"
        assert dict(sent.refused) == {ordered.index(row): "422" for row in bad}


def test_finding_one_bad_row_of_many_is_cheap() -> None:
    """One bad row of 10,000 costs about two requests per halving."""
    server = Server(bad=(7_777,))
    with make(server) as sender:
        sent = sender.send(AUDIENCE, batch(*range(10_000)))
    assert dict(sent.refused) == {7_777: "422"}
    assert len(server.requests) <= 1 + 2 * 14


def test_a_bad_row_alone_is_named() -> None:
    """A batch of one row cannot be divided; its row is the bad one."""
    with make(Server(bad=(1,))) as sender:
        sent = sender.send(AUDIENCE, batch(1))
    assert (sent.fate, dict(sent.refused)) == ("rejected", {0: "422"})


def test_refusals_that_blame_no_row_are_not_divided() -> None:
    """A plain refusal costs one request, and an owed removal too."""
    for status in (400, 409):
        server = Server(httpx.Response(status))
        with make(server) as sender:
            sent = sender.send(AUDIENCE, batch(1, 2))
        assert (sent.fate, dict(sent.refused), len(server.requests)) == ("rejected", {}, 1)


def test_a_request_that_is_wrong_as_such_is_given_up() -> None:
    """Where nothing is ever accepted no row is blamed, after at most 63 requests, and later batches are not divided."""
    server = Server(bad=tuple(range(400)))
    given = iter([batch(*range(200), number=1), batch(*range(200, 400), number=2)])
    results = run(server, given)
    assert [(sent.fate, dict(sent.refused)) for _, sent in results] == [("rejected", {})] * 2
    assert len(server.requests) == 64


def test_too_many_bad_rows_are_left_to_the_next_run() -> None:
    """The bad rows found so far are named; the batch is not settled, so the rest is sent again."""
    server = Server(bad=tuple(range(0, 2000, 8)))
    with make(server) as sender:
        sent = sender.send(AUDIENCE, batch(*range(2000)))
    assert (sent.fate, len(server.requests)) == ("unknown", MAX_PARTS)
    assert sent.refused
    assert set(sent.refused) <= server.bad


def test_a_loss_among_halves_makes_the_batch_unknown() -> None:
    """One half is in, the other got no answer: the whole batch is perhaps there."""
    server = Server(httpx.Response(422), None, *(lost() for _ in range(6)))
    with make(server) as sender:
        sent = sender.send(AUDIENCE, batch(1, 2))
    assert (sent.fate, type(sent.error), server.members) == ("unknown", UnknownError, {1})


def test_refused_credentials_among_halves_before_anything_was_applied() -> None:
    """Refused as a whole, then the token ends: nothing is there."""
    with make(Server(httpx.Response(422), httpx.Response(401))) as sender:
        assert sender.send(AUDIENCE, batch(1, 2)).fate == "unsent"


def test_doubt_about_the_whole_ends_when_every_half_is_accepted() -> None:
    """A lost first try, then a refusal, then both halves are in."""
    with make(Server(lost(), httpx.Response(422))) as sender:
        assert sender.send(AUDIENCE, batch(1, 2)).fate == "accepted"


def test_doubt_about_the_whole_stays_for_a_refused_row() -> None:
    """The lost try may have applied the row that is refused now."""
    with make(Server("lost", bad=(2,))) as sender:
        sender_result = sender.send(AUDIENCE, batch(1, 2))
    assert (sender_result.fate, dict(sender_result.refused)) == ("unknown", {1: "422"})


def test_jobs_of_halves_are_perhaps_there() -> None:
    """One batch cannot carry two job handles."""
    job = {"job": "j"}
    with make(Server(httpx.Response(422), httpx.Response(200, json=job), httpx.Response(200, json=job))) as sender:
        assert sender.send(AUDIENCE, batch(1, 2)).fate == "unknown"


def test_warnings_of_halves_are_kept_once() -> None:
    """What the platform says against members that it took is not lost when a batch is divided."""
    refusal = RefusedError("acme: a row is bad", code="422", divisible=True)
    halves = iter([Outcome(warnings=("odd",)), Outcome(warnings=("odd", "old"))])
    sent = divide(batch(1, 2), Sent(error=refusal, fate="rejected"), lambda part: sent_from(next(halves), part.count))
    assert sent.outcome is not None
    assert sent.outcome.warnings == ("odd", "old")


def test_halves_are_sessions_of_their_own() -> None:
    """Rows keep their order and text; each half is the one batch of a session that a repeat gives again."""
    whole = Batch(Op.ADD, '["a","\u00e9"],["b",""],["c","1.0"]', 3, 4, False, 900, "g-4", 99, ("email",))
    left, right = halve(whole)
    assert f"{left.rows},{right.rows}" == whole.rows
    assert (left.count, right.count) == (1, 2)
    assert (left.id, right.id) == ("g-4a", "g-4b")
    assert [(half.number, half.last, half.total) for half in (left, right)] == [(1, True, 1), (1, True, 2)]
    assert len({whole.session, left.session, right.session}) == 3
    assert all(0 < half.session < 2**63 for half in (left, right))
    assert halve(whole) == (left, right)


# -- many batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_every_batch_comes_back_once(concurrency: int) -> None:
    """All numbers, all accepted, all members in."""
    server = Server()
    results = run(server, batches(20), concurrency)
    assert [(number, sent.fate) for number, sent in results] == [(number, "accepted") for number in range(1, 21)]
    assert server.members == set(range(1, 21))


def test_no_batches_make_no_request() -> None:
    """Nothing to send, nothing sent."""
    server = Server()
    assert run(server, iter([])) == []
    assert server.requests == []


def test_batches_are_held_in_bounded_number() -> None:
    """At most concurrency + 1 batches were pulled and not yet given back."""
    pulled, held = 0, []

    def source() -> Iterator[Batch]:
        nonlocal pulled
        for one in batches(30):
            pulled += 1
            yield one

    destination = Plain()
    with make(Server()) as sender:
        for returned, _ in enumerate(send_batches(sender, destination, AUDIENCE, source(), concurrency=3)):
            held.append(pulled - returned)
    assert max(held) <= 4


def test_requests_run_side_by_side() -> None:
    """With a concurrency of two, two requests are in flight together: each waits for the other."""
    meeting = threading.Barrier(2, timeout=10)

    def server(request: httpx.Request) -> httpx.Response:
        meeting.wait()
        return httpx.Response(200, json={})

    assert [sent.fate for _, sent in run(server, batches(4), concurrency=2)] == ["accepted"] * 4


@pytest.mark.parametrize("plan", [[httpx.Response(401)], [httpx.Response(404)], [httpx.Response(302)], sixfold(429)])
def test_some_errors_end_the_sends(plan: list[Any]) -> None:
    """Refused credentials, a vanished audience, a redirect, an exhausted throttle: the rest is unsent."""
    server = Server(*plan)
    results = run(server, batches(5))
    assert [sent.fate for _, sent in results] == ["unsent"] * 5
    assert all(sent.error is results[0][1].error for _, sent in results)
    assert len(server.requests) == len(plan)


def test_a_platform_that_is_down_ends_the_sends() -> None:
    """Two batches in a row without an answer, then no further request."""
    server = Server(*(lost() for _ in range(99)))
    fates = [sent.fate for _, sent in run(server, batches(5))]
    assert fates == ["unknown", "unknown", "unsent", "unsent", "unsent"]


def test_one_poisonous_batch_does_not_end_the_sends() -> None:
    """A batch that the platform fails on costs itself only."""
    server = Server(*sixfold(500), None, *sixfold(500))
    fates = [sent.fate for _, sent in run(server, batches(5))]
    assert fates == ["unknown", "accepted", "unknown", "accepted", "accepted"]


def test_a_refused_batch_does_not_end_the_sends() -> None:
    """A refusal speaks of its own batch, an owed removal too."""
    server = Server(httpx.Response(400), httpx.Response(409))
    assert [sent.fate for _, sent in run(server, batches(4))] == ["rejected", "rejected", "accepted", "accepted"]


def test_a_replace_is_never_divided_and_ends_with_its_first_failure() -> None:
    """After a failure the session is lost, and closing it would drop members: the rest is not sent."""
    server = Server(None, bad=(4,))
    given = (batch(2 * number, 2 * number + 1, number=number, op=Op.REPLACE) for number in range(1, 5))
    results = run(server, given, concurrency=4)
    assert [sent.fate for _, sent in results] == ["accepted", "rejected", "unsent", "unsent"]
    assert [json.loads(request.content)["rows"] for request in server.requests] == [[2, 3], [4, 5]]


def test_a_replace_has_one_request_in_flight() -> None:
    """Its first batch must arrive first and its last one last, whatever the concurrency."""
    order: list[str] = []

    def server(request: httpx.Request) -> httpx.Response:
        number = json.loads(request.content)["rows"][0]
        order.append(f"{number} in")
        time.sleep(0.02)  # room for a second request to come in
        order.append(f"{number} out")
        return httpx.Response(200, json={})

    run(server, batches(4, Op.REPLACE), concurrency=4)
    assert order == [f"{number} {way}" for number in range(1, 5) for way in ("in", "out")]


def test_a_bug_is_not_swallowed() -> None:
    """What is no error of the destination leaves the loop."""

    def server(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(server, batches(3), concurrency=2)


# -- real sockets ---------------------------------------------------------------------------------------------


class Listener(http.server.BaseHTTPRequestHandler):
    """Keeps connections open; answers with the facts of the request, or hangs up where the body says so."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if b'"remove"' in body:
            self.close_connection = True
            return
        facts = {"length": len(body), "chunked": "transfer-encoding" in self.headers, "port": self.client_address[1]}
        answer = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def local() -> Iterator[Destination]:
    """A destination on a real loopback port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

        class Local(Plain):
            def root(self) -> str:
                return f"http://127.0.0.1:{server.server_address[1]}"

        yield Local()
        server.shutdown()


def test_a_large_body_arrives_whole_over_one_connection(local: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut for the deadline, yet sent with its length; the connection is reused; loopback needs no proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    body = "x" * 300_000

    def flow() -> Flow[list[Reply]]:
        first = yield Call("POST", "/a", body=body)
        second = yield Call("POST", "/b", body=body)
        return [first, second]

    with Sender(local) as sender:
        replies = sender.play(flow())
    assert [reply.json["length"] for reply in replies] == [300_000, 300_000]
    assert not replies[0].json["chunked"]
    assert replies[0].json["port"] == replies[1].json["port"]


def test_a_server_that_hangs_up_leaves_doubt(local: Destination) -> None:
    """It read the request and gave no answer."""
    with Sender(local, budget=Budget(tries=1)) as sender:
        assert sender.send(AUDIENCE, batch(1, op=Op.REMOVE)).fate == "unknown"


# -- privacy --------------------------------------------------------------------------------------------------


def test_nothing_shows_a_secret_or_a_member(caplog: pytest.LogCaptureFixture) -> None:
    """Neither log lines nor errors hold the token, a row, or the platform's text."""
    caplog.set_level(logging.DEBUG)
    private = ("token-1", "4242424", "ada@example.com")
    failures = [httpx.ReadError("token-1 4242424"), httpx.Response(400, text="ada@example.com")]
    for failure in failures:
        with make(Server(failure), budget=Budget(tries=1)) as sender:
            sent = sender.send(AUDIENCE, batch(4242424))
        shown = f"{sent!r} {sent.error} {sender!r} {caplog.text}"
        assert not [word for word in private if word in shown]
    assert "https://api.example.com " in caplog.text  # httpx does log its URLs, of which the rest may be a secret
    assert "/v1/lists" not in caplog.text
