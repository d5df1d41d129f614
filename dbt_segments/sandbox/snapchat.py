"""Snapchat's Marketing API v1, customer lists, as a sandbox.

Source: Snap's Marketing API v1, "Customer Lists", read 2026-11, and working clients. Stricter than the platform where a
careful sender loses nothing: unknown fields, several kinds of identifiers in one request and a DELETE of nobody are
refused, repeats in one batch are noted. Each kind is a list of its own: one identifier is a person unless seeded
persons say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec
from dbt_segments.sandbox.platform import Answer, Audience, Platform, Refusal, Request
from dbt_segments.sandbox.refresh import TokenDesk

MAX_ROWS = 100_000
MAX_AUDIENCES = 1_000
TARGETABLE_FROM = 1_000
_PATH = re.compile(r"/v1/(?:adaccounts/([0-9a-f-]{36})/segments|segments/(\d+)(/users)?)")
# (of an account, /users, method) -> op
_OPS = {
    (True, False, "GET"): "find",
    (True, False, "POST"): "create",
    (True, False, "PUT"): "update",
    (False, False, "GET"): "get",
    (False, False, "DELETE"): "delete",
    (False, True, "POST"): "add",
    (False, True, "DELETE"): "remove",
}
_FIELDS = frozenset(("name", "description", "source_type", "retention_in_days", "ad_account_id"))
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_REQUEST_ID = "57ae54d800ff0000"


class Snapchat(Platform):
    """One or many ad accounts.

    policy  reads_to_process: reads of a segment until what was uploaded is matched; longest_page: of a listing
    """

    name = "snapchat"
    codec = Codec({"EMAIL_SHA256": True, "PHONE_SHA256": True, "MOBILE_AD_ID_SHA256": True})
    defaults: ClassVar[Mapping[str, Any]] = {"reads_to_process": 2, "longest_page": 1_000}

    def reset(self) -> None:
        super().reset()
        self.desk = TokenDesk(self.clock)

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        if request.path == "/token":
            return "token"
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        return _OPS.get((place[1] is not None, place[3] is not None, request.method), "")

    def answer(self, request: Request) -> Answer:
        if request.op == "token":
            return self.desk.exchange(request)
        try:
            return self._route(request)
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        if fault.kind == "expired_token":
            self.desk.end_all()
            return Answer(401, "unauthorized", {"content-type": "text/plain"})
        if fault.kind == "gone":
            return _error(404, "E3003", "Resource can not be found")
        if fault.kind == "throttle":
            answer = Answer(429, "Too many requests", {"content-type": "text/plain"})
        else:
            status = int(fault.get("status", 500))
            answer = _error(status, fault.get("code", None), fault.get("message", "injected"))
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        """The platform publishes no allowance in headers."""
        return {}

    def _route(self, request: Request) -> Answer:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self.desk.is_good(token):
            raise Refusal(Answer(401, "unauthorized", {"content-type": "text/plain"}))
        place = _PATH.fullmatch(request.path)
        if place is None or not request.op:
            raise _refuse(405 if place else 404, None, "no such call")
        if request.query and request.op != "find":
            self.violation(f"{request.op}: a query string")
            raise _refuse(400, "E1001", "no query string here")
        if request.op == "find":
            return self._find(request, place[1])
        if request.op in ("create", "update"):
            return self._write(request, place[1])
        audience = self.audiences.get(place[2])
        if audience is None or audience.deleted:
            raise _refuse(404, "E3003", "Resource can not be found")
        if request.op == "get":
            audience.traits["reads"] += 1
            return _segments([self._facts(audience)])
        if request.op == "delete":
            audience.deleted = True
            return _segments([self._facts(audience)])
        return self._upload(request, audience)

    # -- segments ---------------------------------------------------------------------------------------------

    def _own(self, account: str) -> list[Audience]:
        return [one for one in self.audiences.values() if one.account == account and not one.deleted]

    def _find(self, request: Request, account: str) -> Answer:
        if request.query.keys() - {"limit", "cursor"}:
            raise _refuse(400, "E1001", "unknown parameters")
        limit = int(request.query.get("limit", 50))
        if not 50 <= limit <= 1000:
            raise _refuse(400, "E1001", "limit: 50 to 1000")
        limit = min(limit, self.policy["longest_page"])
        start = int(request.query.get("cursor", 0))
        own = self._own(account)
        answer = _segments([self._facts(one) for one in own[start : start + limit]])
        if len(own) > start + limit:
            host = request.headers.get("host", "localhost")
            link = (
                f"http://{host}/{self.name}{request.path}?limit={request.query.get('limit', 50)}&cursor={start + limit}"
            )
            answer.body["paging"] = {"next_link": link}
        return answer

    def _write(self, request: Request, account: str) -> Answer:
        body = _body(request, {"segments"})
        entries = body.get("segments")
        if not isinstance(entries, list) or len(entries) != 1:
            raise _refuse(400, "E1001", "segments: one is required")
        (entry,) = entries
        update = request.op == "update"
        if not isinstance(entry, dict) or entry.keys() - _FIELDS - ({"id"} if update else set()):
            raise _refuse(400, "E1001", "segments: unknown fields")
        name, days = entry.get("name"), entry.get("retention_in_days")
        if not isinstance(name, str) or not 1 <= len(name) <= 375:
            raise _refuse(400, "E1001", "name: 1 to 375 characters")
        if entry.get("source_type") != "FIRST_PARTY" or entry.get("ad_account_id") != account:
            raise _refuse(400, "E1001", "source_type FIRST_PARTY and the ad account are required")
        if type(days) is not int or not 1 <= days <= 9999:
            raise _refuse(400, "E1001", "retention_in_days: 1 to 9999")
        if update:
            audience = self.audiences.get(str(entry.get("id")))
            if audience is None or audience.deleted or audience.account != account:
                raise _refuse(404, "E3003", "Resource can not be found")
        else:
            audience = self._made(account)
        audience.name, audience.description = name, str(entry.get("description", audience.description))
        audience.retention_days = None if days == 9999 else days
        answer = _segments([self._facts(audience)])
        answer.note = {"audience": audience.id}
        return answer

    def _made(self, account: str) -> Audience:
        if len(self._own(account)) >= MAX_AUDIENCES:
            raise _refuse(400, "E1008", "too many segments in this ad account")
        self.made += 1
        audience = Audience(
            id=str(5677923948298240 + self.made),
            account=account,
            name="",
            members=self.new_members(),
            created=self.clock.now(),
            traits={"uploaded": False, "reads": 0},
        )
        self.audiences[audience.id] = audience
        return audience

    def _facts(self, audience: Audience) -> dict[str, Any]:
        uploaded = audience.traits["uploaded"]
        done = uploaded and audience.traits["reads"] >= self.policy["reads_to_process"]
        people = audience.members.count
        targetable = "TOO_FEW_USERS" if people < TARGETABLE_FROM else "READY"
        return {
            "id": audience.id,
            "name": audience.name,
            "description": audience.description,
            "ad_account_id": audience.account,
            "status": "ACTIVE" if uploaded else "PENDING",
            "source_type": "FIRST_PARTY",
            "retention_in_days": audience.retention_days or 9999,
            "approximate_number_users": people if done else 0,
            "upload_status": "COMPLETE" if done else "PROCESSING" if uploaded else "NO_UPLOAD",
            "targetable_status": targetable if done else "NOT_READY",
        }

    # -- members ----------------------------------------------------------------------------------------------

    def _upload(self, request: Request, audience: Audience) -> Answer:
        """add, remove"""
        users = _body(request, {"users"}).get("users")
        if not isinstance(users, list) or len(users) != 1 or not isinstance(users[0], dict):
            self.violation(f"{request.op}: no users")
            raise _refuse(400, "E1001", "users: one is required")
        schema, data = users[0].get("schema"), users[0].get("data")
        if users[0].keys() - {"schema", "data", "id"} or not isinstance(schema, list) or len(schema) != 1:
            raise _refuse(400, "E1001", "schema: exactly one kind")
        if schema[0] not in self.codec.codes or not isinstance(data, list) or not 1 <= len(data) <= MAX_ROWS:
            raise _refuse(400, "E1001", "a known kind and 1 to 100,000 rows are required")
        keys = [self._key(schema[0], row, request.op) for row in data]
        if len(set(keys)) < len(keys):
            self.violation(f"{request.op}: an identifier twice in one batch")
        change = audience.members.add if request.op == "add" else audience.members.remove
        for key in keys[request.skip :]:
            change([key], self.clock.today())
        audience.traits |= {"uploaded": True, "reads": 0}
        part = {"sub_request_status": "SUCCESS", "user": {"number_uploaded_users": len(keys) - request.skip}}
        body = {"request_status": "SUCCESS", "request_id": _REQUEST_ID, "users": [part]}
        return Answer(200, body, note={"rows": len(keys), "audience": audience.id})

    def _key(self, schema: str, row: Any, op: str) -> bytes:
        if isinstance(row, list) and len(row) == 1 and isinstance(row[0], str) and _DIGEST(row[0]):
            return self.codec.encode(schema, row[0])
        self.violation(f"{op}: a row that is not one SHA-256 in lower case")
        raise _refuse(400, "E1001", "data: rows of one SHA-256")


def _body(request: Request, allowed: set[str]) -> dict[str, Any]:
    try:
        body = request.fields()
    except ValueError:
        raise _refuse(400, "E1001", "the body is no JSON object") from None
    if request.headers.get("content-type") != "application/json" or not body or body.keys() - allowed:
        raise _refuse(400, "E1001", "a JSON body with known fields is required")
    return body


def _segments(entries: list[dict[str, Any]]) -> Answer:
    parts = [{"sub_request_status": "SUCCESS", "segment": entry} for entry in entries]
    return Answer(200, {"request_status": "success", "request_id": _REQUEST_ID, "segments": parts})


def _error(status: int, code: str | None, message: str) -> Answer:
    body = {
        "request_status": "ERROR",
        "request_id": _REQUEST_ID,
        "debug_message": message,
        "display_message": "We're sorry, but the requested resource is not available at this time",
        **({"error_code": code} if code else {}),
    }
    return Answer(status, body, note={"code": code} if code else {})


def _refuse(status: int, code: str | None, message: str) -> Refusal:
    return Refusal(_error(status, code, message))


PLATFORM = Snapchat
