"""The ledger of a sync: for every member what the destination may hold of us, and how sure we are.

Two immutable tables and, on top of them, two more with what changed since (`delta`), so that a small change does not
rewrite a large audience:

    members  key, row_hash, sent_hash, status, asserted_at
    units    key, kind, value: every match unit that may be at the destination under this key, as it was sent

`row_hash` is of the row in the warehouse; null means "look again". `sent_hash` is of the encoded row. Units stay until
their removal is acknowledged. What was sent is kept as it was sent, hashes for ad platforms: exact, private and
independent of later rules, at some 70 bytes a unit.

status   present   acknowledged
         perhaps   sent or removed without an answer, or owed a removal: looked at in every run
         rejected  refused by the destination with this row_hash; not sent again until row or rules change
         unusable  has nothing to match on; looked at again when row or rules change
         covered   has left, but others have all their units: kept as a link between those, until one leaves
         gone      only in a delta: the member has left
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbt_segments.state.store import Pointer, Store, in_list
from dbt_segments.warehouse import Session

KIND = "ledger"
MEMBERS = {
    "key": "varchar",
    "row_hash": "varchar",
    "sent_hash": "varchar",
    "status": "varchar",
    "asserted_at": "timestamp",
}
UNITS = {"key": "varchar", "kind": "varchar", "value": "varchar"}


def _nothing(columns: Mapping[str, str]) -> str:
    """A query for no row with these columns."""
    return f"select {', '.join(f'cast(null as {kind}) as {name}' for name, kind in columns.items())} where 1 = 0"


@dataclass(frozen=True)
class Ledger:
    """One committed ledger; `members` and `units` are SQL queries over its tables."""

    pointer: Pointer | None
    members: str
    units: str

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever sent."""
        return self.pointer is None or not self.pointer.tables

    @property
    def through(self) -> tuple[int, int]:
        """(token, seq) of the newest generation that this ledger accounts for."""
        token, seq = self.pointer.detail["through"] if self.pointer else (0, 0)
        return int(token), int(seq)

    @property
    def open(self) -> Mapping[str, list[int]]:
        """Older generations that still have running jobs -> their batches that are already folded.

        Those of a former sync id come first.
        """
        return dict(self.pointer.detail["open"]) if self.pointer else {}


def read_ledger(session: Session, store: Store, owner: str) -> Ledger:
    """The newest ledger of a sync, empty where there is none."""
    pointer = store.head(session, owner, KIND)
    if pointer is None or not pointer.tables:
        return Ledger(pointer, _nothing(MEMBERS), _nothing(UNITS))
    tables = {role: store.table(name) for role, name in pointer.tables.items()}
    members, units = ", ".join(MEMBERS), ", ".join(UNITS)
    if "delta_members" not in tables:
        return Ledger(pointer, f"select {members} from {tables['members']}", f"select {units} from {tables['units']}")
    newer = f"not exists (select 1 from {tables['delta_members']} d where d.key = b.key)"
    return Ledger(
        pointer,
        f"select {members} from {tables['members']} b where {newer} "
        f"union all select {members} from {tables['delta_members']} where status <> 'gone'",
        f"select {units} from {tables['units']} b where {newer} union all select {units} from {tables['delta_units']}",
    )


def passed_on(session: Session, store: Store) -> set[str]:
    """Owners whose newest ledger has gone on under another name: the model was renamed, and a run has taken note.

    Nothing refers to their tables any more but themselves, and the tables may be gone.
    """
    table = store.table("pointers")
    rows = session.rows(
        f"select o.owner, o.token, o.seq from {table} o where o.kind = ? and exists ("
        f"select 1 from {table} n where n.kind = o.kind and n.parent = o.id and n.owner <> o.owner)",
        [KIND],
    )
    newest = {owner: store.newest(session, owner, KIND) for owner in {row[0] for row in rows}}
    return {owner for owner, token, seq in rows if (head := newest[owner]) and (head.token, head.seq) == (token, seq)}


def inherited(session: Session, store: Store, owner: str) -> int:
    """The token under which this owner last took over the ledger of another name; 0 where it never did."""
    table = store.table("pointers")
    found = session.value(
        f"select max(n.token) from {table} n join {table} o on o.id = n.parent and o.kind = n.kind "
        "where n.kind = ? and n.owner = ? and n.seq = 0 and o.owner <> n.owner",
        [KIND, owner],
    )
    return int(found or 0)


def has_heir(session: Session, store: Store, ids: Sequence[str]) -> bool:
    """Whether the ledger of the first of a sync's ids has gone on under another name, and has not come back since.

    Unlike `passed_on` also where an older deployment has synced under this name since. One that the sync says it had
    meanwhile is no heir.
    """
    table = store.table("pointers")
    found = session.value(
        f"select count(*) from {table} n join {table} o on o.id = n.parent and o.kind = n.kind "
        f"where n.kind = ? and o.owner = ? and n.seq = 0 and n.owner not in {in_list(ids)} and o.token >= ?",
        [KIND, ids[0], inherited(session, store, ids[0])],
    )
    return bool(found)


def lines(session: Session, store: Store, ids: Sequence[str]) -> list[str]:
    """Of a sync's ids, today's first, those whose ledger counts.

    A model that is renamed back has a ledger of its own, older than the one under the name that it had meanwhile.
    """
    stale = passed_on(session, store)
    return [name for name in ids if name not in stale and store.is_known(session, name)]


def current(session: Session, store: Store, ids: Sequence[str]) -> str:
    """The id whose ledger counts: the sync's own, or, before its first run after a rename, that of a former one."""
    return ids[0] if len(ids) == 1 else next(iter(lines(session, store, ids)), ids[0])


def by_status(session: Session, ledger: Ledger) -> dict[str, int]:
    """Members by status."""
    if ledger.is_new:
        return {}
    rows = session.rows(f"select status, count(*) from ({ledger.members}) m group by status")
    return {str(status): int(count) for status, count in rows}
