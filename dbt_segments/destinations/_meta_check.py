"""What `doctor` asks Meta about a connection: the token, its permissions, the ad account and its terms.

Source: Graph API v26.0 "debug_token" and "Permissions", Marketing API "Ad Account" (`tos_accepted`), read 2026-11.

The token is inspected with a POST that carries `method=GET`, so that it stands in no URL. That this endpoint takes the
override is not confirmed: where it does not, or where the app may not inspect its own token, the permissions are asked
for without it, and the token's end stays unknown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dbt_segments.destinations.base import Call, Finding, Flow
from dbt_segments.errors import AuthError, DestinationError

SCOPE = "ads_management"
# From here on it is said that a token ends: a system user's new one is made by hand.
SOON_DAYS = 14
_TERMS = "accept the Custom Audience terms for this ad account in Business settings"
_NEW_TOKEN = "make a new access token; a system user's does not expire"  # noqa: S105  a remedy


def check(account: str, token: str) -> Flow[list[Finding]]:
    """Findings about token, scopes, account and terms; nothing is changed."""
    found, is_good = yield from _token(token)
    if not is_good:
        return found
    return [*found, *(yield from _account(account))]


def _token(token: str) -> Flow[tuple[list[Finding], bool]]:
    """What is said of the token, and whether it is worth asking more with it."""
    try:
        reply = yield Call("POST", "/debug_token", form={"method": "GET", "input_token": token})
        facts = reply.json.get("data")
    except AuthError as error:
        return [_refused(error)], False
    except DestinationError:
        facts = None
    if not isinstance(facts, Mapping) or "is_valid" not in facts:
        return (yield from _permissions())
    if facts["is_valid"] is not True:
        return [Finding("credentials", False, "the access token is not valid", _NEW_TOKEN)], False
    scopes = facts.get("scopes")
    granted = _scopes(set(map(str, scopes))) if isinstance(scopes, list) else Finding("scopes", None, "not said")
    return [Finding("credentials", True, "the access token is valid"), _ends(facts.get("expires_at")), granted], True


def _permissions() -> Flow[tuple[list[Finding], bool]]:
    """The same as far as it can be known without inspecting the token."""
    try:
        reply = yield Call("GET", "/me/permissions")
    except AuthError as error:
        return [_refused(error)], False
    entries = reply.json.get("data")
    listed = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    granted = {str(entry.get("permission")) for entry in listed if entry.get("status") == "granted"}
    ends = Finding("token", None, "Meta does not say when it ends")
    return [Finding("credentials", True, "the access token is valid"), ends, _scopes(granted)], True


def _account(account: str) -> Flow[list[Finding]]:
    try:
        reply = yield Call("GET", f"/{account}", query={"fields": "id,tos_accepted"})
    except DestinationError as error:
        return [Finding("account", False, error.message, error.hint or "")]
    terms = reply.json.get("tos_accepted")
    accepted = str(terms.get("custom_audience_tos")) == "1" if isinstance(terms, Mapping) else None
    said = {
        True: "the Custom Audience terms are accepted",
        False: "the Custom Audience terms are not accepted",
        None: "Meta does not say whether the Custom Audience terms are accepted",
    }
    return [
        Finding("account", True, f"{account} can be read; whether it can be written to is seen when something is sent"),
        Finding("terms", accepted, said[accepted], _TERMS if accepted is False else ""),
    ]


def _refused(error: AuthError) -> Finding:
    return Finding("credentials", False, error.message, error.hint or _NEW_TOKEN)


def _scopes(granted: set[str]) -> Finding:
    if SCOPE in granted:
        return Finding("scopes", True, SCOPE)
    return Finding("scopes", False, f"{SCOPE} is not among the token's permissions", f"make a token with {SCOPE}")


def _ends(expires_at: Any) -> Finding:
    """`expires_at` is in seconds since 1970; 0 where the token does not end."""
    if not isinstance(expires_at, int) or isinstance(expires_at, bool):
        return Finding("token", None, "Meta does not say when it ends")
    if expires_at == 0:
        return Finding("token", True, "does not end")
    days = int((expires_at - time.time()) // 86_400)
    soon = days < SOON_DAYS
    return Finding(
        "token", None if soon else True, f"ends in {days} day{'' if days == 1 else 's'}", _NEW_TOKEN if soon else ""
    )
