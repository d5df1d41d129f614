"""Microsoft Advertising: e-mail only, hashed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "microsoft_ads",
        "base_url": url,
        "token_url": f"{url}/token",
        "token_file": str(folder / "tokens.json"),
        "account_id": "2001",
        "customer_id": "1001",
        "developer_token": "SANDBOXDEVTOKEN",
        "client_id": "sandbox-client",
        "refresh_token": "sandbox-refresh",
        "customer_match_terms": "accepted",
    }


def _keys(person: Person) -> set[KEY]:
    return {("Email", sha(person.email))} if person.email else set()


CASE = Case("microsoft_ads", _connection, _keys)
