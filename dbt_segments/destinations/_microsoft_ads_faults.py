"""What the errors of the Campaign Management service mean.

Source: Microsoft Advertising API v13, "Operation error codes", "BatchError", "ApiFaultDetail", "Handle service errors
and exceptions", read 2026-11. Codes come in four places, as number or as text, and with any HTTP status (a token fault
comes with 500 too), so all of them are read before the status is. Not confirmed: which HTTP status each fault has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

APPLY = "/CustomerListUserData/Apply"
DUPLICATE_NAME = "4853"
_PLACES = ("PartialErrors", "BatchErrors", "OperationErrors", "Errors")
_EXPIRED, _BAD_CREDENTIALS = 109, 105
_THROTTLED = 117
# The service counts calls over a sliding window of 60 seconds.
_WINDOW_S = 60.0
_ROWS = {8004, 8005, 8006}
_CONNECT_AGAIN = "connect the account again: a refresh token lasts about 90 days without use"
_AUTH = {
    _EXPIRED: ("the access token was refused", _CONNECT_AGAIN),
    _BAD_CREDENTIALS: (
        "the credentials were refused",
        "check developer_token, that the account is active, and that base_url is of the same environment",
    ),
    106: (
        "the user may not do this",
        "the user needs the role Super Admin, Standard User or Advertiser Campaign Manager on account_id; customer_id "
        "must be the customer of that account",
    ),
    1102: ("there is no such account", "account_id is the number in the address bar, not the account number"),
    8003: (
        "the Customer Match terms are not accepted",
        "set customer_match_terms: accepted, or accept the terms at Microsoft Advertising",
    ),
}
_GONE = {
    4835: "the list does not exist, or this customer cannot see it",
    8000: "the list does not exist, or this customer may not write to it",
}
_REFUSED = {
    100: "the request is empty or malformed",
    4842: "the membership duration is not allowed",
    4852: "too many lists in one request",
    int(DUPLICATE_NAME): "the name is taken",
    8001: "the action is not known",
    8002: "only e-mail is taken",
    8119: "the list may not be linked to a campaign that targets this area",
}
_PASSING = (0, _THROTTLED, 4204)
# Where a code comes as its name.
_NAMES = {
    "InternalError": 0,
    "NullRequest": 100,
    "InvalidCredentials": 105,
    "UserIsNotAuthorized": 106,
    "AuthenticationTokenExpired": 109,
    "CallRateExceeded": 117,
    "BulkServiceNoMoreCallsPermittedForTheTimePeriod": 4204,
    "InvalidAudienceId": 4835,
    "InvalidAudienceMembershipDuration": 4842,
    "AudienceIdsArrayExceedsLimit": 4852,
    "DuplicateAudienceName": 4853,
    "InvalidCustomerListId": 8000,
    "InvalidCustomerListActionType": 8001,
    "CustomerListItemSubTypeNotSupported": 8002,
    "CustomerListTermsAndConditionsNotAccepted": 8003,
    "EmailMustBeHashed": 8004,
    "CombinedAudienceForLocationNotAllowed": 8119,
}
_TRACKING = re.compile(r"[0-9A-Za-z-]{8,64}")


@dataclass(frozen=True)
class Entry:
    """One error: its number where it is known, what to show of it, and the row that it names."""

    number: int | None
    shown: str
    index: int | None


def entries(reply: Reply) -> list[Entry]:
    """Every error of a reply, from whichever of the four places are filled."""
    body = reply.json if isinstance(reply.json, dict) else {}
    return [_entry(one) for place in _PLACES for one in _listed(body.get(place))]


def _listed(value: Any) -> Iterator[dict[str, Any]]:
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _entry(one: dict[str, Any]) -> Entry:
    number = _whole(one.get("Code"))
    named = next((text for text in (one.get("ErrorCode"), one.get("Code")) if isinstance(text, str)), "")
    if number is None:
        number = _NAMES.get(named)
    unknown = named if named.isascii() and named.isalnum() else "unknown"
    return Entry(number, unknown if number is None else str(number), _whole(one.get("Index")))


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def refused_rows(reply: Reply, count: int) -> dict[int, str]:
    """Rows that were refused singly, by their place among `count`, with the code.

    Raises UnknownError for an error that names no row which was sent: it may concern any of them.
    """
    rows: dict[int, str] = {}
    for one in entries(reply):
        if one.index is None or one.index not in range(count):
            raise UnknownError("microsoft_ads: a row is refused that was not sent", code="index")
        rows[one.index] = one.shown
    return rows


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply: 109 decides, then final codes, then those that pass; None for a success.

    Errors of single rows are no fault of the call; `refused_rows` reads them. That PartialErrors is null or missing
    means that there is none.
    """
    found = entries(reply)
    by_number = {one.number: one for one in reversed(found) if one.number is not None}
    final = [number for number in by_number if number in _AUTH or number in _GONE or number in _REFUSED]
    if final:
        number = _EXPIRED if _EXPIRED in final else final[-1]
        return _of_final(number, _tracked(reply))
    passing = next((number for number in _PASSING if number in by_number), None)
    if passing is not None:
        return _of_passing(passing, reply)
    unplaced = [one for one in found if one.number not in _ROWS or call.path != APPLY]
    if unplaced:
        return _of_unknown(call, reply, unplaced[0].shown)
    if 200 <= reply.status < 300:
        if isinstance(reply.json, dict):
            return None
        error = UnknownError("microsoft_ads: a success without a readable answer", code=str(reply.status))
        return Fault(error, retry=True)
    if found and reply.status < 500:
        said = f"microsoft_ads: rows are refused, and the call with them{_tracked(reply)}"
        return Fault(RefusedError(said, code=found[0].shown, divisible=True))
    return _of_status(reply, str(reply.status))


def _of_final(number: int, tracked: str) -> Fault:
    code = str(number)
    if number in _AUTH:
        said, hint = _AUTH[number]
        renew = number in (_EXPIRED, _BAD_CREDENTIALS)
        return Fault(AuthError(f"microsoft_ads: {said}{tracked}", code=code, hint=hint), renew=renew)
    if number in _GONE:
        return Fault(GoneError(f"microsoft_ads: {_GONE[number]}{tracked}", code=code))
    return Fault(RefusedError(f"microsoft_ads: {_REFUSED[number]}{tracked}", code=code))


def _of_passing(number: int, reply: Reply) -> Fault:
    code, tracked = str(number), _tracked(reply)
    if number == _THROTTLED:
        # A header is not documented; should one come, it wins.
        wait_s = None if "retry-after" in reply.headers else _WINDOW_S
        return Fault(TransientError(f"microsoft_ads: throttled{tracked}", code=code), retry=True, wait_s=wait_s)
    if number == 0:
        return Fault(UnknownError(f"microsoft_ads: internal error{tracked}", code=code), retry=True)
    return Fault(TransientError(f"microsoft_ads: no more calls for now{tracked}", code=code))


def _of_unknown(call: Call, reply: Reply, code: str) -> Fault:
    """A code that is not documented is judged by the status. With 200 an upload may have been applied in part."""
    if reply.status >= 300:
        return _of_status(reply, code)
    said = f"microsoft_ads: an error whose code is not documented{_tracked(reply)}"
    return Fault(UnknownError(said, code=code) if call.path == APPLY else RefusedError(said, code=code))


def _of_status(reply: Reply, code: str) -> Fault:
    status, tracked = reply.status, _tracked(reply)
    error: DestinationError
    if status == 429:
        return Fault(TransientError(f"microsoft_ads: throttled{tracked}", code=code), retry=True)
    if status >= 500:
        return Fault(UnknownError(f"microsoft_ads: server error {status}{tracked}", code=code), retry=True)
    if status in (401, 403):
        error = AuthError(f"microsoft_ads: refused with {status}{tracked}", code=code, hint=_CONNECT_AGAIN)
        return Fault(error, renew=status == 401)
    return Fault(RefusedError(f"microsoft_ads: refused with {status}{tracked}", code=code))


def _tracked(reply: Reply) -> str:
    """What Microsoft's support asks for, as the end of a message."""
    tracking = reply.json.get("TrackingId") if isinstance(reply.json, dict) else None
    known = isinstance(tracking, str) and _TRACKING.fullmatch(tracking)
    return f" (TrackingId {tracking})" if known else ""
