"""Which tables of the state a sync's id still needs, and which ids need those of another."""

from __future__ import annotations

from dbt_segments.state import ledger as ledgers
from dbt_segments.state import left, memory
from dbt_segments.state import pending as pendings
from dbt_segments.state.ledger import Ledger
from dbt_segments.state.store import Store
from dbt_segments.warehouse import Session


def in_use(session: Session, store: Store, owner: str) -> set[str]:
    """Names of the tables that the newest ledger, the open generations, the memory and what was left behind refer to.

    Those of its heirs are among them: a renamed model goes on with the very tables of its former id, while an older
    deployment may still be syncing under that one.
    """
    return {name for one in (owner, *_heirs(session, store, owner)) for name in _named_by(session, store, one)}


def _named_by(session: Session, store: Store, owner: str) -> set[str]:
    pointer = store.newest(session, owner, ledgers.KIND)
    ledger = Ledger(pointer, "", "")
    generations = store.pointers_since(session, owner, pendings.KIND, ledger.through, ledger.open)
    kept = (store.newest(session, owner, kind) for kind in (memory.KIND, left.KIND))
    found = [one for one in (pointer, *kept, *generations) if one is not None]
    return {name for one in found for name in one.tables.values()}


def _heirs(session: Session, store: Store, owner: str) -> list[str]:
    """The ids whose ledger began as that of `owner`, or of an heir of it."""
    table = store.table("pointers")
    rows = session.rows(
        f"select distinct o.owner, n.owner from {table} n join {table} o on o.id = n.parent and o.kind = n.kind "
        "where n.kind = ? and n.seq = 0 and n.owner <> o.owner order by 1, 2",
        [ledgers.KIND],
    )
    found = [owner]
    for one in found:  # grows while it is read
        found += [heir for former, heir in rows if former == one and heir not in found]
    return found[1:]
