"""Sweeping: the call that ends a replace where a platform takes no list whole, and the question how it has ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from dbt_segments.audiences import recorded
from dbt_segments.cycles import PHASE, Cycle, Sweep, newest_cycle, said
from dbt_segments.destinations.base import Audience, Destination
from dbt_segments.errors import DestinationError, UnknownError
from dbt_segments.send import Sender
from dbt_segments.state.locks import Lock
from dbt_segments.state.logs import Logbook
from dbt_segments.state.store import Store
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session

_NOT_YET = "warning: replace: members whom others put in are not removed yet: "


class Sweeper:
    """Brings the sweep of one sync forward; runs under the audience's lock.

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

    def ask(self, sender: Sender) -> tuple[str, ...]:
        """Ask how a sweep has ended, where one runs; what there is to say of it.

        Neither this nor `sweep` raises what a destination says: the next run tries again, and nobody but people who are
        not ours depends on it.
        """
        with self._session() as session:
            cycle = newest_cycle(session, self._store, self._ids)
            known = recorded(session, self._store, self._sync)
        if cycle is None or cycle.running is None or known is None or known.account != self._destination.account():
            return ()
        try:
            return self._ask(sender, known.audience, cycle.running)
        except DestinationError as error:
            return (_NOT_YET + error.message,)

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

    def sweep(self, sender: Sender, audience: Audience, cycle: Cycle) -> tuple[str, ...]:
        """Ask for the sweep of a cycle that is due; what there is to say of it."""
        self._log(cycle.generation, "sending")
        try:
            outcome = sender.play(self._destination.sweep(audience, cycle.before))
        except UnknownError as error:
            return (_NOT_YET + error.message,)
        except DestinationError as error:
            self._log(cycle.generation, "rejected", reason=error.code)
            return (_NOT_YET + error.message,)
        self._log(cycle.generation, "accepted" if outcome.done else "submitted", outcome.job)
        return (f"replace: everybody else who was put in before {said(cycle.before)} is being removed",)

    def _log(self, generation: str, state: str, job: str | None = None, reason: str | None = None) -> None:
        """Write one state of the sweep."""
        row = self._logbook.batch(generation, None, PHASE, state, job=job, reason=reason)
        with self._session() as session, session.transaction():
            self._lock.fence(session)
            self._store.log(session, "sync_batches", [row])
