"""User lists as the Data Manager API takes and shows them.

Source: Google, Data Manager API v1, REST reference of `userLists`, read 2026-11. Assumption: counts are exact; the
platform rounds them, and hides those of small lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dbt_segments.sandbox.google_ads_errors import invalid, unknown
from dbt_segments.sandbox.platform import Audience

LONGEST_DAYS = 540
SMALLEST = 100
_INFO = {"CONTACT_ID": "contactIdInfo", "MOBILE_ID": "mobileIdInfo", "USER_ID": "userIdInfo"}
_FILTER = re.compile(r'display_name\s*=\s*("(?:[^"\\]|\\.)*")')


def traits_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a new list is, checked. Raises a Refusal for anything that the platform does not take."""
    for field in body:
        if field not in ("displayName", "description", "membershipDuration", "ingestedUserListInfo"):
            raise unknown(f"user_list.{field}")
    name_of(body)
    info = body.get("ingestedUserListInfo")
    if not isinstance(info, dict):
        raise invalid("user_list.ingested_user_list_info", "REQUIRED_FIELD_MISSING")
    kinds = info.get("uploadKeyTypes")
    if not isinstance(kinds, list) or len(kinds) != 1 or kinds[0] not in _INFO:
        raise invalid("user_list.ingested_user_list_info.upload_key_types", "REQUIRED_FIELD_MISSING")
    if set(info) != {"uploadKeyTypes", _INFO[kinds[0]]}:
        raise invalid("user_list.ingested_user_list_info", "UNSUPPORTED_INGESTED_USER_LIST_INFO_CONFIG")
    detail = info[_INFO[kinds[0]]]
    wanted = {"dataSourceType", "appId", "keySpace"} if kinds[0] == "MOBILE_ID" else {"dataSourceType"}
    if not isinstance(detail, dict) or set(detail) != wanted:
        raise invalid("user_list.ingested_user_list_info", "REQUIRED_FIELD_MISSING")
    if detail["dataSourceType"] != "DATA_SOURCE_TYPE_FIRST_PARTY":
        raise invalid("user_list.ingested_user_list_info", "INVALID_ENUM_VALUE")
    if detail.get("keySpace", "IOS") not in ("IOS", "ANDROID"):
        raise invalid("user_list.ingested_user_list_info", "INVALID_ENUM_VALUE")
    return {"kind": kinds[0], "info": {_INFO[kinds[0]]: detail}}


def name_of(body: Mapping[str, Any]) -> str:
    name = body.get("displayName")
    if not isinstance(name, str) or not name.strip():
        raise invalid("user_list.display_name", "INVALID_DISPLAY_NAME")
    return name


def days_of(duration: Any) -> int:
    """A Duration in whole days; of nothing the longest there is."""
    if duration is None:
        return LONGEST_DAYS
    found = re.fullmatch("([0-9]+)s", str(duration))
    if found is None or int(found[1]) % 86_400:
        raise invalid("user_list.membership_duration", "INVALID_FORMAT")
    if int(found[1]) > LONGEST_DAYS * 86_400:
        raise invalid("user_list.membership_duration", "MEMBERSHIP_DURATION_TOO_LONG")
    return int(found[1]) // 86_400


def facts(audience: Audience, match_rate: int | None) -> dict[str, Any]:
    """One list as it is shown; what is empty or false is left out, as messages are written in JSON."""
    people = audience.members.count
    shown = str(people if people >= SMALLEST else 0)
    info = json.loads(json.dumps(audience.traits["info"]))
    if audience.traits["kind"] == "CONTACT_ID" and people and match_rate:
        info["contactIdInfo"]["matchRatePercentage"] = match_rate
    found = {
        "name": f"accountTypes/GOOGLE_ADS/accounts/{audience.account}/userLists/{audience.id}",
        "id": audience.id,
        "readOnly": audience.traits.get("read_only", False),
        "displayName": audience.name,
        "description": audience.description,
        "membershipStatus": "OPEN",
        "membershipDuration": f"{(audience.retention_days or LONGEST_DAYS) * 86_400}s",
        "sizeInfo": {"displayNetworkMembersCount": shown, "searchNetworkMembersCount": shown},
        "accessReason": "OWNED",
        "ingestedUserListInfo": {"uploadKeyTypes": [audience.traits["kind"]], **info},
    }
    return {name: value for name, value in found.items() if value not in (False, "")}


def named(text: str) -> str:
    """The name that a filter asks for; no other filter is done here."""
    found = _FILTER.fullmatch(text.strip())
    if found is None:
        raise invalid("filter", "INVALID_FILTER")
    return str(json.loads(found[1]))
