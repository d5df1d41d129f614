"""Made-up people, always the same: a warehouse with `customers` and a segment `vip`, and what changes in it.

Addresses are of a reserved domain, phone numbers of an exchange that is not assigned. Values differ from row to row, as
those of real people do, so that compression flatters nobody. They are plain, so that a lower-case and a trim come to
the same hashes as a platform's whole rules: what every tool sends can be compared.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

# Identifiers that are sent, with the least that normalises them.
NORMALISED = {
    "email": "lower(trim(email))",
    "phone": "translate(phone, '+() -.', '')",
    "first_name": "lower(trim(first_name))",
    "last_name": "lower(trim(last_name))",
    "postal_code": "lower(trim(postal_code))",
    "country": "lower(trim(country))",
}
MEMBERS_SQL = "customers where customer_id in (select customer_id from vip)"
CHANGED, LEFT = 0.01, 0.001

_SYLLABLES = "an be ci do el fa gi ho is ja ke li mo na or pe qu ro sa ti ul va we xa yo ze bar dan fin gor hal mir"


def make(path: Path, members: int) -> None:
    """Write the warehouse of a first sync."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"create macro syllable(n) as string_split('{_SYLLABLES}', ' ')[(n % 32 + 1)::integer]")
        connection.execute("create macro word(n) as concat(syllable(n), syllable(n // 32), syllable(n // 1024))")
        connection.execute("create macro scattered(n) as (n * 2654435761) % 4294967296")
        connection.execute(
            f"""
            create table customers as
            select
                i as customer_id,
                concat(word(scattered(i)), '.', word(scattered(i + 7)), i, '@Example.com') as email,
                concat('+1 (', 201 + (i // 10000) % 700, ') 555-', lpad((i % 10000)::varchar, 4, '0')) as phone,
                word(scattered(i)) as first_name,
                word(scattered(i + 7)) as last_name,
                lpad((scattered(i) % 100000)::varchar, 5, '0') as postal_code,
                'US' as country,
                true as ads_consent,
                timestamp '2026-01-01' as updated_at
            from range({members}) r(i)
            """
        )
        connection.execute("create table vip as select customer_id from customers")


def change(path: Path) -> None:
    """One in a hundred gets another e-mail, one in a thousand leaves the segment."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "update customers set email = concat('new.', email), updated_at = timestamp '2026-01-02' "
            f"where customer_id % {round(1 / CHANGED)} = 7"
        )
        connection.execute(f"delete from vip where customer_id % {round(1 / LEFT)} = 3")


def expected(path: Path) -> set[str]:
    """The hashed e-mails of everybody who is in the segment."""
    with duckdb.connect(str(path), read_only=True) as connection:
        query = f"select sha256({NORMALISED['email']}) from {MEMBERS_SQL}"
        return {digest for (digest,) in connection.execute(query).fetchall()}
