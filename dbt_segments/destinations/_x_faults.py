"""What the X Ads API's refusals and rate headers mean.

Source: X Ads API v12, "Error codes and responses" and "Rate limiting", read 2026-11. That the name of a deleted
audience stays taken, and how a refusal says so, is known from other connectors only.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,60}")
_GONE = {"NOT_FOUND", "TAILORED_AUDIENCE_NOT_FOUND"}
_AUDIENCE = re.compile(r"/accounts/[^/]+/custom_audiences/[^/]+(?:/users)?")
# Refused before anything was done, whatever their status.
_LATER = {"TOO_MANY_REQUESTS", "LOCK_ACQUISITION_TIMEOUT"}
RENEW_HINT = (
    "is the machine's clock right? then authorise the app again, and set access_token and access_token_secret anew"
)
_FORBIDDEN = {
    "UNAUTHORIZED_CLIENT_APPLICATION": "X has not allow-listed the app for custom audiences: ask X for Ads API access",
    "READONLY_CLIENT_APPLICATION": "the app may only read: ask X for Ads API access at the Standard level",
    "ACCOUNT_NOT_FOUND": "check account_id, and that the authorising user has a role on that ad account",
    "ACTION_NOT_ALLOWED": "the authorising user must be administrator or ad manager of the ad account",
    "ACCOUNT_LOCKED_OUT": "X has locked the account: sign in at x.com",
    "CURRENT_USER_SUSPENDED": "X has suspended the authorising user",
}
_ANY_FORBIDDEN = (
    "the app must be allow-listed for custom audiences, its user administrator or ad manager of the account"
)
# The SDK's own margin behind a reset.
_MARGIN_S = 5


class NameTakenError(RefusedError):
    """The account has, or had, an audience of this name."""


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success that proves itself: 2xx with `data`."""
    status, code = reply.status, _code(reply)
    if 200 <= status < 300:
        if isinstance(reply.json, dict) and isinstance(reply.json.get("data"), (dict, list)):
            return None
        return Fault(UnknownError("x: a success that proves nothing", code=str(status)), retry=True)
    if status == 429 or code in _LATER:
        return Fault(
            TransientError("x: throttled, or busy with this audience", code=code), retry=True, wait_s=pace_s(reply)
        )
    if status in (408, 423) or status >= 500:
        return Fault(UnknownError(f"x: server error {status}", code=code), retry=True)
    return Fault(_final(call, reply, code))


def _final(call: Call, reply: Reply, code: str) -> DestinationError:
    if reply.status == 401:
        return AuthError("x: the credentials were refused", code=code, hint=RENEW_HINT)
    if reply.status == 403:
        return AuthError("x: permission refused", code=code, hint=_FORBIDDEN.get(code, _ANY_FORBIDDEN))
    if reply.status == 404:
        return _not_found(call, code)
    if reply.status == 400 and _says_taken(reply):
        return NameTakenError("x: the name is taken, perhaps by an audience that was deleted", code=code)
    # Nothing of a request is applied where an operation is refused; one bad user may be the cause.
    divisible = isinstance(reply.json, dict) and bool(reply.json.get("operation_errors"))
    return RefusedError("x: the request was refused", code=code, divisible=divisible)


def _not_found(call: Call, code: str) -> DestinationError:
    if code in _GONE and _AUDIENCE.fullmatch(call.path):
        hint = "it was deleted, its id is wrong, or this account does not own it"
        return GoneError("x: the audience is gone", code=code, hint=hint)
    if code in _GONE or code in _FORBIDDEN:
        return AuthError("x: the ad account is not visible", code=code, hint=_FORBIDDEN["ACCOUNT_NOT_FOUND"])
    hint = "check base_url and api_version; this says nothing of the audience"
    return RefusedError("x: there is nothing at this address", code=code, hint=hint)


def _errors(reply: Reply) -> list[dict[str, Any]]:
    listed = reply.json.get("errors") if isinstance(reply.json, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _code(reply: Reply) -> str:
    """X's own code of the first error; the status where there is none, as in an HTML page."""
    found = (one.get("code") for one in _errors(reply))
    return next((code for code in found if isinstance(code, str) and _CODE.fullmatch(code)), str(reply.status))


def _says_taken(reply: Reply) -> bool:
    return any("already exist" in str(one.get("message", "")).lower() for one in _errors(reply))


def pace_s(reply: Reply) -> float | None:
    """Seconds until the allowance is filled up again, of the ad account where that is told; None: something is left.

    The reset is an instant; what time it is the answer says itself, so a wrong clock here does no harm.
    """
    kind = "x-account-rate-limit" if "x-account-rate-limit-remaining" in reply.headers else "x-rate-limit"
    left, reset = (reply.headers.get(f"{kind}-{part}", "") for part in ("remaining", "reset"))
    now = _date(reply.headers.get("date", ""))
    if left.strip() != "0" or not reset.strip().isdigit() or now is None:
        return None
    return max(0.0, math.ceil(float(reset) - now.timestamp())) + _MARGIN_S


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
