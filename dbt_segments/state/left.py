"""Audiences that a platform has ended and that a sync left behind for another one: who is still in them.

    left  audience_id, name, key: whom such an audience holds of us, without any identifier

Nothing more is sent there, so a refusal never arrives: whoever refuses later stays in it until somebody deletes it at
the platform. How many that are is kept beside, for `status`, which computes no refusals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dbt_segments.state.ledger import Ledger
from dbt_segments.state.store import Pointer, Store
from dbt_segments.warehouse import Session, literal

KIND = "left"
# Whoever refuses in so many words; consent that is not known asks for no removal by itself.
EXPLICIT = "r.class in ('suppressed', 'refused')"


@dataclass(frozen=True)
class Left:
    """One audience that was left behind; `refused`: members in it who refuse."""

    audience_id: str
    name: str
    refused: int


def leave(session: Session, store: Store, owner: str, token: int, audience: tuple[str, str], ledger: Ledger) -> None:
    """Take down who is in an audience (id, name) that is given up now. Part of the transaction that records so."""
    audience_id, name = map(literal, audience)
    known = store.head(session, owner, KIND)
    rows = (
        f"select {audience_id} as audience_id, {name} as name, m.key "
        f"from ({ledger.members}) m where m.status in ('present', 'perhaps')"
    )
    if known is not None:
        rows += f" union all select audience_id, name, key from {store.table(known.tables[KIND])}"
    _write(session, store, owner, token, known, rows, _numbers(known))


def forget(session: Session, store: Store, owner: str, token: int, audience_id: str) -> None:
    """An audience that was left behind is no more."""
    known = store.head(session, owner, KIND)
    if known is None:
        return
    table = store.table(known.tables[KIND])
    rows = f"select audience_id, name, key from {table} where audience_id <> {literal(audience_id)}"
    _write(session, store, owner, token, known, rows, _numbers(known, without=audience_id))


def note(session: Session, store: Store, owner: str, token: int, refused: Mapping[str, int]) -> None:
    """Keep how many refuse now, by audience, where that is not on record yet."""
    known = store.newest(session, owner, KIND)
    if known is not None and _numbers(known) != refused:
        detail = {**known.detail, "refused": dict(refused)}
        store.point(session, owner, KIND, token, _next_seq(known, token), detail)


def inherit(session: Session, store: Store, owner: str, former: str, token: int) -> None:
    """Go on with what a former id has left behind."""
    known = store.head(session, former, KIND)
    if known is not None:
        store.point(session, owner, KIND, token, 0, dict(known.detail))


def count(session: Session, store: Store, owner: str, refusals: str | None) -> list[Left]:
    """Members who refuse and are in audiences that were left behind; an audience without any is left out.

    refusals  table of who must not be sent, quoted; None where nobody refuses
    """
    known = store.head(session, owner, KIND)
    if known is None or refusals is None:
        return []
    rows = session.rows(
        f"select l.audience_id, min(l.name), count(distinct l.key) from {store.table(known.tables[KIND])} l "
        f"join {refusals} r on r.key = l.key where {EXPLICIT} group by l.audience_id order by 1"
    )
    return [Left(audience_id, name, int(number)) for audience_id, name, number in rows]


def noted(session: Session, store: Store, owner: str) -> list[Left]:
    """The same as of the last run."""
    known = store.newest(session, owner, KIND)
    if known is None or not _numbers(known):
        return []
    store.require(session, known)
    rows = session.rows(f"select distinct audience_id, name from {store.table(known.tables[KIND])} order by 1")
    numbers = _numbers(known)
    return [Left(audience_id, name, numbers[audience_id]) for audience_id, name in rows if audience_id in numbers]


def waiting(session: Session, ledger: Ledger, refusals: str | None) -> int:
    """Members who refuse and whom the sync's own audience still holds, as far as is known."""
    if refusals is None or ledger.is_new:
        return 0
    return int(
        session.value(
            f"select count(distinct m.key) from ({ledger.members}) m join {refusals} r on r.key = m.key "
            f"where {EXPLICIT} and m.status in ('present', 'perhaps')"
        )
        or 0
    )


def _numbers(known: Pointer | None, without: str = "") -> dict[str, int]:
    found = known.detail.get("refused", {}) if known is not None else {}
    return {audience_id: int(number) for audience_id, number in found.items() if audience_id != without}


def _next_seq(known: Pointer | None, token: int) -> int:
    return known.seq + 1 if known is not None and known.token == token else 1


def _write(
    session: Session,
    store: Store,
    owner: str,
    token: int,
    known: Pointer | None,
    rows: str,
    refused: Mapping[str, int],
) -> None:
    seq = _next_seq(known, token)
    name = store.name(KIND, owner, token, seq)
    session.execute(f"create table {store.table(name)} as {rows}")
    store.point(session, owner, KIND, token, seq, {"tables": {KIND: name}, "refused": dict(refused)})
