"""What `doctor` asks X about a connection.

Source: X Ads API v12, "Accounts", "Authenticated user access", "Versioning", read 2026-11.
"""

from __future__ import annotations

from dbt_segments.destinations._x_faults import RENEW_HINT
from dbt_segments.destinations.base import Call, Finding, Flow, Reply
from dbt_segments.errors import AuthError

_WRITERS = {"ACCOUNT_ADMIN", "AD_MANAGER"}


def check(account: str) -> Flow[list[Finding]]:
    """The credentials, the account, the user's role there and the API version; nothing is changed."""
    try:
        yield Call("GET", f"/accounts/{account}")
    except AuthError as error:
        what = "account" if error.code.endswith("NOT_FOUND") else "credentials"
        return [Finding(what, False, error.message, error.hint or RENEW_HINT)]
    found = [
        Finding("credentials", True, "the four keys are taken; they do not end until somebody revokes them"),
        Finding("account", True, f"{account} can be read"),
    ]
    try:
        reply = yield Call("GET", f"/accounts/{account}/authenticated_user_access")
    except AuthError as error:
        return [*found, Finding("scopes", False, error.message, error.hint or "")]
    return [*found, _role(reply), _version(reply), _ALLOW_LIST]


_ALLOW_LIST = Finding("app", None, "whether X has allow-listed the app for uploads shows with the first one")


def _role(reply: Reply) -> Finding:
    named = reply.json["data"].get("permissions") if isinstance(reply.json["data"], dict) else None
    if not isinstance(named, list):
        return Finding("scopes", None, "X does not say what the authorising user may do")
    good = sorted(_WRITERS.intersection(map(str, named)))
    if good:
        return Finding("scopes", True, f"the authorising user is {good[0]}")
    hint = "make the user administrator or ad manager of the ad account"
    return Finding("scopes", False, "the authorising user may not change audiences", hint)


def _version(reply: Reply) -> Finding:
    now = reply.headers.get("x-current-api-version", "")
    if "x-api-warn" in reply.headers:
        return Finding("version", False, "X warns that the API version in use is about to end", "set api_version")
    return Finding("version", True, f"in use; the current one is {now}" if now else "in use; X has no warning about it")
