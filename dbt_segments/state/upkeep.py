"""What the state no longer needs: tables that nothing refers to, and rows of logs that are older than `retention`.

Kept in any case: audiences; the newest pointer of each kind, and open generations with their batches; the newest lease
and the newest runs of each sync; the newest build of each model. So an earlier state is never mistaken for a first one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dbt_segments.errors import WarehouseError
from dbt_segments.state import ledger as ledgers
from dbt_segments.state import pending as pendings
from dbt_segments.state.store import Pointer, Store, digest, in_list
from dbt_segments.warehouse import Session

DAY_S = 86_400
# Kinds of immutable and scratch tables, longest first; a test finds every other one.
KINDS = (
    "delta_members",
    "pending_units",
    "delta_units",
    "membership",
    "flagged",
    "members",
    "pending",
    "refusals",
    "rejected",
    "unusable",
    "change",
    "frozen",
    "refused",
    "units",
    "fate",
    "keys",
    "left",
    "lock",
    "rows",
    "seen",
)
_TABLE = re.compile(
    rf"^(?P<kind>{'|'.join(KINDS)})_(?:[a-z0-9_]*_)?(?P<owner>[0-9a-f]{{8}})_(?P<token>\d+)"
    r"(?:_\d+)?(?P<scratch>_[0-9a-f]{8})?$"
)
_SUCCESS = "(t.status in ('success', 'noop') or (t.status = 'partial' and t.pending = 0))"


@dataclass(frozen=True)
class Rubbish:
    """What can be thrown away, or was.

    tables  names in the state's schema
    rows    log -> rows
    kept    table -> why the warehouse would not drop it
    """

    tables: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)


def kind_of(table: str) -> str | None:
    """The kind of an immutable or scratch table; None for a log, and for what is not ours."""
    found = _TABLE.match(table)
    return found["kind"] if found else None


class Upkeep:
    """Finds and removes what one state no longer needs.

    builds  the table that dbt's hook writes, quoted, and a session on the models' warehouse, where it lies
    """

    def __init__(
        self, session: Session, store: Store, retention: Mapping[str, int], builds: tuple[Session, str] | None
    ) -> None:
        self._session = session
        self._store = store
        self._retention = retention
        self._builds = builds

    def find(self) -> Rubbish:
        """What would go now. Raises StateError where the state is damaged: then nothing may be thrown away."""
        rows = {}
        for log, session, table, where in self._expired():
            rows[log] = int(session.value(f"select count(*) from {table} t where {where}") or 0)
        return Rubbish(tuple(self._orphans()), {log: count for log, count in rows.items() if count})

    def prune(self) -> dict[str, int]:
        """Delete the rows that are too old; log -> rows."""
        pruned = {}
        for log, session, table, where in self._expired():
            count = int(session.value(f"select count(*) from {table} t where {where}") or 0)
            if count:
                session.execute(f"delete from {table} as t where {where}")
                pruned[log] = count
        return pruned

    def collect(self) -> Rubbish:
        """Throw away what `find` finds, and log it."""
        dropped, kept = [], {}
        for name in list(self._orphans()):
            try:
                self._session.execute(f"drop table if exists {self._store.table(name)}")
                dropped.append(name)
            except WarehouseError as error:  # somebody's view reads it
                kept[name] = error.message
        rows = self.prune()
        self._log(len(dropped), rows)
        return Rubbish(tuple(dropped), rows, kept)

    def prune_daily(self) -> dict[str, int]:
        """Delete old rows unless that was done within a day; log -> rows."""
        if not self._retention:
            return {}
        recent = self._session.value(
            f"select count(*) from {self._store.table('gc_runs')} "
            f"where recorded_at > {self._session.now} - interval '1 day'"
        )
        if recent:
            return {}
        rows = self.prune()
        self._log(0, rows)
        return rows

    def _log(self, tables: int, rows: Mapping[str, int]) -> None:
        row = {"dropped_tables": tables, "pruned_rows": sum(rows.values()), "detail": json.dumps(dict(rows))}
        self._store.log(self._session, "gc_runs", [row])

    # -- rows of logs -----------------------------------------------------------------------------------------

    def _expired(self) -> Iterator[tuple[str, Session, str, str]]:
        """(log, session, quoted table, condition on `t`) for every log whose rows expire."""
        for log, days in self._retention.items():
            session, table = self._session, self._store.table(log)
            if log == "model_builds":
                if self._builds is None:
                    continue
                session, table = self._builds
            stamp = {"sync_runs": "finished_at", "pointers": "committed_at", "model_builds": "built_at"}
            old = f"t.{stamp.get(log, 'recorded_at')} < {session.now} - interval '{days} days'"
            yield log, session, table, " and ".join([old, *self._but_not(log, table)])

    def _but_not(self, log: str, table: str) -> Iterator[str]:
        """What must hold of a row beside its age, so that nobody needs it."""
        if log in ("sync_batches", "rejects"):
            yield f"(t.generation is null or {self._is_closed('t.generation')})"
        elif log == "sync_runs":
            newer = f"select 1 from {table} n where n.sync_id = t.sync_id"
            later = f"{newer} and n.status <> 'skipped' and n.finished_at > t.finished_at"
            yield f"(t.status = 'skipped' or exists ({later}))"
            good = _SUCCESS.replace("t.", "n.")
            yield f"(not {_SUCCESS} or exists ({newer} and {good} and n.started_at > t.started_at))"
        elif log == "leases":
            yield f"t.token < (select max(n.token) from {table} n where n.owner = t.owner)"
        elif log == "pointers":
            yield self._is_closed("t.id")
            yield (
                f"exists (select 1 from {table} n where n.owner = t.owner and n.kind = t.kind "
                f"and (n.token > t.token or (n.token = t.token and n.seq > t.seq)))"
            )
            # Which ledger went on under another name must be known as long as there are names to go back to.
            yield f"not (t.kind = '{ledgers.KIND}' and t.seq = 0)"
            yield f"not exists (select 1 from {table} n where n.parent = t.id and n.kind = t.kind and n.seq = 0)"
        elif log == "model_builds":
            yield (
                f"exists (select 1 from {table} n where n.unique_id = t.unique_id and n.built_at > t.built_at "
                f"and (n.is_empty or n.is_sample) = (t.is_empty or t.is_sample))"
            )

    # -- tables -----------------------------------------------------------------------------------------------

    def _orphans(self) -> Iterator[str]:
        """Tables of ours that nothing refers to and no run can be writing."""
        session, now = self._session, int(time.time())
        rows = session.rows(
            "select table_name from information_schema.tables where table_schema = ? and table_type = 'BASE TABLE' "
            "order by table_name",
            [self._store.schema],
        )
        live, leases = self._live(), self._leases()
        for (name,) in rows:
            found = _TABLE.match(name)
            if found is None or name in live:
                continue
            token = int(found["token"])
            if found["scratch"]:  # its token is the time when it was made
                orphan = token < now - DAY_S
            elif found["kind"] == "membership":
                orphan = True
            else:
                newest, is_old = leases.get(found["owner"], (0, False))
                before = newest - 1 if found["kind"] == "lock" else newest
                orphan = token < before or (is_old and found["kind"] != "lock" and token == newest)
            if orphan:
                yield name

    def _live(self) -> set[str]:
        """Tables that a pointer in use names, that a membership of the last day is in, or that a view reads."""
        session, store = self._session, self._store
        live: set[str] = set()
        heads = f"select distinct owner, kind from {store.table('pointers')} where kind <> '{pendings.KIND}'"
        stale = ledgers.passed_on(session, store)
        for owner, kind in session.rows(heads):
            head = store.newest(session, owner, kind) if owner in stale else store.head(session, owner, kind)
            live.update(head.tables.values() if head else ())
        for pointer in self._open_pointers():
            live.update(pointer.tables.values())
        for (detail,) in session.rows(
            f"select detail from {store.table('pointers')} where kind = 'membership' "
            f"and committed_at > {session.now} - interval '1 day'"
        ):
            live.update(json.loads(detail)["tables"].values())
        views = session.rows(
            "select view_definition from information_schema.views where table_schema = ?", [store.schema]
        )
        for (definition,) in views:
            live.update(re.findall(r"\w+", definition or ""))
        return live

    def _leases(self) -> dict[str, tuple[int, bool]]:
        """Digest of an owner -> the newest token of its leases, and whether that one is older than a day."""
        rows = self._session.rows(
            f"select owner, max(token), max(recorded_at) < {self._session.now} - interval '1 day' "
            f"from {self._store.table('leases')} group by owner"
        )
        return {digest(owner): (int(token), bool(is_old)) for owner, token, is_old in rows}

    def _open_pointers(self) -> list[Pointer]:
        """Generations that are not wholly folded."""
        session, store = self._session, self._store
        owners = session.rows(
            f"select distinct owner from {store.table('pointers')} "
            f"where kind in ('{pendings.KIND}', '{ledgers.KIND}') order by owner"
        )
        stale = ledgers.passed_on(session, store)
        return [
            generation.pointer
            for (owner,) in owners
            if owner not in stale
            for generation in pendings.read_generations(
                session, store, owner, ledgers.read_ledger(session, store, owner)
            )
        ]

    def _is_closed(self, column: str) -> str:
        """Condition: this id is of no open generation."""
        ids = [pointer.id for pointer in self._open_pointers()]
        return f"{column} not in {in_list(ids)}" if ids else "1 = 1"
