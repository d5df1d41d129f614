"""A receiver of webhooks on a loopback port: it keeps what it is sent and answers as it is told."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request, as it came; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What is answered; `hang_up`: the request is taken, and nothing is answered."""

    status: int = 200
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False


Decide = Callable[[Received], Answer | None]


class Receiver:
    """`plan` answers come first, then `decide`, then 200. `requests` holds all, oldest first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Received] = []
        self.plan: list[Answer] = []
        self.decide: Decide = lambda received: None
        self._lock = threading.Lock()

    def take(self, received: Received) -> Answer:
        with self._lock:
            self.requests.append(received)
            return self.plan.pop(0) if self.plan else self.decide(received) or Answer()

    @property
    def events(self) -> list[Any]:
        """The bodies, parsed."""
        return [received.json for received in self.requests]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _take(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = receiver.take(Received(self.command, self.path, headers, body))
            if answer.hang_up:
                self.close_connection = True
                return
            content = b"" if answer.json is None else json.dumps(answer.json).encode()
            self.send_response_only(answer.status)  # without a Date of its own
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = _take

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join(timeout=5)
