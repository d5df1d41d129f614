"""The X Ads API, custom audiences, as a sandbox.

Source: contract of the X Ads API (v12; v11 is served too, which the official SDK speaks). Assumptions, where no source
says: the words of the refusal of a name that is taken; that `operation_errors` is a list of lists.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, ClassVar

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec, Key
from dbt_segments.sandbox.platform import Answer, Audience, Platform, Refusal, Request
from dbt_segments.sandbox.x_signature import Nonces, is_signed

VERSIONS = ("11", "12")
ACCOUNT = "18ce54d4x5t"
CODEC = Codec(
    {
        "email": True,
        "phone_number": True,
        "device_id": True,
        "handle": True,
        "twitter_id": True,
        "partner_user_id": False,
    }
)
MAX_OPERATIONS = 2_500
MAX_BYTES = 5_000_000
_PATH = re.compile(
    r"/(?P<version>\d+)/accounts/(?P<account>[0-9a-z]+)"
    r"(?P<rest>/authenticated_user_access|/custom_audiences(?:/(?P<audience>[0-9a-z]+)(?P<users>/users)?)?)?"
)
_FIRST = re.compile(rb'\s*\[\s*\{\s*"operation_type"\s*:\s*"(Update|Delete)"')
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_LIST = {"q", "count", "cursor", "with_deleted", "custom_audience_ids", "permission_scope", "sort_by"}
# op -> the query that it takes.
_QUERIES: Mapping[str, set[str]] = {
    "find": _LIST,
    "get": {"with_deleted"},
    "create": {"name", "description"},
    "update": {"name", "description"},
}
# What counts together: requests in a window of seconds.
_MEMBERS, _WRITES, _READS = ("members", 1_500, 60), ("writes", 450, 60), ("reads", 2_000, 900)
_ALLOWANCE = {
    **dict.fromkeys(("add", "remove"), _MEMBERS),
    **dict.fromkeys(("create", "update", "delete"), _WRITES),
    **dict.fromkeys(("find", "get", "account", "access"), _READS),
}
_RETENTION_DAYS = 393  # 13 months, where they are shortest
_LARGE_ENOUGH = 100
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class X(Platform):
    """The ad account 18ce54d4x5t, and any other: all of them may be used. Policies:

    allow_listed  the app may upload members
    role          of the authorising user
    quotas        {members, writes, reads: requests a window} in place of the documented ones
    largest_page  audiences a page of a listing holds at most
    batch_s       seconds after an upload until its audience has a size
    """

    name = "x"
    codec = CODEC
    defaults: ClassVar[Mapping[str, Any]] = {
        "allow_listed": True,
        "role": "AD_MANAGER",
        "largest_page": 1_000,
        "batch_s": 0,
    }

    def reset(self) -> None:
        super().reset()
        self.policy["quotas"] = {}
        self._nonces = Nonces()
        self._used: dict[tuple[str, int], int] = {}

    def classify(self, request: Request) -> str:
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        method = request.method
        if place["users"]:
            first = _FIRST.match(request.body)
            word = {b"Update": "add", b"Delete": "remove"}[first[1]] if first else "add"
            return word if method == "POST" else ""
        if place["audience"]:
            return {"GET": "get", "PUT": "update", "DELETE": "delete"}.get(method, "")
        if place["rest"] == "/custom_audiences":
            return {"GET": "find", "POST": "create"}.get(method, "")
        return ("access" if place["rest"] else "account") if method == "GET" else ""

    def answer(self, request: Request) -> Answer:
        headers = {"x-current-api-version": VERSIONS[-1]}
        try:
            place = _PATH.fullmatch(request.path)
            if place is None or place["version"] not in VERSIONS or not request.op:
                raise _refuse(404, "ROUTE_NOT_FOUND", "The requested resource could not be found")
            if not is_signed(request, self._nonces):
                raise _refuse(401, "UNAUTHORIZED_ACCESS", "This request is not properly authenticated")
            headers |= self._count(request.op)
            self._check_query(request)
            answer = self._route(request, place)
        except Refusal as refusal:
            answer = refusal.answer
        return Answer(answer.status, answer.body, {**headers, **answer.headers}, answer.note)

    def fail(self, fault: Fault, request: Request) -> Answer:
        if fault.kind == "throttle":
            asked = fault.get("retry_after", None)
            return _throttled(int(asked) if asked is not None else 60 * int(fault.get("minutes", 1)))
        known = {
            "expired_token": (401, "UNAUTHORIZED_ACCESS"),
            "gone": (404, "NOT_FOUND"),
            "too_small": (400, "INVALID_PARAMETER"),
        }
        status, code = known.get(fault.kind, (int(fault.get("status", 500)), str(fault.get("code", "INTERNAL_ERROR"))))
        answer = _refuse(status, code, str(fault.get("message", "injected"))).answer
        if fault.get("retry_after", None) is not None:
            answer.headers["retry-after"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        return _limits(1_500, 1_500 * (100 - percent) // 100, 60)

    # -- who may ask ------------------------------------------------------------------------------------------

    def _count(self, op: str) -> dict[str, str]:
        name, documented, window = _ALLOWANCE[op]
        quota = int(self.policy["quotas"].get(name, documented))
        now = self.clock.now()
        place = (name, int(now // window))
        seconds = window - int(now % window)
        if self._used.get(place, 0) >= quota:
            raise Refusal(_throttled(seconds))
        self._used[place] = self._used.get(place, 0) + 1
        return _limits(quota, quota - self._used[place], seconds)

    def _check_query(self, request: Request) -> None:
        unknown = sorted(request.query.keys() - _QUERIES.get(request.op, set()))
        if unknown:
            raise _refuse(400, "INVALID_PARAMETER", "unknown parameter", parameter=unknown[0])
        if request.op not in ("add", "remove") and request.body:
            raise _refuse(400, "INVALID_PARAMETER", "parameters belong into the query")

    # -- operations -------------------------------------------------------------------------------------------

    def _route(self, request: Request, place: re.Match[str]) -> Answer:
        account = place["account"]
        if request.op == "account":
            return _success(account, {"id": account, "name": "Sandbox", "deleted": False})
        if request.op == "access":
            return _success(account, {"user_id": "2417045708", "permissions": [self.policy["role"]]})
        if request.op in ("find", "create"):
            return (self._find if request.op == "find" else self._create)(request, account)
        audience = self.audiences.get(place["audience"])
        shows_deleted = request.op == "get" and request.query.get("with_deleted") == "true"
        if audience is None or audience.account != account or (audience.deleted and not shows_deleted):
            raise _refuse(404, "NOT_FOUND", "the custom audience was not found")
        handlers: dict[str, Callable[[Request, Audience], Answer]] = {
            "get": self._show,
            "update": self._update,
            "delete": self._delete,
        }
        return handlers.get(request.op, self._change)(request, audience)

    def _create(self, request: Request, account: str) -> Answer:
        name = request.query.get("name", "")
        self._check_name(name, account)
        self.made += 1
        now = self.clock.now()
        audience = Audience(
            id=_base_36(1_500_000 + self.made),
            account=account,
            name=name,
            members=self.new_members(),
            created=now,
            description=request.query.get("description", ""),
            retention_days=_RETENTION_DAYS,
            traits={"changed": now},
        )
        self.audiences[audience.id] = audience
        return self._show(request, audience)

    def _check_name(self, name: str, account: str) -> None:
        """Names are 1 to 255 characters, and stay taken when their audience is deleted."""
        if not 1 <= len(name) <= 255 or not name.strip():
            raise _refuse(400, "INVALID_PARAMETER", "1 to 255 characters", parameter="name")
        if any(one.name == name and one.account == account for one in self.audiences.values()):
            raise _refuse(400, "INVALID_PARAMETER", "An entity with this name already exists", parameter="name")

    def _find(self, request: Request, account: str) -> Answer:
        query = request.query
        count = query.get("count", "200")
        if not count.isdigit() or not 1 <= int(count) <= 1_000:
            raise _refuse(400, "INVALID_PARAMETER", "1 to 1000", parameter="count")
        size = min(int(count), int(self.policy["largest_page"]))
        start = int(query.get("cursor", "0"), 36)
        ids = query["custom_audience_ids"].split(",") if "custom_audience_ids" in query else None
        found = [
            one
            for one in self.audiences.values()
            if one.account == account
            and (not one.deleted or query.get("with_deleted") == "true")
            and one.name.lower().startswith(query.get("q", "").lower())
            and (ids is None or one.id in ids)
        ]
        following = _base_36(start + size) if len(found) > start + size else None
        page = [self._facts(one) for one in found[start : start + size]]
        answer = _success(account, page)
        answer.body["next_cursor"] = following
        return answer

    def _show(self, request: Request, audience: Audience) -> Answer:
        return _success(audience.account, self._facts(audience), {"audience": audience.id})

    def _update(self, request: Request, audience: Audience) -> Answer:
        name = request.query.get("name", audience.name)
        if name != audience.name:
            self._check_name(name, audience.account)
        audience.name = name
        audience.description = request.query.get("description", audience.description)
        return self._show(request, audience)

    def _delete(self, request: Request, audience: Audience) -> Answer:
        audience.deleted = True
        return self._show(request, audience)

    def _change(self, request: Request, audience: Audience) -> Answer:
        """Every operation of the request, or none of them."""
        if not self.policy["allow_listed"]:
            raise _refuse(403, "UNAUTHORIZED_CLIENT_APPLICATION", "the app is not allow-listed")
        operations = self._operations(request)
        self.expire()
        skip, total = request.skip, 0
        for word, users in operations:
            change = audience.members.add if word == "Update" else audience.members.remove
            total += len(users)
            for keys in users[skip:]:
                change(keys, self.clock.today())
            skip = max(0, skip - len(users))
        audience.traits["changed"] = self.clock.now()
        counts = {"success_count": total - request.skip, "total_count": total}
        return _success(audience.account, counts, {"rows": total, "audience": audience.id})

    def _operations(self, request: Request) -> list[tuple[str, list[list[Key]]]]:
        """Each operation with its users' keys; raises a Refusal for anything malformed."""
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            raise _refuse(400, "INVALID_PARAMETER", "the body is no JSON")
        if len(request.body) > MAX_BYTES:
            raise _refuse(400, "REQUEST_TOO_COMPLEX", "the body is too large")
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if not isinstance(body, list) or not 1 <= len(body) <= MAX_OPERATIONS:
            raise _refuse(400, "INVALID_PARAMETER", f"an array of 1 to {MAX_OPERATIONS} operations")
        return [self._operation(one, number) for number, one in enumerate(body)]

    def _operation(self, operation: Any, number: int) -> tuple[str, list[list[Key]]]:
        def wrong(message: str) -> Refusal:
            self.violation(message)
            refusal = _refuse(400, "INVALID_PARAMETER", message)
            errors: list[list[dict[str, str]]] = [[] for _ in range(number)]
            refusal.answer.body["operation_errors"] = [*errors, [{"code": "INVALID_PARAMETER", "message": message}]]
            return refusal

        if not isinstance(operation, dict) or operation.keys() != {"operation_type", "params"}:
            raise wrong("an operation is an operation_type and params")
        word, params = operation["operation_type"], operation["params"]
        if word not in ("Update", "Delete"):
            raise wrong("operation_type is Update or Delete")
        allowed = {"users", "effective_at", "expires_at"}
        if not isinstance(params, dict) or "users" not in params or not params.keys() <= allowed:
            raise wrong("params holds users, effective_at and expires_at")
        if not _is_span(params.get("effective_at"), params.get("expires_at")):
            raise wrong("expires_at comes after effective_at, both in UTC with Z")
        users = params["users"]
        if not isinstance(users, list) or not users:
            raise wrong("users is a list")
        read = [_keys(user) for user in users]
        if not all(read):
            raise wrong("a user is an object of lists, of lower-case digests where they are hashed")
        return word, read

    def _facts(self, audience: Audience) -> dict[str, Any]:
        people = audience.members.count
        waiting = self.clock.now() < audience.traits["changed"] + float(self.policy["batch_s"])
        reasons = ["PROCESSING"] * waiting + ["TOO_SMALL"] * (people < _LARGE_ENOUGH)
        stamp = datetime.fromtimestamp(audience.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "id": audience.id,
            "name": audience.name,
            "description": audience.description or None,
            "audience_type": "CRM",
            "targetable": not reasons,
            "targetable_types": ["CRM", "EXCLUDED_CRM"],
            "reasons_not_targetable": reasons,
            "audience_size": None if waiting else people,
            "permission_level": "READ_WRITE",
            "owner_account_id": audience.account,
            "partner_source": "OTHER",
            "created_at": stamp,
            "updated_at": stamp,
            "deleted": audience.deleted,
        }


def _keys(user: Any) -> list[Key]:
    """The match keys of one user; empty where it is malformed."""
    if not isinstance(user, dict) or not user.keys() <= CODEC.codes.keys():
        return []
    keys = []
    for field, values in user.items():
        prefix, hashed = CODEC.encoder(field)
        if not isinstance(values, list) or not values:
            return []
        for value in values:
            good = _DIGEST(value) if hashed and isinstance(value, str) else isinstance(value, str) and value.strip()
            if not good:
                return []
            keys.append(prefix + (bytes.fromhex(value) if hashed else value.encode()))
    return keys


def _is_span(start: Any, end: Any) -> bool:
    """Whether both are instants in UTC, or absent, and the second comes after the first."""
    try:
        times = [datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ") for text in (start, end) if text is not None]
    except (TypeError, ValueError):
        return False
    return len(times) < 2 or times[0] < times[1]


def _base_36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"


def _success(account: str, data: Any, note: dict[str, Any] | None = None) -> Answer:
    return Answer(200, {"data": data, "request": {"params": {"account_id": account}}}, note=note or {})


def _refuse(status: int, code: str, message: str, parameter: str = "") -> Refusal:
    error = {"code": code, "message": message} | ({"parameter": parameter} if parameter else {})
    return Refusal(Answer(status, {"errors": [error], "request": {"params": {}}}, note={"code": code}))


def _limits(quota: int, left: int, seconds: int) -> dict[str, str]:
    """The reset is in the caller's time, as the `date` of the answer is."""
    reset = str(int(time.time()) + seconds)
    own = {"limit": str(quota), "remaining": str(left), "reset": reset}
    user = {"limit": "10000", "remaining": "9999", "reset": reset}
    found = {f"x-account-rate-limit-{name}": value for name, value in own.items()}
    return found | {f"x-rate-limit-{name}": value for name, value in user.items()}


def _throttled(seconds: int) -> Answer:
    answer = _refuse(429, "TOO_MANY_REQUESTS", "too many requests").answer
    answer.headers |= _limits(1_500, 0, seconds)
    return answer


PLATFORM = X
