"""Errors as the Graph API words them.

Source: contract of the Meta Marketing API, section 5; codes from Meta's "Marketing API error reference". The refusal of
a removal that leaves too few people is code 200 with subcode 1870047 (that reference; HTTP 400 in recorded answers).
Assumptions, where no source says: every error below is HTTP 400 except server errors; a missing audience answers
100/33 for every call; /users during a replace answers as a second replace does.
"""

from __future__ import annotations

from typing import Any

from dbt_segments.sandbox.platform import Answer, Refusal

TOO_SMALL = (200, 1870047, "Audience Size too Low")
GONE = (100, 33, "Object does not exist or cannot be loaded due to missing permissions")
EXPIRED = (190, 463, "Error validating access token: session has expired")
TERMS = (200, 1870090, "Custom Audience terms not accepted")
THROTTLED = (80003, 2446079, "There have been too many calls to this ad account")
REPLACE_RUNNING = (2650, 1870145, "Another replace is running")
REPLACE_TIMED_OUT = (2650, 1870158, "The session ran out of time")
REPLACE_FIRST_MISSING = (2650, 1870147, "The first batch is missing")
REPLACE_FINISHED = (2650, 1870159, "The session has finished")
REPLACE_BROKEN = (2650, 1870148, "A part of the upload failed")


def error(code: int, subcode: int | None, message: str, *, status: int = 400, transient: bool = False) -> Answer:
    """One error answer."""
    body: dict[str, Any] = {"message": f"(#{code}) {message}", "type": "OAuthException", "code": code}
    if subcode is not None:
        body |= {"error_subcode": subcode, "error_user_title": message}
    return Answer(status, {"error": {**body, "is_transient": transient, "fbtrace_id": "SandboxTrace"}})


def refuse(code: int, subcode: int | None, message: str) -> Refusal:
    """The same, to be raised."""
    return Refusal(error(code, subcode, message))


def invalid(message: str) -> Refusal:
    """Code 100: a parameter is wrong; the message names it and never its value."""
    return refuse(100, None, message)
