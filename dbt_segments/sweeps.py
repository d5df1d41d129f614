"""A replace where a platform cannot take a list whole, but can remove whom nobody has put in since a moment (Google).

It is a mirror, and one call more. When something has changed, everybody is asserted in one generation, which is marked
as `whole`. Once all that it sent is acknowledged, a later run asks the platform to sweep out whoever was last put in
before that generation: nobody of ours, whom the newest ledger has as acknowledged since.

The moment follows from the generation, so a sweep that was interrupted, or sent twice, is the same sweep. Members who
enter while one runs might go with it, since nobody says how the platform orders the two: what crossed a sweep is
followed by no sweep of its own, but asserted once more when that one has ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from dbt_segments.audiences import recorded
from dbt_segments.destinations.base import Audience, Destination
from dbt_segments.errors import DestinationError, UnknownError
from dbt_segments.report import count_of
from dbt_segments.send import Sender
from dbt_segments.state import pending as pendings
from dbt_segments.state.ledger import read_ledger
from dbt_segments.state.locks import Lock
from dbt_segments.state.logs import Logbook
from dbt_segments.state.pending import read_generations
from dbt_segments.state.store import Store, in_list
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session, moment

PHASE = "sweep"
# What was put in so little before the generation stays: the platform's own clocks may differ a little.
MARGIN = timedelta(minutes=15)
# A sweep whose request got no answer may run without our knowing; after this it has ended.
_LONGEST = timedelta(days=1)
_RANK = {"sending": 1, "submitted": 2, "accepted": 3, "rejected": 3, "unknown": 3}


@dataclass(frozen=True)
class Sweep:
    """What became of the sweep of one generation.

    state  of the last time that it was asked for: sending (and no answer), submitted, accepted, rejected (surely not
           done), unknown (its job failed, or nobody knows)
    until  by when it has ended, as far as that is known; the warehouse's clock, UTC without a zone
    """

    generation: str
    state: str
    job: str | None
    until: datetime


@dataclass(frozen=True)
class Cycle:
    """The newest generation that asserted everybody, and the sweeps there have been.

    began    when the generation was committed, before its first request
    since    the same by the platform's clock, aware: clocks may differ by anything, and be set right in between
    own      its own sweep, if that was asked for
    running  a sweep whose job has not ended, of this generation or of an older one
    crossed  it was sent while an older sweep ran, or may have run
    again    everybody must be asserted once more: what it crossed has ended
    """

    generation: str
    began: datetime
    since: datetime
    own: Sweep | None
    running: Sweep | None
    crossed: bool
    again: bool


def newest_cycle(session: Session, store: Store, ids: Sequence[str]) -> Cycle | None:
    """The newest cycle of a sync, under any of its ids; None where everybody was never asserted."""
    found = session.rows(
        f"select id, committed_at, detail from {store.table('pointers')} where kind = ? and owner in {in_list(ids)} "
        "and detail like ? order by committed_at desc, token desc, seq desc limit 1",
        [pendings.KIND, '%"whole": %'],
    )
    if not found:
        return None
    generation, began = str(found[0][0]), found[0][1]
    sweeps = _sweeps(session, store, ids)
    own = next((one for one in sweeps if one.generation == generation), None)
    running = next((one for one in sweeps if one.state == "submitted"), None)
    older = [one for one in sweeps if one is not own and one.state != "rejected"]
    over = max((one.until for one in older), default=began)
    crossed = (running is not None and running is not own) or over > began
    ended = running is None and session.value(f"select {session.now}") > over
    since = datetime.fromisoformat(json.loads(found[0][2])["whole"])
    return Cycle(generation, began, since, own, running, crossed, crossed and ended)


def _sweeps(session: Session, store: Store, ids: Sequence[str]) -> list[Sweep]:
    """One of each generation that was swept. It may have been asked for several times: the last word counts."""
    rows = session.rows(
        f"select generation, state, job, recorded_at from {store.table('sync_batches')} "
        f"where sync_id in {in_list(ids)} and phase = ?",
        [PHASE],
    )
    last = {str(row[0]): row for row in sorted(rows, key=lambda row: (row[3], _RANK[row[1]]))}
    return [
        Sweep(generation, state, job, at + _LONGEST if state == "sending" else at)
        for generation, state, job, at in last.values()
    ]


def wants_all(session: Session, store: Store, ids: Sequence[str]) -> bool:
    """Whether everybody must be asserted although nothing has changed: never done yet, or it crossed a sweep."""
    cycle = newest_cycle(session, store, ids)
    return cycle is None or cycle.again


class Sweeper:
    """Brings the sweep of one sync forward, by one step a run; runs under the audience's lock.

    session  opens one on the state's warehouse
    """

    def __init__(
        self,
        session: Callable[[], AbstractContextManager[Session]],
        store: Store,
        lock: Lock,
        sync: Sync,
        destination: Destination,
        logbook: Logbook,
    ) -> None:
        self._session = session
        self._store = store
        self._lock = lock
        self._sync = sync
        self._ids = (sync.id, *sync.former_ids)
        self._destination = destination
        self._logbook = logbook

    def step(self, sender: Sender) -> tuple[str, ...]:
        """Ask how a sweep has ended, or for one that is due; what there is to say of it.

        Raises nothing that a destination says: the next run tries again, and nobody but people who are not ours depends
        on it.
        """
        with self._session() as session:
            cycle = newest_cycle(session, self._store, self._ids)
            known = recorded(session, self._store, self._sync)
            if cycle is None or known is None or known.account != self._destination.account():
                return ()
            if cycle.running is None:
                if cycle.crossed or (cycle.own is not None and cycle.own.state == "accepted"):
                    return ()
                if not self._is_ripe(session, cycle):
                    return ()
                if unnamed := self._unnamed(session, cycle):
                    return (
                        f"warning: replace: nobody else is removed, since {self._destination.type} refused "
                        f"{count_of(unnamed, 'member')} without naming them, who might go as well",
                    )
        try:
            if cycle.running is not None:
                return self._ask(sender, known.audience, cycle.running)
            return self._sweep(sender, known.audience, cycle)
        except DestinationError as error:
            return (f"warning: replace: members whom others put in are not removed yet: {error.message}",)

    def _is_ripe(self, session: Session, cycle: Cycle) -> bool:
        """Whether everybody on record is acknowledged as put in since the cycle began, and somebody is."""
        ledger = read_ledger(session, self._store, self._sync.id)
        if read_generations(session, self._store, self._sync.id, ledger):
            return False
        here, doubtful = session.rows(
            "select sum(case when status = 'present' then 1 else 0 end), sum(case when status = 'perhaps' or "
            f"(status = 'present' and (asserted_at is null or asserted_at < {moment(cycle.began)})) "
            f"then 1 else 0 end) from ({ledger.members}) m"
        )[0]
        return bool(here) and not doubtful

    def _unnamed(self, session: Session, cycle: Cycle) -> int:
        """How many members were refused since then without being named: nobody knows who of ours was put in again."""
        found = session.value(
            f"select sum(unattributed) from {self._store.table('sync_batches')} where sync_id in {in_list(self._ids)} "
            f"and phase in ('assert', 'after') and recorded_at >= {moment(cycle.began)}"
        )
        return int(found or 0)

    def _ask(self, sender: Sender, audience: Audience, sweep: Sweep) -> tuple[str, ...]:
        outcome = sender.play(self._destination.poll(audience, sweep.job or ""))
        if not outcome.done:
            return ()
        if outcome.lost or outcome.unattributed:
            why = outcome.lost or "it was not done wholly"
            self._log(sweep.generation, "unknown", sweep.job, why)
            return (f"warning: replace: the job that removes whom others put in failed ({why}); it is tried again",)
        self._log(sweep.generation, "accepted", sweep.job)
        return ("replace: whoever else was put in before has been removed",)

    def _sweep(self, sender: Sender, audience: Audience, cycle: Cycle) -> tuple[str, ...]:
        self._log(cycle.generation, "sending")
        before = cycle.since.astimezone(timezone.utc) - MARGIN
        try:
            outcome = sender.play(self._destination.sweep(audience, before))
        except UnknownError:
            raise
        except DestinationError as error:
            self._log(cycle.generation, "rejected", reason=error.code)
            raise
        self._log(cycle.generation, "accepted" if outcome.done else "submitted", outcome.job)
        return (f"replace: everybody else who was put in before {before:%Y-%m-%d %H:%M} UTC is being removed",)

    def _log(self, generation: str, state: str, job: str | None = None, reason: str | None = None) -> None:
        """Write one state of the sweep."""
        row = self._logbook.batch(generation, None, PHASE, state, job=job, reason=reason)
        with self._session() as session, session.transaction():
            self._lock.fence(session)
            self._store.log(session, "sync_batches", [row])
