"""Meta: e-mail and phone, hashed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import email, phone


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {"type": "meta", "base_url": url, "ad_account_id": "1002003004005", "access_token": "sandbox-token"}


def _keys(person: Person) -> set[KEY]:
    found = {email(person.email)} if person.email else set()
    return found | ({phone(person.digits)} if person.digits else set())


CASE = Case("meta", _connection, _keys, renews=False)
