"""Generations: the difference of one run, written ahead of the first request, and what became of its batches.

    pending        seq, batch, phase, key, wanted, row_hash, sent_hash
    pending_units  seq, kind, value: the match units that the row carries or gives up

phase   remove     sent first; the units leave the destination
        assert     sent second; added, changed, or asserted again after a removal
        replace    the whole audience, in one session
        leave      a member that the replace leaves out
        covered    not sent: the units stay, because a current member has them
        forgotten  not sent: only units that the platform has forgotten by itself
        settle     not sent: the row changed, what would be sent did not
        unusable   not sent: nothing to match on
        owed       not sent: must be asserted again once the sync is no longer held
        gone       not sent: nothing of the member is at the destination

Batch states come from the log: none (planned, never sent), sending, submitted (a job runs), accepted, rejected,
unknown. A state only moves forward, so the furthest one logged is the current one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dbt_segments.state.ledger import Ledger
from dbt_segments.state.store import Pointer, Store
from dbt_segments.warehouse import Session

KIND = "generation"
PENDING = {
    "seq": "bigint",
    "batch": "bigint",
    "phase": "varchar",
    "key": "varchar",
    "wanted": "boolean",
    "row_hash": "varchar",
    "sent_hash": "varchar",
}
PENDING_UNITS = {"seq": "bigint", "kind": "varchar", "value": "varchar"}
_RANK = {"sending": 1, "submitted": 2, "accepted": 3, "rejected": 3, "unknown": 3}


@dataclass(frozen=True)
class BatchState:
    """The furthest state that was logged for a batch; `taken`: members whom the platform did not refuse at once."""

    state: str
    job: str | None = None
    taken: int | None = None


@dataclass(frozen=True)
class Generation:
    """A generation that is not wholly folded yet.

    phases  batch number -> phase
    states  batch number -> state; planned batches are absent
    folded  batches that the ledger already accounts for
    """

    pointer: Pointer
    phases: Mapping[int, str]
    states: Mapping[int, BatchState]
    folded: frozenset[int]

    @property
    def open_batches(self) -> tuple[int, ...]:
        """Batches whose job had not finished when last asked."""
        return tuple(
            batch for batch, found in self.states.items() if found.state == "submitted" and batch not in self.folded
        )


def read_generations(session: Session, store: Store, owner: str, ledger: Ledger) -> list[Generation]:
    """Every generation that the ledger has not closed, oldest first.

    The ledger accounts for everything up to `through`, except what it lists as open. A batch state, or a generation,
    that an overtaken run writes later therefore changes nothing: it is older than the ledger. That is the seal.
    """
    found = []
    for pointer in store.pointers_since(session, owner, KIND, ledger.through, ledger.open):
        store.require(session, pointer)
        states: dict[int, BatchState] = {}
        for batch, state, job, taken in session.rows(
            f"select batch, state, job, members - coalesce(refused, 0) from {store.table('sync_batches')} "
            f"where generation = ? and batch is not null",
            [pointer.id],
        ):
            known = states.get(int(batch))
            if known is None or _RANK[state] > _RANK[known.state]:
                states[int(batch)] = BatchState(
                    state,
                    job or (known.job if known else None),
                    int(taken) if taken is not None else known.taken if known else None,
                )
        phases = {int(number): phase for number, phase in pointer.detail["batches"].items()}
        found.append(Generation(pointer, phases, states, frozenset(ledger.open.get(pointer.id, ()))))
    return found


def open_rows(store: Store, generations: list[Generation]) -> str | None:
    """SQL for the rows of running jobs: key, kind, value; None where no job runs."""
    parts = []
    for generation in generations:
        if not generation.open_batches:
            continue
        tables = generation.pointer.tables
        batches = ", ".join(str(batch) for batch in generation.open_batches)
        parts.append(
            f"select p.key, u.kind, u.value from {store.table(tables['pending'])} p "
            f"join {store.table(tables['units'])} u on u.seq = p.seq where p.batch in ({batches})"
        )
    return " union all ".join(parts) if parts else None
