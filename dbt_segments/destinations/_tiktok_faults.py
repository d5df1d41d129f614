"""What TikTok's answers mean. The HTTP status is 200 for errors too: only `code` counts.

Source: TikTok API for Business v1.3, "Return codes" and "Rate limits", read 2026-11. There are no rate-limit headers:
only the message of a throttled call names the window (QPS, QPM or QPD), so these three words are looked for in it, and
`processing` in that of 40002. No message is kept or shown.
"""

from __future__ import annotations

from dbt_segments.destinations.base import Call, Fault, Reply
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError

MAPPING, SEGMENT = "/segment/mapping/", "/segment/audience/"
OK, PARTIAL, DUPLICATE = 0, 20001, 40050
# Answers to a batch of members that say it was taken; of no other call.
_TAKEN = (PARTIAL, DUPLICATE)
_APP_LIMIT, _ADVERTISER_LIMIT = (40100, 40016), 40133
_QPM_S, _SLOWER_S = 300.0, 10.0
_BUSY = (40202, 40201)
_SERVICE = (50000, 50002, 60001, 61000)
_TOKEN = {
    40102: "the access token has expired",
    40104: "the access token is empty",
    40105: "the access token is wrong",
    40106: "the access token is another user's",
    40107: "the access token cannot be refreshed",
}
_PERMISSION = {
    40001: "give the app the scope Audience Management (30 and 31), and its user access to the advertiser",
    40118: "ask TikTok to allow the app the Streaming API",
    40119: "the advertiser belongs to another company",
    40125: "the advertiser belongs to another company",
}
_GONE = 40007
_NOT_HASHED = 40062
_TOO_MANY = (40011, 40061)
_PARAMETER = (40002, 40000)
_VERSION = (40006, 40051, 41001)


def code_of(reply: Reply) -> int | None:
    """The answer's own code; None where it has none."""
    code = reply.json.get("code") if isinstance(reply.json, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def classify(call: Call, reply: Reply) -> Fault | None:
    """The fault of a reply; None for a success, and for what a batch of members makes of 20001 and 40050."""
    code = code_of(reply)
    if code is None:
        return _of_status(reply.status)
    if code == OK or (code in _TAKEN and call.path == MAPPING):
        if 200 <= reply.status < 300:
            return None
        return _of_status(reply.status)
    said = str(reply.json.get("message") or "")
    return _passing(reply.status, code, said) or Fault(_final(call, code))


def _of_status(status: int) -> Fault:
    """An answer without TikTok's envelope, as from a proxy in between."""
    code = str(status)
    if status == 429:
        return Fault(TransientError("tiktok: throttled", code=code), retry=True)
    if 200 <= status < 300:
        return Fault(UnknownError("tiktok: a success without a readable answer", code=code), retry=True)
    if status >= 500:
        return Fault(UnknownError(f"tiktok: server error {status}", code=code), retry=True)
    if status in (401, 403):
        return Fault(AuthError(f"tiktok: refused with {status}", code=code, hint=_PERMISSION[40001]))
    return Fault(RefusedError(f"tiktok: refused with {status}", code=code, hint="is `base_url` right?"))


def _passing(status: int, code: int, said: str) -> Fault | None:
    """Faults that may pass by themselves; None for all others."""
    text = str(code)
    if code in _APP_LIMIT:
        return _throttled(text, said)
    if code == _ADVERTISER_LIMIT or status == 429:
        return Fault(TransientError("tiktok: throttled", code=text), retry=True, wait_s=_SLOWER_S)
    if code in _BUSY:
        return Fault(TransientError("tiktok: another write is not done yet", code=text), retry=True)
    if code == 40002 and "processing" in said.lower():
        return Fault(TransientError("tiktok: the audience is still processing", code=text, hint="run again in an hour"))
    if code in _SERVICE or code // 1000 in (51, 52) or status >= 500:
        return Fault(UnknownError("tiktok: temporary error", code=text), retry=True)
    if code in (PARTIAL, DUPLICATE):
        return Fault(UnknownError("tiktok: the answer does not say what was done", code=text))
    return None


def _throttled(code: str, said: str) -> Fault:
    """Per second: the ordinary back-off; per minute: five of them; per day: not in this run."""
    if "QPD" in said:
        hint = "the day's allowance is used up: run again after 00:00 UTC"
        return Fault(TransientError("tiktok: throttled for today", code=code, hint=hint))
    return Fault(TransientError("tiktok: throttled", code=code), retry=True, wait_s=_QPM_S if "QPM" in said else None)


def _final(call: Call, code: int) -> DestinationError:
    text, on_members = str(code), call.path == MAPPING
    if code in _TOKEN:
        return AuthError(f"tiktok: {_TOKEN[code]}", code=text, hint="authorise the app again for this advertiser")
    if code in _PERMISSION:
        return AuthError("tiktok: permission refused", code=text, hint=_PERMISSION[code])
    if code == _GONE:
        return GoneError("tiktok: the audience does not exist", code=text)
    if code == _NOT_HASHED:
        # No member is refused for it: whatever is wrong here is wrong for all of them.
        return DestinationError("tiktok: says that identifiers are not hashed; nothing more is sent", code=text)
    if code in _TOO_MANY:
        return RefusedError("tiktok: too many rows or ids in one request", code=text, divisible=on_members)
    if code in _PARAMETER and call.path == SEGMENT and not call.safe:
        # A creation, which alone is not repeated. No code of its own is documented for a full advertiser.
        hint = "an advertiser holds at most 400 audiences: delete some that nobody uses; or is the name wrong?"
        return RefusedError("tiktok: the audience was not made", code=text, hint=hint)
    if code in _PARAMETER:
        return RefusedError("tiktok: a parameter is wrong, or the audience is empty", code=text, divisible=on_members)
    if code in _VERSION:
        hint = "set `api_version` to one that TikTok still serves, or upgrade"
        return RefusedError("tiktok: this version or endpoint has ended", code=text, hint=hint)
    return RefusedError("tiktok: refused", code=text)
