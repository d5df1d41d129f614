"""The Reddit Ads API v3, customer lists, as a sandbox: `/api/v3`, and the token endpoint `/api/v1/access_token`.

Source: contract of the Reddit Ads API v3. Stricter than the platform where a careful sender loses nothing: rows as wide
as `column_order`, lower-case digests, and a User-Agent of the documented shape are demanded.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec, Key
from dbt_segments.sandbox.platform import Answer, Audience, Platform, Refusal, Request

CLIENT, SECRET, REFRESH_TOKEN = "sandbox-client", "sandbox-secret", "sandbox-refresh"
CODEC = Codec({"EMAIL_SHA256": True, "MAID_SHA256": True})
MAX_ROWS = 2_500
TOKEN_LIFE_S = 3_600
_PATH = re.compile(
    r"/api/(?:(?P<token>v1/access_token)|v3/(?:ad_accounts/(?P<account>(?:t2|a2)_\w+)/custom_audiences"
    r"|custom_audiences/(?P<audience>[\w.-]+)(?P<users>/users)?))"
)
_AGENT = re.compile(r"[\w.-]+:[\w.-]+:\S+ \(by /u/[\w-]+\)")
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
# op -> policies that count it: name, quota, window in seconds.
_INGESTION = (("ads-custom-audience-ingestion", 3_000, 900), ("ads-custom-audience-ingestion-burst", 500, 60))
_TAXONOMY = (("ads-targeting-taxonomy", 100, 60),)
_POLICIES = {
    **dict.fromkeys(("create", "delete", "add", "remove", "change"), _INGESTION),
    **dict.fromkeys(("find", "get"), _TAXONOMY),
}
_READY_FROM = 1_000


class Reddit(Platform):
    """Any ad account, one application. Policies:

    quotas        {policy: requests a window} in place of the documented ones
    largest_page  audiences a page of a listing holds at most
    pending_s     seconds after an upload for which an audience is PENDING
    statuses      {audience id: the status that it has in place of what its people make of it}
    rotates       a refresh answers with another refresh token, and the one before ends
    """

    name = "reddit"
    codec = CODEC
    defaults: ClassVar[Mapping[str, Any]] = {"largest_page": 1_000, "pending_s": 0, "rotates": False}

    def reset(self) -> None:
        super().reset()
        self.policy |= {"quotas": {}, "statuses": {}}
        self.tokens: dict[str, float] = {}
        self.refresh_token = REFRESH_TOKEN
        self._used: dict[tuple[str, int], int] = {}

    def classify(self, request: Request) -> str:
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        if place["token"]:
            return "token" if request.method == "POST" else ""
        if place["account"]:
            return {"GET": "find", "POST": "create"}.get(request.method, "")
        if place["users"]:
            return _action(request).lower() or "change" if request.method == "PATCH" else ""
        return {"GET": "get", "DELETE": "delete"}.get(request.method, "")

    def answer(self, request: Request) -> Answer:
        headers: dict[str, str] = {}
        try:
            if request.op == "token":
                return self._token(request)
            self._admit(request)
            headers = self._count(request.op)
            answer = self._route(request)
        except Refusal as refusal:
            answer = refusal.answer
        return Answer(answer.status, answer.body, {**headers, **answer.headers}, answer.note)

    def fail(self, fault: Fault, request: Request) -> Answer:
        if fault.kind == "throttle":
            asked = fault.get("retry_after", None)
            seconds = asked if asked is not None else 60 * int(fault.get("minutes", 1))
            return _throttled("ads-custom-audience-ingestion", int(seconds))
        if fault.kind == "expired_token":
            self.tokens.clear()
            return _error(401, "Authorization Required", "UNAUTHORIZED")
        if fault.kind == "gone":
            return _error(404, "Not found", "NOT_FOUND")
        status = 400 if fault.kind == "too_small" else int(fault.get("status", 500))
        answer = _error(status, str(fault.get("message", "injected")), str(fault.get("code", "INJECTED")))
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        name, quota, window = _INGESTION[0]
        return {"RateLimit": f'"{name}";r={quota * (100 - percent) // 100};t={window}'}

    # -- who may ask ------------------------------------------------------------------------------------------

    def _token(self, request: Request) -> Answer:
        self._check_agent(request)
        pair = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {pair}":
            return Answer(401, {"message": "Unauthorized", "error": 401})
        try:
            fields = request.fields()
        except ValueError:
            fields = {}
        if fields.keys() != {"grant_type", "refresh_token"} or fields["grant_type"] != "refresh_token":
            return Answer(400, {"error": "unsupported_grant_type"})
        if fields["refresh_token"] != self.refresh_token:
            return Answer(400, {"error": "invalid_grant"})
        self.made += 1
        token = f"sandbox-token-{self.made}"
        self.tokens[token] = self.clock.now() + TOKEN_LIFE_S
        body = {"access_token": token, "token_type": "bearer", "expires_in": TOKEN_LIFE_S, "scope": "adsread adsedit"}
        if self.policy["rotates"]:
            self.refresh_token = f"{REFRESH_TOKEN}-{self.made}"
            body["refresh_token"] = self.refresh_token
        return Answer(200, body)

    def _check_agent(self, request: Request) -> None:
        if not _AGENT.fullmatch(request.headers.get("user-agent", "")):
            self.violation(f"{request.op}: a User-Agent that Reddit blocks")
            raise Refusal(_error(403, "Forbidden", "FORBIDDEN"))

    def _admit(self, request: Request) -> None:
        self._check_agent(request)
        if request.path.startswith("/api/v2"):
            raise Refusal(_error(410, "v2 has ended", "GONE"))
        if not request.op:
            raise Refusal(_error(404, "no such call", "NOT_FOUND"))
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self.tokens.get(token, 0) <= self.clock.now():
            raise Refusal(_error(401, "Authorization Required", "UNAUTHORIZED"))
        if request.query and request.op != "find":
            raise Refusal(_invalid("query", "nothing belongs into this query"))

    def _count(self, op: str) -> dict[str, str]:
        """Headers that say what is left of each allowance; raises a Refusal where one is used up."""
        left, quotas = [], []
        for name, documented, window in _POLICIES[op]:
            quota = int(self.policy["quotas"].get(name, documented))
            now = self.clock.now()
            used = self._used.get((name, int(now // window)), 0) + 1
            seconds = window - int(now % window)
            if used > quota:
                raise Refusal(_throttled(name, seconds))
            self._used[name, int(now // window)] = used
            left.append(f'"{name}";r={quota - used};t={seconds}')
            quotas.append(f'"{name}";q={quota};w={window}')
        return {"RateLimit": ", ".join(left), "RateLimit-Policy": ", ".join(quotas)}

    # -- operations -------------------------------------------------------------------------------------------

    def _route(self, request: Request) -> Answer:
        place = _PATH.fullmatch(request.path)
        assert place is not None
        if place["account"]:
            return (self._create if request.op == "create" else self._find)(request, place["account"])
        audience = self.audiences.get(place["audience"])
        if audience is None or audience.deleted:
            raise Refusal(_error(404, "Not found", "NOT_FOUND"))
        handlers: dict[str, Callable[[Request, Audience], Answer]] = {"get": self._get, "delete": self._delete}
        return handlers.get(request.op, self._change)(request, audience)

    def _create(self, request: Request, account: str) -> Answer:
        data = _body(request, {"name", "type"})
        name = data["name"]
        if not isinstance(name, str) or not name.strip():
            raise Refusal(_invalid("name", "is required"))
        if data["type"] != "CUSTOMER_LIST":
            raise Refusal(_invalid("type", "CUSTOMER_LIST is the only type that takes uploads"))
        self.made += 1
        audience_id = f"ca.{2548235726874894000 + self.made}"
        now = self.clock.now()
        audience = Audience(audience_id, account, name, self.new_members(), now, traits={"changed": now})
        self.audiences[audience_id] = audience
        return Answer(201, {"data": self._facts(audience)}, note={"audience": audience_id})

    def _find(self, request: Request, account: str) -> Answer:
        unknown = request.query.keys() - {"name", "page.size", "page.token"}
        wanted = request.query.get("name", "")
        if unknown or (wanted and wanted[0] not in "=@"):
            raise Refusal(_invalid("name", "a filter starts with = or @"))
        found = [one for one in self.audiences.values() if one.account == account and _is_named(one, wanted)]
        asked = [request.query.get(name, first) for name, first in (("page.size", "100"), ("page.token", "0"))]
        if not all(text.isascii() and text.isdigit() for text in asked) or int(asked[0]) < 1:
            raise Refusal(_invalid("page.size", "page.size is a number from 1, page.token that of a page before"))
        size, start = min(int(asked[0]), int(self.policy["largest_page"])), int(asked[1])
        following = None
        if len(found) > start + size:
            query = urlencode({**request.query, "page.token": str(start + size)})
            following = f"http://{request.headers.get('host', 'localhost')}/{self.name}{request.path}?{query}"
        page = [self._facts(one) for one in found[start : start + size]]
        return Answer(200, {"data": page, "pagination": {"next_url": following, "previous_url": None}})

    def _get(self, request: Request, audience: Audience) -> Answer:
        return Answer(200, {"data": self._facts(audience)}, note={"audience": audience.id})

    def _delete(self, request: Request, audience: Audience) -> Answer:
        audience.deleted = True
        return Answer(204, note={"audience": audience.id})

    def _change(self, request: Request, audience: Audience) -> Answer:
        """Add or remove people: all rows or none."""
        data = _body(request, {"action_type", "column_order", "user_data"})
        if request.op == "change":
            raise Refusal(_invalid("action_type", "ADD or REMOVE"))
        columns, rows = data["column_order"], data["user_data"]
        if not isinstance(columns, list) or not columns or not {*columns} <= {*CODEC.names}:
            raise Refusal(_invalid("column_order", "EMAIL_SHA256, MAID_SHA256 or both"))
        if len(set(columns)) < len(columns):
            raise Refusal(_invalid("column_order", "a column is there twice"))
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
            raise Refusal(_invalid("user_data", f"1 to {MAX_ROWS} rows"))
        read = [self._row(row, columns, request.op) for row in rows]
        change = audience.members.add if request.op == "add" else audience.members.remove
        for keys in read[request.skip :]:
            change(keys, self.clock.today())
        audience.traits["changed"] = self.clock.now()
        return Answer(204, note={"rows": len(rows), "audience": audience.id})

    def _row(self, row: Any, columns: list[str], op: str) -> list[Key]:
        """Reddit itself takes rows of any width, and their values land in wrong columns."""
        good = isinstance(row, list) and len(row) == len(columns)
        if not good or not all(isinstance(cell, str) and _DIGEST(cell) for cell in row):
            self.violation(f"{op}: a row of another width than column_order, or a cell that is no digest")
            raise Refusal(_invalid("user_data", "a malformed row"))
        return [CODEC.encode(*pair) for pair in zip(columns, row, strict=True)]

    def _facts(self, audience: Audience) -> dict[str, Any]:
        people = audience.members.count
        status = "VALID" if people >= _READY_FROM else "NOT_ENOUGH_MATCHES_ERROR"
        if self.clock.now() < audience.traits["changed"] + float(self.policy["pending_s"]):
            status = "PENDING"
        status = self.policy["statuses"].get(audience.id, status)
        shown = 0 if status == "PENDING" or not people else people // 100 * 100
        return {
            "id": audience.id,
            "ad_account_id": audience.account,
            "name": audience.name,
            "type": "CUSTOMER_LIST",
            "status": "DELETED" if audience.deleted else status,
            "size_range_lower": shown,
            "size_range_upper": shown + 100 if shown or (people and status != "PENDING") else 0,
        }


def _is_named(audience: Audience, wanted: str) -> bool:
    if not wanted:
        return True
    return audience.name == wanted[1:] if wanted[0] == "=" else wanted[1:] in audience.name


def _action(request: Request) -> str:
    try:
        data = request.fields().get("data")
    except ValueError:
        return ""
    action = data.get("action_type") if isinstance(data, dict) else None
    return action if action in ("ADD", "REMOVE") else ""


def _body(request: Request, names: set[str]) -> dict[str, Any]:
    """What is inside `data`, which holds exactly these names."""
    try:
        fields = request.fields()
    except ValueError:
        raise Refusal(_invalid("data", "the body is no JSON object")) from None
    data = fields.get("data")
    if fields.keys() != {"data"} or not isinstance(data, dict) or data.keys() != names:
        raise Refusal(_invalid("data", f"must hold {', '.join(sorted(names))}"))
    return data


def _error(status: int, message: str, reason: str, fields: list[dict[str, str]] | None = None) -> Answer:
    error: dict[str, Any] = {"code": status, "message": message, "reason": reason}
    return Answer(status, {"error": error | ({"fields": fields} if fields else {})})


def _invalid(field: str, message: str) -> Answer:
    return _error(400, "Invalid request", "BAD_REQUEST", [{"field": field, "message": message}])


def _throttled(policy: str, seconds: int) -> Answer:
    answer = _error(429, "Too many requests", "TOO_MANY_REQUESTS")
    answer.headers["RateLimit"] = f'"{policy}";r=0;t={seconds}'
    return answer


PLATFORM = Reddit
