"""Identifiers of people -> rows as they will be sent, in workbench SQL: normalised, hashed, with their match units.

`encoded` has one column per identifier with exactly what would be sent, and why nothing where nothing is.

`kind` is an identifier's name, or the names of a composite joined by `+`; the value of a composite is its parts joined
by the ASCII unit separator, so that a removal can be written from the record alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from dbt_segments.coding import OPS, Coding, mark_same
from dbt_segments.destinations.base import Destination, Row
from dbt_segments.identifiers.encode import Column, encode_identifiers
from dbt_segments.identifiers.encode import fingerprint as rules_fingerprint
from dbt_segments.identifiers.rules import Rule
from dbt_segments.values import Sync
from dbt_segments.warehouse import literal, quote

SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Encoding(Coding):
    """Rows of identifiers.

    columns  identifier -> workbench columns, in the destination's order
    former   identifiers that only the record has: the sync sent them once, and may still have to remove them
    """

    destination: Destination
    mode: str
    sources: tuple[str, ...]
    columns: tuple[Column, ...]
    rules: Mapping[str, Rule]
    default_country: str | None
    fingerprint: str
    former: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()

    @property
    def removable(self) -> tuple[str, ...]:
        """Identifiers that a removal may carry, under their units' names and in the destination's order."""
        names = {self._alias(name) for name in (*self.identifiers, *self.former)}
        return tuple(name for name in self.destination.identifiers if name in names)

    @property
    def identifiers(self) -> tuple[str, ...]:
        return tuple(column.identifier for column in self.columns)

    @property
    def kinds(self) -> tuple[tuple[str, ...], ...]:
        """The destination's match units that this sync can fill."""
        have = set(self.identifiers)
        return tuple(tuple(unit) for unit in self.destination.units if have.issuperset(unit))

    def kind_of(self, unit: Sequence[str]) -> str:
        """The name of a match unit: `email`, or `first_name+last_name+country`.

        Identifiers that a platform keeps in one field are one thing there, whichever column they come from: an id that
        one member has as `idfa` and another as `maid` is a unit that they share.
        """
        return "+".join(self._alias(name) for name in unit)

    def _alias(self, name: str) -> str:
        """The first of the identifiers that the platform keeps in the field of this one."""
        taken = self.destination.identifiers
        own = (taken[name].field, taken[name].rule.hashed)
        return next(other for other, accepts in taken.items() if (accepts.field, accepts.rule.hashed) == own)

    @property
    def within(self) -> str | None:
        """One identifier a row; or one value a column, where several identifiers go into one of them."""
        if self.destination.row is Row.SINGLE:
            return "key"
        return "key, kind" if any(len(names) > 1 for names in self._cells.values()) else None

    @property
    def _cells(self) -> Mapping[str, tuple[str, ...]]:
        """Cell of an added row -> the sync's identifiers that go into it: of an array one cell a column."""
        if self.destination.row is not Row.POSITIONAL:
            return {name: (name,) for name in self.identifiers}
        cells: dict[str, tuple[str, ...]] = {}
        for name in self.identifiers:
            alias = self._alias(name)
            cells[alias] = (*cells.get(alias, ()), name)
        return cells

    @property
    def lasting(self) -> str:
        fading = ", ".join(literal(name) for name in self.destination.forgets_after_days)
        return f"kind not in ({fading})" if fading else "true"

    def with_former(self, kinds: Iterable[str]) -> Encoding:
        on_record = {name for kind in kinds for name in kind.split("+")}
        return replace(self, former=tuple(sorted(on_record - set(self.identifiers))))

    def fields(self, stage: str, kind: str | None) -> tuple[str, ...]:
        if kind is not None:
            return (kind,)
        return self.removable if stage == "remove" else tuple(self._cells)

    def encode_changes(self, bench: duckdb.DuckDBPyConnection) -> None:
        bench.execute("create or replace view wanted as select * from changes where wanted")
        encode_identifiers(bench, "wanted", "raw_encoded", self.columns, self.rules, self.default_country, ["key"])
        _strip_refused(bench, self)
        bench.execute(f"create table want as {_units_sql(self, 'encoded')}")
        bench.execute(
            f"create table coded as select e.key, md5({_hash_sql(self)}) as sent_hash, "
            f"({_usable_sql(self)}) as usable, suppressed, {_reason_sql(self)} as reason from encoded e"
        )
        mark_same(bench)

    def encode_refused(self, bench: duckdb.DuckDBPyConnection, source: str) -> None:
        encode_identifiers(bench, source, "refused_encoded", self.columns, self.rules, self.default_country, ["key"])
        bench.execute(f"insert into refused_units select kind, value from ({_units_sql(self, 'refused_encoded')})")
        bench.execute("drop table refused_encoded")

    def rows_sql(self, stage: str) -> str:
        if self.destination.row is Row.SINGLE:
            units = "removal_units" if stage == "remove" else "assert_units"
            return (
                f"select d.*, {_single_payload_sql(self, stage, 'u.')} as payload "
                f"from draft d join {units} u on u.key = d.key and u.n = d.n"
            )
        if stage != "remove":
            payload = _payload_sql(self, stage, {cell: self._value(names) for cell, names in self._cells.items()})
            return f"select d.*, {payload} as payload from draft d join encoded e on e.key = d.key"
        cells = []
        for name in self.removable:
            values = [f"max(case when kind = {literal(name)} then value end)"]
            for unit in (unit for unit in self.destination.units if len(unit) > 1 and name in unit):
                part = f"split_part(value, chr(31), {list(unit).index(name) + 1})"
                values.append(f"max(case when kind = {literal(self.kind_of(unit))} then {part} end)")
            cells.append(f"coalesce({', '.join(values)}) as {quote(name)}")
        row = f"select key, n, {', '.join(cells)} from removal_units group by key, n"
        payload = _payload_sql(self, stage, {name: f"e.{quote(name)}" for name in self.removable})
        return f"select d.*, {payload} as payload from draft d join ({row}) e on e.key = d.key and e.n = d.n"

    def _value(self, names: Sequence[str]) -> str:
        """SQL of a cell of the member's row `d.n`: the first row holds all but further values of one column."""
        first, *others = columns = [f"e.{quote(name)}" for name in names]
        if others:
            # In the order in which `order` numbers a member's units.
            return f"list_sort(list_distinct([{', '.join(columns)}]))[d.n]"
        return first if self.within is None else f"case when d.n = 1 then {first} end"


def encoding(sync: Sync, destination: Destination, default_country: str | None) -> Encoding:
    """The encoding of a sync; its fingerprint is part of every row hash."""
    used = {i.column for i in sync.identifiers} | {i.country for i in sync.identifiers if i.country}
    sources = tuple(sorted(used))
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
            *filter(None, (destination.constants(),)),
        )
    )
    return Encoding(
        destination, sync.mode, sources, columns, rules, default_country, hashlib.sha256(said.encode()).hexdigest()[:16]
    )


def _units_sql(coding: Encoding, table: str) -> str:
    """key, kind, value of every complete match unit in an encoded table."""
    parts = []
    for unit in coding.kinds:
        columns = [quote(name) for name in unit]
        value = columns[0] if len(unit) == 1 else f"concat_ws(chr(31), {', '.join(columns)})"
        there = " and ".join(f"{column} is not null" for column in columns)
        kind = literal(coding.kind_of(unit))
        parts.append(f"select key, {kind} as kind, {value} as value from {table} where {there}")
    # A member may have one id in two columns.
    twice = len({coding.kind_of(unit) for unit in coding.kinds}) < len(parts)
    return (" union " if twice else " union all ").join(
        parts
    ) or f"select key, '' as kind, '' as value from {table} where false"


def _strip_refused(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """A refused unit is sent for nobody: its cells become null, of a composite the first one.

    `suppressed` remembers who lost a unit that way.
    """
    joins, cells, hit = [], {name: quote(name) for name in coding.identifiers}, []
    for n, unit in enumerate(coding.kinds):
        columns = [f"e.{quote(name)}" for name in unit]
        value = columns[0] if len(unit) == 1 else f"concat_ws(chr(31), {', '.join(columns)})"
        kind = literal(coding.kind_of(unit))
        joins.append(f"left join refused_units r{n} on r{n}.kind = {kind} and r{n}.value = {value}")
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


def _usable_sql(coding: Encoding) -> str:
    """Condition on an encoded row: at least one lasting match unit is complete."""
    lasting = [unit for unit in coding.kinds if coding.kind_of(unit) not in coding.destination.forgets_after_days]
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
    constants = coding.destination.constants()
    return f"concat({', '.join((*parts, literal(constants)) if constants else parts)})"


def _payload_sql(coding: Encoding, stage: str, values: Mapping[str, str]) -> str:
    """SQL that writes one row as JSON (null: nothing to send).

    values  identifier -> SQL of its value, in the destination's order
    """
    cells = {name: _cell(coding, name, value) for name, value in values.items()}
    return coding.destination.write(OPS[stage], cells)


def _cell(coding: Encoding, name: str, value: str) -> str:
    """One value as a JSON string, null where there is none. Hashes need no escape, but a clear id may hold anything."""
    if coding.destination.identifiers[name].rule.hashed:
        return f"('\"' || {value} || '\"')"
    return f"cast(to_json({value}) as varchar)"


def _single_payload_sql(coding: Encoding, stage: str, alias: str) -> str:
    """SQL that writes one unit (`kind`, `value` of `alias`) as JSON, for platforms that take one identifier a row."""
    cases = " ".join(
        f"when {literal(name)} then "
        + coding.destination.write(OPS[stage], {name: _cell(coding, name, f"{alias}value")})
        for name in coding.removable
    )
    return f"case {alias}kind {cases} end"
