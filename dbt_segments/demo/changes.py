"""What the demo changes in its copy of the sample project: a day's news in the data, and edits of models."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dbt_segments.demo.stage import Key

_READERS = "models/segments/newsletter_readers.sql"
_LAPSED = "models/segments/lapsed_buyers.sql"


@dataclass(frozen=True)
class Change:
    """A change in the data, and what that does to the audience of newsletter readers."""

    says: str
    came: frozenset[Key]
    gone: frozenset[Key]


def a_day(seeds: Path, newest: bool = False) -> Change:
    """Change three customers who have ordered nothing, so that only the newsletter's readers change.

    newest  take them from the end of the list, so that a second day has customers of its own
    """
    with (seeds / "raw_customers.csv").open(encoding="utf-8", newline="") as file:
        customers = list(csv.DictReader(file))
    elsewhere = _ids(seeds / "raw_orders.csv") | _ids(seeds / "raw_opt_outs.csv")
    emails = [_email(customer) for customer in customers]
    simple = [
        customer
        for customer, email in zip(customers, emails, strict=True)
        if customer["customer_id"] not in elsewhere and customer["ads_consent"] == "true" and emails.count(email) == 1
    ][:: -1 if newest else 1]
    moves, leaves = [customer for customer in simple if customer["newsletter"] == "true"][:2]
    enters = next(customer for customer in simple if customer["newsletter"] == "false")

    old = _email_key(moves)
    moves["email"] = f"new.{_email(moves)}"
    leaves["newsletter"], enters["newsletter"] = "false", "true"
    with (seeds / "raw_customers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(customers[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(customers)
    return Change(
        says=f"customer {moves['customer_id']} has a new e-mail address, {enters['customer_id']} subscribes to the"
        f" newsletter, {leaves['customer_id']} unsubscribes",
        came=frozenset({_email_key(moves), _email_key(enters), ("EXTERN_ID", enters["customer_id"])}),
        gone=frozenset({old, _email_key(leaves), ("EXTERN_ID", leaves["customer_id"])}),
    )


def break_readers(project: Path) -> None:
    """An edit that finds nobody: the column holds true and false, no words."""
    _edit(project / _READERS, "where newsletter", "where cast(newsletter as varchar) = 'yes'")


def mend_readers(project: Path) -> None:
    """The opposite of `break_readers`."""
    _edit(project / _READERS, "where cast(newsletter as varchar) = 'yes'", "where newsletter")


def narrow_lapsed(project: Path) -> None:
    """An edit that is meant: who bought nothing for ten months, instead of half a year, has lapsed."""
    _edit(project / _LAPSED, "'180 days'", "'300 days'")


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{file.name} does not hold `{old}` once")
    file.write_text(text.replace(old, new), encoding="utf-8")


def _ids(file: Path) -> set[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["customer_id"] for row in csv.DictReader(lines)}


def _email(customer: Mapping[str, str]) -> str:
    return customer["email"].strip().lower()


def _email_key(customer: Mapping[str, str]) -> Key:
    return ("EMAIL", hashlib.sha256(_email(customer).encode()).hexdigest())
