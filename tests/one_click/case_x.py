"""X: e-mail and phone with `+`, hashed; keys that no call renews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "x",
        "base_url": url,
        "account_id": "18ce54d4x5t",
        "consumer_key": "sandbox-consumer",
        "consumer_secret": "sandbox-consumer-secret",
        "access_token": "sandbox-token",
        "access_token_secret": "sandbox-token-secret",
    }


def _keys(person: Person) -> set[KEY]:
    found = {("email", sha(person.email.strip().lower()))} if person.email else set()
    return found | ({("phone_number", sha(f"+{person.digits}"))} if person.digits else set())


CASE = Case("x", _connection, _keys, renews=False)
