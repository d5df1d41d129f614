"""What Snapchat's answers mean: the HTTP status, `request_status`, and the status of each part.

Source: Marketing API v1, "Customer Lists", "Rate Limits" and "Roles", read 2026-11; E3002 and E3003 from answers that
other clients recorded. There is no full list of codes.
"""

from __future__ import annotations

import re
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

_NO_ROLE, _NOT_FOUND = "E3002", "E3003"
_CONNECT_AGAIN = "connect the account again, with the scope snapchat-marketing-api"
_ROLE_HINT = "give the user the role audience or admin on the ad account, and check ad_account_id"
_CODE = re.compile(r"[A-Z]\d{1,6}")
_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
# Words of a fault that passes, where an answer with 200 is a refusal. The vendor's text is read and never shown.
_PASSING = re.compile(
    r"rate.?limit|throttl|too many|time.?d? ?out|temporar|try again|internal|unavailable", re.IGNORECASE
)


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for one that says success of itself and of all its parts.

    A 200 that says nothing of itself proves nothing: the request may have been applied.
    """
    body = reply.json if isinstance(reply.json, dict) else {}
    code = _code(body)
    if reply.status == 401:
        error: DestinationError = AuthError(f"snapchat: the access token was refused{_told(body)}", code=code or "401")
        error.hint = _CONNECT_AGAIN
        return Fault(error, renew=True)
    if reply.status == 403 or code == _NO_ROLE:
        said = f"snapchat: no permission on the ad account{_told(body)}"
        return Fault(AuthError(said, code=code or "403", hint=_ROLE_HINT))
    if code == _NOT_FOUND or (reply.status == 404 and "request_status" in body):
        return Fault(_missing(call, body, code or "404"))
    if reply.status == 429:
        return Fault(TransientError(f"snapchat: throttled{_told(body)}", code=code or "429"), retry=True)
    if reply.status >= 500:
        error = UnknownError(f"snapchat: server error {reply.status}{_told(body)}", code=code or str(reply.status))
        return Fault(error, retry=True)
    if not 200 <= reply.status < 300:
        error = RefusedError(f"snapchat: refused with {reply.status}{_told(body)}", code=code or str(reply.status))
        return Fault(error)
    return _of_success(body, code)


def _of_success(body: dict[str, Any], code: str) -> Fault | None:
    status = body.get("request_status")
    if not isinstance(status, str):
        return Fault(UnknownError("snapchat: an answer that does not say whether it succeeded", code="200"), retry=True)
    parts = [part for parts in body.values() if isinstance(parts, list) for part in parts if isinstance(part, dict)]
    failed = [one for one in (body, *parts) if not _succeeded(one)]
    if not failed:
        return None
    text = " ".join(str(value) for one in failed for value in one.values() if isinstance(value, str))
    said, code = f"snapchat: refused in an answer with 200{_told(body)}", code or "request_status"
    if _PASSING.search(text):
        return Fault(UnknownError(said, code=code), retry=True)
    return Fault(RefusedError(said, code=code))


def _succeeded(one: dict[str, Any]) -> bool:
    """Whether the answer, or a part of it, says success; Snap's own samples write it in both cases."""
    status = one.get("sub_request_status", one.get("request_status", "success"))
    return isinstance(status, str) and status.lower() == "success"


def _missing(call: Call, body: dict[str, Any], code: str) -> DestinationError:
    if call.path.startswith("/segments/"):
        return GoneError(f"snapchat: the audience does not exist{_told(body)}", code=code)
    return AuthError(f"snapchat: there is no such ad account{_told(body)}", code=code, hint=_ROLE_HINT)


def _code(body: dict[str, Any]) -> str:
    """The error's code, also where only a part has one."""
    parts = [part for parts in body.values() if isinstance(parts, list) for part in parts if isinstance(part, dict)]
    given = (one.get("error_code") for one in (body, *parts))
    return next((one for one in given if isinstance(one, str) and _CODE.fullmatch(one)), "")


def _told(body: dict[str, Any]) -> str:
    """What Snap's support asks for, as the end of a message."""
    number = body.get("request_id")
    return f" (request_id {number})" if isinstance(number, str) and _REQUEST_ID.fullmatch(number) else ""
