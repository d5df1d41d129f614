"""Pinterest: e-mail, hashed, one record each; a list comes with its first members and has our mark in its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.one_click.case import KEY, Case, Person
from tests.world import sha


def _connection(url: str, folder: Path) -> dict[str, Any]:
    return {
        "type": "pinterest",
        "base_url": url,
        "ad_account_id": "549756359984",
        "client_id": "1500000",
        "client_secret": "sandbox-app-secret",
        "refresh_token": "pinr_sandbox",
        "token_file": str(folder / "tokens.json"),
    }


def _keys(person: Person) -> set[KEY]:
    return {("record", sha(person.email))} if person.email else set()


CASE = Case(
    "pinterest",
    _connection,
    _keys,
    add="create",
    label=lambda name: name.partition(" [dbt-segments:")[0],
    deletes=False,
    twice=False,
)
