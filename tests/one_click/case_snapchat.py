"""Snapchat: e-mail and phone, hashed, one kind a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "snapchat",
        "base_url": url,
        "token_url": f"{url}/token",
        "token_file": str(folder / "tokens.json"),
        "ad_account_id": "8adc3db7-8148-4fbf-999c-8d2266369d74",
        "client_id": "sandbox-client",
        "client_secret": "sandbox-secret",
        "refresh_token": "sandbox-refresh",
        "requests_per_s": 1000,
    }


def _keys(person: Person) -> set[KEY]:
    found = {("EMAIL_SHA256", sha(person.email))} if person.email else set()
    return found | ({("PHONE_SHA256", sha(person.digits))} if person.digits else set())


CASE = Case("snapchat", _connection, _keys)
