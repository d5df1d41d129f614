"""Errors as the Data Manager API words them.

Source: Google, Data Manager API v1, "Understand API errors", read 2026-11. Assumption: the path of a violation in an
audience request, of which only the one for events is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dbt_segments.sandbox.platform import Answer, Refusal

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_STATUS = {http: status for status, http in _HTTP.items()}
Violation = tuple[str, str]


def error(
    status: str,
    message: str,
    *,
    reason: str = "",
    violations: Sequence[Violation] = (),
    metadata: dict[str, str] | None = None,
) -> Answer:
    """One error answer; violations are (field, reason)."""
    told: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason or status,
            "domain": "datamanager.googleapis.com",
            "metadata": {"requestId": "sandbox-request", **(metadata or {})},
        }
    ]
    if violations:
        fields = [{"field": field, "description": "sandbox", "reason": why} for field, why in violations]
        told.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields})
    code = violations[0][1] if violations else reason or status
    body = {"error": {"code": _HTTP[status], "status": status, "message": message, "details": told}}
    return Answer(_HTTP[status], body, note={"code": code})


def invalid(field: str, reason: str) -> Refusal:
    """One violation: a parameter is wrong; nothing says its value."""
    return Refusal(error("INVALID_ARGUMENT", "There was a problem with the request.", violations=[(field, reason)]))


def unknown(field: str) -> Refusal:
    """A name that the message does not have."""
    message = f"Invalid JSON payload received. Unknown name at '{field}': Cannot find field."
    return Refusal(error("INVALID_ARGUMENT", message))


def refuse(status: str, message: str, reason: str = "") -> Refusal:
    """Any other refusal."""
    return Refusal(error(status, message, reason=reason))


def of_http(http: int, message: str, reason: str) -> Answer:
    """An error of an HTTP status; one that has no word is answered by a page of no JSON, as by a proxy."""
    status = _STATUS.get(http)
    return error(status, message, reason=reason) if status else Answer(http, message)
