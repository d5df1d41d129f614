"""The tables of the state schema that users can query and model, and their version.

All of them are append-only. Members live in immutable tables of their own (`ledger`, `pending`, `frozen`), which
exist only through a row of `pointers`. docs/reference/state.md describes every column; a test compares the two.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping

from dbt_segments.errors import StateError, WarehouseError
from dbt_segments.warehouse import Session, literal, quote

VERSION = 3
# version -> tables that came with it; a state of an older version is given them (`_migrate`)
_ADDED: Mapping[int, tuple[str, ...]] = {
    2: ("segment_sizes", "membership_changes", "gc_runs"),
    3: ("audience_sizes", "match_rates"),
}

# column -> type, spelled so that DuckDB and PostgreSQL both understand it
TABLES: Mapping[str, Mapping[str, str]] = {
    "state_info": {"state_id": "text", "version": "integer", "created_at": "timestamp"},
    "pointers": {
        "id": "text",
        "owner": "text",
        "kind": "text",
        "token": "bigint",
        "seq": "bigint",
        "parent": "text",
        "detail": "text",
        "committed_at": "timestamp",
    },
    "leases": {
        "owner": "text",
        "token": "bigint",
        "event": "text",
        "expires_at": "timestamp",
        "recorded_at": "timestamp",
    },
    "audiences": {
        "id": "text",
        "sync_id": "text",
        "connection": "text",
        "account": "text",
        "audience_id": "text",
        "name": "text",
        "mark": "text",
        "event": "text",
        "token": "bigint",
        "recorded_at": "timestamp",
    },
    "sync_batches": {
        "id": "text",
        "run_id": "text",
        "sync_id": "text",
        "generation": "text",
        "batch": "bigint",
        "phase": "text",
        "state": "text",
        "job": "text",
        "members": "bigint",
        "refused": "bigint",
        "unattributed": "bigint",
        "reason": "text",
        "token": "bigint",
        "recorded_at": "timestamp",
    },
    "rejects": {
        "id": "text",
        "run_id": "text",
        "sync_id": "text",
        "generation": "text",
        "row_seq": "bigint",
        "key": "text",
        "reason": "text",
        "class": "text",
        "recorded_at": "timestamp",
    },
    "sync_runs": {
        "run_id": "text",
        "sync_id": "text",
        "segment": "text",
        "entity": "text",
        "destination": "text",
        "type": "text",
        "status": "text",
        "reason": "text",
        "audience_id": "text",
        "audience_name": "text",
        "members": "bigint",
        "added": "bigint",
        "changed": "bigint",
        "removed": "bigint",
        "unchanged": "bigint",
        "rejected": "bigint",
        "unusable": "bigint",
        "refused": "bigint",
        "pending": "bigint",
        "requests": "bigint",
        "retries": "bigint",
        "bytes_sent": "bigint",
        "exit_code": "integer",
        "started_at": "timestamp",
        "finished_at": "timestamp",
    },
    "segment_sizes": {
        "run_id": "text",
        "entity": "text",
        "segment": "text",
        "members": "bigint",
        "frozen_at": "timestamp",
        "reason": "text",
        "recorded_at": "timestamp",
    },
    "membership_changes": {
        "run_id": "text",
        "entity": "text",
        "key": "text",
        "segment": "text",
        "change": "text",
        "recorded_at": "timestamp",
    },
    "audience_sizes": {
        "sync_id": "text",
        "connection": "text",
        "account": "text",
        "audience_id": "text",
        "members": "bigint",
        "size_lower": "bigint",
        "size_upper": "bigint",
        "status": "text",
        "settled": "boolean",
        "recorded_at": "timestamp",
    },
    "match_rates": {
        "sync_id": "text",
        "connection": "text",
        "account": "text",
        "audience_id": "text",
        "members": "bigint",
        "match_rate": "double precision",
        "settled": "boolean",
        "recorded_at": "timestamp",
    },
    "gc_runs": {
        "dropped_tables": "bigint",
        "pruned_rows": "bigint",
        "detail": "text",
        "recorded_at": "timestamp",
    },
}


def table(schema: str, name: str) -> str:
    """A table of the state schema, quoted."""
    return f"{quote(schema)}.{quote(name)}"


def exists(session: Session, schema: str) -> bool:
    """Whether a state was ever made here. The dbt macro makes the schema too, but no state."""
    return session.has_table(schema, "state_info") and bool(
        session.value(f"select count(*) from {table(schema, 'state_info')}")
    )


def has_audiences(session: Session, schema: str) -> bool:
    """Whether a sync of this state ever made, adopted or wrote to anything."""
    return session.has_table(schema, "audiences") and bool(
        session.value(f"select count(*) from {table(schema, 'audiences')}")
    )


def ensure(session: Session, schema: str) -> str:
    """Make the schema and its tables, or bring an older state to this version; returns the state's id, made once.

    Raises StateError for a state that a newer version wrote, or one of which tables are missing.
    """
    if exists(session, schema):
        return _current(session, schema)
    used = session.has_table(schema, "pointers") and session.value(f"select count(*) from {table(schema, 'pointers')}")
    if used and not exists(session, schema):  # asked again: another run may have made it in between
        raise StateError(
            f"schema {schema}: table state_info is missing or empty, but there are records",
            hint="restore it from a backup; nothing was sent",
        )
    _insist(lambda: _make(session, schema))
    return _current(session, schema)


def check(session: Session, schema: str) -> str:
    """The state's id, for a reader: nothing is made. StateError when this program cannot use the state."""
    return _inspect(session, schema)[0]


def _current(session: Session, schema: str) -> str:
    """The state's id, after an older one was migrated."""
    state_id, version = _inspect(session, schema)
    if version < VERSION:
        _insist(lambda: _migrate(session, schema, version))
    return state_id


def _insist(make: Callable[[], None]) -> None:
    """Another run makes it too: on PostgreSQL `if not exists` fails where the other one commits meanwhile."""
    for tries_left in (2, 1, 0):
        try:
            make()
            return
        except WarehouseError:
            if not tries_left:
                raise


def _make(session: Session, schema: str) -> None:
    session.execute(f"create schema if not exists {quote(schema)}")
    with session.transaction():
        _make_tables(session, schema, TABLES)
        session.execute(
            f"insert into {table(schema, 'state_info')} "
            f"select {literal(secrets.token_hex(8))}, {VERSION}, {session.now} "
            f"where not exists (select 1 from {table(schema, 'state_info')})"
        )


def _make_tables(session: Session, schema: str, names: Iterable[str]) -> None:
    for name in names:
        spec = ", ".join(f"{quote(column)} {kind}" for column, kind in TABLES[name].items())
        session.execute(f"create table if not exists {table(schema, name)} ({spec})")


def _migrate(session: Session, schema: str, found: int) -> None:
    """Give an older state what it lacks; all at once, so that a run that dies leaves the old version."""
    with session.transaction():
        _make_tables(session, schema, _later_than(found))
        session.execute(f"update {table(schema, 'state_info')} set version = {VERSION} where version = {found}")


def _later_than(version: int) -> list[str]:
    """Tables that a state of this version does not have yet."""
    return [name for added, names in _ADDED.items() if added > version for name in names]


def _inspect(session: Session, schema: str) -> tuple[str, int]:
    """The state's id and version. Raises StateError when this program cannot use it."""
    rows = session.rows(f"select state_id, version from {table(schema, 'state_info')} order by created_at")
    if len(rows) != 1:
        raise StateError(
            f"schema {schema}: state_info has {len(rows)} rows", hint="keep the row of the state that is to be used"
        )
    state_id, version = rows[0]
    if version > VERSION:
        raise StateError(
            f"schema {schema} was written by a newer dbt-segments (state version {version}, known {VERSION})",
            hint="pip install --upgrade dbt-segments",
        )
    later = _later_than(int(version))
    there = session.tables(schema)
    missing = [name for name in TABLES if name not in later and name not in there]
    if missing:
        raise StateError(
            f"schema {schema}: tables missing: {', '.join(missing)}",
            hint="restore them from a backup; nothing was sent",
        )
    return str(state_id), int(version)
