"""What the Marketing API's refusals and usage headers mean.

Source: Meta, Marketing API v26.0 "Error reference" and "Rate limiting", read 2026-11. Meta is judged by its codes,
not by the HTTP status. Not confirmed on a live account: that 200/1870047 (below) is still what a removal gets that
would leave the audience too small. It is listed in the error reference without its main code, so the subcode alone
counts; the pair is in a peer's recorded answers (grouparoo, pull request 1108, HTTP 400). 1487366 and 1487301 are known
from a peer only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

_THROTTLED = {4, 17, 32, 341, 613, 80003}
_GONE = {1487366, 1487301}
_TOO_SMALL = 1870047
_FLAGGED = {1713228, 1713230, 1713231}
_OWED_HINT = "who left stays in it for now: the removal stays owed, and every run tries it again"
_ACCEPT_TERMS = "accept the Custom Audience terms for this ad account in Business settings"
_RENEW_HINT = "make a new access token; a system user's does not expire"
_TOKEN = {
    458: "the app was removed from the account",
    459: "the token's user must sign in to Facebook first (checkpoint)",
    460: "the token's user changed the password",
    463: "the access token has expired",
    467: "the access token is invalid",
}
_PERMISSION = {
    10: "the token may not do this; it needs ads_management",
    200: "the token may not do this; it needs ads_management and write access on the ad account",
    270: "the app's access tier does not allow this",
    294: "the token may not do this; it needs ads_management",
    2654: "no write access to this audience",
    2663: _ACCEPT_TERMS,
    2664: _ACCEPT_TERMS,
}
_TERMS = {1870034, 1870090}
_REQUEST = {
    100: "a parameter is invalid",
    105: "too many parameters",
    194: "a required parameter is missing",
    2635: "this API version has ended; set api_version",
    2650: "the upload does not fit this audience",
    2655: "the upload was refused",
    2656: "lookalike audiences depend on this one; delete them first",
}
# 2650: what a replace answers when its session is not what it thought. All but "too large" need another session.
_REPLACE_RUNNING, _PART_FAILED, _TOO_LARGE = 1870145, 1870148, 1870144
_SESSION_OVER = {1870158, 1870147, 1870159}
_FEW = 2  # tries in all, for code 1


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success that proves itself.

    A 2xx without the object that this call answers with proves nothing: the request may have been applied.
    """
    error = reply.json.get("error") if isinstance(reply.json, dict) else None
    if isinstance(error, dict):
        return _of_error(call, reply, error)
    if 200 <= reply.status < 300:
        if isinstance(reply.json, dict):
            return None
        return Fault(UnknownError("meta: a success without a readable answer", code=str(reply.status)), retry=True)
    return _of_status(reply, str(reply.status))


def _of_status(reply: Reply, code: str) -> Fault:
    """An answer without Meta's error object, as from a proxy in between, or with a code that is not known."""
    status = reply.status
    if status == 429:
        return Fault(TransientError("meta: throttled", code=code), retry=True, wait_s=regain_s(reply))
    if status >= 500:
        return Fault(UnknownError(f"meta: server error {status}", code=code), retry=True)
    if status in (401, 403):
        return Fault(AuthError(f"meta: refused with {status}", code=code, hint=_RENEW_HINT))
    return Fault(RefusedError(f"meta: refused with {status}", code=code))


def _of_error(call: Call, reply: Reply, error: dict[str, Any]) -> Fault:
    number, sub = _whole(error.get("code")), _whole(error.get("error_subcode"))
    code = f"{number}/{sub}" if sub else str(number if number is not None else reply.status)
    passing = _passing(reply, error, number, code)
    if passing is not None:
        return passing
    final = _final(call, number, sub, code)
    if final is not None:
        return final
    # A code that says nothing here: the HTTP status has the last word.
    if reply.status == 429 or reply.status >= 500:
        return _of_status(reply, code)
    return Fault(RefusedError("meta: refused with a code that is not documented", code=code), retry=True)


def _final(call: Call, number: int | None, sub: int | None, code: str) -> Fault | None:
    """Faults whose code is known, whatever HTTP status they come with; None for all others."""
    if number in _GONE or sub in _GONE or (number, sub) == (100, 33):
        return Fault(_gone(call, code))
    if number == 190:
        return Fault(
            AuthError(f"meta: {_TOKEN.get(sub or 0, 'the access token was refused')}", code=code, hint=_RENEW_HINT)
        )
    if sub == _TOO_SMALL:
        return Fault(RefusedError("meta: the audience would become too small", code=code, owed=True, hint=_OWED_HINT))
    if number == 2650 and sub is not None:
        return _of_replace(sub, code)
    if number in _PERMISSION:
        hint = _ACCEPT_TERMS if sub in _TERMS else _PERMISSION[number]
        return Fault(AuthError("meta: permission refused", code=code, hint=hint))
    if number in _REQUEST:
        return Fault(_refused(call, number, sub, code))
    return None


def _passing(reply: Reply, error: dict[str, Any], number: int | None, code: str) -> Fault | None:
    """Faults that may pass by themselves; None for all others."""
    if number in _THROTTLED:
        return Fault(TransientError("meta: throttled", code=code), retry=True, wait_s=regain_s(reply))
    if number == 368:
        hint = "blocked for hours: look for a notice in Business settings, and run again later"
        return Fault(TransientError("meta: blocked for now", code=code, hint=hint))
    if number == 1:
        return Fault(UnknownError("meta: unknown error", code=code), retry=True, max_tries=_FEW)
    if number == 2 or error.get("is_transient") is True:
        return Fault(UnknownError("meta: temporary error", code=code), retry=True)
    return None


def _gone(call: Call, code: str) -> DestinationError:
    if call.path.startswith("/act_"):
        hint = "check ad_account_id, and that the token's user has write access on it"
        return AuthError("meta: the ad account does not exist or this token cannot see it", code=code, hint=hint)
    hint = "it was deleted, is no longer shared, or this token cannot see it"
    return GoneError("meta: the audience is gone", code=code, hint=hint)


def _of_replace(sub: int, code: str) -> Fault:
    if sub == _REPLACE_RUNNING:
        return Fault(TransientError("meta: another replace of this audience is running", code=code), retry=True)
    if sub in _SESSION_OVER:
        return Fault(TransientError("meta: the replace session is over; the next run starts a new one", code=code))
    if sub == _PART_FAILED:
        return Fault(UnknownError("meta: part of the replace failed; the next run starts a new one", code=code))
    hint = "use mirror instead of replace" if sub == _TOO_LARGE else None
    return Fault(RefusedError("meta: the replace was refused", code=code, hint=hint))


def _refused(call: Call, number: int, sub: int | None, code: str) -> RefusedError:
    if sub in _FLAGGED:
        hint = "resolve the restriction in Audience Manager"
        return RefusedError("meta: the audience is flagged and takes no uploads", code=code, hint=hint)
    if number == 100 and call.method == "POST" and call.path.endswith("/customaudiences"):
        # No code of its own is documented for a full account.
        hint = "an ad account holds at most 500 customer lists: delete some that nobody uses; or is the name wrong?"
        return RefusedError("meta: the audience was not made", code=code, hint=hint)
    # One malformed row is refused as an invalid parameter of the whole request; no other code speaks of content.
    blames_rows = number == 100 and call.path.endswith("/users")
    return RefusedError(f"meta: {_REQUEST[number]}", code=code, divisible=blames_rows)


# -- usage headers --------------------------------------------------------------------------------------------

SLOW_AT, STOP_AT = 80, 100
# Ours: between 80 and 100 percent up to 10 s a request; at 100 without a word of when, a minute.
_SLOWEST_S, _BLIND_STOP_S = 10.0, 60.0


def regain_s(reply: Reply) -> float | None:
    """Seconds until the account may call again, as the usage header says in minutes; None where it says nothing."""
    minutes = [_number(usage.get("estimated_time_to_regain_access")) for usage in _usages(reply)]
    longest = max(minutes, default=0.0)
    return longest * 60 if longest > 0 else None


def pace_s(reply: Reply) -> float | None:
    """Seconds to wait before the next call, from the percentages of the allowance that is used up."""
    regain = regain_s(reply)
    if regain is not None:
        return regain
    used = max((_percent(usage) for usage in _usages(reply)), default=0.0)
    if used >= STOP_AT:
        return _BLIND_STOP_S
    return (used - SLOW_AT) / (STOP_AT - SLOW_AT) * _SLOWEST_S if used > SLOW_AT else None


def _usages(reply: Reply) -> Iterator[dict[str, Any]]:
    """Every usage object of the three headers; of the business header those of the custom audience bucket."""
    by_business = _object(reply.headers.get("x-business-use-case-usage"))
    for entries in by_business.values():
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("type") == "custom_audience":
                yield entry
    yield _object(reply.headers.get("x-app-usage"))
    yield _object(reply.headers.get("x-ad-account-usage"))


def _percent(usage: dict[str, Any]) -> float:
    return max(_number(usage.get(key)) for key in ("call_count", "total_cputime", "total_time", "acc_id_util_pct"))


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
