"""Mapped fields -> rows as they will be sent to a destination of records, in workbench SQL.

A row is `{"op": ..., "key": {...}, "values": {...}}`, typed as the warehouse has it; its only match unit is the key, as
it is written there. Two members with one key would overwrite each other: the first by the entity's key is sent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb

from dbt_segments.coding import OPS, Coding, mark_same
from dbt_segments.destinations.base import Destination, Op, Target
from dbt_segments.values import Mapped, Sync
from dbt_segments.warehouse import literal

# Modes that send a member once: what changes later is not their business.
_ONCE = frozenset({"create", "append", "delete"})
_INTEGER = re.compile(r"u?(tiny|small|big|huge)?int(eger|\d*)")
_NUMBER = ("double", "float", "real")
_JSON = ("json", "struct", "map")
_UNIT = "key"


@dataclass(frozen=True)
class RecordCoding(Coding):
    """Rows of mapped fields.

    keys, mapped  fields of the key and of the values
    types         source -> the warehouse's word for its type; text where nothing is said
    """

    destination: Destination
    mode: str
    sources: tuple[str, ...]
    fingerprint: str
    unique: tuple[str, ...]
    keys: tuple[Mapped, ...]
    mapped: tuple[Mapped, ...]
    where: Target
    types: Mapping[str, str]

    @property
    def replaces(self) -> bool:
        return self.mode == "replace"

    @property
    def removes(self) -> bool:
        return self.mode == "mirror"

    @property
    def once(self) -> bool:
        return self.mode in _ONCE

    @property
    def lasting(self) -> str:
        return "true"

    @property
    def target(self) -> Target:
        types = {mapped.field: self._type(mapped) for mapped in (*self.keys, *self.mapped)}
        return replace(self.where, types=types)

    def typed(self, types: Mapping[str, str]) -> RecordCoding:
        mine = {source: types[source] for source in self.sources if source in types}
        said = json.dumps([self.fingerprint, sorted((source, _kind(word)) for source, word in mine.items())])
        return replace(self, types=mine, fingerprint=_digest(said))

    def fields(self, stage: str, kind: str | None) -> tuple[str, ...]:
        return (*self.where.keys, *self.where.fields)

    def encode_changes(self, bench: duckdb.DuckDBPyConnection) -> None:
        values = "''" if self.mode == "delete" else self._object(self.mapped)
        bench.execute(
            f"""
            create table encoded as
            select w.key, case when r.value is null then w.unit end as unit, w.said, r.value is not null as suppressed,
                case when not w.complete then 'no_key' when w.twin then 'key_not_unique'
                    when r.value is not null then 'suppressed_shared' end as reason
            from (
                select key, twin, {self._complete()} as complete, {values} as said,
                    case when {self._complete()} and not twin then {self._object(self.keys)} end as unit
                from changes where wanted
            ) w left join refused_units r on r.kind = {literal(self._unit_kind)} and r.value = w.unit
            """
        )
        kind = literal(self._unit_kind)
        bench.execute(
            f"create table want as select key, {kind} as kind, unit as value from encoded where unit is not null"
        )
        bench.execute(
            f"create table coded as select e.key, {self._sent_hash('e.', 'c.')} as sent_hash, "
            f"e.unit is not null as usable, e.suppressed, e.reason from encoded e join changes c on c.key = e.key"
        )
        mark_same(bench)

    def encode_refused(self, bench: duckdb.DuckDBPyConnection, source: str) -> None:
        bench.execute(
            f"insert into refused_units select {literal(self._unit_kind)}, {self._object(self.keys)} from {source} "
            f"where {self._complete()}"
        )

    def rows_sql(self, stage: str) -> str:
        words = dict(self.destination.head(self.where, OPS[stage]))
        if stage == "remove":
            # What else told the row apart when it was sent, such as a segment's former name, stands in the unit's kind.
            (asked, word), *_ = words.items()
            head = literal(_json({asked: word})[:-1])
            other = f"case when u.kind <> '{_UNIT}' then concat(',', substr(u.kind, 6, length(u.kind) - 6)) else '' end"
            payload = f"concat({head}, {other}, ',\"key\":', u.value, ',\"values\":null}}')"
            return f"select d.*, {payload} as payload from draft d join removal_units u on u.key = d.key and u.n = d.n"
        head = literal(_json(words)[:-1] + ',"key":')
        values = "'null'" if self.mode == "delete" else "e.said"
        payload = f"concat({head}, e.unit, ',\"values\":', {values}, '}}')"
        return f"select d.*, {payload} as payload from draft d join encoded e on e.key = d.key"

    @property
    def _unit_kind(self) -> str:
        """`key`, and as JSON what else tells rows apart at the destination."""
        _, *others = self.destination.head(self.where, Op.ADD).items()
        return f"{_UNIT} {_json(dict(others))}" if others else _UNIT

    def _sent_hash(self, row: str, change: str) -> str:
        """SQL for what says whether a member must be written again.

        A deletion is told from everything else, so that a sync that changes its mode to or from it begins anew. Who is
        sent once keeps the hash of then, whatever has changed.
        """
        unit = f"concat({literal(self._unit_kind)}, chr(30), {row}unit)"
        deleted = f"md5(concat('delete', chr(30), {unit}))"
        if self.mode == "delete":
            return deleted
        if not self.once:
            return f"md5(concat({unit}, chr(30), {row}said))"
        before = f"{change}old_sent_hash"
        return f"case when {change}old_status = 'present' and {before} <> {deleted} then {before} else md5({unit}) end"

    def _complete(self) -> str:
        """SQL condition on a row of sources: every part of the key is there."""
        columns = [(self._column(key), self._type(key)) for key in self.keys if key.source is not None]
        parts = [f"coalesce({column}, '') <> ''" for column, _ in columns]
        # NaN and infinity are no key in JSON.
        parts += [
            f"coalesce(isfinite(try_cast({column} as double)), false)" for column, kind in columns if kind == "number"
        ]
        return "(" + (" and ".join(parts) or "true") + ")"

    def _object(self, fields: tuple[Mapped, ...]) -> str:
        """SQL that writes these fields as a JSON object."""
        names = (literal(json.dumps(mapped.field, ensure_ascii=False) + ":") for mapped in fields)
        parts = [f"{name}, {self._cell(mapped)}" for name, mapped in zip(names, fields, strict=True)]
        return "concat('{', " + ", ',', ".join(parts) + ", '}')" if parts else "'{}'"

    def _cell(self, mapped: Mapped) -> str:
        """SQL for one value as JSON. Decimals and times stay texts, so that no digit is lost."""
        if mapped.source is None:
            return literal(json.dumps(mapped.value, ensure_ascii=False, separators=(",", ":")))
        column = self._column(mapped)
        if self._type(mapped) == "text":
            return f"coalesce(cast(to_json({column}) as varchar), 'null')"
        if self._type(mapped) == "number":  # JSON has no word for these
            return f"case when isfinite(try_cast({column} as double)) then {column} else 'null' end"
        return f"coalesce({column}, 'null')"

    def _column(self, mapped: Mapped) -> str:
        return f"c{self.sources.index(str(mapped.source))}"

    def _type(self, mapped: Mapped) -> str:
        """text, integer, number, boolean or json."""
        if mapped.source is not None:
            return _kind(self.types.get(mapped.source, ""))
        if isinstance(mapped.value, bool):
            return "boolean"
        if isinstance(mapped.value, (int, float)):
            return "integer" if isinstance(mapped.value, int) else "number"
        return "text" if mapped.value is None or isinstance(mapped.value, str) else "json"


def record_coding(sync: Sync, destination: Destination) -> RecordCoding:
    """The coding of a sync to a destination of records."""
    used = {mapped.source for mapped in (*sync.keys, *sync.mapped) if mapped.source}
    keys, fields = tuple(key.field for key in sync.keys), tuple(mapped.field for mapped in sync.mapped)
    where = Target(sync.id, sync.segment.name, sync.object or "", sync.mode, keys, fields, {})
    said = json.dumps(
        [
            destination.type,
            sync.mode,
            sync.object,
            [(mapped.field, mapped.source, mapped.value) for mapped in (*sync.keys, *sync.mapped)],
            len(keys),
            dict(destination.head(where, Op.ADD)),
        ]
    )
    return RecordCoding(
        destination=destination,
        mode=sync.mode,
        sources=tuple(sorted(used)),
        fingerprint=_digest(said),
        unique=tuple(str(key.source) for key in sync.keys if key.source),
        keys=sync.keys,
        mapped=sync.mapped,
        where=where,
        types={},
    )


def _kind(word: str) -> str:
    """What a value of this type is in JSON."""
    if _INTEGER.fullmatch(word):
        return "integer"
    if word == "boolean":
        return "boolean"
    if word.endswith("]") or word.startswith(_JSON):
        return "json"
    return "number" if word.startswith(_NUMBER) else "text"


def _json(value: Mapping[str, str]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
