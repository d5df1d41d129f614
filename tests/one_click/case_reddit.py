"""Reddit: e-mail with nothing but letters and digits before the `@`, hashed; phones are not taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "reddit",
        "base_url": f"{url}/api",
        "token_url": f"{url}/api/v1/access_token",
        "token_file": str(folder / "tokens.json"),
        "ad_account_id": "a2_sandbox",
        "client_id": "sandbox-client",
        "client_secret": "sandbox-secret",
        "refresh_token": "sandbox-refresh",
        "user_agent": "web:com.example.shop:v1.0.0 (by /u/example_ads)",
    }


def _keys(person: Person) -> set[KEY]:
    if not person.email:
        return set()
    local, _, domain = person.email.strip().lower().partition("@")
    bare = re.sub("[^a-z0-9]", "", local.partition("+")[0])
    return {("EMAIL_SHA256", sha(f"{bare}@{domain}"))}


CASE = Case("reddit", _connection, _keys)
