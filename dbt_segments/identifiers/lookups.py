"""Tables of distinct phone numbers and country words with what Python made of them, for SQL to join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbt_segments.identifiers import countries, phones
from dbt_segments.identifiers.sql import quoted

if TYPE_CHECKING:
    import duckdb

_BATCH_ROWS = 10_000
_COUNTRIES = "temp.dbt_segments_countries"
_PHONES = "temp.dbt_segments_phones"
_DISTINCT = "temp.dbt_segments_distinct"


@contextmanager
def tables(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str]]:
    """Names of an empty country table (raw, alpha2) and phone table (text, country, digits, reason); dropped after."""
    con.execute(f"create or replace temp table {_COUNTRIES} (raw varchar, alpha2 varchar)")
    con.execute(
        f"create or replace temp table {_PHONES} (text varchar, country varchar, digits varchar, reason varchar)"
    )
    try:
        yield _COUNTRIES, _PHONES
    finally:
        for table in (_COUNTRIES, _PHONES, _DISTINCT):
            con.execute(f"drop table if exists {table}")


def fill_countries(con: duckdb.DuckDBPyConnection, table: str, source: str, columns: Sequence[str]) -> None:
    """Map every distinct text of these columns that names a country; texts that name none stay out of the table."""
    # No name of a country is longer; hashes and free text never reach Python.
    texts = " union ".join(
        f"select {quoted(c)} as raw from {source} where length({quoted(c)}) < 64" for c in dict.fromkeys(columns)
    )
    for rows in _batches(con, texts):
        mapped = [(raw, code) for (raw,) in rows if (code := countries.alpha2(raw)) is not None]
        _insert(con, table, mapped, width=2)


def fill_phones(
    con: duckdb.DuckDBPyConnection, table: str, texts: str, columns: Sequence[int], readable: Sequence[str]
) -> None:
    """Parse every distinct (text, country) pair of the query `texts` that satisfies `readable`, per column."""
    pairs = " union ".join(
        f"select text_{i} as text, country_{i} as country from ({texts}) where text_{i} is not null and {condition}"
        for i, condition in zip(columns, readable, strict=True)
    )
    for rows in _batches(con, f"select distinct text, country from ({pairs})"):
        parsed = [(text, country, *phones.e164_digits(text, country or None)) for text, country in rows]
        _insert(con, table, parsed, width=4)


def _batches(con: duckdb.DuckDBPyConnection, query: str) -> Iterator[list[tuple[str, ...]]]:
    """The distinct rows of a query, a batch at a time.

    They are kept in a table first: a connection with an unfinished result refuses to insert.
    """
    con.execute(f"create or replace temp table {_DISTINCT} as select distinct * from ({query})")
    (total,) = con.execute(f"select count(*) from {_DISTINCT}").fetchall()[0]
    for start in range(0, total, _BATCH_ROWS):
        window = f"rowid >= {start} and rowid < {start + _BATCH_ROWS}"
        yield con.execute(f"select * from {_DISTINCT} where {window}").fetchall()
    con.execute(f"drop table {_DISTINCT}")


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[tuple[str | None, ...]], width: int) -> None:
    """Append rows as one list a column; `executemany` would run a statement a row."""
    if rows:
        unnested = ", ".join(["unnest(?::varchar[])"] * width)
        con.execute(f"insert into {table} select {unnested}", [list(column) for column in zip(*rows, strict=True)])
