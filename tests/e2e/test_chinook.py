"""Real input, from seed files to audiences: 59 customers of 24 countries, with the real dbt and the real command.

Expectations are computed here from the seed files with hashlib and plain rules; nothing is shared with the engine.
The data set is Chinook (MIT licence).
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.shell import Platform, Row, command, platform, process
from tests.projects import REPOSITORY, DbtProject, MakeProject, Warehouse

DATA = REPOSITORY.parent / "shared/data/chinook"
# The seeds and their columns: dbt takes ten seconds to guess the types of all the others.
SEEDS = {
    "customer": None,
    "genre": None,
    "invoice": ("invoice_id", "customer_id", "total"),
    "invoice_line": ("invoice_line_id", "invoice_id", "track_id", "quantity"),
    "track": ("track_id", "genre_id"),
}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the Chinook data set is not at {DATA}")

# Country words of the data set: ISO 3166-1 alpha-2, and the country code of its phones.
COUNTRIES = {
    "Argentina": ("ar", "54"),
    "Australia": ("au", "61"),
    "Austria": ("at", "43"),
    "Belgium": ("be", "32"),
    "Brazil": ("br", "55"),
    "Canada": ("ca", "1"),
    "Chile": ("cl", "56"),
    "Czech Republic": ("cz", "420"),
    "Denmark": ("dk", "45"),
    "Finland": ("fi", "358"),
    "France": ("fr", "33"),
    "Germany": ("de", "49"),
    "Hungary": ("hu", "36"),
    "India": ("in", "91"),
    "Ireland": ("ie", "353"),
    "Italy": ("it", "39"),
    "Netherlands": ("nl", "31"),
    "Norway": ("no", "47"),
    "Poland": ("pl", "48"),
    "Portugal": ("pt", "351"),
    "Spain": ("es", "34"),
    "Sweden": ("se", "46"),
    "USA": ("us", "1"),
    "United Kingdom": ("gb", "44"),
    # words that the changed data use
    "United States of America": ("us", "1"),
    "Czechia": ("cz", "420"),
}
# Of these countries a part of the numbers cannot be dialled; digits there are after the country code.
DIGITS = {"Denmark": 8, "Chile": 9}

MODELS = {
    "models/customers.sql": """
        select customer_id, email, phone, first_name, last_name, city, state as region, postal_code, country
        from {{ ref('customer') }}
    """,
    "models/purchases.sql": """
        select i.customer_id, g.name as genre, l.quantity
        from {{ ref('invoice_line') }} l
        join {{ ref('invoice') }} i on i.invoice_id = l.invoice_id
        join {{ ref('track') }} t on t.track_id = l.track_id
        join {{ ref('genre') }} g on g.genre_id = t.genre_id
    """,
    "models/buyers.sql": "select distinct customer_id from {{ ref('invoice') }}",
    "models/big_spenders.sql": """
        select customer_id, sum(total) as spent from {{ ref('invoice') }} group by customer_id having sum(total) >= 40
    """,
    "models/rock_fans.sql": """
        select customer_id from {{ ref('purchases') }} where genre = 'Rock'
        group by customer_id having sum(quantity) >= 15
    """,
    "models/jazz_listeners.sql": "select customer_id from {{ ref('purchases') }} where genre = 'Jazz'",
}
LABELS = {
    "buyers": "Buyers",
    "big_spenders": "Big spenders",
    "rock_fans": "Rock fans",
    "jazz_listeners": "Jazz listeners",
}


def schema_yml() -> str:
    entity = {
        "name": "customer",
        "kind": "person",
        "key": "customer_id",
        "identifiers": {
            "email": "email",
            "phone": {"column": "phone", "country": "country"},
            "first_name": "first_name",
            "last_name": "last_name",
            "city": "city",
            "region": {"column": "region", "country": "country"},
            "postal_code": {"column": "postal_code", "country": "country"},
            "country": "country",
            "external_id": "customer_id",
        },
    }
    models: list[dict[str, Any]] = [
        {
            "name": "customers",
            "columns": [{"name": "customer_id", "data_tests": ["unique", "not_null"]}],
            "config": {"meta": {"dbt_segments": {"entity": entity}}},
        }
    ]
    for name, label in LABELS.items():
        segment = {"entity": "customer", "label": label, "destinations": ["meta"]}
        models.append({"name": name, "config": {"meta": {"dbt_segments": {"segment": segment}}}})
    texts = dict.fromkeys(("email", "phone", "postal_code", "state", "fax"), "varchar(100)")
    seeds = [
        {"name": "customer", "config": {"column_types": texts}},
        {"name": "invoice", "config": {"column_types": {"total": "numeric(10, 2)"}}},
    ]
    return yaml.safe_dump({"models": models, "seeds": seeds}, sort_keys=False)


# -- what must come out, from the seed files ------------------------------------------------------------------


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def only(text: str, keep: Callable[[str], bool]) -> str:
    """Lower case, composed, and of that the characters to keep."""
    lowered = unicodedata.normalize("NFC", text).lower()
    return "".join(character for character in lowered if keep(character))


def folded(text: str) -> str:
    """Without accents; the data set has none but those that decompose."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def phone_digits(text: str, country: str) -> str:
    """Country code and number; the zero that is dialled only within the country goes, except in Italy."""
    code = COUNTRIES[country][1]
    digits = "".join(character for character in text if character in "0123456789")
    assert digits.startswith(code)
    national = digits.removeprefix(code)
    if country != "Italy":
        national = national.removeprefix("0")
    return code + national if len(national) == DIGITS.get(country, len(national)) else ""


def postal_code(text: str, country: str) -> str:
    plain = only(text, str.isalnum)
    if COUNTRIES[country][0] == "us":
        return plain[:5] if len(plain) >= 5 else ""
    return plain


def row_of(customer: dict[str, str]) -> Row:
    """The cells that Meta must get for a customer: all hashed, except the id."""
    country = customer["country"]
    normalised = {
        "EMAIL": customer["email"].lower(),
        "PHONE": phone_digits(customer["phone"], country) if customer["phone"] else "",
        "FN": only(customer["first_name"], str.isalnum),
        "LN": only(customer["last_name"], str.isalnum),
        "CT": folded(only(customer["city"], str.isalpha)),
        "ST": folded(only(customer["state"], str.isalnum)),
        "ZIP": postal_code(customer["postal_code"], country),
        "COUNTRY": COUNTRIES[country][0],
    }
    cells = {field: sha(text) for field, text in normalised.items() if text}
    return frozenset({**cells, "EXTERN_ID": customer["customer_id"]}.items())


def keys_of(row: Row) -> set[tuple[str, str]]:
    """The cells that find a person."""
    return {cell for cell in row if cell[0] in ("EMAIL", "PHONE", "EXTERN_ID")}


@dataclass
class Tables:
    """The seed files as they are now; rows by their first column."""

    folder: Path

    def read(self, name: str) -> dict[str, dict[str, str]]:
        with (self.folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return {next(iter(row.values())): row for row in csv.DictReader(file)}

    def write(self, name: str, rows: dict[str, dict[str, str]]) -> None:
        with (self.folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(next(iter(rows.values()))), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())

    def segments(self) -> dict[str, set[str]]:
        """Audience -> ids of the customers in it, those who are no customers any more included."""
        invoices, tracks, genres = self.read("invoice"), self.read("track"), self.read("genre")
        spent: Counter[str] = Counter()
        cents: dict[str, Decimal] = {}
        for invoice in invoices.values():
            cents[invoice["customer_id"]] = cents.get(invoice["customer_id"], Decimal()) + Decimal(invoice["total"])
        for line in self.read("invoice_line").values():
            genre = genres[tracks[line["track_id"]]["genre_id"]]["name"]
            spent[invoices[line["invoice_id"]]["customer_id"], genre] += int(line["quantity"])
        return {
            "Buyers": set(cents),
            "Big spenders": {customer for customer, total in cents.items() if total >= 40},
            "Rock fans": {customer for (customer, genre), n in spent.items() if genre == "Rock" and n >= 15},
            "Jazz listeners": {customer for (customer, genre) in spent if genre == "Jazz"},
        }

    def rows(self) -> dict[str, dict[str, Row]]:
        """Audience -> id -> the row of each member."""
        customers = self.read("customer")
        return {
            audience: {one: row_of(customers[one]) for one in members if one in customers}
            for audience, members in self.segments().items()
        }


def test_the_plain_rules_say_what_is_known() -> None:
    """The rules of this test give the answers that the data set is known for."""
    assert phone_digits("+49 0711 2842222", "Germany") == "497112842222"
    assert phone_digits("+43 01 5134505", "Austria") == "4315134505"
    assert phone_digits("+39 06 39733434", "Italy") == "390639733434"
    assert phone_digits("+54 (0)11 4311 4333", "Argentina") == "541143114333"
    assert phone_digits("+453 3331 9991", "Denmark") == ""
    assert postal_code("94043-1351", "USA") == "94043"
    assert postal_code("H-1073", "Hungary") == "h1073"
    assert folded(only("São José dos Campos", str.isalpha)) == "saojosedoscampos"


# -- the whole way --------------------------------------------------------------------------------------------


@pytest.fixture
def meta() -> Iterator[Platform]:
    with platform() as one:
        yield one


@pytest.fixture
def shop(dbt_project: MakeProject, warehouse: Warehouse, meta: Platform) -> DbtProject:
    """The data set as a dbt project whose destination is the sandbox."""
    project = dbt_project({**MODELS, "models/schema.yml": schema_yml()}, warehouse=warehouse, package=True)
    (project.path / "seeds").mkdir()
    given, seeds = Tables(DATA), Tables(project.path / "seeds")
    for name, columns in SEEDS.items():
        rows = given.read(name)
        seeds.write(name, {key: {c: row[c] for c in columns or row} for key, row in rows.items()})
    project.write("destinations.yml", yaml.safe_dump({"meta": meta.connection()}))
    return project


def change(tables: Tables) -> None:
    """A new address, a new phone, three other spellings of the same, one who stops buying, one deleted, one new."""
    customers, invoices, lines = tables.read("customer"), tables.read("invoice"), tables.read("invoice_line")
    customers["5"]["email"] = "Frantisek.New@Example.com"
    customers["45"]["phone"] = "+36 1 555 0123"
    customers["2"]["phone"] = "+49 (711) 284-22-22"
    customers["16"]["country"] = "United States of America"
    customers["6"].update(country="Czechia", email="HHoly@GMail.com")
    del customers["57"]
    stopped = {number for number, invoice in invoices.items() if invoice["customer_id"] == "7"}
    invoices = {number: invoice for number, invoice in invoices.items() if number not in stopped}
    lines = {number: line for number, line in lines.items() if line["invoice_id"] not in stopped}
    customers["60"] = {
        **dict.fromkeys(customers["1"], ""),
        "customer_id": "60",
        "first_name": "Zoë-Anne",
        "last_name": "D'Arcy",
        "city": "Saint-Étienne",
        "country": "France",
        "postal_code": "42000",
        "phone": "+33 (0)1 99 00 12 34",
        "email": "zoe@example.org",
    }
    invoices["900"] = {"invoice_id": "900", "customer_id": "60", "total": "50.00"}
    jazz = next(track for track, row in tables.read("track").items() if row["genre_id"] == "2")
    lines["9000"] = {**lines["1"], "invoice_line_id": "9000", "invoice_id": "900", "track_id": jazz}
    for name, rows in (("customer", customers), ("invoice", invoices), ("invoice_line", lines)):
        tables.write(name, rows)


def wrong_cells(arrived: list[Row], expected: dict[str, Row]) -> list[tuple[str, str]]:
    """(customer, field) of every cell that arrived and should not have, or the other way round."""
    came = {(dict(row)["EXTERN_ID"], *cell) for row in arrived for cell in row}
    due = {(one, *cell) for one, row in expected.items() for cell in row}
    return sorted({cell[:2] for cell in came ^ due})


def counts(before: dict[str, Row], after: dict[str, Row], keys: set[str]) -> dict[str, int]:
    """What a sync must count; `keys` are all that the segment yields."""
    stayed = before.keys() & after.keys()
    return {
        "members": len(after),
        "added": len(after.keys() - before.keys()),
        "changed": sum(before[one] != after[one] for one in stayed),
        "removed": len(before.keys() - after.keys()),
        "unchanged": sum(before[one] == after[one] for one in stayed),
        "rejected": len(keys - after.keys()),
        "unusable": 0,
        "refused": 0,
        "pending": 0,
    }


def members_of(rows: dict[str, dict[str, Row]]) -> dict[str, set[tuple[str, str]]]:
    return {audience: set().union(*map(keys_of, members.values())) for audience, members in rows.items()}


def test_audiences_are_the_segments_and_stay_so(shop: DbtProject, meta: Platform) -> None:
    """Every cell that arrives is the expected hash; after changes, too, each identifier is in or out as it must be."""
    tables = Tables(shop.path / "seeds")
    first = tables.rows()
    assert {name: len(rows) for name, rows in first.items()} == {
        "Buyers": 59,
        "Big spenders": 14,
        "Rock fans": 27,
        "Jazz listeners": 32,
    }
    shop.run("seed")
    shop.run("run")
    sync = ("sync", "--now", "--output", "json")

    done = process(shop, *sync)
    assert done.code == 0, done
    added = meta.take_rows("add")
    for audience, rows in first.items():
        assert wrong_cells(added[audience], rows) == [], audience
    assert meta.members() == members_of(first)
    assert meta.people() == {audience: len(rows) for audience, rows in first.items()}

    before = meta.writes()
    done = command(shop, *sync)
    assert {row["status"] for row in done.syncs().values()} == {"noop"}
    assert meta.writes() == before

    change(tables)
    second = tables.rows()
    shop.run("seed", "--select", "customer", "invoice", "invoice_line")
    shop.run("run")
    done = process(shop, *sync)
    assert done.code == 0, done
    assert meta.members() == members_of(second)
    assert meta.people() == {audience: len(rows) for audience, rows in second.items()}
    added = meta.take_rows("add")
    for audience, rows in second.items():
        moved = {one: row for one, row in rows.items() if row != first[audience].get(one)}
        assert wrong_cells(added.get(audience, []), moved) == [], audience
    for name, label in LABELS.items():
        assert done.syncs()[name].items() >= counts(first[label], second[label], tables.segments()[label]).items()

    before = meta.writes()
    done = command(shop, *sync)
    assert {row["status"] for row in done.syncs().values()} == {"noop"}
    assert meta.writes() == before
    assert meta.violations() == []
