"""What LinkedIn's refusals mean, of whole requests and of single elements.

Source: LinkedIn Marketing API 202608, "Create and manage segments", "Create and manage segment users", "Error
handling", "Rate limits", "Versioning", read 2026-11. Messages are not read, only statuses and constant codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Outcome, Reply
from dbt_segments.errors import AuthError, GoneError, RefusedError, TransientError, UnknownError

SEGMENTS = "/dmpSegments"
# Of one segment: its own path, or an edge of it.
_OF_ONE = re.compile(rf"{SEGMENTS}/[^/]+(?:/\w+)?")
_BATCHES = ("/users", "/companies")
# Daily quotas are not told from others; a minute is the least that helps.
_THROTTLED_S = 60.0
# A new segment takes no members for seconds, sometimes for a minute or two.
_YOUNG_S, _YOUNG_TRIES = 15.0, 8
# Of one element: it timed out, met another writer, was locked or throttled.
_PASSING_ELEMENTS = (408, 409, 423, 429)
_CODE = re.compile(r"[A-Z0-9_]{1,60}")
_RENEW = "make a new access token; it ends after 60 days, or earlier where it was revoked"
_ROLE = (
    "the app needs `rw_dmp_segments` and `rw_ads`, its member a role above VIEWER on the ad account, and "
    "`source_platform` must be the app's own"
)


@dataclass(frozen=True)
class PatientCall(Call):
    """A call to a segment that is known to exist: a 404 means that it is too new, so the call is worth repeating."""


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success of the kind that this call answers with."""
    if 200 <= reply.status < 300:
        if _is_whole(call, reply):
            return None
        return Fault(UnknownError("linkedin: a success without a readable answer", code=str(reply.status)), retry=True)
    code = _code(reply.json, reply.status)
    return _passing(call, reply, code) or _final(call, reply, code)


def outcome_of(reply: Reply, count: int) -> Outcome:
    """One result for each element, in their order; elements without one have failed.

    Raises UnknownError where there are more results than elements.
    """
    results = reply.json.get("elements", [])
    if not isinstance(results, list) or len(results) > count:
        raise UnknownError("linkedin: the results are not those of this batch", code="elements")
    statuses = [_status(result) for result in results] + [None] * (count - len(results))
    refused, passing = {}, set()
    for index, status in enumerate(statuses):
        if status is not None and 200 <= status < 300:
            continue
        refused[index] = "no_result" if status is None else _element_code(results[index], status)
        if status is None or status in _PASSING_ELEMENTS or status >= 500:
            passing.add(index)
    return Outcome(refused=refused, passing=frozenset(passing))


def _is_whole(call: Call, reply: Reply) -> bool:
    """Creation, update and deletion answer with an empty body; all else with an object."""
    if call.method == "DELETE" or (call.method == "POST" and not call.path.endswith(_BATCHES)):
        return reply.empty and reply.status in (201, 204)
    return isinstance(reply.json, dict)


def _passing(call: Call, reply: Reply, code: str) -> Fault | None:
    """Faults that may pass by themselves; None for all others."""
    status = reply.status
    if status == 404 and isinstance(call, PatientCall):
        error = TransientError("linkedin: the segment is too new to be used", code=code, hint="run again later")
        return Fault(error, retry=True, wait_s=_YOUNG_S, max_tries=_YOUNG_TRIES)
    if status == 409:
        # Of a creation the next run looks first whether the segment is there by now.
        return Fault(TransientError("linkedin: another writer was there first", code=code), retry=call.safe)
    if status == 423:
        return Fault(TransientError("linkedin: locked for now", code=code), retry=True)
    if status == 429 and "SEGMENT_LIMIT_EXCEEDED" not in code:
        asked = "retry-after" in reply.headers
        return Fault(
            TransientError("linkedin: throttled", code=code), retry=True, wait_s=None if asked else _THROTTLED_S
        )
    if status == 408 or status >= 500:
        return Fault(UnknownError(f"linkedin: server error {status}", code=code), retry=True)
    return None


def _final(call: Call, reply: Reply, code: str) -> Fault:
    status = reply.status
    if status == 401:
        return Fault(AuthError("linkedin: the access token was refused", code=code, hint=_RENEW), renew=True)
    if status == 403:
        return Fault(AuthError("linkedin: permission refused", code=code, hint=_ROLE))
    if status == 404 and _OF_ONE.fullmatch(call.path):
        return Fault(GoneError("linkedin: the segment does not exist", code=code))
    if status == 426:
        hint = "set `api_version` to a month that LinkedIn still supports, or upgrade"
        return Fault(RefusedError("linkedin: this API version has ended", code=code, hint=hint))
    if status == 429:
        hint = "delete segments that are no longer used: an ad account holds 1,000"
        return Fault(RefusedError("linkedin: the ad account is full", code=code, hint=hint))
    return Fault(RefusedError(f"linkedin: refused with {status}", code=code))


def _code(body: Any, status: int) -> str:
    """`403/ACCESS_DENIED`, `403/100`, or the status alone; never a message."""
    body = body if isinstance(body, dict) else {}
    named = body.get("code")
    if not (isinstance(named, str) and _CODE.fullmatch(named)):
        number = body.get("serviceErrorCode")
        named = str(number) if isinstance(number, int) and not isinstance(number, bool) else ""
    return f"{status}/{named}" if named else str(status)


def _status(result: Any) -> int | None:
    status = result.get("status") if isinstance(result, dict) else None
    return status if isinstance(status, int) and not isinstance(status, bool) else None


def _element_code(result: Any, status: int) -> str:
    return _code(result.get("error"), status)
