"""TikTok: e-mail and phone, hashed; the phone with its `+`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "tiktok",
        "base_url": url,
        "advertiser_id": "7000000000000000001",
        "access_token": "sandbox-token",
    }


def _keys(person: Person) -> set[KEY]:
    found = {("EMAIL_SHA256", sha(person.email.strip().lower()))} if person.email else set()
    return found | ({("PHONE_SHA256", sha(f"+{person.digits}"))} if person.digits else set())


CASE = Case("tiktok", _connection, _keys, renews=False)
