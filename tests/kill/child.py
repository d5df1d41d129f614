"""A `dbt-segments` process that dies, stops or fails where its test says; the product itself has no such hooks.

Every state write and every request is a *point*, numbered from 1 and named by what it does, e.g.
`commit pointers generation` or `request POST users remove`. A point has a moment before and a moment after it.
Run by `harness.start`, which forks it from a process that has everything imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dbt_segments import deliver, warehouse
from dbt_segments.cli import main as cli
from dbt_segments.destinations.base import Reply
from dbt_segments.destinations.meta import Meta
from dbt_segments.errors import WarehouseError
from dbt_segments.send import Sender
from dbt_segments.state import locks
from dbt_segments.state.store import Store
from dbt_segments.warehouse import Session

_WRITES = ("create", "insert", "drop", "update", "delete", "alter")


@dataclass(frozen=True)
class Orders:
    """What shall happen to a process.

    output     file for stdout and stderr
    trace      file that gets one line per point: its name
    kill       ("before" or "after", point): SIGKILL there; a point is its number, or its name (its first time)
    kill_request  ("before" or "after", n): SIGKILL at the n-th request
    stop       the same: SIGSTOP there; whoever wakes it finds its clock a day later
    fail       name of a commit that fails once instead of committing
    rows       rows a request holds at most
    wave       batches that are written ahead together
    lease      seconds of a lease and of its margin
    environment  variables of the process, besides those of the test
    """

    output: str
    trace: str | None = None
    kill: tuple[str, int | str] | None = None
    kill_request: tuple[str, int] | None = None
    stop: tuple[str, int | str] | None = None
    fail: str | None = None
    rows: int = 2
    wave: int = 2
    lease: tuple[float, float] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def run(arguments: Sequence[str], orders: Orders) -> None:
    """Be the command `dbt-segments` with these arguments; ends the process."""
    os.environ.update(orders.environment)
    file = os.open(orders.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    Meta.limits = dataclasses.replace(Meta.limits, members=orders.rows)
    deliver.WAVE = orders.wave
    if orders.lease is not None:
        locks.LEASE_S, locks.MARGIN_S = orders.lease
    _watch(_Points(orders))
    cli(args=list(arguments), prog_name="dbt-segments")


class _Points:
    """Counts points, writes their names down, and ends the process at the one that was ordered."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._count = 0
        self._failed = False
        self._stopped = False
        self.kill_request = orders.kill_request

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        """A point: what happens in the block."""
        self._count += 1
        number = self._count
        if self._orders.trace is not None:
            with Path(self._orders.trace).open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        self._meet(("before", number), ("before", name))
        yield
        self._meet(("after", number), ("after", name))

    def fails(self, name: str) -> bool:
        """Whether this commit shall fail; true once."""
        now = name == self._orders.fail and not self._failed
        self._failed |= now
        return now

    def _meet(self, *moments: tuple[str, int | str]) -> None:
        if self._orders.kill in moments:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._orders.stop in moments and not self._stopped:
            self._stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)
            _sleep_a_day()


def _sleep_a_day() -> None:
    """What the monotonic clock says after a day, to the one module that judges leases by it."""
    locks.time = SimpleNamespace(  # type: ignore[attr-defined, assignment]
        monotonic=lambda: time.monotonic() + 86_400, sleep=time.sleep
    )


def _watch(points: _Points) -> None:
    _watch_transactions(points)
    _watch_logs()
    _watch_requests(points)


def _watch_transactions(points: _Points) -> None:
    """Points at every commit, and at every write that commits by itself."""
    execute, commit = Session.execute, Session.commit

    def watched_execute(session: Session, sql: str, parameters: Sequence[Any] = ()) -> None:
        word = sql.split(None, 1)[0].lower()
        if word in _WRITES and _noted(session) is None:
            with points.around("write " + _shape(sql)):
                execute(session, sql, parameters)
            return
        execute(session, sql, parameters)
        if word == "begin":
            vars(session)["noted"] = []
        elif word in ("commit", "rollback"):
            vars(session)["noted"] = None

    def watched_commit(session: Session) -> None:
        name = " ".join(["commit", *(_noted(session) or [])])
        if points.fails(name):
            raise WarehouseError("the connection was lost while committing")
        with points.around(name):
            commit(session)

    Session.execute, Session.commit = watched_execute, watched_commit  # type: ignore[method-assign, assignment]
    for kind in (warehouse._DuckDB, warehouse._Postgres):
        kind.store = _watched_store(kind.store, points)  # type: ignore[method-assign]


def _watched_store(store: Callable[..., None], points: _Points) -> Callable[..., None]:
    def watched(session: Session, table: str, *rest: Any) -> None:
        if _noted(session) is not None:
            store(session, table, *rest)
            return
        with points.around("write store " + _shape(f"{table}").split()[-1]):
            store(session, table, *rest)

    return watched


def _noted(session: Session) -> list[str] | None:
    """What the open transaction records; None outside of one."""
    found: list[str] | None = vars(session).get("noted")
    return found


def _watch_logs() -> None:
    """Tell what a transaction records, so that its commit has a name."""
    log, lease = Store.log, locks._write

    def watched_log(
        store: Store, session: Session, name: str, rows: Sequence[Mapping[str, Any]], *rest: Any, **more: Any
    ) -> None:
        noted = _noted(session)
        if noted is not None and rows:
            said = {str(row.get("kind") or row.get("state") or row.get("event") or "") for row in rows}
            noted.append(f"{name} {'+'.join(sorted(said))}".strip())
        log(store, session, name, rows, *rest, **more)

    def watched_lease(session: Session, store: Store, owner: str, token: int, event: str, lease_s: float) -> None:
        noted = _noted(session)
        if noted is not None:
            noted.append(f"leases {event}")
        lease(session, store, owner, token, event, lease_s)

    Store.log, locks._write = watched_log, watched_lease  # type: ignore[method-assign, assignment]


def _watch_requests(points: _Points) -> None:
    http = Sender._http
    order = points.kill_request
    made = 0

    def watched(
        sender: Sender, method: str, url: str, query: Any, headers: Any, body: bytes, timeout_s: float
    ) -> Reply:
        nonlocal made
        made += 1
        if order == ("before", made):
            os.kill(os.getpid(), signal.SIGKILL)
        removes = " remove" if b"method=DELETE" in body else ""
        with points.around(f"request {method} {re.sub('[0-9]+', 'N', url.rsplit('/', 1)[-1])}{removes}"):
            reply = http(sender, method, url, query, headers, body, timeout_s)
        if order == ("after", made):
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    Sender._http = watched  # type: ignore[method-assign, assignment]


_TABLE = re.compile(r"_dbt_segments\"?(?:\.\"?(pending_units|delta_[a-z]+|sync_runs|[a-z]+))?")


def _shape(sql: str) -> str:
    """What a statement does to which kind of table: `drop table seen`."""
    found = _TABLE.search(sql)
    verb = " ".join(re.findall("[a-z]+", sql[: found.start()] if found else sql)[:2])
    return f"{verb} {(found[1] if found else None) or ''}".strip()
