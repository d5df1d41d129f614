"""Errors as the Campaign Management service words them.

Source: Microsoft Advertising API v13, "Operation error codes", "BatchError", "ApiFaultDetail", read 2026-11.
Assumptions, where no source says: refusals of a whole call are HTTP 400, 429 where it is throttled and 401 for a token
that was refused; unknown fields and arrays that are too long are refused with code 100.
"""

from __future__ import annotations

from typing import Any

from dbt_segments.sandbox.platform import Answer, Refusal

INTERNAL = (0, "InternalError")
MALFORMED = (100, "NullRequest")
BAD_CREDENTIALS = (105, "InvalidCredentials")
UNAUTHORIZED = (106, "UserIsNotAuthorized")
EXPIRED = (109, "AuthenticationTokenExpired")
THROTTLED = (117, "CallRateExceeded")
BAD_ACCOUNT = (1102, "InvalidAccountId")
NO_AUDIENCE = (4835, "InvalidAudienceId")
BAD_DURATION = (4842, "InvalidAudienceMembershipDuration")
TOO_MANY_IDS = (4852, "AudienceIdsArrayExceedsLimit")
DUPLICATE_NAME = (4853, "DuplicateAudienceName")
NO_LIST = (8000, "InvalidCustomerListId")
BAD_ACTION = (8001, "InvalidCustomerListActionType")
BAD_SUB_TYPE = (8002, "CustomerListItemSubTypeNotSupported")
TERMS = (8003, "CustomerListTermsAndConditionsNotAccepted")
NOT_HASHED = (8004, "EmailMustBeHashed")
TRACKING_ID = "5a9d0c1e-0000-4000-8000-00000000cafe"


def partial(code: int, name: str, index: int = 0) -> dict[str, Any]:
    """One entry of PartialErrors."""
    return {
        "Code": code,
        "ErrorCode": name,
        "Message": name,
        "Index": index,
        "Details": None,
        "FieldPath": None,
        "Type": "BatchError",
        "ForwardCompatibilityMap": None,
    }


def fault(code: int, name: str, message: str = "", *, status: int = 400) -> Answer:
    """The refusal of a whole call."""
    if code in (EXPIRED[0], BAD_CREDENTIALS[0]):
        entry: dict[str, Any] = {"Code": code, "ErrorCode": name, "Message": message or name, "Detail": None}
        body: dict[str, Any] = {"TrackingId": TRACKING_ID, "Type": "AdApiFaultDetail", "Errors": [entry]}
        return Answer(401, body, note={"code": str(code)})
    entry = {"Code": code, "ErrorCode": name, "Message": message or name, "Details": None}
    body = {"TrackingId": TRACKING_ID, "Type": "ApiFaultDetail", "BatchErrors": [], "OperationErrors": [entry]}
    return Answer(429 if code == THROTTLED[0] else status, body, note={"code": str(code)})


def refuse(code: int, name: str, message: str = "") -> Refusal:
    """The same, to be raised."""
    return Refusal(fault(code, name, message))


def malformed(message: str) -> Refusal:
    """Code 100; the message names what is wrong and never its value."""
    return refuse(*MALFORMED, message)
