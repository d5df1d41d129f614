"""Writes the seeds of the sample project: the same files every time.

Nobody in them exists. E-mail addresses are at example.com, example.org and example.net (RFC 2606), phone numbers are of
the ranges that each country keeps for fiction: 555-01xx (US), Ofcom's drama numbers (GB), the Bundesnetzagentur's
(DE), ARCEP's (FR), PTS's (SE) and ACMA's (AU). On purpose they are as untidy as a real shop's: countries as words and
codes, phones with and without country code, e-mails in mixed case, couples who share one, cells that hold no value,
customers of no company and of no support rep.
"""

from __future__ import annotations

import csv
import random
import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

TODAY = date(2026, 11, 1)
CUSTOMERS = 120
SEEDS = Path(__file__).parent / "seeds"


@dataclass(frozen=True)
class Place:
    """A country as customers write it, some of its cities with their postal codes, and its phone numbers."""

    spellings: tuple[str, ...]
    cities: tuple[tuple[str, str], ...]
    phones: tuple[str, ...]  # each # is any digit


PLACES = (
    Place(
        ("US", "USA", "United States"),
        (("New York", "10001"), ("St. Louis", "63101-1234"), ("San José", "95110")),
        ("(212) 555-01##", "+1 314 555 01##", "408.555.01##", "1-212-555-01##"),
    ),
    Place(
        ("GB", "UK", "United Kingdom"),
        (("London", "EC1A 1BB"), ("Bristol", "bs1 4dj"), ("Newcastle upon Tyne", "NE1 4ST")),
        ("07700 900###", "+44 (0)7700 900###", "0044 20 7946 0###", "020 7946 0###"),
    ),
    Place(
        ("DE", "Germany", "germany "),
        (("Köln", "50667"), ("München", "80331"), ("Weißenfels", "06667")),
        ("030 23125 ###", "+49 30 23125###", "(0221) 4710 ###", "0049 89 99998 ###"),
    ),
    Place(
        ("FR", "France", "FRA"),
        (("Orléans", "45000"), ("Sète", "34200"), ("Saint-Étienne", "42000")),
        ("06 39 98 ## ##", "+33 1 99 00 ## ##", "01.99.00.##.##", "+33 (0)6 39 98 ## ##"),
    ),
    Place(
        ("SE", "Sweden", "SWE"),
        (("Malmö", "211 20"), ("Göteborg", "411 03"), ("Åre", "837 52")),
        ("070-174 06 5#", "+46 70 174 06 6#", "08-465 004 ##", "0046 40 628 04 ##"),
    ),
    Place(
        ("AU", "Australia", "AUS"),
        (("Sydney", "2000"), ("Perth", "6000"), ("Hobart", "7000")),
        ("0491 570 156", "07 5550 ####", "(02) 5550 ####", "+61 3 5550 ####"),
    ),
)
FIRST_NAMES = (
    "Ada Björn Chloé Daniel Élodie Frieda Göran Hannah Inès Jürgen Kåre Léa Mary-Jane Noël Oskar Priya "
    "Quentin Renée Søren Tom Ursula Vera Will Xenia Yusuf Zoë"
).split()
LAST_NAMES = (
    "Andersson Baker Çelik D'Arcy Evans Fröhlich García Håkansson Ito Jones Krüger Lefèvre Müller Nguyen "
    "O'Brien Petit Quinn Rossi Smith-Jones Taylor Ünal Vogel Weiß Young Zimmermann"
).split()
COMPANIES = (
    "Ångström & Söner",
    "Bäckerei Weiß GmbH",
    "Café São Bento",
    "Drury Lane Books Ltd.",
    "Émile et Filles",
    "Fjällstigens Cykel",
    "Gulf St. Outfitters",
    "Hafenkontor KG",
    'Inkwell "Fine" Papers',
    "Jardins d'Orléans",
    "Kiln, Clay & Co.",
    "Lumière SARL",
)
EMPLOYEES = (("Astrid", "Lind"), ("Benoît", "Moreau"), ("Clara", "Hoffmann"), ("Dev", "Patel"), ("Esmé", "O'Hara"))
DOMAINS = ("example.com", "example.org", "example.net")
NO_EMAIL = ("", "n/a", "none", "ada@", "two@example.com; three@example.com")
NO_PHONE = ("", "unknown", "0", "+", "555")


def make() -> dict[str, list[dict[str, object]]]:
    """Seed name -> rows."""
    chance = random.Random(20261101)
    customers = [_customer(number, chance) for number in range(1, CUSTOMERS + 1)]
    _share_emails(customers)
    orders = [order for customer in customers for order in _orders(int(str(customer["customer_id"])), chance)]
    orders.sort(key=lambda order: (order["ordered_on"], order["customer_id"]))
    numbered = [{"order_id": 10_000 + number, **order} for number, order in enumerate(orders, 1)]
    _assign(customers, random.Random(1))
    opt_outs = [{"customer_id": number, "opted_out_on": date(2026, 9, number % 28 + 1)} for number in (7, 31, 58, 93)]
    return {
        "raw_customers": customers,
        "raw_orders": numbered,
        "raw_opt_outs": opt_outs,
        "raw_companies": _companies(random.Random(2)),
        "raw_employees": _employees(),
    }


def _customer(number: int, chance: random.Random) -> dict[str, object]:
    place = chance.choice(PLACES)
    first, last = chance.choice(FIRST_NAMES), chance.choice(LAST_NAMES)
    city, postal_code = chance.choice(place.cities)
    return {
        "customer_id": number,
        "email": _email(number, first, last, chance),
        "phone": chance.choice(NO_PHONE) if number % 11 == 0 else _phone(place, chance),
        "first_name": first,
        "last_name": last,
        "city": city,
        "postal_code": postal_code,
        "country": chance.choice(place.spellings),
        "ads_consent": chance.choices(("true", "false", ""), (88, 7, 5))[0],
        "newsletter": chance.choices(("true", "false"), (45, 55))[0],
        "signed_up_on": TODAY - timedelta(days=chance.randint(30, 1500)),
    }


def _email(number: int, first: str, last: str, chance: random.Random) -> str:
    if number % 23 == 0:
        return NO_EMAIL[number // 23 % len(NO_EMAIL)]
    name = _ascii(f"{first}.{last}".replace("'", "")).lower()
    email = f"{name}{number}@{chance.choice(DOMAINS)}"
    return chance.choices((email, email.title(), f" {email} "), (85, 10, 5))[0]


def _ascii(text: str) -> str:
    """The text without its accents."""
    plain = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("ß", "ss"))
    return "".join(letter for letter in plain if letter.isascii())


def _phone(place: Place, chance: random.Random) -> str:
    pattern = chance.choice(place.phones)
    return "".join(str(chance.randint(0, 9)) if letter == "#" else letter for letter in pattern)


def _share_emails(customers: list[dict[str, object]]) -> None:
    """A few couples share one address, written in another case: one of two may leave a segment."""
    for one, other in ((4, 5), (18, 40), (62, 63), (75, 101)):
        customers[other - 1]["email"] = str(customers[one - 1]["email"]).upper()


def _assign(customers: list[dict[str, object]], chance: random.Random) -> None:
    """Two of five customers buy for a company; nine of ten have a support rep."""
    for customer in customers:
        customer["company_id"] = chance.randint(1, len(COMPANIES)) if chance.random() < 0.4 else ""
        customer["support_rep_id"] = chance.randint(1, len(EMPLOYEES)) if chance.random() < 0.9 else ""


def _companies(chance: random.Random) -> list[dict[str, object]]:
    return [
        {
            "company_id": number,
            "company_name": chance.choices((name, name.upper(), f"{name} "), (80, 10, 10))[0],
            "domain": f"{_ascii(name.split()[0]).strip(',').lower()}.{chance.choice(DOMAINS)}",
            "country": chance.choice(chance.choice(PLACES).spellings),
        }
        for number, name in enumerate(COMPANIES, 1)
    ]


def _employees() -> list[dict[str, object]]:
    return [
        {
            "employee_id": number,
            "name": f"{first} {last}",
            "email": f"{_ascii(first).lower()}.{_ascii(last).replace(chr(39), '').lower()}@example.com",
            "hired_on": date(2019 + number, 3, 1),
        }
        for number, (first, last) in enumerate(EMPLOYEES, 1)
    ]


def _orders(customer_id: int, chance: random.Random) -> list[dict[str, object]]:
    """Up to nine orders; a third of the customers have bought nothing for half a year."""
    newest = chance.choice((5, 40, 200, 320))
    return [
        {
            "customer_id": customer_id,
            "ordered_on": TODAY - timedelta(days=newest + chance.randint(0, 400)),
            "amount_eur": f"{chance.lognormvariate(4, 0.8):.2f}",
        }
        for _ in range(chance.randint(0, 9))
    ]


def write(folder: Path = SEEDS) -> None:
    """Write each seed as `<name>.csv`."""
    for name, rows in make().items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    write()
