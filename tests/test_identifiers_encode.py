"""The encoder as a whole: tables in, tables out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Literal

import duckdb
import pytest

from dbt_segments.errors import SettingsError
from dbt_segments.identifiers import encode, phones, rules
from dbt_segments.identifiers.encode import Column, encode_identifiers, fingerprint

RULES = {
    "email": rules.email(),
    "phone": rules.phone(),
    "country": rules.country(),
    "doby": rules.birth_year(),
    "maid": rules.maid(),
    "external_id": rules.opaque_id(),
}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def test_one_row_per_source_row(con: duckdb.DuckDBPyConnection) -> None:
    """Kept columns and rows come through as they are, duplicates included, beside value and reason per identifier."""
    con.execute("""create table source as select * from (values
        (1, 'A@example.com', '020 7946 0958', 'United Kingdom'),
        (2, 'A@example.com', '020 7946 0958', 'United Kingdom'),
        (3, 'nobody', '020 7946 0958', null),
        (4, null, '0711 2842222', 'Nowhere')) as t("Key", mail, tel, land)""")
    columns = [Column("email", "mail"), Column("phone", "tel", "land"), Column("country", "land")]
    encode_identifiers(con, "source", "target", columns, RULES, "Germany", ["Key"])
    result = con.execute("select * from target order by 1")
    assert [column[0] for column in result.description] == [
        "Key", "email", "email__reason", "phone", "phone__reason", "country", "country__reason",
    ]  # fmt: skip
    british = (sha256("a@example.com"), None, sha256("442079460958"), None, sha256("gb"), None)
    assert result.fetchall() == [
        (1, *british),
        (2, *british),
        (3, None, "email_invalid", sha256("492079460958"), None, None, None),
        (4, None, None, sha256("497112842222"), None, None, "country_unknown"),
    ]


def test_nothing_is_left_behind(con: duckdb.DuckDBPyConnection) -> None:
    """The look-up tables are gone afterwards, also when the encoder fails."""
    con.execute("create table source as select '+18005550100' as tel, 'US' as land")
    encode_identifiers(con, "source", "target", [Column("phone", "tel", "land")], RULES, None, [])
    with pytest.raises(duckdb.CatalogException):
        encode_identifiers(con, "source", "target", [Column("phone", "tel", "land")], RULES, None, [])
    assert con.execute("select table_name from duckdb_tables() order by 1").fetchall() == [("source",), ("target",)]


@pytest.mark.parametrize("count", [0, 1, 25])
def test_look_ups_in_batches(con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Every phone is parsed exactly once whatever the number of batches, an empty source included."""
    asked: list[tuple[str, str | None]] = []

    def parse(text: str, country: str | None) -> tuple[str | None, str | None]:
        asked.append((text, country))
        return text, None

    monkeypatch.setattr("dbt_segments.identifiers.lookups._BATCH_ROWS", 10)
    monkeypatch.setattr(phones, "e164_digits", parse)
    con.execute(
        f"create table source as select i as n, (i % {count or 1})::varchar as tel from range({2 * count}) t(i)"
    )
    encode_identifiers(con, "source", "target", [Column("phone", "tel")], RULES, "GB", ["n"])
    assert sorted(asked) == sorted((str(n), "GB") for n in range(count))
    rows = con.execute("select n, phone from target order by n").fetchall()
    assert rows == [(n, sha256(str(n % count))) for n in range(2 * count)]


DIGEST = sha256("x")


@pytest.mark.parametrize(
    ("identifier", "raw", "form", "sent", "reason"),
    [
        ("email", DIGEST.upper(), "auto", DIGEST, None),
        ("email", DIGEST.upper(), "hashed", DIGEST, None),
        ("email", DIGEST, "raw", None, "email_invalid"),
        ("email", "a@example.com", "hashed", None, "not_a_hash"),
        ("email", "a@example.com", "raw", sha256("a@example.com"), None),
        ("email", " ", "hashed", None, None),
        ("phone", "+18005550100", "hashed", None, "not_a_hash"),
        ("phone", "17.0", "hashed", None, "not_a_hash"),
        ("country", "DE", "hashed", None, "not_a_hash"),
        ("doby", "1985", "hashed", None, "not_a_hash"),
        ("external_id", "A-17", "hashed", None, "not_a_hash"),
        ("external_id", DIGEST.upper(), "hashed", DIGEST.upper(), None),
        ("external_id", DIGEST.upper(), "auto", DIGEST.upper(), None),
        ("maid", DIGEST, "hashed", None, "maid_invalid"),
    ],
)
def test_forms(
    con: duckdb.DuckDBPyConnection,
    identifier: str,
    raw: str,
    form: Literal["auto", "hashed", "raw"],
    sent: str | None,
    reason: str | None,
) -> None:
    """A column declared hashed refuses all else, a raw one takes nothing for a hash, and clear fields never do."""
    con.execute("create table source as select ?::varchar as raw", [raw])
    encode_identifiers(con, "source", "target", [Column(identifier, "raw", form=form)], RULES, None, [])
    assert con.execute("select * from target").fetchall() == [(sent, reason)]


def test_forms_do_not_leak_between_columns(con: duckdb.DuckDBPyConnection) -> None:
    """A text that one phone column may read stays refused in another that is declared hashed."""
    con.execute("create table source as select '+18005550100' as a, '+18005550100' as b")
    two = {"phone": rules.phone(), "other": rules.phone()}
    columns = [Column("phone", "a"), Column("other", "b", form="hashed")]
    encode_identifiers(con, "source", "target", columns, two, None, [])
    assert con.execute("select * from target").fetchall() == [(sha256("18005550100"), None, None, "not_a_hash")]


def test_odd_column_names(con: duckdb.DuckDBPyConnection) -> None:
    """Names with quotes, and names that the encoder uses inside, may be columns of the source."""
    con.execute("""create table source as select 'a@example.com' as "odd""name", 7 as text_0, 8 as value_0""")
    encode_identifiers(con, "source", "target", [Column("email", 'odd"name')], RULES, None, ["text_0", "value_0"])
    assert con.execute("select * from target").fetchall() == [(7, 8, sha256("a@example.com"), None)]


def test_same_name_twice(con: duckdb.DuckDBPyConnection) -> None:
    """A kept column that would hide an identifier is a mistake of the caller."""
    with pytest.raises(ValueError, match="email"):
        encode_identifiers(con, "source", "target", [Column("email", "mail")], RULES, None, ["Email"])


def test_default_country_must_be_one(con: duckdb.DuckDBPyConnection) -> None:
    """A default country that names none is a mistake in the settings."""
    with pytest.raises(SettingsError, match="default_country"):
        encode_identifiers(con, "source", "target", [Column("phone", "tel")], RULES, "Atlantis", [])


def test_fingerprint_follows_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint changes with rules, options, forms, default country and data, and with nothing else."""
    columns = [Column("email", "mail"), Column("phone", "tel", "land")]
    base = fingerprint(columns, RULES, "DE")
    assert fingerprint(columns[::-1], RULES, "Germany") == base
    assert fingerprint([Column("email", "other"), columns[1]], RULES, "DE") == base
    newer = dataclasses.replace(RULES["email"], version=2)
    changed = [
        fingerprint(columns, RULES, None),
        fingerprint(columns[:1], RULES, "DE"),
        fingerprint([Column("email", "mail", form="raw"), columns[1]], RULES, "DE"),
        fingerprint(columns, {**RULES, "email": newer}, "DE"),
        fingerprint(columns, {**RULES, "phone": rules.phone(plus=True)}, "DE"),
    ]
    only_email = fingerprint(columns[:1], RULES, "DE")
    monkeypatch.setattr(encode.phones, "version", lambda: "phonenumbers of next year")
    changed.append(fingerprint(columns, RULES, "DE"))
    assert len({base, *changed}) == 7
    assert fingerprint(columns[:1], RULES, "DE") == only_email
