"""Custom audiences as the Marketing API shows and filters them.

Source: contract of the Meta Marketing API, sections 2, 4 and 6. Assumption: the size bounds are the hundreds around
the number of people; the platform's own rounding is not documented.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from dbt_segments.sandbox import meta_errors as errors
from dbt_segments.sandbox.platform import Audience, Request


def audience_facts(audience: Audience, replacing: bool) -> dict[str, Any]:
    """Every field that a query may ask for."""
    people = audience.members.count
    status = {"code": 414, "description": "Replacing"} if replacing else {"code": 200, "description": "Normal"}
    ready = {"code": 200, "description": "Ready"} if people >= 100 else {"code": 300, "description": "Too small"}
    return {
        "id": audience.id,
        "account_id": audience.account,
        "name": audience.name,
        "description": audience.description,
        "operation_status": status,
        "delivery_status": ready,
        "approximate_count_lower_bound": people // 100 * 100 if people else -1,
        "approximate_count_upper_bound": people // 100 * 100 + 100 if people else -1,
        "time_created": int(audience.created),
        "time_updated": int(audience.created),
        "time_content_updated": int(audience.created),
        "retention_days": audience.retention_days or 0,
        **audience.traits,
    }


def pick(facts: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """The id and the fields that the query asks for."""
    wanted = [name for name in request.query.get("fields", "").split(",") if name]
    unknown = sorted(set(wanted) - facts.keys())
    if unknown:
        raise errors.invalid(f"fields: tried accessing nonexisting field ({unknown[0]})")
    return {name: facts[name] for name in ("id", *wanted)}


def filters(text: str) -> list[Callable[[Audience], bool]]:
    """Filters by name: EQUAL, CONTAIN."""
    tests: list[Callable[[Audience], bool]] = []
    for one in json.loads(text):
        field, operator, value = (str(one.get(part)) for part in ("field", "operator", "value"))
        if field != "name" or operator not in ("EQUAL", "CONTAIN"):
            raise errors.invalid("filtering: not supported")
        tests.append(_named(value, exact=operator == "EQUAL"))
    return tests


def _named(value: str, *, exact: bool) -> Callable[[Audience], bool]:
    return lambda audience: audience.name == value if exact else value in audience.name
