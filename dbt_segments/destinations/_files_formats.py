"""Rows of records -> the bytes of one CSV, JSONL or Parquet file, written by an embedded DuckDB.

The rows go through a private folder on disk that is gone afterwards; no Python object is made per row.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import duckdb

MEMORY_LIMIT = "1GB"
BOM = b"\xef\xbb\xbf"
ROW_GROUP = 131_072
_SCALARS = {"integer": "bigint", "number": "double", "boolean": "boolean"}
_FORMULA = "('=', '+', '-', '@', chr(9), chr(13))"


@dataclass(frozen=True)
class Shape:
    """What a file looks like.

    format       csv, jsonl or parquet
    compression  none, gzip, zstd or snappy
    """

    format: str
    compression: str
    delimiter: str = ","
    null_text: str = ""
    bom: bool = False
    escape_formulas: bool = False

    @property
    def ext(self) -> str:
        if self.format == "parquet":
            return "parquet"
        return self.format + {"none": "", "gzip": ".gz", "zstd": ".zst"}[self.compression]


@dataclass(frozen=True)
class Change:
    """What a change file says of each row beside its fields."""

    synced_at: datetime
    run_id: str


@dataclass(frozen=True)
class Columns:
    """Fields in file order: those of the key, then those of the values, and field -> type."""

    keys: Sequence[str]
    fields: Sequence[str]
    types: Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """One file's bytes, how many rows it holds, and which rows it cannot hold: index -> reason."""

    content: bytes = field(repr=False)
    rows: int
    refused: Mapping[int, str] = field(default_factory=dict)


def write(rows: str, columns: Columns, shape: Shape, change: Change | None) -> Made:
    """The file of these rows, which are JSON objects joined by commas; the same rows give the same bytes."""
    with tempfile.TemporaryDirectory(prefix="dbt-segments-") as folder, duckdb.connect() as bench:
        bench.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        bench.execute("set autoinstall_known_extensions = false")
        bench.execute("set temp_directory = ?", [str(Path(folder, "spill"))])
        source, made = Path(folder, "rows.json"), Path(folder, "made")
        source.write_text(f"[{rows}]", encoding="utf-8")
        bench.execute(f"create table given as {_read(source, columns)}")
        refused = _refused(bench, columns) if shape.format == "parquet" else {}
        bench.execute(f"copy ({_select(columns, shape, change)}) to {_literal(str(made))} ({_options(shape)})")
        count = bench.execute("select count(*) from given").fetchone()
        content = made.read_bytes()
    if shape.bom and shape.format == "csv":
        content = (gzip.compress(BOM, mtime=0) if shape.compression == "gzip" else BOM) + content
    return Made(content, (count or (0,))[0] - len(refused), refused)


def _read(source: Path, columns: Columns) -> str:
    """The rows with their position; texts as texts, everything else as the JSON that it is."""
    shapes = {"op": "varchar", "key": _struct(columns.keys, columns), "values": _struct(columns.fields, columns)}
    said = ", ".join(f"{_quote(name)}: {_literal(shape)}" for name, shape in shapes.items())
    cells = [f'"key".{_quote(name)} as {_quote(f"k_{name}")}' for name in columns.keys]
    cells += [f'"values".{_quote(name)} as {_quote(f"v_{name}")}' for name in columns.fields]
    return (
        f"select row_number() over () - 1 as _index, op as _op, {', '.join(cells)} "
        f"from read_json({_literal(str(source))}, format = 'array', columns = {{{said}}})"
    )


def _struct(names: Sequence[str], columns: Columns) -> str:
    kinds = ", ".join(f"{_quote(name)} {'varchar' if _kind(name, columns) == 'text' else 'json'}" for name in names)
    return f"struct({kinds})" if names else "json"


def _kind(name: str, columns: Columns) -> str:
    return columns.types.get(name, "text")


def _cells(columns: Columns) -> list[tuple[str, str, str]]:
    """Column of `given`, its name in the file, its type."""
    cells = [(_quote(f"k_{name}"), name, _kind(name, columns)) for name in columns.keys]
    return cells + [(_quote(f"v_{name}"), name, _kind(name, columns)) for name in columns.fields]


def _select(columns: Columns, shape: Shape, change: Change | None) -> str:
    parts = []
    if change is not None:
        parts += ["_op", f"{_moment(change.synced_at, shape)} as _synced_at", f"{_literal(change.run_id)} as _run_id"]
    parts += [f"{_cell(column, kind, shape)} as {_quote(name)}" for column, name, kind in _cells(columns)]
    where = f"where not ({_unfit(columns)})" if shape.format == "parquet" else ""
    return f"select {', '.join(parts)} from given {where} order by _index"


def _cell(column: str, kind: str, shape: Shape) -> str:
    if shape.format == "parquet":
        return _typed(column, kind)
    if shape.format == "jsonl":
        return column
    text = column if kind == "text" else f"cast({column} as varchar)" if kind == "json" else f"({column} ->> '$')"
    if shape.escape_formulas and kind in ("text", "json"):
        return f"case when left({text}, 1) in {_FORMULA} then concat('''', {text}) else {text} end"
    return text


def _typed(column: str, kind: str) -> str:
    if kind == "text":
        return column
    if kind == "json":
        lone = f"case when {column} is not null then [cast({column} as varchar)] end"
        return f"case when json_type({column}) = 'ARRAY' then cast({column} as varchar[]) else {lone} end"
    return f"try_cast({column} ->> '$' as {_SCALARS[kind]})"


def _unfit(columns: Columns) -> str:
    """SQL condition: a value that its column's type cannot hold."""
    hard = [
        f"({column} is not null and {_typed(column, kind)} is null)"
        for column, _, kind in _cells(columns)
        if kind not in ("text", "json")
    ]
    return " or ".join(hard) or "false"


def _refused(bench: duckdb.DuckDBPyConnection, columns: Columns) -> dict[int, str]:
    found = bench.execute(f"select _index from given where {_unfit(columns)}").fetchall()
    return {int(index): "not_representable" for (index,) in found}


def _moment(moment: datetime, shape: Shape) -> str:
    if shape.format == "parquet":
        return f"to_timestamp({int(moment.timestamp())})"
    return _literal(moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _options(shape: Shape) -> str:
    if shape.format == "parquet":
        codec = "uncompressed" if shape.compression == "none" else shape.compression
        return f"format parquet, compression {codec}, row_group_size {ROW_GROUP}"
    compression = f"compression {shape.compression}"
    if shape.format == "jsonl":
        return f"format json, {compression}"
    delimiter, null = _literal(shape.delimiter), _literal(shape.null_text)
    return f"format csv, header true, delimiter {delimiter}, nullstr {null}, quote '\"', escape '\"', {compression}"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
