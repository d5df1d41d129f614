"""Raw columns to the texts that go out: normalised, hashed where the platform takes hashes, refused with a reason.

All per-row work is SQL in the workbench. Python sees distinct phone numbers and country words only, in batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from dbt_segments.errors import SettingsError
from dbt_segments.identifiers import countries, lookups, phones
from dbt_segments.identifiers.rules import Lookup, Rule, Terms
from dbt_segments.identifiers.sql import literal, matches, present, quoted, trimmed

if TYPE_CHECKING:
    import duckdb

_DIGEST = "[0-9A-Fa-f]{64}"
# What a number column leaves behind when it is cast to text; digits or leading zeros may be lost.
_NUMBER_TEXT = r"[+-]?\d+(?:\.0+|(?:\.\d*)?[eE][+-]?\d+)"


@dataclass(frozen=True)
class Column:
    """One identifier and the columns of the source that feed it.

    identifier  name in the destination's `identifiers`; also the name of the column that is made
    column      holds the raw text
    country     holds the row's country, for phones, regions and postal codes; None: the row has none
    form        auto: 64 hexadecimal digits are a hash, where the platform takes hashes; hashed: all else is refused;
                raw: nothing is a hash
    """

    identifier: str
    column: str
    country: str | None = None
    form: Literal["auto", "hashed", "raw"] = "auto"


def encode_identifiers(
    con: duckdb.DuckDBPyConnection,
    source: str,
    target: str,
    columns: Sequence[Column],
    rules: Mapping[str, Rule],
    default_country: str | None,
    keep: Sequence[str],
) -> None:
    """Create table `target`: the `keep` columns of `source`, and per identifier what is sent and why not.

    `<identifier>` is exactly the text that goes out, null when nothing does; `<identifier>__reason` is a short code
    where a value was refused, null where one is sent or none was there. `source` and `target` are SQL names; source
    columns are VARCHAR. Rows may come in another order. Memory is bounded by the connection's `memory_limit`.
    Raises SettingsError when `default_country` names no country.
    """
    _refuse_same_names(columns, keep)
    default = _default_alpha2(default_country)
    with lookups.tables(con) as (country_table, phone_table):
        raw_countries = [c.country for c in columns if c.country is not None and _needs_row_country(rules, c)]
        own = [c.column for c in columns if rules[c.identifier].lookup is Lookup.OWN_COUNTRY]
        if raw_countries or own:
            lookups.fill_countries(con, country_table, source, [*raw_countries, *own])
        texts = _texts(source, country_table, columns, rules, default, keep)
        dialled = [i for i, c in enumerate(columns) if rules[c.identifier].lookup is Lookup.PHONE]
        if dialled:
            readable = [_readable(rules[columns[i].identifier], columns[i], f"text_{i}") for i in dialled]
            lookups.fill_phones(con, phone_table, texts, dialled, readable)
        judged = _judged(texts, phone_table, columns, rules, keep)
        con.execute(f"create table {target} as {_outcomes(judged, columns, rules, keep)}")


def fingerprint(columns: Sequence[Column], rules: Mapping[str, Rule], default_country: str | None) -> str:
    """A hash of everything but the rows that decides what `encode_identifiers` makes; 64 hexadecimal digits."""
    used = [(column, rules[column.identifier]) for column in sorted(columns, key=lambda c: c.identifier)]
    needed = {rule.lookup for _, rule in used}
    parts = {
        "identifiers": [
            [c.identifier, c.form, c.country is not None, rule.name, rule.version, rule.hashed, *rule.options]
            for c, rule in used
        ],
        "default_country": _default_alpha2(default_country),
        "phones": phones.version() if Lookup.PHONE in needed else None,
        "countries": countries.version() if needed - {Lookup.NOTHING} else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _refuse_same_names(columns: Sequence[Column], keep: Sequence[str]) -> None:
    made = [name for c in columns for name in (c.identifier, f"{c.identifier}__reason")]
    names = [name.lower() for name in (*keep, *made)]  # DuckDB's column names ignore case
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns made or kept twice: {', '.join(twice)}")


def _default_alpha2(default_country: str | None) -> str | None:
    if default_country is None:
        return None
    code = countries.alpha2(default_country)
    if code is None:
        raise SettingsError(
            f"default_country: {default_country!r} is no country", hint="write an ISO 3166-1 code such as DE"
        )
    return code


def _needs_row_country(rules: Mapping[str, Rule], column: Column) -> bool:
    return rules[column.identifier].lookup in (Lookup.PHONE, Lookup.ROW_COUNTRY)


def _listed(expressions: Sequence[str]) -> str:
    return ", ".join(expressions)


def _readable(rule: Rule, column: Column, text: str) -> str:
    """SQL: the text takes the ordinary path; it is no hash and no left-over of a number column."""
    if column.form == "hashed" and rule.hashed:
        return "false"
    hashes_count = rule.hashed and column.form == "auto"
    no_digest = f"not {_is_digest(text)} and " if hashes_count else ""
    return f"{no_digest}not {_is_number_text(rule, text)}"


def _is_number_text(rule: Rule, text: str) -> str:
    number = matches(text, _NUMBER_TEXT)
    return f"({number} and not {matches(text, rule.shape)})" if rule.shape else number


def _is_digest(text: str) -> str:
    return f"(strlen({text}) = 64 and {matches(text, _DIGEST)})"


def _texts(
    source: str,
    country_table: str,
    columns: Sequence[Column],
    rules: Mapping[str, Rule],
    default: str | None,
    keep: Sequence[str],
) -> str:
    """Per column i: `text_i`, trimmed or null when absent, and `country_i`, the alpha-2 code its rule asks for."""
    selected = [f"s.{quoted(name)} as {_kept(name)}" for name in keep]
    joins = []
    for i, column in enumerate(columns):
        lookup = rules[column.identifier].lookup
        selected.append(f"{present(trimmed(f's.{quoted(column.column)}'))} as text_{i}")
        raw = column.column if lookup is Lookup.OWN_COUNTRY else column.country
        code = "null::varchar"
        if lookup is not Lookup.NOTHING and raw is not None:
            joins.append(f"left join {country_table} c{i} on c{i}.raw = s.{quoted(raw)}")
            code = f"c{i}.alpha2"
        if lookup is Lookup.PHONE:
            code = f"coalesce({code}, {literal(default or '')})"
        selected.append(f"{code} as country_{i}")
    return f"select {_listed(selected)} from {source} s {' '.join(joins)}"


def _kept(name: str) -> str:
    """Kept columns carry a prefix inside, so that none can be taken for one of ours."""
    return quoted(f"kept_{name}")


def _judged(
    texts: str, phone_table: str, columns: Sequence[Column], rules: Mapping[str, Rule], keep: Sequence[str]
) -> str:
    """Per column i: `text_i`, `digest_i` where the text is a hash, `value_i` as normalised, `why_i` if that is null.

    A rule sees only `plain_i`, the text where it takes the ordinary path, and what was found for it.
    """
    selected = [f"t.{_kept(name)}" for name in keep]
    joins = []
    for i, column in enumerate(columns):
        rule = rules[column.identifier]
        text, found, why = f"t.text_{i}", f"t.country_{i}", rule.reason(f"t.text_{i}")
        if rule.lookup is Lookup.PHONE:
            joins.append(f"left join {phone_table} p{i} on p{i}.text = {text} and p{i}.country = {found}")
            found, why = f"p{i}.digits", f"p{i}.reason"
        readable = _readable(rule, column, text)
        selected += [
            text,
            f"case when {_is_digest(text)} then lower({text}) end as digest_{i}",
            f"case when {readable} then {text} end as plain_{i}",
            f"case when {readable} then {text} end as value_{i}",
            f"case when {readable} then {found} end as found_{i}",
            f"case when {_is_number_text(rule, text)} then 'number_text' else {why} end as why_{i}",
        ]
    query = f"select {_listed(selected)} from ({texts}) t {' '.join(joins)}"
    for replaced in _stages([rules[column.identifier] for column in columns]):
        query = f"select * replace ({_listed(replaced)}) from ({query})"
    return query


def _stages(rules: Sequence[Rule]) -> Iterator[list[str]]:
    """The n-th steps of all rules, for one nested query each: in a single expression they would grow like a power."""
    for steps in zip_longest(*(rule.steps for rule in rules)):
        yield [
            f"{step(Terms(f'value_{i}', f'plain_{i}', f'found_{i}'))} as value_{i}"
            for i, step in enumerate(steps)
            if step is not None
        ]


def _outcomes(judged: str, columns: Sequence[Column], rules: Mapping[str, Rule], keep: Sequence[str]) -> str:
    """The columns of the target."""
    selected = [f"{_kept(name)} as {quoted(name)}" for name in keep]
    for i, column in enumerate(columns):
        value = _value(i, column, rules[column.identifier])
        why = f"why_{i}"
        if column.form == "hashed":
            why = f"case when digest_{i} is null then 'not_a_hash' else {why} end"
        reason = f"case when text_{i} is not null and {value} is null then {why} end"
        selected += [f"{value} as {quoted(column.identifier)}"]
        selected += [f"{reason} as {quoted(column.identifier + '__reason')}"]
    return f"select {_listed(selected)} from ({judged})"


def _value(i: int, column: Column, rule: Rule) -> str:
    """What goes out; an empty text never does, nor does its hash."""
    clear = f"nullif(value_{i}, '')"
    if not rule.hashed:
        return f"case when digest_{i} is not null then {clear} end" if column.form == "hashed" else clear
    hashed = f"sha256({clear})"
    return hashed if column.form == "raw" else f"coalesce(digest_{i}, {hashed})"
