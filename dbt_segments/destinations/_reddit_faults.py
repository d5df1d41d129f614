"""What the Reddit Ads API's refusals, statuses and rate headers mean.

Source: Reddit Ads API v3 reference ("Custom Audiences", "Errors", "Rate limits") and its OpenAPI 3.1 description, read
2026-11 through extracts and a client generated from it; RateLimit headers: IETF draft-ietf-httpapi-ratelimit-headers.
"""

from __future__ import annotations

import re
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

# A 403 does not say which of these it is.
CAUSES = (
    "one of three, and Reddit does not say which: the authorisation lacks the scope adsedit; "
    "the ad account is not enabled for customer lists; or the `user_agent` is blocked"
)
RECONNECT = "connect the account again, with duration=permanent and the scopes adsread and adsedit"
_REASON = re.compile(r"[A-Z][A-Z_]{1,60}")
# "name";r=0;t=12 — what is left and the seconds until it is filled up again.
_LEFT = re.compile(r"r=(\d+)")
_SECONDS = re.compile(r"t=(\d+)")


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success that proves itself.

    A change of members is proven by 204 alone, a deletion by any 2xx, all else by an object with `data`.
    """
    status = reply.status
    if 200 <= status < 300:
        if _is_proof(call, reply):
            return None
        return Fault(UnknownError("reddit: a success that proves nothing", code=str(status)), retry=True)
    code = _code(reply)
    if status == 401:
        return Fault(AuthError("reddit: the access token was refused", code=code, hint=RECONNECT), renew=True)
    if status == 403:
        return Fault(AuthError("reddit: permission refused", code=code, hint=CAUSES))
    if status == 429:
        # A `Retry-After` is not documented; should one come, it wins.
        wait_s = None if "retry-after" in reply.headers else pace_s(reply)
        return Fault(TransientError("reddit: throttled", code=code), retry=True, wait_s=wait_s)
    if status == 408 or status >= 500:
        return Fault(UnknownError(f"reddit: server error {status}", code=code), retry=True)
    return Fault(_refused(call, reply, code))


def _is_proof(call: Call, reply: Reply) -> bool:
    if call.method == "PATCH":
        return reply.status == 204 and reply.empty
    if call.method == "DELETE":
        return reply.empty or isinstance(reply.json, dict)
    return isinstance(reply.json, dict) and isinstance(reply.json.get("data"), (dict, list))


def _refused(call: Call, reply: Reply, code: str) -> DestinationError:
    if reply.status == 404 and call.path.startswith("/custom_audiences/") and _error(reply):
        hint = "it was deleted, its id is wrong, or this authorisation cannot see it"
        return GoneError("reddit: the audience is gone", code=code, hint=hint)
    if reply.status == 404 and _error(reply):
        hint = "check ad_account_id, and that the authorising user has a role on that ad account"
        return AuthError("reddit: the ad account does not exist or is not visible", code=code, hint=hint)
    if reply.status == 404:
        return RefusedError(
            "reddit: there is nothing at this address", code=code, hint="check base_url and api_version"
        )
    if reply.status == 410:
        return RefusedError("reddit: this API version has ended", code=code, hint="upgrade, or set api_version")
    blamed = _blamed(reply)
    about = f" ({', '.join(blamed)})" if blamed else ""
    # The whole request is refused; halves find the row where it is the rows that are blamed.
    return RefusedError(f"reddit: the request was refused{about}", code=code, divisible="user_data" in blamed)


def _error(reply: Reply) -> dict[str, Any]:
    error = reply.json.get("error") if isinstance(reply.json, dict) else None
    return error if isinstance(error, dict) else {}


def _code(reply: Reply) -> str:
    """The status, and Reddit's own word where there is one; its free text is left out."""
    reason = _error(reply).get("reason")
    known = isinstance(reason, str) and _REASON.fullmatch(reason)
    return f"{reply.status}/{reason}" if known else str(reply.status)


def _blamed(reply: Reply) -> list[str]:
    """The first parts of the fields' names that an error lists, e.g. `user_data` of `data.user_data[3]`."""
    fields = _error(reply).get("fields")
    named = [str(one.get("field", "")) for one in fields if isinstance(one, dict)] if isinstance(fields, list) else []
    words = (re.match(r"(?:data\.)?([a-z_]{1,40})", name) for name in named)
    return sorted({word[1] for word in words if word})


def pace_s(reply: Reply) -> float | None:
    """Seconds until every used-up allowance is filled up again; None where something is left of each."""
    waits = []
    for policy in reply.headers.get("ratelimit", "").split(","):
        left, seconds = _LEFT.search(policy), _SECONDS.search(policy)
        if left and seconds and int(left[1]) == 0:
            waits.append(float(seconds[1]))
    return max(waits, default=None)
