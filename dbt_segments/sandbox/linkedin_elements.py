"""One element of a LinkedIn member batch, read strictly.

Source: LinkedIn Marketing API 202608, "Create and manage segment users", "Create and manage segment
companies". Stricter than the platform where a careful sender loses nothing: hashes in lower case, no empty or absent
value spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dbt_segments.sandbox.people import Codec, Key

ACTIONS = ("ADD", "REMOVE")
# What finds somebody; NAME is first and last name together.
CODEC = Codec(
    {
        "SHA256_EMAIL": True,
        "SHA512_EMAIL": False,
        "GOOGLE_AID": False,
        "NAME": False,
        "companyName": False,
        "companyWebsiteDomain": False,
        "companyEmailDomain": False,
        "organizationUrn": False,
        "companyPageUrl": False,
    }
)
_ZERO = "00000000-0000-0000-0000-000000000000"
_IDS: Mapping[str, Callable[[str], object]] = {
    "SHA256_EMAIL": re.compile("[0-9a-f]{64}").fullmatch,
    "SHA512_EMAIL": re.compile("[0-9a-f]{128}").fullmatch,
    "GOOGLE_AID": re.compile(f"(?!{_ZERO})[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}").fullmatch,
}
_LABEL = r"[\w-]+"
_DOMAIN = re.compile(rf"(?!www\.)(?=[^A-Z]+$){_LABEL}(\.{_LABEL})+").fullmatch
_COUNTRY = re.compile("[A-Z]{2}").fullmatch


def _most(length: int) -> Callable[[str], object]:
    return lambda text: len(text) <= length and text == text.strip()


_USER: Mapping[str, Callable[[str], object]] = {
    "firstName": _most(35),
    "lastName": _most(35),
    "title": _most(50),
    "company": _most(50),
    "country": _COUNTRY,
}
_COMPANY: Mapping[str, Callable[[str], object]] = {
    "companyName": _most(200),
    "companyWebsiteDomain": _DOMAIN,
    "companyEmailDomain": _DOMAIN,
    "organizationUrn": re.compile(r"urn:li:organization:\d+").fullmatch,
    "companyPageUrl": _most(100),
    "stockSymbol": _most(5),
    "city": _most(50),
    "state": _most(50),
    "country": _COUNTRY,
    "postalCode": _most(20),
}
_FINDS_COMPANIES = ("companyName", "companyWebsiteDomain", "companyEmailDomain", "organizationUrn", "companyPageUrl")


class ElementError(ValueError):
    """Why an element is refused, without its values."""


def read_element(element: Any, kind: str) -> tuple[str, list[Key]]:
    """The action and the match keys of an element of a USER or COMPANY segment. Raises ElementError."""
    if not isinstance(element, dict):
        raise ElementError("an element is no object")
    action = element.get("action")
    if action not in ACTIONS:
        raise ElementError("action: ADD or REMOVE")
    rest = {name: value for name, value in element.items() if name != "action"}
    return action, _company(rest) if kind == "COMPANY" else _user(rest)


def _user(fields: dict[str, Any]) -> list[Key]:
    keys = _ids(fields.pop("userIds")) if "userIds" in fields else []
    _check(fields, _USER)
    if "firstName" in fields and "lastName" in fields:
        keys.append(CODEC.encode("NAME", f"{fields['firstName']} {fields['lastName']}"))
    if not keys:
        raise ElementError("an element without an id and without both names")
    return keys


def _ids(ids: Any) -> list[Key]:
    if not isinstance(ids, list) or not ids:
        raise ElementError("userIds: a list of ids")
    keys = []
    for one in ids:
        if not isinstance(one, dict) or set(one) != {"idType", "idValue"} or one["idType"] not in _IDS:
            raise ElementError("userIds: a known idType and an idValue, nothing else")
        _check({one["idType"]: one["idValue"]}, _IDS)
        keys.append(CODEC.encode(one["idType"], one["idValue"]))
    if len({one["idType"] for one in ids}) < len(ids):
        raise ElementError("userIds: one id of each type")
    return keys


def _company(fields: dict[str, Any]) -> list[Key]:
    industries = fields.pop("industries", [])
    if not isinstance(industries, list) or len(industries) > 3:
        raise ElementError("industries: up to three")
    _check(fields, _COMPANY)
    keys = [CODEC.encode(name, fields[name]) for name in _FINDS_COMPANIES if name in fields]
    if not keys:
        raise ElementError("an element without anything that finds a company")
    return keys


def _check(fields: Mapping[str, Any], shapes: Mapping[str, Callable[[str], object]]) -> None:
    for name, value in fields.items():
        if name not in shapes:
            raise ElementError("an unknown field")
        if not isinstance(value, str) or not value or not shapes[name](value):
            raise ElementError(f"{name}: malformed")
