"""Replace cycles: everybody asserted in one generation, and the sweep that may follow it; read from the state.

Where a platform cannot take a list whole, but can remove whom nobody has put in since a moment (Google), a replace is a
mirror, and one call more. When something has changed, everybody is asserted in one generation, which is marked as
`whole`. A later run asks the platform to sweep out whoever was last put in before that generation, but only on positive
evidence that nobody of ours is among them: every batch since is on record as accepted, without refusals that name
nobody, and the ledger has everybody as acknowledged since. What is not on record is no evidence.

The moment follows from the generation, so a sweep that was interrupted, or sent twice, is the same sweep. Members who
enter while one runs might go with it, since nobody says how the platform orders the two: what crossed a sweep is
followed by no sweep of its own, but asserted once more when that one has ended. A model that was renamed begins anew,
and a deployment that still runs under the former name sweeps no more: it knows nothing of who came since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from dbt_segments.report import count_of
from dbt_segments.state import ledger as ledgers
from dbt_segments.state import pending as pendings
from dbt_segments.state.ledger import read_ledger
from dbt_segments.state.pending import read_generations
from dbt_segments.state.store import Store, in_list
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session, moment

PHASE = "sweep"
# What was put in so little before the generation stays: the platform's own clocks may differ a little.
_MARGIN = timedelta(minutes=15)
# A sweep whose request got no answer may run without our knowing; after this it has ended.
_LONGEST = timedelta(days=1)
_RANK = {"sending": 1, "submitted": 2, "accepted": 3, "rejected": 3, "unknown": 3}


@dataclass(frozen=True)
class Sweep:
    """What became of the sweep of one generation.

    state  of the last time that it was asked for: sending (and no answer), submitted, accepted, rejected (surely not
           done), unknown (its job failed, or nobody knows)
    until  by when it has ended, as far as that is known, by the warehouse's clock, UTC without a zone; None where it
           was surely never done
    """

    generation: str
    state: str
    job: str | None
    until: datetime | None


@dataclass(frozen=True)
class Cycle:
    """The newest generation that asserted everybody, and the sweeps there have been.

    place    its token and number
    began    when the generation was committed, before its first request
    since    the same by the platform's clock, aware: clocks may differ by anything, and be set right in between
    own      its own sweep, if that was asked for
    running  a sweep whose job has not ended, of this generation or of an older one
    crossed  it was sent while an older sweep ran, or may have run
    again    everybody must be asserted once more: what it crossed has ended
    """

    generation: str
    place: tuple[int, int]
    began: datetime
    since: datetime
    own: Sweep | None
    running: Sweep | None
    crossed: bool
    again: bool

    @property
    def before(self) -> datetime:
        """Who was last put in before this, by the platform's clock, goes with the sweep; UTC."""
        return self.since.astimezone(timezone.utc) - _MARGIN


def newest_cycle(session: Session, store: Store, ids: Sequence[str]) -> Cycle | None:
    """The newest cycle of a sync, whose ids these are, today's first; None where everybody was never asserted.

    What was asserted under a former id, or before the ledger came from one, counts for nothing; its sweeps do.
    """
    found = session.rows(
        f"select id, committed_at, detail, token, seq from {store.table('pointers')} where kind = ? and owner = ? "
        "and token >= ? and detail like ? order by token desc, seq desc limit 1",
        [pendings.KIND, ids[0], ledgers.inherited(session, store, ids[0]), '%"whole": "%'],
    )
    if not found:
        return None
    generation, began, detail, token, seq = found[0]
    since = datetime.fromisoformat(json.loads(detail)["whole"])
    sweeps = _sweeps(session, store, ids)
    own = next((one for one in sweeps if one.generation == generation), None)
    running = next((one for one in sweeps if one.state == "submitted"), None)
    over = max((one.until for one in sweeps if one is not own and one.until is not None), default=began)
    crossed = (running is not None and running is not own) or over > began
    ended = running is None and session.value(f"select {session.now}") > over
    return Cycle(str(generation), (int(token), int(seq)), began, since, own, running, crossed, crossed and ended)


def _sweeps(session: Session, store: Store, ids: Sequence[str]) -> list[Sweep]:
    """One of each generation that was swept. It may have been asked for several times: the last word counts."""
    rows = session.rows(
        f"select generation, state, job, recorded_at from {store.table('sync_batches')} "
        f"where sync_id in {in_list(ids)} and phase = ?",
        [PHASE],
    )
    logged: dict[str, list[tuple[str, str | None, datetime]]] = {}
    for generation, state, job, at in rows:
        logged.setdefault(generation, []).append((state, job, at))
    return [_sweep_of(generation, _in_order(events)) for generation, events in logged.items()]


def _in_order(events: Sequence[tuple[str, str | None, datetime]]) -> list[tuple[str, str | None, datetime]]:
    """Oldest first. A job ends after it began, also where the warehouse's clock was set back in between."""
    began = {job: at for state, job, at in events if state == "submitted"}
    return sorted(events, key=lambda event: (max(event[2], began.get(event[1], event[2])), _RANK[event[0]]))


def _sweep_of(generation: str, events: Sequence[tuple[str, str | None, datetime]]) -> Sweep:
    """The sweep of which this was logged, oldest first.

    A request that got no answer may still be obeyed, whatever was said to a later one.
    """
    ends = [at for state, _, at in events if state not in ("sending", "rejected")]
    for event, answer in zip(events, [*events[1:], None], strict=True):
        if event[0] == "sending" and (answer is None or answer[0] == "sending"):
            ends.append(event[2] + _LONGEST)
    state, job, _ = events[-1]
    return Sweep(generation, state, job, max(ends, default=None))


def wants_all(session: Session, store: Store, ids: Sequence[str]) -> bool:
    """Whether everybody must be asserted although nothing has changed: never done yet, or it crossed a sweep."""
    cycle = newest_cycle(session, store, ids)
    return cycle is None or cycle.again


def due(session: Session, store: Store, sync: Sync) -> tuple[Cycle | None, tuple[str, ...]]:
    """The cycle whose sweep can be asked for now; or None, and what there is to say of that."""
    ids = (sync.id, *sync.former_ids)
    cycle = newest_cycle(session, store, ids)
    if cycle is None or cycle.running is not None or cycle.crossed:
        return None, ()
    if cycle.own is not None and cycle.own.state == "accepted":
        return None, ()
    if ledgers.has_heir(session, store, ids):
        return None, (f"warning: replace: nobody else is removed: {sync.id} goes on under another id",)
    unnamed = _unnamed(session, store, sync.id, cycle)
    if unnamed is None or not _is_confirmed(session, store, sync.id, cycle):
        return None, ()
    refused = unnamed or _refused(session, store, sync.id)
    if refused:
        how = "without naming them" if unnamed else "whom it had taken before"
        return None, (
            f"warning: replace: nobody else is removed, since {sync.connection.type} refused "
            f"{count_of(refused, 'member')} {how}, who might go as well",
        )
    return cycle, ()


def _unnamed(session: Session, store: Store, owner: str, cycle: Cycle) -> int | None:
    """How many members were refused without being named, of all who were put in since the cycle began.

    None where a batch is not on record as accepted: it was not sent, has not ended, may have failed, or its record
    has been dropped since.
    """
    token, seq = cycle.place
    pointers = store.pointers_since(session, owner, pendings.KIND, (token, seq - 1), ())
    states: dict[tuple[str, int], set[str]] = {}
    unnamed: dict[tuple[str, int], int] = {}
    for generation, number, state, unattributed in session.rows(
        f"select generation, batch, state, coalesce(unattributed, 0) from {store.table('sync_batches')} "
        f"where batch is not null and generation in {in_list(pointer.id for pointer in pointers)}"
    ):
        batch = (str(generation), int(number))
        states.setdefault(batch, set()).add(state)
        unnamed[batch] = max(unnamed.get(batch, 0), int(unattributed))
    # Removals are no matter: whoever should have gone may go.
    sent = [
        (pointer.id, int(number))
        for pointer in pointers
        for number, phase in pointer.detail["batches"].items()
        if phase != "remove"
    ]
    told = [states.get(batch, set()) for batch in sent]
    if not all("accepted" in one and not one & {"rejected", "unknown"} for one in told):
        return None
    return sum(unnamed[batch] for batch in sent)


def _is_confirmed(session: Session, store: Store, owner: str, cycle: Cycle) -> bool:
    """Whether everybody in the ledger is acknowledged as put in since the cycle began, and somebody is."""
    ledger = read_ledger(session, store, owner)
    if read_generations(session, store, owner, ledger):
        return False
    here, old = session.rows(
        f"select count(*), sum(case when asserted_at >= {moment(cycle.began)} then 0 else 1 end) "
        f"from ({ledger.members}) m where status = 'present'"
    )[0]
    return bool(here) and not old


def _refused(session: Session, store: Store, owner: str) -> int:
    """How many members of whom the platform holds something were refused by name when they were put in again."""
    ledger = read_ledger(session, store, owner)
    found = session.value(
        f"select count(*) from ({ledger.members}) m where status = 'rejected' "
        f"and exists (select 1 from ({ledger.units}) u where u.key = m.key)"
    )
    return int(found or 0)


def outlook(session: Session, store: Store, sync: Sync) -> str | None:
    """What a plan says of a sweep that is still to come; None where none is."""
    ids = (sync.id, *sync.former_ids)
    cycle = newest_cycle(session, store, ids)
    if cycle is None or cycle.crossed or ledgers.has_heir(session, store, ids):
        return None
    if cycle.own is not None and cycle.own.state in ("submitted", "accepted"):
        return None
    return f"replace: once everybody is confirmed, everybody else who was put in before {said(cycle.before)} is removed"


def said(at: datetime) -> str:
    """A moment for people."""
    return f"{at:%Y-%m-%d %H:%M} UTC"
