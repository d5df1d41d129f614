"""A server that counts: it parses every member it is sent and keeps it, in a process of its own.

    python -m benchmarks.sink

It answers what a sync asks of Meta (find or make an audience, `/users` with a form or with JSON), and takes a JSON
array of members at any other path. A member is known by the first value of its row. It checks nothing and never
refuses, so it costs little; how much it cost is among what it counts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes
from urllib.request import Request, urlopen

_ESCAPED = re.compile(rb"%[0-9A-F]{2}")
_COMMON = {f"%{ord(character):02X}".encode(): character.encode() for character in '[]{}",:'}


@dataclass
class Counts:
    """What arrived since the last reset; `members` by the first value of their row."""

    requests: int = 0
    rows: int = 0
    body_bytes: int = 0
    members: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    audience: dict[str, str] = field(default_factory=dict)
    cpu_s: float = field(default_factory=time.process_time)

    def summary(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "rows": self.rows,
            "body_bytes": self.body_bytes,
            "cpu_s": time.process_time() - self.cpu_s,
        }

    def take(self, rows: list[Any], *, remove: bool = False) -> None:
        self.rows += len(rows)
        for row in rows:
            values = tuple(row.values() if isinstance(row, dict) else row)
            if remove:
                self.members.pop(values[0], None)
            else:
                self.members[values[0]] = values


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    counts = Counts()
    lock = threading.Lock()

    def do_GET(self) -> None:
        counts = self.counts
        with self.lock:
            if self.path == "/_counts":
                self._reply(counts.summary())
            elif self.path == "/_members":
                self._reply(list(counts.members))
            elif "/customaudiences" in self.path:
                self._reply({"data": [counts.audience] if counts.audience else []})
            else:
                self._reply(counts.audience)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            if self.path == "/_reset":
                members = self.counts.members if b"keep" in body else {}
                type(self).counts = Counts(members=members, audience=self.counts.audience if members else {})
                return self._reply({})
            counts = self.counts
            counts.requests += 1
            counts.body_bytes += len(body)
            if self.headers["Content-Type"] == "application/x-www-form-urlencoded":
                return self._meta(_form(body))
            content = json.loads(body)
            if isinstance(content, dict):
                return self._upload(content, remove=content.get("method") == "DELETE")
            counts.take(content)
            self._reply({"taken": len(content)})

    def _meta(self, form: dict[str, str]) -> None:
        if "payload" in form:
            self._upload({"payload": json.loads(form["payload"])}, remove=form.get("method") == "DELETE")
        else:
            self.counts.audience.update({"id": "1", "account_id": "1", **form})
            self._reply({"id": "1"})

    def _upload(self, content: dict[str, Any], *, remove: bool) -> None:
        rows = content["payload"]["data"]
        self.counts.take(rows, remove=remove)
        self._reply({"num_received": len(rows), "num_invalid_entries": 0})

    def _reply(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said about requests."""


def _form(body: bytes) -> dict[str, str]:
    """The fields of a form; the escapes of JSON are undone in one pass each, since a body has hundreds of thousands."""
    fields = {}
    for pair in body.split(b"&"):
        name, _, value = pair.partition(b"=")
        for escape, character in _COMMON.items():
            value = value.replace(escape, character)
        value = value.replace(b"+", b" ")
        fields[name.decode()] = (unquote_to_bytes(value) if _ESCAPED.search(value) else value).decode()
    return fields


# -- from outside ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sink:
    """A running server."""

    url: str

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("/_counts")
        return found

    def members(self) -> set[str]:
        return set(self._ask("/_members"))

    def reset(self, *, keep: bool = False) -> None:
        """Count from zero; `keep` the members and the audience."""
        self._ask("/_reset", b"keep" if keep else b"all")

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        with urlopen(Request(self.url + path, data=body)) as reply:
            return json.load(reply)


@contextmanager
def running() -> Iterator[Sink]:
    """A server in another process, on a free loopback port."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Sink(process.stdout.readline().strip())


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends with the process that started this one, however that ends


if __name__ == "__main__":
    main()
