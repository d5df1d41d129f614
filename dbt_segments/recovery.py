"""What an earlier run left: interrupted generations are folded, running jobs are asked for their outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from dbt_segments.audiences import recorded
from dbt_segments.destinations.base import Audience, Destination, Outcome
from dbt_segments.errors import TransientError
from dbt_segments.report import count_of
from dbt_segments.send import Sender
from dbt_segments.state import fold as folds
from dbt_segments.state import ledger as ledgers
from dbt_segments.state import left, memory
from dbt_segments.state.locks import Lock
from dbt_segments.state.logs import Logbook
from dbt_segments.state.pending import Generation, read_generations
from dbt_segments.state.store import Store
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session, Warehouse, literal


@dataclass(frozen=True)
class Ended:
    """What the jobs of earlier runs came to.

    refused       rows that the destination refused singly
    unattributed  refusals that it counted without naming rows
    lost          why jobs ended without an outcome; their members count as perhaps there
    warnings      what the destination says against members, for people
    confirmed     members who were sent, and are there by now
    removed       members who were removed, and are gone by now
    """

    refused: int = 0
    unattributed: int = 0
    lost: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    confirmed: int = 0
    removed: int = 0


class Recovery:
    """Takes in what is left of one sync; runs under its lock, before anything else.

    hold  takes the lock of another owner
    """

    def __init__(
        self,
        warehouse: Warehouse,
        store: Store,
        lock: Lock,
        sync: Sync,
        destination: Destination,
        *,
        logbook: Logbook,
        lock_timeout_s: float,
        hold: Callable[[str], AbstractContextManager[Lock]],
    ) -> None:
        self._warehouse = warehouse
        self._store = store
        self._lock = lock
        self._sync = sync
        self._destination = destination
        self._logbook = logbook
        self._lock_timeout_s = lock_timeout_s
        self._hold = hold

    def recover(self) -> list[Generation]:
        """Take in what an earlier run left; returns the generations whose jobs still run."""
        self._inherit()
        with self._warehouse.session(lock_timeout_s=self._lock_timeout_s) as session:
            if self._lock.overtaken:
                folds.seal(session, self._store, self._sync.id, self._lock)
            ledger = folds.fold(session, self._store, self._sync.id, self._lock)
            return read_generations(session, self._store, self._sync.id, ledger)

    def _inherit(self) -> None:
        """A renamed model goes on with the ledger and the running jobs of its former sync id.

        What else that one left is folded first.

        Before anything is written under the new id, and under the lock of the former one: an older deployment may
        still be running.
        """
        own = self._sync.id
        if not self._sync.former_ids:
            return
        with self._warehouse.session(lock_timeout_s=self._lock_timeout_s) as session:
            has_ledger = self._store.newest(session, own, ledgers.KIND) is not None
            found = ledgers.lines(session, self._store, (own, *self._sync.former_ids))
        for former in found:
            if former == own and has_ledger:
                return
            if former == own:
                continue
            with self._hold(former) as lock, self._warehouse.session(lock_timeout_s=self._lock_timeout_s) as session:
                ledger = folds.fold(session, self._store, former, lock)
                jobs = any(one.open_batches for one in read_generations(session, self._store, former, ledger))
                if lock.overtaken or jobs:
                    ledger = folds.seal(session, self._store, former, lock)
                pointer = ledger.pointer
                if pointer is None or not (pointer.tables or ledger.open):
                    continue
                # What this id itself sent before, under a name that it has again, was folded when it lost the name, or
                # is among the running jobs.
                detail = {
                    "tables": dict(pointer.tables),
                    "through": [self._lock.token, 0],
                    "open": dict(ledger.open),
                }
                with session.transaction():
                    self._lock.fence(session)
                    self._store.point(session, own, ledgers.KIND, self._lock.token, 0, detail, pointer.id)
                    memory.inherit(session, self._store, own, former, self._lock.token)
                    left.inherit(session, self._store, own, former, self._lock.token)
                return

    def poll(self, sender: Sender, generations: list[Generation]) -> Ended:
        """Ask for the outcome of every running job, fold those that ended, and say what came of them."""
        with self._warehouse.session(lock_timeout_s=self._lock_timeout_s) as session:
            known = recorded(session, self._store, self._sync)
        if known is None:
            return Ended()
        rows: list[dict[str, Any]] = []
        for generation in generations:
            for batch in generation.open_batches:
                event = self._ask(sender, known.audience, generation, batch)
                rows += [event] if event else []
        if not rows:
            return Ended()
        with self._warehouse.session(lock_timeout_s=self._lock_timeout_s) as session:
            with session.transaction():
                self._lock.fence(session)
                self._store.log(session, "sync_batches", [row["event"] for row in rows])
                for row in rows:
                    self._log_refused(session, row)
            confirmed, removed = self._settled(session, rows)
            folds.fold(session, self._store, self._sync.id, self._lock)
        outcomes: list[Outcome] = [row["outcome"] for row in rows]
        return Ended(
            sum(len(one.refused) for one in outcomes),
            sum(one.unattributed for one in outcomes),
            tuple(dict.fromkeys(one.lost for one in outcomes if one.lost)),
            tuple(dict.fromkeys(text for one in outcomes for text in one.warnings)),
            confirmed,
            removed,
        )

    def _settled(self, session: Session, rows: list[dict[str, Any]]) -> tuple[int, int]:
        """How many members these jobs have settled: sent, and removed. Nobody who is in doubt anywhere else.

        Who was refused without being named is nobody in particular, so the number is taken off.
        """
        ended: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            ended.setdefault(row["generation"].pointer.id, []).append(row)
        sent = removed = 0
        for mine in ended.values():
            generation: Generation = mine[0]["generation"]
            states = {batch: found.state for batch, found in generation.states.items()}
            states |= {row["batch"]: row["event"]["state"] for row in mine}
            done = [row for row in mine if row["event"]["state"] == "accepted"]
            if not done:
                continue
            here = _numbers(row["batch"] for row in done)
            doubtful = _numbers(batch for batch in generation.phases if states.get(batch) != "accepted")
            pending = self._store.table(generation.pointer.tables["pending"])
            refused = (
                f"select distinct row_seq from {self._store.table('rejects')} "
                f"where generation = {literal(generation.pointer.id)} and row_seq is not null"
            )
            in_doubt = (
                f"select distinct o.key, o.phase from {pending} o left join ({refused}) r on r.row_seq = o.seq "
                f"where o.batch in ({doubtful}) or r.row_seq is not null"
            )
            unnamed = sum(row["outcome"].unattributed for row in done)
            counted = session.rows(
                f"select p.phase = 'remove', count(distinct p.key) from {pending} p "
                f"left join (select distinct key from {pending} where phase = 'unusable') u on u.key = p.key "
                f"left join ({in_doubt}) d on d.key = p.key and d.phase = p.phase "
                f"where p.batch in ({here}) and d.key is null and (p.phase in ('assert', 'replace') "
                f"or (p.phase = 'remove' and (not p.wanted or u.key is not null))) group by 1"
            )
            for is_removal, members in counted:
                sent += 0 if is_removal else max(0, int(members) - unnamed)
                removed += int(members) if is_removal else 0
        return sent, removed

    def _ask(self, sender: Sender, audience: Audience, generation: Generation, batch: int) -> dict[str, Any] | None:
        job = generation.states[batch].job or ""
        try:
            outcome = sender.play(self._destination.poll(audience, job))
            if not outcome.done:
                return None
            outcome = _complete(outcome, generation.states[batch].taken)
        except TransientError:  # no answer for now: the job stays open
            return None
        # A job that failed, or that nobody knows of any more, may have done anything.
        # A removal of which some rows were refused without being named is owed as a whole: who is still there?
        owed = generation.phases[batch] == "remove" and outcome.unattributed
        state = "unknown" if outcome.lost else "rejected" if owed else "accepted"
        refused = {} if outcome.lost else dict(outcome.refused)
        return {
            "outcome": outcome,
            "refused": refused,
            "generation": generation,
            "batch": batch,
            "event": self._event(generation, batch, state, outcome),
        }

    def _event(self, generation: Generation, batch: int, state: str, outcome: Outcome) -> dict[str, Any]:
        """What became of a batch whose job has ended."""
        return self._logbook.batch(
            generation.pointer.id,
            batch,
            generation.phases[batch],
            state,
            job=generation.states[batch].job,
            refused=len(outcome.refused),
            unattributed=outcome.unattributed,
            reason=outcome.lost,
        )

    def _log_refused(self, session: Session, row: dict[str, Any]) -> None:
        """Refusals of a finished job, by the row's place in its batch."""
        if not row["refused"]:
            return
        pending = self._store.table(row["generation"].pointer.tables["pending"])
        first = int(session.value(f"select min(seq) from {pending} where batch = ?", [row["batch"]]))
        rejects = []
        for index, code in row["refused"].items():
            key = session.value(f"select key from {pending} where seq = ?", [first + index])
            rejects.append(self._logbook.reject(row["generation"].pointer.id, first + index, key, code))
        self._store.log(session, "rejects", rejects)


def _numbers(batches: Iterable[int]) -> str:
    """Batches as an SQL list; none has the number 0."""
    return ", ".join(str(batch) for batch in (0, *batches))


def _complete(outcome: Outcome, taken: int | None) -> Outcome:
    """The outcome of an ended job; lost where the platform had fewer members than were sent, and does not say why.

    Who is missing is not known, so nobody of the batch counts as acknowledged.
    """
    if outcome.lost or outcome.counted is None or taken is None:
        return outcome
    missing = taken - outcome.counted - outcome.unattributed
    if missing <= 0:
        return outcome
    return replace(outcome, lost=f"missing: {missing:,} of {count_of(taken, 'member')}")
