"""What was ever sent for members who refuse now, so that it stays refused after it is gone (invariant 13).

    refused  key, kind, value: match units, as they were sent

A refusal acts on identifiers, under every one that was ever sent. The ledger forgets a unit once its removal is
acknowledged; without this memory whoever shares it would be sent again in the next run. It lasts as long as the
refusal.
"""

from __future__ import annotations

import duckdb

from dbt_segments.state.ledger import UNITS
from dbt_segments.state.store import Pointer, Store
from dbt_segments.warehouse import Session
from dbt_segments.workbench import count

KIND = "refused"
# The workbench table of what should be remembered after this run.
TABLE = "remembered"


def remembered_sql(session: Session, store: Store, owner: str) -> str | None:
    """Query for key, kind, value of what is remembered; None where nothing is."""
    pointer = store.head(session, owner, KIND)
    if pointer is None:
        return None
    return f"select key, kind, value from {store.table(pointer.tables[KIND])}"


def remember(session: Session, store: Store, bench: duckdb.DuckDBPyConnection, owner: str, token: int) -> None:
    """Make the workbench's `remembered` the memory, unless it is that already. Runs inside the plan's transaction."""
    known = remembered_sql(session, store, owner)
    before = int(session.value(f"select count(*) from ({known}) m") or 0) if known else 0
    new = count(bench, f"select count(*) from {TABLE} where is_new")
    now = count(bench, f"select count(*) from {TABLE}")
    if not new and now == before:
        return
    last = store.newest(session, owner, KIND)
    seq = last.seq + 1 if last and last.token == token else 1
    name = store.name(KIND, owner, token, seq)
    session.store(store.table(name), bench, f"select key, kind, value from {TABLE}", UNITS)
    store.point(session, owner, KIND, token, seq, {"tables": {KIND: name}})


def keep(session: Session, store: Store, owner: str, bench: duckdb.DuckDBPyConnection) -> None:
    """Make what is remembered part of the workbench's `remembered`, whoever refuses now."""
    known = remembered_sql(session, store, owner)
    if known is None:
        return
    session.fetch(known, bench, "kept_memory", UNITS)
    bench.execute(
        f"insert into {TABLE} select k.*, false from kept_memory k where not exists (select 1 from {TABLE} t "
        f"where t.key = k.key and t.kind = k.kind and t.value = k.value)"
    )
    bench.execute("drop table kept_memory")


def inherit(session: Session, store: Store, owner: str, former: str, token: int) -> None:
    """Go on with the memory of a former id."""
    pointer: Pointer | None = store.head(session, former, KIND)
    if pointer is not None:
        store.point(session, owner, KIND, token, 0, dict(pointer.detail))
