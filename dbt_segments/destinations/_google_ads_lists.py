"""User lists as the Data Manager API shows and takes them.

Source: Google, Data Manager API v1, REST reference of `userLists`, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbt_segments.destinations._marks import PREFIX, mark_of, with_mark
from dbt_segments.destinations.base import Audience, Reply, Size
from dbt_segments.errors import RefusedError, UnknownError

LONGEST_S = 540 * 86_400  # also what a list gets that says nothing
_INFO = {"contact_id": "contactIdInfo", "mobile_id": "mobileIdInfo", "user_id": "userIdInfo"}
_COUNTS = ("displayNetworkMembersCount", "searchNetworkMembersCount")


def body(name: str, mark: str, kind: str, app_id: str | None, key_space: str | None) -> dict[str, Any]:
    """A list to be made: first-party data of one kind of key, kept for as long as Google allows."""
    info = {"dataSourceType": "DATA_SOURCE_TYPE_FIRST_PARTY"}
    if kind == "mobile_id":
        info |= {"appId": str(app_id), "keySpace": str(key_space).upper()}
    return {
        "displayName": name,
        "description": mark,
        "membershipDuration": f"{LONGEST_S}s",
        "ingestedUserListInfo": {"uploadKeyTypes": [kind.upper()], _INFO[kind]: info},
    }


def page(reply: Reply) -> list[Mapping[str, Any]]:
    """The lists of one page; of an account without any, an object without the key."""
    found = reply.json.get("userLists", [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UnknownError("google_ads: a listing without lists", code="userLists")
    return found


def audience(entry: Mapping[str, Any], account: str, mark: str = "") -> Audience:
    """One list; of several marks the one that was asked for."""
    found = entry.get("id")
    if whole(found) is None:
        raise UnknownError("google_ads: an answer without the list's id", code="id")
    own = mark_of(str(entry.get("description") or ""), mark)
    return Audience(str(found), str(entry.get("displayName") or ""), own, account)


def check_kind(entry: Mapping[str, Any], kind: str) -> None:
    """Raises RefusedError for a list that takes other keys, or that this login may only read."""
    info = entry.get("ingestedUserListInfo")
    kinds = info.get("uploadKeyTypes") if isinstance(info, dict) else None
    if kinds is not None and kind.upper() not in kinds:
        hint = "set `upload_key_type` of the connection to what it holds, or choose another list"
        raise RefusedError(f"google_ads: this list holds {', '.join(map(str, kinds))}", code="key_type", hint=hint)
    if kinds is None:
        raise RefusedError("google_ads: this list is none that members are uploaded to", code="list_type")
    if entry.get("readOnly") is True:
        hint = "choose a list that the account owns"
        raise RefusedError("google_ads: this list can only be read", code="read_only", hint=hint)


def taken_over(entry: Mapping[str, Any], mark: str) -> dict[str, str]:
    """What must change about a list that becomes ours: its description, and how long it remembers a member."""
    words, longest = str(entry.get("description") or ""), f"{LONGEST_S}s"
    change = {}
    if [word for word in words.split() if word.startswith(PREFIX)] != [mark]:
        change["description"] = with_mark(words, mark)
    # Members are asserted again in time for the longest duration only.
    if entry.get("membershipDuration") not in (None, longest):
        change["membershipDuration"] = longest
    return change


def size(entry: Mapping[str, Any]) -> Size:
    """Counts of recently active people per network; all are 0 until matching ends, and for lists that are too small."""
    sizes = entry.get("sizeInfo") if isinstance(entry.get("sizeInfo"), dict) else {}
    counts = [count for name in _COUNTS if (count := whole((sizes or {}).get(name))) is not None]
    info = entry.get("ingestedUserListInfo")
    contact = info.get("contactIdInfo") if isinstance(info, dict) else None
    percent = whole(contact.get("matchRatePercentage")) if isinstance(contact, dict) else None
    rate = percent / 100 if percent is not None and percent <= 100 else None
    if not any(counts):
        return Size(status="processing", match_rate=rate)
    return Size(min(counts), max(counts), str(entry.get("membershipStatus") or "").lower(), rate)


def whole(value: Any) -> int | None:
    """A number that Google writes as a number or, of 64 bits, as text; None for everything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None
