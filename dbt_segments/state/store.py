"""Pointers and logs: a table exists only once a pointer to it is committed.

Why: `create table as` and a swap of names are not atomic everywhere, one insert of one row is. Readers take the
pointer with the highest (token, seq); what no pointer names is rubbish of a run that died, and is collected.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbt_segments.errors import StateError
from dbt_segments.state import schema as schemas
from dbt_segments.warehouse import Session, literal


@dataclass(frozen=True)
class Pointer:
    """A committed set of immutable tables.

    owner   sync id, or the unique_id of a segment's model
    kind    frozen, generation, ledger
    parent  id of the ledger pointer that this one was built on
    detail  `tables`: role -> table name; the rest belongs to the kind
    """

    id: str
    owner: str
    kind: str
    token: int
    seq: int
    parent: str
    detail: Mapping[str, Any]

    @property
    def tables(self) -> Mapping[str, str]:
        return dict(self.detail.get("tables", {}))


class Store:
    """Reads and writes pointers and log rows of one state schema; opens no connection of its own."""

    def __init__(self, schema: str, state_id: str) -> None:
        self.schema = schema
        self.state_id = state_id

    def table(self, name: str) -> str:
        """A table of the state, quoted with its schema."""
        return schemas.table(self.schema, name)

    def name(self, kind: str, owner: str, token: int, seq: int) -> str:
        """`<kind>_<owner>_<token>_<seq>`, within PostgreSQL's 63 characters; never used twice."""
        slug = re.sub(r"[^a-z0-9]+", "_", owner.lower())[-24:].strip("_")
        return f"{kind}_{slug}_{digest(owner)}_{token}_{seq}"

    def head(self, session: Session, owner: str, kind: str) -> Pointer | None:
        """The newest pointer, its tables checked to be there.

        Raises StateError when a table is gone: a lost table is never taken for a first sync.
        """
        found = self.newest(session, owner, kind)
        if found is not None:
            self.require(session, found)
        return found

    def newest(self, session: Session, owner: str, kind: str) -> Pointer | None:
        """The newest pointer, whether its tables are there or not."""
        found = self._pointers(session, owner, kind, "order by token desc, seq desc limit 1")
        return found[0] if found else None

    def require(self, session: Session, pointer: Pointer) -> None:
        """Raises StateError when a table of this pointer is gone."""
        names = set(pointer.tables.values())
        missing = sorted(names - session.tables(self.schema, names))
        if missing:
            raise StateError(
                f"{pointer.owner}: table {self.schema}.{missing[0]} is missing although the state refers to it",
                hint="restore it from a backup; nothing was sent",
            )

    def is_known(self, session: Session, owner: str) -> bool:
        """Whether anything was ever committed for this owner."""
        return bool(session.value(f"select count(*) from {self.table('pointers')} where owner = ?", [owner]))

    def pointers(self, session: Session, owner: str, kind: str) -> list[Pointer]:
        """All pointers of a kind, oldest first, doubles dropped."""
        return self._pointers(session, owner, kind, "order by token, seq")

    def pointers_since(
        self, session: Session, owner: str, kind: str, place: tuple[int, int], others: Iterable[str]
    ) -> list[Pointer]:
        """Those after (token, seq), behind `others` by their ids, whoever owns them: years of runs are not read."""
        token, seq = place
        place_of = {name: number for number, name in enumerate(others)}
        later = f"owner = ? and (token > {token} or (token = {token} and seq > {seq}))"
        found = self._read(session, f"kind = ? and (({later}) or id in {in_list(place_of)})", [kind, owner])
        return sorted(found, key=lambda one: (place_of.get(one.id, len(place_of)), one.token, one.seq))

    def _pointers(self, session: Session, owner: str, kind: str, which: str) -> list[Pointer]:
        return self._read(session, f"owner = ? and kind = ? {which}", [owner, kind])

    def _read(self, session: Session, where: str, parameters: list[Any]) -> list[Pointer]:
        rows = session.rows(
            f"select distinct id, owner, kind, token, seq, parent, detail from {self.table('pointers')} where {where}",
            parameters,
        )
        return [Pointer(r[0], r[1], r[2], int(r[3]), int(r[4]), r[5] or "", json.loads(r[6])) for r in rows]

    def point(
        self,
        session: Session,
        owner: str,
        kind: str,
        token: int,
        seq: int,
        detail: Mapping[str, Any],
        parent: str = "",
    ) -> Pointer:
        """Insert one pointer row: the commit. Inside a transaction it is the last statement."""
        pointer = Pointer(secrets.token_hex(8), owner, kind, token, seq, parent, detail)
        self.log(
            session,
            "pointers",
            [
                {
                    "id": pointer.id,
                    "owner": owner,
                    "kind": kind,
                    "token": token,
                    "seq": seq,
                    "parent": parent,
                    "detail": json.dumps(detail),
                }
            ],
            stamp="committed_at",
        )
        return pointer

    def log(self, session: Session, name: str, rows: Sequence[Mapping[str, Any]], stamp: str = "recorded_at") -> None:
        """Append rows to a log table, stamped with the warehouse's clock."""
        if not rows:
            return
        columns = list(rows[0])
        names = ", ".join([*columns, stamp])
        marks = "(" + ", ".join("?" for _ in columns) + f", {session.now})"
        for start in range(0, len(rows), 400):
            some = rows[start : start + 400]
            session.execute(
                f"insert into {self.table(name)} ({names}) values {', '.join(marks for _ in some)}",
                [row[column] for row in some for column in columns],
            )

    def scratch(self, kind: str, owner: str) -> str:
        """A table for a moment, quoted; the time in its name lets later runs drop what a killed one left."""
        return self.table(self.scratch_name(kind, owner))

    def scratch_name(self, kind: str, owner: str) -> str:
        """The name of a scratch table, without its schema."""
        return f"{self.name(kind, owner, int(time.time()), 0)}_{secrets.token_hex(4)}"

    def collect_scratch(self, session: Session, owner: str) -> None:
        """Drop scratch tables that are older than a day."""
        self.collect(session, owner, ("flagged", "seen", "unusable"), (), before=int(time.time()) - 86_400)

    def collect(self, session: Session, owner: str, kinds: Iterable[str], keep: Iterable[str], before: int) -> None:
        """Drop this owner's tables of tokens below `before` that are not kept, orphans of dead runs among them."""
        kept = set(keep)
        mine = re.compile(rf"^({'|'.join(kinds)})_.*{digest(owner)}_(\d+)_\d+(_[0-9a-f]+)?$")
        for name in session.tables(self.schema):
            found = mine.match(name)
            if found and name not in kept and int(found.group(2)) < before:
                session.execute(f"drop table if exists {self.table(name)}")


def digest(owner: str) -> str:
    """Eight digits that tell owners with equal slugs apart."""
    return hashlib.md5(owner.encode(), usedforsecurity=False).hexdigest()[:8]


def in_list(values: Iterable[str]) -> str:
    """An SQL list of our own texts, never empty."""
    return "(" + ", ".join([literal(value) for value in values] or ["null"]) + ")"
