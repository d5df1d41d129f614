"""The sandbox as an ASGI application: platforms, failures on request, a log of calls, and `/_sandbox` for tests.

    /                  a page for people
    /_sandbox/...      the query and control API, see `control`
    /<platform>/...    that platform, at its own paths
    /...               the first platform

Written against ASGI itself: cutting a connection at a chosen byte is what frameworks are there to prevent.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

from dbt_segments.sandbox import control, page
from dbt_segments.sandbox.faults import Fault, Faults
from dbt_segments.sandbox.platform import Answer, Clock, Platform, Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_WORDED = frozenset(("status", "throttle", "expired_token", "too_small", "gone"))
_CALLS_KEPT = 10_000


class Sandbox:
    """Platforms under one roof. Its attributes are for tests in the same process; `lock` guards all of them.

    calls    the newest calls, oldest first; `n` counts from 1 since the last reset
    closing  the server is stopping: requests that hang or wait end now
    """

    def __init__(self, platforms: Sequence[Platform], clock: Clock) -> None:
        self.platforms = {platform.name: platform for platform in platforms}
        self.clock = clock
        self.faults = Faults()
        self.calls: deque[dict[str, Any]] = deque(maxlen=_CALLS_KEPT)
        self.made = 0
        self.lock = threading.RLock()
        self.closing = False
        self.state_file: str | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the sandbox speaks HTTP, not {scope['type']}")
        request = await _read(scope, receive)
        exchange = _Exchange(self, scope, receive, send)
        if request.path == "/":
            with self.lock:
                html = page.render(self)
            await exchange.reply(Answer(200, html, {"content-type": "text/html; charset=utf-8"}))
        elif request.path.startswith("/_sandbox/"):
            with self.lock:
                answer = control.answer(self, request)
            await exchange.reply(answer)
        else:
            await self._serve(request, exchange)

    def reset(self) -> None:
        """As new: no audiences, people, faults, calls; policies at their defaults."""
        self.faults.clear()
        self.calls.clear()
        self.made = 0
        for platform in self.platforms.values():
            platform.reset()

    def platform_of(self, path: str) -> tuple[Platform, str]:
        """The platform that a path means, and the path there."""
        first, _, rest = path[1:].partition("/")
        if first in self.platforms:
            return self.platforms[first], "/" + rest
        return next(iter(self.platforms.values())), path

    async def _serve(self, request: Request, exchange: _Exchange) -> None:
        platform, request.path = self.platform_of(request.path)
        with self.lock:
            request.op = platform.classify(request)
            fault = self.faults.meet(platform.name, request.method, request.path, request.op)
        await exchange.pause(platform.policy["latency_s"])
        with self.lock:
            answer = self._apply(platform, request, fault)
            self._record(platform, request, fault, answer)
        await exchange.deliver(answer, fault)

    def _apply(self, platform: Platform, request: Request, fault: Fault | None) -> Answer:
        """What the platform answers, with what the fault does to that."""
        if fault is None:
            return platform.answer(request)
        if fault.kind in ("reset_before", "hang") or fault.kind in _WORDED:
            if fault.get("applied", False):
                platform.answer(request)
            return platform.fail(fault, request) if fault.kind in _WORDED else Answer(0)
        if fault.kind in ("html", "truncated", "empty") and not fault.get("applied", False):
            return Answer(200, {"success": True})
        if fault.kind == "duplicate":
            platform.answer(request)
        request.skip = int(fault.get("rows", 1)) if fault.kind == "partial" else 0
        answer = platform.answer(request)
        if fault.kind == "usage":
            answer.headers |= platform.usage(int(fault.get("percent", 95)), request)
        return answer

    def _record(self, platform: Platform, request: Request, fault: Fault | None, answer: Answer) -> None:
        """Log a call: never a query, a header or a body."""
        self.made += 1
        error = answer.body.get("error", {}) if isinstance(answer.body, dict) else {}
        code = [error.get("code"), error.get("error_subcode")] if isinstance(error, dict) else []
        self.calls.append(
            {
                "n": self.made,
                "at": self.clock.now(),
                "platform": platform.name,
                "method": request.method,
                "path": request.path,
                "op": request.op,
                "status": answer.status,
                "code": "/".join(str(part) for part in code if part is not None),
                "rows": answer.note.get("rows", 0),
                "bytes": len(request.body),
                "fault": fault.kind if fault else "",
                **{name: value for name, value in answer.note.items() if name != "rows"},
            }
        )


class _Exchange:
    """One request's way back."""

    def __init__(self, sandbox: Sandbox, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._sandbox = sandbox
        self._scope = scope
        self._receive = receive
        self._send = send

    async def pause(self, seconds: float) -> None:
        """Sleep, in slices, so that a stopping server need not wait."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0 and not self._sandbox.closing:
            await asyncio.sleep(min(left, 0.05))

    async def deliver(self, answer: Answer, fault: Fault | None) -> None:
        """Send the answer, as far and as fast as the fault lets it."""
        kind = fault.kind if fault else ""
        if fault and kind == "slow":
            await self.pause(float(fault.get("seconds", 1)))
        if kind == "hang":
            await self._hang()
        elif kind == "reset_before":
            await self._cut()
        elif kind == "reset_after":
            body = _encode(answer.body)
            await self._start(answer, len(body))
            await self._send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await self._cut()
        elif kind == "html":
            await self.reply(Answer(200, "<html><body>Be right back</body></html>", {"content-type": "text/html"}))
        elif kind == "empty":
            await self.reply(Answer(200, ""))
        elif kind == "truncated":
            text = _encode(answer.body).decode()
            await self.reply(Answer(200, text[: len(text) // 2], {"content-type": "application/json"}))
        else:
            await self.reply(answer)

    async def reply(self, answer: Answer) -> None:
        """Send a whole answer."""
        body = _encode(answer.body)
        await self._start(answer, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, answer: Answer, length: int) -> None:
        headers = {"content-type": "application/json", **answer.headers, "content-length": str(length)}
        headers.setdefault("date", formatdate(self._sandbox.clock.now(), usegmt=True))
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": raw})

    async def _hang(self) -> None:
        """Answer nothing until the caller gives up or the server stops."""
        gone = asyncio.ensure_future(self._receive())
        while not gone.done() and not self._sandbox.closing:
            await asyncio.wait({gone}, timeout=0.05)
        gone.cancel()
        await self._cut()

    async def _cut(self) -> None:
        self._scope["state"]["transport"].abort()
        # The server learns of it in the next turns of the loop, and then expects no answer from us.
        for _ in range(3):
            await asyncio.sleep(0)


async def _read(scope: MutableMapping[str, Any], receive: Receive) -> Request:
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return Request(
        method=scope["method"],
        path=scope["path"],
        query=dict(parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True)),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        body=b"".join(parts),
        asked=scope["path"],
    )


def _encode(body: Any) -> bytes:
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
