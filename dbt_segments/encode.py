"""Changes -> rows as they will be sent, in workbench SQL: normalised, hashed, with their match units.

    encoded  key, one column per identifier with exactly what would be sent, and why nothing where nothing is
    want     key, kind, value: the match units that a member is to have
    coded    key, sent_hash, usable, suppressed, reason

`kind` is an identifier's name, or the names of a composite joined by `+`; the value of a composite is its parts joined
by the ASCII unit separator, so that a removal can be written from the record alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from dbt_segments.destinations.base import Destination, Row
from dbt_segments.identifiers.encode import Column, encode_identifiers
from dbt_segments.identifiers.encode import fingerprint as rules_fingerprint
from dbt_segments.identifiers.rules import Rule
from dbt_segments.values import Sync
from dbt_segments.warehouse import literal, quote

SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Encoding:
    """How one sync's rows are written.

    sources  columns the sync reads; workbench column `c<n>` is `sources[n]`
    columns  identifier -> workbench columns, in the destination's order
    former   identifiers that only the record has: the sync sent them once, and may still have to remove them
    """

    destination: Destination
    sources: tuple[str, ...]
    columns: tuple[Column, ...]
    rules: Mapping[str, Rule]
    default_country: str | None
    fingerprint: str
    former: tuple[str, ...] = ()

    @property
    def removable(self) -> tuple[str, ...]:
        """Identifiers that a removal may carry, in the destination's order."""
        names = {*self.identifiers, *self.former}
        return tuple(name for name in self.destination.identifiers if name in names)

    @property
    def identifiers(self) -> tuple[str, ...]:
        return tuple(column.identifier for column in self.columns)

    @property
    def kinds(self) -> tuple[tuple[str, ...], ...]:
        """The destination's match units that this sync can fill."""
        have = set(self.identifiers)
        return tuple(tuple(unit) for unit in self.destination.units if have.issuperset(unit))


def fields_of(coding: Encoding, stage: str) -> tuple[str, ...]:
    """The identifiers that the rows of a stage are written with."""
    return coding.removable if stage == "remove" else coding.identifiers


def encoding(sync: Sync, destination: Destination, default_country: str | None) -> Encoding:
    """The encoding of a sync; its fingerprint is part of every row hash."""
    used = {i.column for i in sync.identifiers} | {i.country for i in sync.identifiers if i.country}
    sources = tuple(sorted(used | {m.source for m in sync.mapped if m.source}))
    number = {source: f"c{n}" for n, source in enumerate(sources)}
    columns = tuple(
        Column(i.name, number[i.column], number[i.country] if i.country else None, i.form) for i in sync.identifiers
    )
    rules = {name: destination.identifiers[name].rule for name in (c.identifier for c in columns)}
    said = "\x1e".join(
        (
            rules_fingerprint(columns, rules, default_country),
            destination.type,
            destination.row.value,
            ",".join(f"{i.name}:{i.column}:{i.country}:{i.form}" for i in sync.identifiers),
        )
    )
    return Encoding(
        destination, sources, columns, rules, default_country, hashlib.sha256(said.encode()).hexdigest()[:16]
    )


def encode_changes(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """`changes` -> `encoded`, `want`, `coded`. Refused units (`refused_units`) are taken out of every row."""
    bench.execute("create or replace view wanted as select * from changes where wanted")
    encode_identifiers(bench, "wanted", "raw_encoded", coding.columns, coding.rules, coding.default_country, ["key"])
    _strip_refused(bench, coding)
    bench.execute(f"create table want as {units_sql(coding, 'encoded')}")
    _write_rows(bench, coding)


def encode_refused(bench: duckdb.DuckDBPyConnection, coding: Encoding, source: str) -> None:
    """Append the units of refused people (table `source`: key, c0..cN) to `refused_units`."""
    encode_identifiers(bench, source, "refused_encoded", coding.columns, coding.rules, coding.default_country, ["key"])
    bench.execute(
        f"insert into refused_units select distinct kind, value from ({units_sql(coding, 'refused_encoded')})"
    )
    bench.execute("drop table refused_encoded")


def units_sql(coding: Encoding, table: str) -> str:
    """key, kind, value of every complete match unit in an encoded table."""
    parts = []
    for unit in coding.kinds:
        columns = [quote(name) for name in unit]
        value = columns[0] if len(unit) == 1 else f"concat_ws(chr(31), {', '.join(columns)})"
        there = " and ".join(f"{column} is not null" for column in columns)
        parts.append(f"select key, {literal(kind_of(unit))} as kind, {value} as value from {table} where {there}")
    return " union all ".join(parts) or f"select key, '' as kind, '' as value from {table} where false"


def kind_of(unit: Sequence[str]) -> str:
    """The name of a match unit: `email`, or `first_name+last_name+country`."""
    return "+".join(unit)


def _strip_refused(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """A refused unit is sent for nobody: its cells become null, of a composite the first one.

    `suppressed` remembers who lost a unit that way.
    """
    joins, cells, hit = [], {name: quote(name) for name in coding.identifiers}, []
    for n, unit in enumerate(coding.kinds):
        columns = [f"e.{quote(name)}" for name in unit]
        value = columns[0] if len(unit) == 1 else f"concat_ws(chr(31), {', '.join(columns)})"
        joins.append(f"left join refused_units r{n} on r{n}.kind = {literal(kind_of(unit))} and r{n}.value = {value}")
        cells[unit[0]] = f"case when r{n}.value is null then {cells[unit[0]]} end"
        hit.append(f"r{n}.value is not null")
    columns_sql = ", ".join(
        f"{cell.replace(quote(name), 'e.' + quote(name))} as {quote(name)}" for name, cell in cells.items()
    )
    reasons = ", ".join(quote(f"{name}__reason") for name in coding.identifiers)
    bench.execute(
        f"create table encoded as select e.key, {columns_sql}, {reasons}, "
        f"({' or '.join(hit) or 'false'}) as suppressed "
        f"from raw_encoded e {' '.join(joins)}"
    )
    bench.execute("drop table raw_encoded")


def _write_rows(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """`coded`: what would be sent, as a hash; a member with nothing that matches alone is not usable.

    `reason` is the first one why an identifier is not usable. `suppressed` members lost a unit to somebody's refusal:
    they are looked at in every run, since the refusal may end; `changes.same` says of whom nothing has changed
    all the same.
    """
    bench.execute(
        f"create table coded as select e.key, md5({_hash_sql(coding)}) as sent_hash, "
        f"({_usable_sql(coding)}) as usable, suppressed, {_reason_sql(coding)} as reason from encoded e"
    )
    # Where a unit is left out the row's hash alone says too little: what is left belongs to it.
    bench.execute(
        "update changes set row_hash = concat(changes.row_hash, ':', d.sent_hash) "
        "from coded d where d.key = changes.key and d.suppressed"
    )
    bench.execute("alter table changes add column same boolean default false")
    bench.execute(
        "update changes set same = true where key in (select key from coded where suppressed) "
        "and row_hash = old_row_hash and old_status in ('present', 'rejected', 'unusable')"
    )


def lasting_sql(destination: Destination) -> str:
    """Condition on `kind`: a unit that the platform does not forget by itself, so that it can stand alone."""
    fading = ", ".join(literal(name) for name in destination.forgets_after_days)
    return f"kind not in ({fading})" if fading else "true"


def _usable_sql(coding: Encoding) -> str:
    """Condition on an encoded row: at least one lasting match unit is complete."""
    lasting = [unit for unit in coding.kinds if kind_of(unit) not in coding.destination.forgets_after_days]
    complete = ("(" + " and ".join(f"{quote(name)} is not null" for name in unit) + ")" for unit in lasting)
    return " or ".join(complete) or "false"


def _reason_sql(coding: Encoding) -> str:
    reasons = ", ".join(quote(f"{name}__reason") for name in coding.identifiers)
    return f"case when suppressed then 'suppressed_shared' else coalesce({reasons}, 'no_identifier') end"


def _hash_sql(coding: Encoding) -> str:
    """Named values, so that an identifier which a member does not have leaves their hash as it is."""
    parts = [
        f"case when {quote(name)} is not null then concat({literal(name + '=')}, {quote(name)}, chr(30)) end"
        for name in coding.identifiers
    ]
    return f"concat({', '.join(parts)})"


def payload_sql(coding: Encoding, alias: str, names: Sequence[str]) -> str:
    """SQL that writes one member as JSON from the identifier columns of `alias` (null: nothing to send).

    alias  as in "e.", or empty
    names  identifiers: those of the sync, or what a removal may carry
    """
    if coding.destination.row is Row.POSITIONAL:
        cells = ", ',', ".join(_cell(coding, name, alias) for name in names)
        return f"concat('[', {cells}, ']')"
    fields = {name: _json_text(coding.destination.identifiers[name].field) + ":" for name in names}
    cells = ", ".join(
        f"case when {alias}{quote(name)} is not null then concat({literal(field)}, {_cell(coding, name, alias)}) end"
        for name, field in fields.items()
    )
    return f"concat('{{', concat_ws(',', {cells}), '}}')"


def _cell(coding: Encoding, name: str, alias: str) -> str:
    """One value as a JSON string. Hashes need no escape, but a clear id may hold anything."""
    column = f"coalesce({alias}{quote(name)}, '')"
    if coding.destination.identifiers[name].rule.hashed:
        return f"concat('\"', {column}, '\"')"
    return f"cast(to_json({column}) as varchar)"


def single_payload_sql(coding: Encoding, alias: str) -> str:
    """SQL that writes one unit (`kind`, `value` of `alias`) as JSON, for platforms that take one identifier a row."""
    cases = " ".join(
        f"when {literal(name)} then {literal(_json_text(coding.destination.identifiers[name].field))}"
        for name in coding.removable
    )
    return (
        f"concat('{{\"type\":', case {alias}kind {cases} end, ',\"value\":', "
        f"cast(to_json({alias}value) as varchar), '}}')"
    )


def _json_text(text: str) -> str:
    return '"' + text + '"'
