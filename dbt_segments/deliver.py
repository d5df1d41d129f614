"""Delivery: the plan is written ahead, sent batch by batch, and every outcome is recorded before the next wave.

Nothing is sent before the state says, committed, that it may have been sent: the batches of a wave are logged as
`sending`, then sent, then logged with their outcome in the same breath as the next wave's `sending`. On DuckDB the
file is closed in between.

An audience that comes with its first members is made by a batch that goes alone, and is recorded before any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import duckdb

from dbt_segments.coding import OPS, Coding
from dbt_segments.destinations.base import Audience, Batch, Destination, Op, Outcome
from dbt_segments.errors import (
    DestinationError,
    LockedError,
    RefusedError,
    SnapshotError,
    UnknownError,
    WarehouseError,
)
from dbt_segments.report import count_of
from dbt_segments.send import Sender, Sent, send_batches
from dbt_segments.state import memory
from dbt_segments.state import pending as pendings
from dbt_segments.state.locks import Lock
from dbt_segments.state.logs import Logbook
from dbt_segments.state.store import Pointer, Store
from dbt_segments.warehouse import Session, Warehouse, literal

# Batches a wave: at most so many are in doubt after a crash, and the state is written once for all of them.
WAVE = 16


@dataclass
class Delivery:
    """What became of a plan's batches.

    audience      where they went; without an id as long as no batch has made it
    fates         batch -> accepted, submitted, rejected, unknown; absent: never sent
    refused       rows that the destination refused singly
    unattributed  refusals that it counted without naming rows
    warnings      what it says against members that it took
    error         the first error, if any; one that ends the run comes before those that do not
    """

    audience: Audience
    fates: dict[int, str] = field(default_factory=dict)
    refused: int = 0
    unattributed: int = 0
    warnings: dict[str, None] = field(default_factory=dict)
    error: DestinationError | None = None

    @property
    def is_over(self) -> bool:
        """Whether no further request of this run makes sense.

        A batch of unknown fate may have made the audience: the next one could make a second.
        """
        in_doubt = not self.audience.id and "unknown" in self.fates.values()
        return in_doubt or (self.error is not None and _ends_run(self.error))

    def note(self, batch: int, op: Op, sent: Sent) -> None:
        """Take one batch in, as the state to log.

        `unsent` is a refusal: surely nothing was applied. A removal of which some rows were refused without being
        named is owed as a whole: nobody knows who is still there.
        """
        state = "rejected" if sent.fate == "unsent" else sent.fate
        if op is Op.REMOVE and sent.outcome is not None and sent.outcome.unattributed:
            state = "rejected"
        self.fates[batch] = state
        self.refused += len(sent.refused)
        if sent.outcome is not None:
            self.unattributed += sent.outcome.unattributed
            self.warnings.update(dict.fromkeys(sent.outcome.warnings))
        if sent.error is not None and (self.error is None or (_ends_run(sent.error) and not _ends_run(self.error))):
            self.error = sent.error


def write_ahead(
    session: Session,
    store: Store,
    bench: duckdb.DuckDBPyConnection,
    owner: str,
    lock: Lock,
    run_id: str,
    *,
    whole: datetime | None = None,
) -> Pointer:
    """Commit the plan as a generation: rows, units, and which batches there are.

    whole  everybody is in it: what time it is at the platform, from which on they are put in
    """
    last = store.newest(session, owner, pendings.KIND)
    seq = last.seq + 1 if last and last.token == lock.token else 1
    rows = bench.execute("select batch, stage from plan_batches").fetchall()
    names = {
        role: store.name(kind, owner, lock.token, seq)
        for role, kind in (("pending", "pending"), ("units", "pending_units"))
    }
    with session.transaction():
        lock.fence(session)
        session.store(
            store.table(names["pending"]),
            bench,
            f"select {', '.join(pendings.PENDING)} from plan",
            pendings.PENDING,
        )
        session.store(
            store.table(names["units"]),
            bench,
            f"select {', '.join(pendings.PENDING_UNITS)} from plan_units",
            pendings.PENDING_UNITS,
        )
        detail: dict[str, Any] = {"tables": names, "batches": {str(batch): stage for batch, stage in rows}}
        if whole is not None:
            detail["whole"] = whole.isoformat()
        memory.remember(session, store, bench, owner, lock.token)
        pointer = store.point(session, owner, pendings.KIND, lock.token, seq, detail)
        _log_unusable(session, store, bench, owner, run_id, pointer)
        return pointer


def _log_unusable(
    session: Session, store: Store, bench: duckdb.DuckDBPyConnection, owner: str, run_id: str, pointer: Pointer
) -> None:
    """Append to `rejects` who has nothing to match on, and why: in columns, since there may be many."""
    if bench.execute("select 1 from plan where phase = 'unusable' limit 1").fetchone() is None:
        return
    passing = store.scratch("unusable", owner)
    session.store(
        passing,
        bench,
        "select p.seq as row_seq, p.key, d.reason, case when d.suppressed then 'policy' else 'data' end as class "
        "from plan p join coded d on d.key = p.key where p.phase = 'unusable'",
        {"row_seq": "bigint", "key": "varchar", "reason": "varchar", "class": "varchar"},
    )
    generation = literal(pointer.id)
    session.execute(
        f"insert into {store.table('rejects')} "
        f"(id, run_id, sync_id, generation, row_seq, key, reason, class, recorded_at) "
        f"select concat({generation}, '-', row_seq), {literal(run_id)}, {literal(owner)}, {generation}, "
        f"row_seq, key, reason, class, {session.now} from {passing}"
    )
    session.execute(f"drop table {passing}")


class Courier:
    """Sends one generation to one audience.

    made  records an audience that a batch has made
    """

    def __init__(
        self,
        warehouse: Warehouse,
        store: Store,
        bench: duckdb.DuckDBPyConnection,
        coding: Coding,
        lock: Lock,
        sender: Sender,
        *,
        logbook: Logbook,
        lock_timeout_s: float,
        tell: Callable[[str], None],
        made: Callable[[Audience], None],
    ) -> None:
        self._warehouse = warehouse
        self._store = store
        self._bench = bench
        self._coding = coding
        self._lock = lock
        self._sender = sender
        self._logbook = logbook
        self._lock_timeout_s = lock_timeout_s
        self._tell = tell
        self._made = made

    def deliver(self, generation: Pointer, audience: Audience) -> Delivery:
        """Send every batch in order of its stage; what follows a removal waits until all removals have ended.

        Raises SnapshotError when outcomes could not be recorded: they count as unknown until the next run.
        """
        delivery = Delivery(audience)
        stages: dict[str, list[int]] = {}
        for number, stage in generation.detail["batches"].items():
            stages.setdefault(stage, []).append(int(number))
        for stage in OPS:
            batches = sorted(stages.get(stage, ()))
            if stage == "after" and not self._may_follow(stages.get("remove", ()), delivery):
                if batches:
                    self._tell(f"until removals have ended, {count_of(len(batches), 'batch', 'batches')} must wait")
                continue
            if delivery.is_over:
                continue
            self._send_stage(generation, stage, batches, delivery)
        return delivery

    def _may_follow(self, removals: Sequence[int], delivery: Delivery) -> bool:
        return all(delivery.fates.get(batch) in ("accepted", "rejected") for batch in removals)

    def _send_stage(self, generation: Pointer, stage: str, batches: list[int], delivery: Delivery) -> None:
        done: list[tuple[Batch, Sent, int]] = []
        start = 0
        while start < len(batches) and not delivery.is_over:
            size = 1 if not delivery.audience.id else len(batches) if stage == "replace" else WAVE
            wave = batches[start : start + size]
            self._record(generation, stage, done, wave, delivery)
            done = []
            for batch, sent in self._send(delivery, self._batches(generation, stage, wave, batches)):
                number = batches[batch.number - 1]
                delivery.note(number, batch.op, sent)
                done.append((batch, sent, number))
            start += len(wave)
            self._tell(f"{stage}: {start} of {count_of(len(batches), 'request')}")
        self._record(generation, stage, done, [], delivery)

    def _send(self, delivery: Delivery, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Sent]]:
        if delivery.audience.id:
            yield from send_batches(
                self._sender, self._destination, delivery.audience, batches, concurrency=self._concurrency()
            )
            return
        for batch in batches:
            # Nobody has to be taken out of an audience that is not there.
            yield batch, Sent(outcome=Outcome()) if batch.op is Op.REMOVE else self._send_first(delivery, batch)

    def _send_first(self, delivery: Delivery, batch: Batch) -> Sent:
        """What became of a batch that is to make the audience, which is recorded if it did."""
        sent = self._sender.send(delivery.audience, batch, may_divide=False)
        if sent.outcome is None:
            return sent
        if sent.outcome.audience is None:
            return Sent(error=UnknownError("the answer does not say what was made", code="audience"), fate="unknown")
        delivery.audience = replace(delivery.audience, id=sent.outcome.audience.id)
        with self._recording():
            self._made(delivery.audience)
        return sent

    @property
    def _destination(self) -> Destination:
        return self._coding.destination

    def _concurrency(self) -> int:
        asked = self._destination.settings.max_concurrency
        return min(asked or self._destination.limits.concurrency, 32)

    def _batches(self, generation: Pointer, stage: str, wave: list[int], batches: list[int]) -> Iterator[Batch]:
        first, last = batches[0], batches[-1]
        total = int(self._one("select count(*) from plan where batch between ? and ?", [first, last]))
        session = int.from_bytes(hashlib.sha256(f"{generation.id}{stage}".encode()).digest()[:8], "big") >> 1 or 1
        for number in wave:
            rows, count, kind = self._row(
                "select coalesce(string_agg(payload, ',' order by seq), ''), count(*), min(kind) "
                "from plan where batch = ?",
                [number],
            )
            yield Batch(
                op=OPS[stage],
                rows=rows,
                count=count,
                number=batches.index(number) + 1,
                last=number == last,
                total=total,
                id=f"{generation.id}-{number}",
                session=session,
                fields=self._coding.fields(stage, kind),
                target=self._coding.target,
                run_id=self._logbook.run_id,
            )

    def _record(
        self,
        generation: Pointer,
        stage: str,
        done: list[tuple[Batch, Sent, int]],
        wave: list[int],
        delivery: Delivery,
    ) -> None:
        """Log what ended and what is about to be sent, in one transaction."""
        if not done and not wave:
            return
        events = [self._event(generation, stage, number, batch, sent, delivery) for batch, sent, number in done]
        events += [self._event(generation, stage, number, None, None, delivery) for number in wave]
        rejects = [row for batch, sent, number in done for row in self._rejects(generation, number, sent)]
        with (
            self._recording(),
            self._warehouse.session(lock_timeout_s=self._lock_timeout_s) as session,
            session.transaction(),
        ):
            self._lock.fence(session)
            self._store.log(session, "rejects", rejects)
            self._store.log(session, "sync_batches", events)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except (WarehouseError, LockedError) as error:
            raise SnapshotError(
                f"{self._logbook.sync_id}: requests were sent but their outcome could not be recorded: {error.message}",
                hint="run it again: what is in doubt is sent or removed again",
            ) from None

    def _event(
        self,
        generation: Pointer,
        stage: str,
        number: int,
        batch: Batch | None,
        sent: Sent | None,
        delivery: Delivery,
    ) -> dict[str, Any]:
        if batch is None or sent is None:
            return self._logbook.batch(generation.id, number, stage, "sending")
        return self._logbook.batch(
            generation.id,
            number,
            stage,
            delivery.fates[number],
            job=sent.outcome.job if sent.outcome else None,
            members=batch.count,
            refused=len(sent.refused),
            unattributed=sent.outcome.unattributed if sent.outcome else None,
            reason=sent.error.code or type(sent.error).__name__ if sent.error else None,
        )

    def _rejects(self, generation: Pointer, number: int, sent: Sent) -> Iterator[dict[str, Any]]:
        if not sent.refused or sent.fate not in ("accepted", "submitted"):
            return
        first = int(self._one("select min(seq) from plan where batch = ?", [number]))
        reasons: Mapping[int, str] = {first + index: code for index, code in sent.refused.items()}
        self._bench.execute("insert into refused_rows select unnest(?)", [list(reasons)])
        rows = self._bench.execute("select seq, key from plan where list_contains(?, seq)", [list(reasons)]).fetchall()
        for seq, key in rows:
            passing = sent.outcome is not None and seq - first in sent.outcome.passing
            yield self._logbook.reject(generation.id, seq, key, reasons[seq], passing=passing)

    def _row(self, sql: str, parameters: list[Any]) -> tuple[Any, ...]:
        row = self._bench.execute(sql, parameters).fetchone()
        assert row is not None
        return tuple(row)

    def _one(self, sql: str, parameters: list[Any]) -> Any:
        return self._row(sql, parameters)[0]


def _ends_run(error: DestinationError) -> bool:
    """Whether no further request of this run makes sense; refusals and silences of single batches do not say so."""
    return not isinstance(error, (RefusedError, UnknownError))
