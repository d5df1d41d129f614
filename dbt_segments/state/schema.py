"""The tables of the state schema that users can query and model, and their version.

All of them are append-only. Members live in immutable tables of their own (`ledger`, `pending`, `frozen`), which
exist only through a row of `pointers`. docs/reference/state.md describes every column; a test compares the two.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from dbt_segments.errors import StateError, WarehouseError
from dbt_segments.warehouse import Session, literal, quote

VERSION = 1

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
}


def table(schema: str, name: str) -> str:
    """A table of the state schema, quoted."""
    return f"{quote(schema)}.{quote(name)}"


def exists(session: Session, schema: str) -> bool:
    """Whether a state was ever made here. The dbt macro makes the schema too, but no state."""
    return session.has_table(schema, "state_info") and bool(
        session.value(f"select count(*) from {table(schema, 'state_info')}")
    )


def ensure(session: Session, schema: str) -> str:
    """Make the schema and its tables where they are missing; returns the state's id, made once.

    Raises StateError for a state that a newer version wrote, or one of which tables are missing.
    """
    if exists(session, schema):
        return check(session, schema)
    used = session.has_table(schema, "pointers") and session.value(f"select count(*) from {table(schema, 'pointers')}")
    if used and not exists(session, schema):  # asked again: another run may have made it in between
        raise StateError(
            f"schema {schema}: table state_info is missing or empty, but there are records",
            hint="restore it from a backup; nothing was sent",
        )
    for tries_left in (2, 1, 0):
        try:
            _make(session, schema)
            break
        except WarehouseError:
            # Another run makes it too: on PostgreSQL `if not exists` fails where the other one commits meanwhile.
            if not tries_left:
                raise
    return check(session, schema)


def _make(session: Session, schema: str) -> None:
    session.execute(f"create schema if not exists {quote(schema)}")
    with session.transaction():
        for name, columns in TABLES.items():
            spec = ", ".join(f"{quote(column)} {kind}" for column, kind in columns.items())
            session.execute(f"create table if not exists {table(schema, name)} ({spec})")
        session.execute(
            f"insert into {table(schema, 'state_info')} "
            f"select {literal(secrets.token_hex(8))}, {VERSION}, {session.now} "
            f"where not exists (select 1 from {table(schema, 'state_info')})"
        )


def check(session: Session, schema: str) -> str:
    """The state's id, or StateError when this program cannot use the state."""
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
    missing = [name for name in TABLES if not session.has_table(schema, name)]
    if missing:
        raise StateError(
            f"schema {schema}: tables missing: {', '.join(missing)}",
            hint="restore them from a backup; nothing was sent",
        )
    return str(state_id)
