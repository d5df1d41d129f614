"""What the Data Manager API's refusals mean.

Source: Google, Data Manager API v1, "Understand API errors" and the reference's ErrorReason, read 2026-11. A request is
taken whole or not at all: one malformed member refuses it, and the violations name the members by their place. The
published sample of such an answer is one for events, so every `[n]` counts, whatever stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

MEMBERS, STATUS, LISTS = "/audienceMembers:", "/requestStatus:", "/userLists"
NAME_TAKEN = ("DISPLAY_NAME_ALREADY_USED", "ALREADY_EXISTS")
# Reasons that speak of a member's value; every other concerns the whole request, even where a place stands beside it.
_OF_VALUES = {
    "INVALID_HEX_ENCODING",
    "INVALID_BASE64_ENCODING",
    "INVALID_SHA256_FORMAT",
    "INVALID_FORMAT",
    "INVALID_MOBILE_ID_FORMAT",
    "INVALID_POSTAL_CODE",
    "INVALID_REGION_CODE",
    "INVALID_AUDIENCE_MEMBER",
    "REQUIRED_FIELD_MISSING",
    "NO_IDENTIFIERS_PROVIDED",
}
_GONE = {"INVALID_DESTINATION", "INVALID_USER_LIST_ID"}
_ACCEPT_TERMS = "accept the Customer Match terms in the Google Ads account, and set `customer_match_terms: accepted`"
_HINTS = {
    "TERMS_AND_CONDITIONS_NOT_SIGNED": _ACCEPT_TERMS,
    "ADVERTISER_TOS_NOT_ACCEPTED": _ACCEPT_TERMS,
    "ADVERTISER_NOT_ALLOWLISTED_FOR_UPLOADED_DATA": "the account may not use Customer Match yet: see its requirements",
    "EU_POLITICAL_ADVERTISING_DECLARATION_REQUIRED": "make the declaration on EU political ads in the account",
    "DISPLAY_NAME_ALREADY_USED": "another list has this name: choose another `audience_name`, or adopt that list",
    "ALREADY_EXISTS": "another list has this name: choose another `audience_name`, or adopt that list",
    "SERVICE_DISABLED": "enable the Data Manager API in the Cloud project of the OAuth client",
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": "connect again with the scope https://www.googleapis.com/auth/datamanager",
    "OWNERSHIP_REQUIRED_FOR_UPDATE": "the list belongs to another account: a shared one takes no changes",
}
_NO_ACCESS = "the login must be a user of the Google Ads account, or of the manager in login_customer_id"
_CONNECT = "connect the account again, or make a new key of the service account"
_PASSING = {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN"}
_MINUTE_S = 60.0
_PLACE = re.compile(r"\[(\d{1,9})\]")
_REQUEST_ID = re.compile(r"[\w.:-]{1,80}", re.ASCII)
_WORD = re.compile(r"[A-Z][A-Z0-9_]{1,79}")


class RowsRefusedError(RefusedError):
    """Nothing was taken because of some members: `rows` has their places in the request, with the reasons."""

    def __init__(self, message: str, *, code: str, rows: Mapping[int, str]) -> None:
        super().__init__(message, code=code)
        self.rows = rows


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success that is an object, as all of them are."""
    error = reply.json.get("error") if isinstance(reply.json, dict) else None
    if 200 <= reply.status < 300 and not isinstance(error, dict):
        if isinstance(reply.json, dict):
            return None
        return Fault(
            UnknownError("google_ads: a success without a readable answer", code=str(reply.status)), retry=True
        )
    return _Refusal(call, reply, error if isinstance(error, dict) else {}).fault()


class _Refusal:
    """One answer that is no success.

    status   Google's word for it, from the HTTP status where the body has none
    reasons  those of the violations, then that of the whole
    """

    def __init__(self, call: Call, reply: Reply, error: Mapping[str, Any]) -> None:
        self._call = call
        self._reply = reply
        said = str(error.get("status") or "")
        self.status = said if _WORD.fullmatch(said) else ""
        self._info: dict[str, Any] = {}
        self._violations: list[tuple[str, str]] = []
        for detail in objects(error.get("details")):
            if str(detail.get("@type", "")).endswith("ErrorInfo"):
                self._info = detail
            for one in objects(detail.get("fieldViolations")):
                self._violations.append((str(one.get("field", "")), word(one.get("reason"))))
        reasons = [reason for _, reason in self._violations] + [word(self._info.get("reason"))]
        self.reasons = [reason for reason in reasons if reason]
        # The most telling comes first: a violation's own reason says more than INVALID_ARGUMENT.
        self.code = self.reasons[0] if self.reasons else self.status or str(reply.status)

    def fault(self) -> Fault:
        status, http = self.status, self._reply.status
        if http == 429 or status == "RESOURCE_EXHAUSTED":
            return self._throttled()
        if status == "ABORTED":
            return Fault(TransientError(self._text("aborted by another change"), code=self.code), retry=True)
        if http >= 500 or status in _PASSING:
            return Fault(UnknownError(self._text("server error"), code=self.code), retry=True)
        if http == 401 or status == "UNAUTHENTICATED":
            return Fault(AuthError(self._text("the login was refused"), code=self.code, hint=_CONNECT), renew=True)
        if self._is_gone():
            hint = "it was deleted, or this login cannot see it"
            return Fault(GoneError(self._text("the list is gone"), code=self.code, hint=hint))
        if self._is_lists() and (http == 404 or status == "NOT_FOUND"):
            hint = f"check customer_id and login_customer_id; {_NO_ACCESS}"
            return Fault(AuthError(self._text("the account cannot be seen"), code=self.code, hint=hint))
        return Fault(self._final())

    def _throttled(self) -> Fault:
        metadata = self._info.get("metadata")
        limit = str(metadata.get("quota_limit", "")) if isinstance(metadata, dict) else ""
        if "PerDay" in limit:
            hint = "the Cloud project has used up its requests of today: run again tomorrow, or ask for more"
            return Fault(TransientError(self._text("the day's requests are used up"), code=self.code, hint=hint))
        a_minute = "PerMinute" in limit and "retry-after" not in self._reply.headers
        wait_s = _MINUTE_S if a_minute else None
        return Fault(TransientError(self._text("throttled"), code=self.code), retry=True, wait_s=wait_s)

    def _is_gone(self) -> bool:
        """Whether the list of the call is not there; a refusal of the account's own path says nothing of a list."""
        if self._call.path.startswith(MEMBERS):
            missing = (field for field, reason in self._violations if "NOT_FOUND" in (reason, self.status))
            return bool(_GONE.intersection(self.reasons)) or any("destinations" in field for field in missing)
        if LISTS + "/" not in self._call.path:
            return False
        return self._reply.status == 404 or self.status == "NOT_FOUND" or bool(_GONE.intersection(self.reasons))

    def _is_lists(self) -> bool:
        return LISTS in self._call.path

    def _final(self) -> DestinationError:
        hint = next((_HINTS[reason] for reason in (*self.reasons, self.status) if reason in _HINTS), None)
        if self._reply.status == 403 or self.status == "PERMISSION_DENIED" or hint == _ACCEPT_TERMS:
            return AuthError(self._text("permission refused"), code=self.code, hint=hint or _NO_ACCESS)
        rows = self._rows()
        if rows:
            return RowsRefusedError(self._text("members were refused"), code=self.code, rows=rows)
        return RefusedError(self._text("refused"), code=self.code, hint=hint)

    def _rows(self) -> dict[int, str]:
        """Place in the request -> reason; empty unless every violation blames the value of a member that it names."""
        if not self._call.path.startswith(MEMBERS):
            return {}
        rows: dict[int, str] = {}
        for field, reason in self._violations:
            place = _PLACE.search(field)
            if reason not in _OF_VALUES or place is None or field.startswith("destinations"):
                return {}
            rows.setdefault(int(place[1]), reason)
        return rows

    def _text(self, what: str) -> str:
        """What happened, with Google's id of the request, which its support asks for."""
        metadata = self._info.get("metadata")
        given = str(metadata.get("requestId", "")) if isinstance(metadata, dict) else ""
        return f"google_ads: {what}" + (f" (request {given})" if _REQUEST_ID.fullmatch(given) else "")


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Those of a list; nothing of what is none."""
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            yield one


def word(value: Any) -> str:
    """A constant of Google's; empty for anything else, which could hold a value."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""
