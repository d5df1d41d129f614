"""The Pinterest API v5, customer lists and their audiences, as a sandbox.

Source: contract of the Pinterest API (description 5.23.0). Stricter than the platform where a careful sender loses
nothing: unknown fields, unhashed records, values in a query string and bodies that are no JSON are refused.
Assumptions, where no source says: 50,000 records a request; an audience is refused while its list is being processed;
a refresh token ends when the one that replaced it is used; error numbers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec
from dbt_segments.sandbox.platform import Answer, Audience, Platform, Refusal, Request

APP_ID, APP_SECRET = "1500000", "sandbox-app-secret"
TOKEN, REFRESH_TOKEN = "pina_sandbox", "pinr_sandbox"
MAX_RECORDS = 50_000
LIFE_S = 30 * 86_400
_PATH = re.compile(r"/v5/(?:(oauth/token)|ad_accounts/(\d{1,18})/(customer_lists|audiences)(?:/(\d{1,18}))?)")
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_LIST_TYPES = ("EMAIL", "IDFA", "MAID", "LR_ID", "DLX_ID", "HASHED_PINNER_ID")
# (collection, one of it, method) -> op
_OPS = {
    ("customer_lists", False, "GET"): "find",
    ("customer_lists", False, "POST"): "create",
    ("customer_lists", True, "GET"): "get",
    ("audiences", False, "GET"): "targets",
    ("audiences", False, "POST"): "target",
    ("audiences", True, "GET"): "size",
    ("audiences", True, "PATCH"): "update",
}
_TAKES: Mapping[str, frozenset[str]] = {
    "token": frozenset(("grant_type", "refresh_token", "scope", "continuous_refresh")),
    "find": frozenset(("page_size", "order", "bookmark")),
    "targets": frozenset(("page_size", "order", "bookmark", "ownership_type")),
    "create": frozenset(("name", "list_type", "records")),
    **dict.fromkeys(("add", "remove"), frozenset(("operation_type", "records"))),
    "target": frozenset(("name", "audience_type", "rule", "description", "ad_account_id")),
    "update": frozenset(("operation_type", "name", "description", "rule", "audience_type")),
}


class Pinterest(Platform):
    """One or many ad accounts.

    minimum_members  people from which on a list is READY and an audience may be made of it (the platform's is 100)
    processing_s     a list is PROCESSING for so long after each call
    exceptions       what the next answer of an upload says under `exceptions`, once
    rotate           each refresh brings another refresh token
    refresh_days     after which that one ends

    `reports` in /_sandbox/state tells of the audiences that were made of lists (`targets`).
    """

    name = "pinterest"
    codec = Codec({"record": True})
    defaults: ClassVar[Mapping[str, Any]] = {"processing_s": 0, "exceptions": None, "rotate": True, "refresh_days": 60}

    def reset(self) -> None:
        super().reset()
        self.targets: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, float] = {TOKEN: self.clock.now() + 10 * LIFE_S}
        self.refresh_tokens: set[str] = {REFRESH_TOKEN}
        self.exchanges = 0

    def report(self) -> dict[str, Any]:
        return {"targets": list(self.targets.values()), "exchanges": self.exchanges}

    def dump(self) -> dict[str, Any]:
        return {**super().dump(), "targets": self.targets}

    def restore(self, data: Mapping[str, Any]) -> None:
        super().restore(data)
        self.targets.update(data["targets"])

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        if place[1]:
            return "token" if request.method == "POST" else ""
        if (place[3], request.method) == ("customer_lists", "PATCH") and place[4]:
            return "remove" if self._fields(request).get("operation_type") == "REMOVE" else "add"
        return _OPS.get((place[3], bool(place[4]), request.method), "")

    def answer(self, request: Request) -> Answer:
        place = _PATH.fullmatch(request.path)
        if place is None or not request.op:
            return _error(404, 1, "No such endpoint")
        handlers: dict[str, Callable[[Request, str, str], Answer]] = {
            "token": self._token,
            "find": self._find,
            "create": self._create,
            "get": self._get,
            "add": self._upload,
            "remove": self._upload,
            "targets": self._targets,
            "target": self._target,
            "size": self._show_target,
            "update": self._update,
        }
        try:
            self._admit(request)
            return handlers[request.op](request, place[2] or "", place[4] or "")
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        known = {
            "throttle": (429, 8, "You have exceeded your rate limit"),
            "expired_token": (401, 2, "Authentication failed"),
            "too_small": (400, 1, "The audience is too small"),
            "gone": (404, 2, "Customer list not found"),
        }
        status = int(fault.get("status", 500))
        answer = _error(*known.get(fault.kind, (status, int(fault.get("code", 12)), "injected")))
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        return {"x-ratelimit-remaining": str(max(0, 100 - percent)), "x-ratelimit-reset": "1"}

    def _admit(self, request: Request) -> None:
        """Raises a Refusal for a call that may not be made."""
        if request.query and request.method != "GET":
            self.violation(f"{request.op}: query string with {', '.join(sorted(request.query))}")
            raise _refuse(400, 1, "no query parameters here")
        kind = request.headers.get("content-type", "").split(";")[0]
        due = "application/x-www-form-urlencoded" if request.op == "token" else "application/json"
        if request.method != "GET" and kind != due:
            raise _refuse(415, 1, f"Content-Type: {due} is required")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if request.op == "token":
            pair = base64.b64encode(f"{APP_ID}:{APP_SECRET}".encode()).decode()
            if (scheme, token) != ("Basic", pair):
                raise _refuse(401, 2, "Authentication failed")
        elif scheme != "Bearer" or self.tokens.get(token, 0.0) <= self.clock.now():
            raise _refuse(401, 2, "Authentication failed")
        given = request.query.keys() if request.method == "GET" else self._fields(request).keys()
        unknown = sorted(given - _TAKES.get(request.op, frozenset()))
        if unknown:
            self.violation(f"{request.op}: unknown {', '.join(unknown)}")
            raise _refuse(400, 1, f"unknown: {', '.join(unknown)}")

    def _fields(self, request: Request) -> dict[str, Any]:
        try:
            return request.fields()
        except ValueError:
            return {}

    def _token(self, request: Request, account: str, _: str) -> Answer:
        form = request.fields()
        if form.get("grant_type") != "refresh_token" or form.get("continuous_refresh") != "true":
            return _error(400, 1, "Invalid request body")
        given = str(form.get("refresh_token"))
        if given not in self.refresh_tokens:
            return _error(401, 2, "Authentication failed")
        self.exchanges += 1
        token = f"pina_sandbox_{self.exchanges}"
        self.tokens[token] = self.clock.now() + LIFE_S
        body = {"access_token": token, "token_type": "bearer", "expires_in": LIFE_S, "scope": "ads:read,ads:write"}
        if self.policy["rotate"]:
            self.refresh_tokens = {given, f"pinr_sandbox_{self.exchanges}"}
            life_s = int(self.policy["refresh_days"] * 86_400)
            body |= {"refresh_token": f"pinr_sandbox_{self.exchanges}", "refresh_token_expires_in": life_s}
        return Answer(200, body)

    # -- customer lists ---------------------------------------------------------------------------------------

    def _create(self, request: Request, account: str, _: str) -> Answer:
        fields = request.fields()
        if not isinstance(fields.get("name"), str) or not fields["name"].strip():
            raise _refuse(400, 1, "name is required")
        if fields.get("list_type", "EMAIL") not in _LIST_TYPES:
            raise _refuse(400, 1, "list_type is not one of the types")
        records = self._records(request)
        self.made += 1
        made = Audience(
            id=str(2680000000000 + self.made),
            account=account,
            name=fields["name"],
            members=self.new_members(),
            created=self.clock.now(),
            form=fields.get("list_type", "EMAIL"),
            traits={"num_batches": 0, "num_uploaded_user_records": 0, "num_removed_user_records": 0, "updated": 0.0},
        )
        self.audiences[made.id] = made
        return self._apply(made, "add", records, request.skip)

    def _upload(self, request: Request, account: str, list_id: str) -> Answer:
        """add, remove"""
        audience = self._list(account, list_id)
        if request.fields().get("operation_type") not in ("ADD", "REMOVE"):
            raise _refuse(400, 1, "operation_type is ADD or REMOVE")
        return self._apply(audience, request.op, self._records(request), request.skip)

    def _records(self, request: Request) -> list[str]:
        text = request.fields().get("records")
        if not isinstance(text, str) or not text:
            raise _refuse(400, 1, "records: one text with commas is required")
        records = text.split(",")
        if len(records) > MAX_RECORDS:
            raise _refuse(400, 1, "records: too many")
        if not all(map(_DIGEST, records)):
            self.violation(f"{request.op}: a record that is no SHA-256 in lower case")
            raise _refuse(400, 1, "records: sandbox: SHA-256 only")
        return records

    def _apply(self, audience: Audience, op: str, records: list[str], skip: int) -> Answer:
        change = audience.members.remove if op == "remove" else audience.members.add
        for record in records[skip:]:
            change([self.codec.encode("record", record)], self.clock.today())
        counter = "num_removed_user_records" if op == "remove" else "num_uploaded_user_records"
        audience.traits[counter] += len(records)
        audience.traits["num_batches"] += 1
        audience.traits["updated"] = self.clock.now()
        body = self._facts(audience)
        if self.policy["exceptions"]:
            body["exceptions"], self.policy["exceptions"] = self.policy["exceptions"], None
        return Answer(200, body, note={"rows": len(records), "audience": audience.id})

    def _find(self, request: Request, account: str, _: str) -> Answer:
        found = [one for one in self.audiences.values() if one.account == account and not one.deleted]
        found.sort(key=lambda one: int(one.id), reverse=request.query.get("order") == "DESCENDING")
        return _page(request, [self._facts(one) for one in found])

    def _get(self, request: Request, account: str, list_id: str) -> Answer:
        return Answer(200, self._facts(self._list(account, list_id)), note={"audience": list_id})

    def _list(self, account: str, list_id: str) -> Audience:
        found = self.audiences.get(list_id)
        if found is None or found.deleted or found.account != account:
            raise _refuse(404, 2, "Customer list not found")
        return found

    def _status(self, audience: Audience) -> str:
        if self.clock.now() < audience.traits["updated"] + self.policy["processing_s"]:
            return "PROCESSING"
        return "READY" if audience.members.count >= self.policy["minimum_members"] else "TOO_SMALL"

    def _facts(self, audience: Audience) -> dict[str, Any]:
        counters = {name: audience.traits[name] for name in audience.traits if name.startswith("num_")}
        return {
            "id": audience.id,
            "ad_account_id": audience.account,
            "name": audience.name,
            "type": "customerlist",
            "status": self._status(audience),
            "created_time": int(audience.created),
            "updated_time": int(audience.traits["updated"]),
            "exceptions": {},
            **counters,
        }

    # -- audiences that ads target ----------------------------------------------------------------------------

    def _target(self, request: Request, account: str, _: str) -> Answer:
        fields = request.fields()
        rule = fields.get("rule")
        if fields.get("audience_type") != "CUSTOMER_LIST" or not isinstance(fields.get("name"), str):
            raise _refuse(400, 1, "audience_type and name are required")
        if not isinstance(rule, dict) or rule.keys() != {"customer_list_id"}:
            raise _refuse(400, 1, "rule: customer_list_id is required")
        listed = self._list(account, str(rule["customer_list_id"]))
        if self._status(listed) != "READY":
            raise _refuse(400, 1, "The list has fewer than the people that an audience needs")
        self.made += 1
        made = {
            "id": str(2540000000000 + self.made),
            "ad_account_id": account,
            "name": fields["name"],
            "audience_type": "CUSTOMER_LIST",
            "description": fields.get("description", ""),
            "rule": rule,
            "type": "audience",
            "created_timestamp": int(self.clock.now()),
        }
        self.targets[str(made["id"])] = made
        return Answer(200, self._shown(made), note={"audience": listed.id})

    def _targets(self, request: Request, account: str, _: str) -> Answer:
        return _page(request, [self._shown(one) for one in self.targets.values() if one["ad_account_id"] == account])

    def _show_target(self, request: Request, account: str, target_id: str) -> Answer:
        return Answer(200, self._shown(self._one_target(account, target_id)))

    def _update(self, request: Request, account: str, target_id: str) -> Answer:
        target, fields = self._one_target(account, target_id), dict(request.fields())
        if fields.pop("operation_type", "UPDATE") == "REMOVE":
            return Answer(200, self._shown(self.targets.pop(target_id)))
        target.update(fields)
        return Answer(200, self._shown(target))

    def _one_target(self, account: str, target_id: str) -> dict[str, Any]:
        found = self.targets.get(target_id)
        if found is None or found["ad_account_id"] != account:
            raise _refuse(404, 2, "Audience not found")
        return found

    def _shown(self, target: Mapping[str, Any]) -> dict[str, Any]:
        listed = self.audiences[target["rule"]["customer_list_id"]]
        status = self._status(listed)
        ready = status == "READY"
        return {
            **target,
            "status": "INITIALIZING" if status == "PROCESSING" else status,
            "size": listed.members.count if ready else None,
            "updated_timestamp": int(listed.traits["updated"]),
        }


def _page(request: Request, entries: list[dict[str, Any]]) -> Answer:
    size = request.query.get("page_size", "25")
    if not size.isdigit() or not 1 <= int(size) <= 250:
        raise _refuse(400, 1, "page_size: 1 to 250")
    start = int(request.query.get("bookmark") or 0)
    end = start + int(size)
    return Answer(200, {"items": entries[start:end], "bookmark": str(end) if end < len(entries) else None})


def _error(status: int, code: int, message: str) -> Answer:
    return Answer(status, {"code": code, "message": message})


def _refuse(status: int, code: int, message: str) -> Refusal:
    return Refusal(_error(status, code, message))


PLATFORM = Pinterest
