"""Google Ads: e-mail, phone with its plus, and addresses, by jobs that the next sync asks about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "google_ads",
        "base_url": url,
        "token_url": f"{url}/token",
        "customer_id": "123-456-7890",
        "client_id": "sandbox-client",
        "client_secret": "sandbox-client-secret",
        "refresh_token": "sandbox-refresh-token",
        "customer_match_terms": "accepted",
        "consent": {"ad_user_data": "granted", "ad_personalization": "granted"},
    }


def _email(address: str) -> str:
    """Lower case; at Gmail without dots and tag."""
    local, _, domain = address.strip().lower().partition("@")
    if domain in ("gmail.com", "googlemail.com"):
        local = local.partition("+")[0].replace(".", "")
    return f"{local}@{domain}"


def _keys(person: Person) -> set[KEY]:
    found = {("EMAIL", sha(_email(person.email)))} if person.email else set()
    return found | ({("PHONE", sha(f"+{person.digits}"))} if person.digits else set())


CASE = Case("google_ads", _connection, _keys, syncs=2)
