"""Plays a destination's flows over HTTP: authentication, pace, retries, halves.

What an answer means is the destination's to say (`Destination.fault`). What is decided here is whether a request may
have been applied: everything but a definite refusal may have been.

No message here holds a body, a header or a URL.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote_plus

import httpx

from dbt_segments import addresses
from dbt_segments.batches import send_batches
from dbt_segments.destinations.auth import Outgoing
from dbt_segments.destinations.base import Audience, Batch, Call, Destination, Fault, Flow, Reply
from dbt_segments.errors import DestinationError, RefusedError, TransientError, UnknownError
from dbt_segments.parts import Fate, Sent, divide, fate_of, is_divisible, sent_from
from dbt_segments.retry import Budget, Pace, Setback, retry_after_s, retrying

__all__ = ["Fate", "Sender", "Sent", "Stats", "send_batches"]

T = TypeVar("T")

CONNECT_S = 10.0
CHUNK_BYTES = 65_536
LONGEST_ANSWER_BYTES = 32_000_000
NO_ANSWER = Reply(0)
CONNECT = "connect"


@dataclass
class Stats:
    """What a sender has done so far: `requests` tried, `retries` among them, `bytes_sent` of bodies. Thread-safe."""

    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, requests: int = 0, retries: int = 0, bytes_sent: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.retries += retries
            self.bytes_sent += bytes_sent


@dataclass
class _Trail:
    """`doubtful` once a request of the flow may have been applied and the flow has not ended well."""

    doubtful: bool = False


class Sender:
    """Plays flows against one connection, from any number of threads, over one reused HTTP client.

    clock, sleep, jitter  monotonic seconds, waiting, numbers from 0 up to 1; `sleep` None waits until `close`
    may_start             asked before every request with the seconds it may last; False ends the sends
    on_request            called right before every request
    around                entered for as long as a call and its waits last, from whatever thread makes it
    budget                bounds tries and waiting of one call
    transport             replaces the network in tests
    """

    def __init__(
        self,
        destination: Destination,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
        may_start: Callable[[float], bool] = lambda timeout_s: True,
        on_request: Callable[[], None] | None = None,
        around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        budget: Budget | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        settings = destination.settings
        self.stats = Stats()
        self._destination = destination
        self.auth = destination.auth()
        self._clock = clock
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._jitter = jitter
        self._may_start = may_start
        self._on_request = on_request
        self._around = around
        self._budget = budget or Budget()
        self._timeout_s: float = settings.timeout_s
        self._pace = Pace(settings.requests_per_s or destination.limits.requests_per_s, clock)
        self._root = destination.root()
        self._client = httpx.Client(
            transport=transport or destination.transport() or addresses.transport(allow_private=settings.allow_private),
            follow_redirects=False,
            headers={"User-Agent": "dbt-segments"},
        )

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End waiting threads, start no further request, close the client."""
        self._closed.set()
        self._client.close()

    @property
    def longest_request_s(self) -> float:
        """How long a request with the connection's own timeout may last, from its start to its last byte."""
        return _longest_s(self._timeout_s)

    def play(self, flow: Flow[T]) -> T:
        """What the flow returns. A DestinationError is thrown into it at its `yield`, and leaves if not caught."""
        return self._play(flow, _Trail())

    def send(self, audience: Audience, batch: Batch, *, may_divide: bool = True) -> Sent:
        """What became of one batch, which is sent whole, then in halves if the platform blames a row."""
        sent = self._push(audience, batch)
        if may_divide and is_divisible(batch, sent):
            return divide(batch, sent, lambda part: self._push(audience, part))
        return sent

    def _push(self, audience: Audience, batch: Batch) -> Sent:
        trail = _Trail()
        try:
            outcome = self._play(self._destination.push(audience, batch), trail)
        except DestinationError as error:
            lone = isinstance(error, RefusedError) and error.divisible and batch.count == 1
            refused = {0: error.code} if lone else {}
            return Sent(error=error, fate=fate_of(error, trail.doubtful), refused=refused)
        return sent_from(outcome, batch.count)

    def _play(self, flow: Flow[T], trail: _Trail) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    reply = self._request(call, trail)
                except DestinationError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    # -- one call, several tries ------------------------------------------------------------------------------

    def _request(self, call: Call, trail: _Trail) -> Reply:
        loop = retrying(self._budget, sleep=self._sleep, jitter=self._jitter)
        tries = 0

        def attempt() -> Reply:
            nonlocal tries
            tries += 1
            self.stats.add(retries=int(tries > 1))
            return self._try(call, trail)

        try:
            with self._around():
                return loop(attempt)
        except Setback as setback:
            raise setback.fault.error from None

    def _try(self, call: Call, trail: _Trail) -> Reply:
        """A good reply, or Setback. A refused credential is renewed once, and the call repeated with the fresh one."""
        reply, fault, used = self._exchange(call)
        if fault is not None and fault.renew and self._renew(used):
            self.stats.add(retries=1)
            reply, fault, _ = self._exchange(call)
        self._keep_pace(reply, fault)
        lost = fault is not None and (isinstance(fault.error, UnknownError) or reply.status >= 500)
        # After a success too: a refusal later in the same flow no longer means that nothing happened.
        trail.doubtful |= call.method != "GET" and (lost or fault is None)
        if fault is None:
            return reply
        if lost and not call.safe and fault.error.code != CONNECT:
            fault = replace(fault, retry=False, error=_as_unknown(fault.error))
        raise Setback(fault)

    def _keep_pace(self, reply: Reply, fault: Fault | None) -> None:
        """What one thread is told to wait holds for the account, so for every thread."""
        told = fault.wait_s if fault is not None and isinstance(fault.error, TransientError) else None
        asked = told if told is not None else self._destination.pace(reply)
        if asked is not None:
            self._pace.quiet(asked)

    def _renew(self, used: int) -> bool:
        try:
            return self.auth.renew(used, self._post)
        except TransientError as error:
            raise Setback(Fault(error, retry=True)) from None

    def _exchange(self, call: Call) -> tuple[Reply, Fault | None, int]:
        """One request's answer, what is wrong with it, and which credential was used. Raises what ends the call."""
        try:
            used = self.auth.ready(self._post)
        except TransientError as error:
            raise Setback(Fault(error, retry=True)) from None
        self._await_turn()
        timeout_s = call.timeout_s or self._timeout_s
        if self._closed.is_set() or not self._may_start(_longest_s(timeout_s)):
            raise TransientError("the run ended before this request could start", code="stopped")
        if self._on_request is not None:
            self._on_request()
        try:
            reply = self._roundtrip(self._outgoing(call), call, timeout_s)
        except DestinationError as error:
            return NO_ANSWER, Fault(error, retry=isinstance(error, TransientError)), used
        return reply, self._judge(call, reply), used

    def _judge(self, call: Call, reply: Reply) -> Fault | None:
        if 300 <= reply.status < 400:
            hint = "set base_url to the address that it points to"
            message = f"the platform answered with a redirect ({reply.status})"
            return Fault(DestinationError(message, code=str(reply.status), hint=hint))
        fault = self._destination.fault(call, reply)
        if fault is not None and fault.retry and fault.wait_s is None:
            asked = retry_after_s(reply.headers, datetime.now(timezone.utc))
            if asked is not None and fault.longest_wait_s is not None:
                asked = min(asked, fault.longest_wait_s)
            fault = replace(fault, wait_s=asked)
        return fault

    def _await_turn(self) -> None:
        """Wait for this account's next free moment; again if meanwhile the platform asked for more quiet."""
        slot = self._pace.slot()
        until = self._clock()
        while (later := self._pace.until(slot)) > until:
            wait_s = later - self._clock()
            if wait_s > self._budget.wait_s:
                raise TransientError(f"the platform asks to wait {wait_s:.0f} s", code="pace", hint="run again later")
            if wait_s > 0:
                self._sleep(wait_s)
            until = later

    # -- one request ------------------------------------------------------------------------------------------

    def _outgoing(self, call: Call) -> Outgoing:
        form = dict(call.form) if call.form is not None else None
        body = call.body.encode() if isinstance(call.body, str) else call.body or b""
        url = self._url(call)
        outgoing = Outgoing(call.method, dict(call.headers), dict(call.query), form, body, url)
        if _is_below(url, self._root):
            self.auth.apply(outgoing)
        return outgoing

    def _url(self, call: Call) -> str:
        return call.path if "://" in call.path else f"{self._root}/{call.path.lstrip('/')}"

    def _roundtrip(self, outgoing: Outgoing, call: Call, timeout_s: float) -> Reply:
        body = outgoing.body
        if outgoing.form is not None:
            body = encode_form(outgoing.form)
            outgoing.headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        elif body:
            outgoing.headers.setdefault("Content-Type", "application/json")
        return self._http(outgoing.method, self._url(call), outgoing.query, outgoing.headers, body, timeout_s)

    def _post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        """Post a form to a token endpoint. A lost answer is merely transient there: no audience is touched."""
        headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        try:
            return self._http("POST", url, {}, dict(headers), encode_form(form), self._timeout_s)
        except UnknownError as error:
            host = httpx.URL(url).host
            raise TransientError(
                f"the token endpoint at {host} did not answer", code=error.code, hint="is `token_url` right?"
            ) from None

    def _http(
        self, method: str, url: str, query: Mapping[str, str], headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Reply:
        """The whole answer. Raises UnknownError where none came, DestinationError where none can come."""
        deadline = self._clock() + timeout_s
        if body:
            headers = {**headers, "Content-Length": str(len(body))}
        self.stats.add(requests=1, bytes_sent=len(body))
        _discretion.active = True
        try:
            request = self._client.build_request(
                method,
                httpx.URL(url).copy_merge_params(query),
                headers=headers,
                content=self._chunks(body, deadline) if body else None,
                timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            )
            response = self._client.send(request, stream=True)
            try:
                content = self._read(response, deadline)
            finally:
                response.close()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _no_answer(error) from None
        finally:
            _discretion.active = False
        return _reply(response.status_code, response.headers, content)

    def _chunks(self, body: bytes, deadline: float) -> Iterator[bytes]:
        # httpx limits each read and write, not the request: a trickle would outlast the lease that allowed it.
        for start in range(0, len(body), CHUNK_BYTES):
            self._check(deadline)
            yield body[start : start + CHUNK_BYTES]

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        content = bytearray()
        for chunk in response.iter_bytes():
            self._check(deadline)
            content += chunk
            if len(content) > LONGEST_ANSWER_BYTES:
                raise httpx.DecodingError("the answer is too long")
        return bytes(content)

    def _check(self, deadline: float) -> None:
        if self._clock() > deadline:
            raise httpx.TimeoutException("the request lasted too long")


class _Discretion(threading.local):
    """Whether this thread is sending. What httpx logs of a URL then ends with its host: the rest may be a secret."""

    active = False

    def filter(self, record: logging.LogRecord) -> bool:
        if self.active and isinstance(record.args, tuple):
            record.args = tuple(
                f"{one.scheme}://{one.netloc.decode()}" if isinstance(one, httpx.URL) else one for one in record.args
            )
        return True


_discretion = _Discretion()
logging.getLogger("httpx").addFilter(_discretion.filter)


def _longest_s(timeout_s: float) -> float:
    """The last read or write begins within the timeout and may last as long again."""
    return min(CONNECT_S, timeout_s) + 2 * timeout_s


def _reply(status: int, headers: httpx.Headers, content: bytes) -> Reply:
    try:
        value = json.loads(content) if content.strip() else None
    except (ValueError, RecursionError):
        value = None
    return Reply(status, {name.lower(): text for name, text in headers.items()}, value, empty=not content.strip())


def _no_answer(error: Exception) -> DestinationError:
    """What the lack of an answer means. The library's own text is left out: it may hold a header or a URL."""
    if _is_certificate_error(error):
        hint = "check base_url, and the certificates that this machine trusts"
        return DestinationError("the platform's TLS certificate was not accepted", code="tls", hint=hint)
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)):
        return DestinationError(f"the request could not be made ({type(error).__name__})", code="request")
    # Here nothing was sent, yet it counts as unknown: a proxy in between may have said so.
    never_sent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    if never_sent:
        said = "is `base_url` right, and the platform up? the next run sends again"
        return UnknownError(f"no answer ({type(error).__name__})", code=CONNECT, hint=said)
    return UnknownError(f"no answer ({type(error).__name__})", code="no_answer")


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _as_unknown(error: DestinationError) -> UnknownError:
    return error if isinstance(error, UnknownError) else UnknownError(error.message, code=error.code, hint=error.hint)


def _is_below(url: str, root: str) -> bool:
    """Whether credentials for `root` may go to `url`: same scheme, host and port."""
    one, other = httpx.URL(url), httpx.URL(root)
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


_RESERVED = re.compile(r"[^A-Za-z0-9_.~-]+")
_quote = functools.lru_cache(maxsize=4096)(quote_plus)


def encode_form(form: Mapping[str, str]) -> bytes:
    """The form as `urllib.parse.urlencode` writes it, several times faster on the long runs of hex in our bodies."""
    return "&".join(f"{_escape(name)}={_escape(value)}" for name, value in form.items()).encode("ascii")


def _escape(text: str) -> str:
    return _RESERVED.sub(lambda found: _quote(found[0]), text)
