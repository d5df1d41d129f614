"""One writer per audience.

On DuckDB a lock file beside the database is held for the whole run: the operating system gives it up when the process
dies, however it dies.

Elsewhere it is a lease in the warehouse. The only mutex is the creation of a table: `lock_<owner>_<token>` has exactly
one maker, in the same transaction as the first lease row. Expiry is by the warehouse's clock; an owner starts a request
only while, by its own monotonic clock, the lease outlives the request's time-out, and renews it before. A taker waits
until the lease has ended, so no request of the old owner can still be answered; then it folds and seals.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from dbt_segments.errors import LockedError, WarehouseError
from dbt_segments.state.store import Store, digest
from dbt_segments.warehouse import Session, Warehouse, literal

LEASE_S = 180.0
MARGIN_S = 10.0
_POLL_S = 0.5


class Lock:
    """Proof of being the only writer of one owner; `token` is higher than any earlier one.

    overtaken  the lease was taken from a run that had not released it
    """

    def __init__(
        self,
        warehouse: Warehouse,
        store: Store,
        owner: str,
        token: int,
        *,
        overtaken: bool,
        lease_s: float | None,
        started: float,
    ) -> None:
        self.token = token
        self.owner = owner
        self.overtaken = overtaken
        self._warehouse = warehouse
        self._store = store
        self._lease_s = lease_s
        self._until = started + lease_s if lease_s is not None else float("inf")
        self._mutex = threading.Lock()

    def may_start(self, timeout_s: float) -> bool:
        """Whether a request that may last `timeout_s` would end within the lease; renews the lease where needed."""
        with self._mutex:
            if self._left() < timeout_s + MARGIN_S:
                with contextlib.suppress(WarehouseError, LockedError):
                    self._renew()
            return self._left() >= timeout_s + MARGIN_S

    def fence(self, session: Session) -> None:
        """Refuse to write once a newer token exists. Called in every transaction that records something.

        Raises LockedError.
        """
        newest = session.value(f"select max(token) from {self._store.table('leases')} where owner = ?", [self.owner])
        if newest is not None and int(newest) > self.token:
            self._until = 0.0
            raise LockedError(
                f"{self.owner}: another run took over this audience (token {newest}, ours {self.token})",
                hint="nothing is lost: the other run takes everything into account",
            )

    def _left(self) -> float:
        return self._until - time.monotonic()

    def _renew(self) -> None:
        if self._lease_s is None:
            return
        started = time.monotonic()
        with self._warehouse.session(lock_timeout_s=5.0) as session:
            with session.transaction():
                self.fence(session)
                _write(session, self._store, self.owner, self.token, "renewed", self._lease_s)
            # Again, now that others can see it: who took over meanwhile has either seen this renewal and waits for
            # its end (`_outlast`), or was there before it and is seen here.
            self.fence(session)
        self._until = started + self._lease_s


class Gate:
    """Asks whichever lock is held now whether a request may start."""

    lock: Lock | None = None

    def __call__(self, timeout_s: float) -> bool:
        return self.lock is None or self.lock.may_start(timeout_s)


@contextlib.contextmanager
def file_lock(path: Path, timeout_s: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold `<database>.dbt_segments.lock`; waits, says so once, raises LockedError after `timeout_s`."""
    lock = filelock.FileLock(f"{path}.dbt_segments.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        tell(f"waiting for another dbt-segments run on {path.name}")
        try:
            lock.acquire(timeout=timeout_s)
        except filelock.Timeout:
            raise LockedError(
                f"another dbt-segments run holds {path.name}", hint="wait for it, or raise --lock-timeout"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def hold(
    warehouse: Warehouse,
    store: Store,
    owner: str,
    *,
    timeout_s: float,
    longest_request_s: float,
    tell: Callable[[str], None],
) -> Iterator[Lock]:
    """Be the only writer of `owner` until the block ends.

    timeout_s          how long to wait for another run, or for the lease of a dead one
    longest_request_s  the lease is at least this and a margin, so that every request fits

    Raises LockedError when the wait is over.
    """
    if warehouse.kind == "duckdb":
        with warehouse.session(lock_timeout_s=timeout_s) as session, session.transaction():
            token = _newest(session, store, owner) + 1
            _write(session, store, owner, token, "acquired", 0.0)
        yield Lock(warehouse, store, owner, token, overtaken=False, lease_s=None, started=time.monotonic())
        return
    lease_s = max(LEASE_S, longest_request_s * 2 + MARGIN_S)
    lock = _acquire(warehouse, store, owner, timeout_s, lease_s, tell)
    try:
        yield lock
    finally:
        with contextlib.suppress(WarehouseError, LockedError):
            _release(warehouse, store, lock)


def _release(warehouse: Warehouse, store: Store, lock: Lock) -> None:
    with warehouse.session(lock_timeout_s=5.0) as session, session.transaction():
        lock.fence(session)
        _write(session, store, lock.owner, lock.token, "released", 0.0)


def _acquire(
    warehouse: Warehouse, store: Store, owner: str, timeout_s: float, lease_s: float, tell: Callable[[str], None]
) -> Lock:
    deadline = time.monotonic() + timeout_s
    told = False
    while True:
        with warehouse.session() as session:
            newest, event, left_s = _current(session, store, owner)
            free = event in ("", "released") or left_s + MARGIN_S <= 0
            if free:
                started = time.monotonic()
                token = newest + 1
                if _create(session, store, owner, token, lease_s):
                    overtaken = event not in ("", "released")
                    if overtaken:
                        _outlast(session, store, owner, token)
                    return Lock(warehouse, store, owner, token, overtaken=overtaken, lease_s=lease_s, started=started)
        if time.monotonic() >= deadline:
            raise LockedError(
                f"{owner}: another run holds this audience",
                hint=f"its lease ends in {max(0, round(left_s))} s; wait, or raise --lock-timeout",
            )
        if not told:
            tell(f"waiting for another run of {owner} (its lease ends in {max(0, round(left_s))} s)")
            told = True
        time.sleep(_POLL_S)


def _outlast(session: Session, store: Store, owner: str, token: int) -> None:
    """Wait until the old owner's lease has ended, which it may have renewed while it was taken over."""
    while True:
        left_s = session.value(
            f"select extract(epoch from (max(expires_at) - {session.now})) from {store.table('leases')} "
            f"where owner = ? and token = {token - 1}",
            [owner],
        )
        if left_s is None or float(left_s) + MARGIN_S <= 0:
            return
        time.sleep(_POLL_S)


def _current(session: Session, store: Store, owner: str) -> tuple[int, str, float]:
    """Newest token, its last event, and seconds until its lease ends by the warehouse's clock."""
    rows = session.rows(
        f"select token, event, extract(epoch from (expires_at - {session.now})) from {store.table('leases')} "
        f"where owner = ? order by token desc, case when event = 'released' then 1 else 0 end desc, "
        f"expires_at desc limit 1",
        [owner],
    )
    return (int(rows[0][0]), str(rows[0][1]), float(rows[0][2])) if rows else (0, "", 0.0)


def _create(session: Session, store: Store, owner: str, token: int, lease_s: float) -> bool:
    """Whether this process made the lock table of `token`; its creation has one winner."""
    try:
        with session.transaction():
            session.execute(f"create table {store.table(_lock_name(owner, token))} (token bigint)")
            if _newest(session, store, owner) >= token:
                raise WarehouseError("overtaken")
            _write(session, store, owner, token, "acquired", lease_s)
            if token > 2:
                session.execute(f"drop table if exists {store.table(_lock_name(owner, token - 2))}")
    except WarehouseError:
        if _newest(session, store, owner) >= token:
            return False
        if session.has_table(store.schema, _lock_name(owner, token)):
            return False
        raise  # nobody else won: we may not make tables here
    return True


def _lock_name(owner: str, token: int) -> str:
    return f"lock_{digest(owner)}_{token}"


def _newest(session: Session, store: Store, owner: str) -> int:
    return int(session.value(f"select max(token) from {store.table('leases')} where owner = ?", [owner]) or 0)


def _write(session: Session, store: Store, owner: str, token: int, event: str, lease_s: float) -> None:
    session.execute(
        f"insert into {store.table('leases')} (owner, token, event, expires_at, recorded_at) "
        f"select {literal(owner)}, {token}, {literal(event)}, "
        f"{session.now} + {lease_s:.0f} * interval '1 second', {session.now}"
    )
