"""LinkedIn: e-mail alone, hashed; names would travel in clear and are not sent unless asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "linkedin",
        "base_url": url,
        "token_url": f"{url}/oauth/v2/accessToken",
        "ad_account_id": "123456",
        "source_platform": "SANDBOX",
        "client_id": "sandbox-client",
        "client_secret": "sandbox-secret",
        "refresh_token": "sandbox-refresh",
        "token_file": str(folder / "tokens.json"),
    }


def _keys(person: Person) -> set[KEY]:
    return {("SHA256_EMAIL", sha(person.email.strip().lower()))} if person.email else set()


CASE = Case("linkedin", _connection, _keys)
