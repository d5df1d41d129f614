"""What the refusals of the Pinterest API mean.

Source: Pinterest API v5, envelope `{"code": <number>, "message": <text>}`, read 2026-11. `code` is Pinterest's own and
not listed anywhere, so the HTTP status decides; the code is shown behind it. Not confirmed: headers of rate limits.
"""

from __future__ import annotations

import re
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, GoneError, RefusedError, TransientError, UnknownError

_OF_LIST = re.compile(r"/ad_accounts/\d+/(?:customer_lists|audiences)/\d+")
_LONGEST_PAUSE_S = 60


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success with an object, which every call here answers with."""
    status, code = reply.status, _code(reply)
    if 200 <= status < 300:
        if isinstance(reply.json, dict):
            return None
        return Fault(UnknownError("pinterest: a success without a readable answer", code=code), retry=True)
    if status == 429:
        hint = "an app with trial access may make 1,000 requests a day"
        return Fault(TransientError("pinterest: too many requests", code=code, hint=hint), retry=True)
    if status == 401:
        hint = "connect the account again: a refresh token ends 60 days after its last use"
        return Fault(AuthError("pinterest: the access token was refused", code=code, hint=hint), renew=True)
    if status == 403:
        hint = "the token needs ads:read and ads:write, and its user access to audiences of the ad account"
        return Fault(AuthError("pinterest: permission refused", code=code, hint=hint))
    if status == 404:
        return Fault(_missing(call, code))
    if status == 408 or status >= 500:
        return Fault(UnknownError(f"pinterest: server error {status}", code=code), retry=True)
    return Fault(RefusedError("pinterest: the request was refused", code=code))


def pace_s(reply: Reply) -> float | None:
    """Seconds until the allowance is renewed, where headers say that it is used up."""
    left, reset = (reply.headers.get(f"x-ratelimit-{name}", "").strip() for name in ("remaining", "reset"))
    if left != "0" or not (reset.isascii() and reset.isdigit()):
        return None
    return float(min(int(reset), _LONGEST_PAUSE_S))


def _missing(call: Call, code: str) -> RefusedError | GoneError:
    """A list that is gone, or a wrong ad account where no list was named."""
    if _OF_LIST.fullmatch(call.path):
        hint = "is it in this ad account, and may the token's user see it?"
        return GoneError("pinterest: the list is gone", code=code, hint=hint)
    hint = "check ad_account_id, and that the token's user has access to it"
    return RefusedError("pinterest: the ad account does not exist or this token cannot see it", code=code, hint=hint)


def _code(reply: Reply) -> str:
    """The HTTP status, and Pinterest's own number where it gives one."""
    number: Any = reply.json.get("code") if isinstance(reply.json, dict) else None
    own = f"/{number}" if isinstance(number, int) and not isinstance(number, bool) else ""
    return f"{reply.status}{own}" if not 200 <= reply.status < 300 else str(reply.status)
