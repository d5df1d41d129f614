"""What would this platform receive? The core of `destinations try`, on the same code as a sync."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from dbt_segments.identifiers.encode import Column, encode_identifiers
from dbt_segments.identifiers.rules import Rule

if TYPE_CHECKING:
    import duckdb

_BATCH_ROWS = 1_000
# Other names for the same thing; a destination that declares one of them takes it under that name.
_SYNONYMS = {"mobile_id": "maid", "idfa": "maid", "aaid": "maid", "user_id": "external_id", "state": "region"}


def attempt(
    rows: Iterable[Mapping[str, Any]],
    accepts: Mapping[str, Rule],
    default_country: str | None = None,
    synonyms: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """For each `{"identifier", "value", "country"}` yield `{"identifier", "value", "sent", "hashed", "reason"}`.

    `sent` is exactly the text that would go out, null with a reason where nothing would. `hashed` says whether it is
    a SHA-256. `synonyms` maps further names, in lower case (a platform's own field names), to those of `accepts`.
    Values may be JSON texts, numbers or null. Raises SettingsError when `default_country` names no country.
    """
    import duckdb

    names = {**_SYNONYMS, **(synonyms or {}), **{name: name for name in accepts}}
    if "maid" not in accepts and "aaid" in accepts:
        # The system is not said here; those that tell the two apart write both the same way.
        names |= {"maid": "aaid", "mobile_id": "aaid"}
    con = duckdb.connect(":memory:", config={"memory_limit": "256MB", "threads": 1})
    try:
        remaining = iter(rows)
        while batch := list(islice(remaining, _BATCH_ROWS)):
            yield from _encoded(con, batch, accepts, default_country, names)
    finally:
        con.close()


def _encoded(
    con: duckdb.DuckDBPyConnection,
    batch: list[Mapping[str, Any]],
    accepts: Mapping[str, Rule],
    default_country: str | None,
    names: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One batch, one run of the encoder per identifier in it."""
    answers = [_answer(row, None, False, "identifier_not_taken") for row in batch]
    by_identifier: dict[str, list[int]] = {}
    for number, row in enumerate(batch):
        name = names.get(str(row.get("identifier")).strip().lower())
        if name is not None and name in accepts:
            by_identifier.setdefault(name, []).append(number)
    for name, numbers in by_identifier.items():
        raw = [(number, _text(batch[number].get("value")), _text(batch[number].get("country"))) for number in numbers]
        for number, sent, reason in _run(con, name, raw, accepts, default_country):
            hashed = accepts[name].hashed and sent is not None
            answers[number] = _answer(batch[number], sent, hashed, None if sent is not None else reason or "absent")
    return answers


def _run(
    con: duckdb.DuckDBPyConnection,
    name: str,
    raw: list[tuple[int, str | None, str | None]],
    accepts: Mapping[str, Rule],
    default_country: str | None,
) -> list[tuple[int, str | None, str | None]]:
    con.execute(
        "create or replace table attempted as "
        "select unnest(?::integer[]) as number, unnest(?::varchar[]) as value, unnest(?::varchar[]) as country",
        [list(column) for column in zip(*raw, strict=True)],
    )
    con.execute("drop table if exists encoded")
    column = Column(name, "value", "country")
    encode_identifiers(con, "attempted", "encoded", [column], accepts, default_country, ["number"])
    return con.execute("select * from encoded").fetchall()


def _answer(row: Mapping[str, Any], sent: str | None, hashed: bool, reason: str | None) -> dict[str, Any]:
    return {
        "identifier": row.get("identifier"),
        "value": row.get("value"),
        "sent": sent,
        "hashed": hashed,
        "reason": reason,
    }


def _text(value: Any) -> str | None:
    """A JSON value as a VARCHAR column would hold it."""
    return None if value is None else value if isinstance(value, str) else str(value)
