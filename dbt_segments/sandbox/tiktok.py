"""TikTok's audiences as a sandbox: the partner (segment) route, and the calls that list and show audiences.

Source: TikTok API for Business v1.3, segment endpoints, custom audience list, get and delete, "Return codes". Stricter
than the platform where a careful sender loses nothing: unknown fields, ids that are no texts and batches larger than
connectors send are refused.

Assumptions, where no source says: more than 1,000 rows or 1 MB answer 40061, a malformed body 40002; a partner audience
is listed with the others; what is not there is left out of `get`; an audience that has expired, 365 days after its last
change, answers members with 40002, as those do that are not editable.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec, Key
from dbt_segments.sandbox.platform import Answer, Audience, Clock, Platform, Refusal, Request

TOKEN = "sandbox-token"  # noqa: S105
MAX_ROWS, MAX_BYTES, MAX_NAME, MAX_AUDIENCES = 1_000, 1_000_000, 70, 400
CODEC = Codec(dict.fromkeys(("EMAIL_SHA256", "PHONE_SHA256", "IDFA_SHA256", "AAID_SHA256"), True))
_ROOT = "/open_api/v1.3/"
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_OPS = {
    ("POST", "segment/audience/"): "create",
    ("POST", "segment/mapping/"): "add",
    ("GET", "dmp/custom_audience/list/"): "find",
    ("GET", "dmp/custom_audience/get/"): "get",
    ("POST", "dmp/custom_audience/delete/"): "delete",
}
# op -> the fields or query parameters that it takes.
_TAKES: Mapping[str, frozenset[str]] = {
    "create": frozenset(("advertiser_id", "action", "custom_audience_name")),
    "delete": frozenset(("advertiser_id", "action", "delete_audience_id", "custom_audience_ids")),
    **dict.fromkeys(("add", "remove"), frozenset(("advertiser_ids", "action", "id_schema", "batch_data"))),
    "find": frozenset(("advertiser_id", "page", "page_size", "custom_audience_ids")),
    "get": frozenset(("advertiser_id", "custom_audience_ids", "history_size")),
}
_PARAMETER, _GONE, _TOO_MANY, _NOT_HASHED = 40002, 40007, 40061, 40062
_LIFE_S, _WARNED_S = 365 * 86_400, 60 * 86_400


def refuse(code: int, message: str) -> Refusal:
    """An error in TikTok's words: HTTP 200."""
    return Refusal(envelope(code, message))


def envelope(code: int, message: str = "OK", data: Any = None) -> Answer:
    """The envelope of every answer."""
    body = {"code": code, "message": message, "request_id": "sandbox", "data": data or {}}
    return Answer(200, body, note={"code": str(code)} if code else {})


class TikTok(Platform):
    """One or many advertisers.

    tokens  that are good
    """

    name = "tiktok"
    codec = CODEC
    defaults: ClassVar[Mapping[str, Any]] = {"settled": True}

    def __init__(self, clock: Clock, tokens: Iterable[str] = (TOKEN,)) -> None:
        self._tokens = frozenset(tokens)
        super().__init__(clock)

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        if not request.path.startswith(_ROOT):
            return ""
        op = _OPS.get((request.method, request.path[len(_ROOT) :]), "")
        if op not in ("create", "add"):
            return op
        try:
            action = request.fields().get("action", op)
        except ValueError:
            return op
        return {("create", "delete"): "delete", ("add", "delete"): "remove"}.get((op, action), op)

    def answer(self, request: Request) -> Answer:
        try:
            return self._route(request)
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        known = {"throttle": 40100, "expired_token": 40102, "gone": _GONE, "too_small": _PARAMETER}
        status = int(fault.get("status", 500)) if fault.kind == "status" else 200
        code = known.get(fault.kind) or int(fault.get("code", 0)) or 50000
        answer = envelope(code, fault.get("message", "injected"))
        # A code of its own comes as TikTok sends it, with 200; a bare status is that of something in between.
        answer.status = 200 if fault.get("code", None) is not None else status
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        """TikTok has no such headers."""
        return {}

    def _route(self, request: Request) -> Answer:
        if not request.op:
            raise Refusal(Answer(404, "404 page not found", {"content-type": "text/plain"}))
        if request.headers.get("access-token", "") not in self._tokens:
            empty = not request.headers.get("access-token")
            raise refuse(40104 if empty else 40105, "Access token is empty or incorrect; it belongs into a header")
        kind = request.headers.get("content-type", "").split(";")[0]
        if request.method == "POST" and (request.query or kind != "application/json"):
            self.violation(f"{request.op}: a query string, or no JSON")
            raise refuse(_PARAMETER, "a JSON body and no query are wanted")
        try:
            fields: Mapping[str, Any] = request.fields() if request.method == "POST" else request.query
        except ValueError:
            raise refuse(_PARAMETER, "the body is no JSON object") from None
        unknown = sorted(fields.keys() - _TAKES[request.op])
        if unknown:
            raise refuse(_PARAMETER, f"{', '.join(unknown)}: unknown field")
        handlers: dict[str, Callable[[Request, Any], Answer]] = {
            "create": self._create,
            "delete": self._delete,
            "find": self._find,
            "get": self._get,
            "add": self._map,
            "remove": self._map,
        }
        return handlers[request.op](request, fields)

    def _advertiser(self, fields: Mapping[str, Any]) -> str:
        advertiser = fields.get("advertiser_id")
        if not (isinstance(advertiser, str) and advertiser.isdigit()):
            raise refuse(_PARAMETER, "advertiser_id: a text of digits")
        return advertiser

    # -- audiences --------------------------------------------------------------------------------------------

    def _create(self, request: Request, fields: Mapping[str, Any]) -> Answer:
        advertiser, name = self._advertiser(fields), fields.get("custom_audience_name")
        if fields.get("action", "create") != "create" or not isinstance(name, str) or not name.strip():
            raise refuse(_PARAMETER, "action: create; custom_audience_name: a text")
        owned = sum(1 for one in self.audiences.values() if one.account == advertiser and not one.deleted)
        if owned >= MAX_AUDIENCES:
            raise refuse(_PARAMETER, "too many audiences")
        self.made += 1
        audience = Audience(
            id=str(167_000_000 + self.made),
            account=advertiser,
            name=name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}...",
            members=self.new_members(),
            created=self.clock.now(),
            traits={"changed": self.clock.now()},
        )
        self.audiences[audience.id] = audience
        answer = envelope(0, data={"audience_id": audience.id})
        answer.note["audience"] = audience.id
        return answer

    def _delete(self, request: Request, fields: Mapping[str, Any]) -> Answer:
        advertiser = self._advertiser(fields)
        ids = fields.get("custom_audience_ids") or [fields.get("delete_audience_id")]
        if not isinstance(ids, list):
            raise refuse(_PARAMETER, "custom_audience_ids: a list of texts")
        for audience in [self._audience(one, (advertiser,)) for one in ids]:
            audience.deleted = True
        return envelope(0)

    def _find(self, request: Request, fields: Mapping[str, Any]) -> Answer:
        advertiser = self._advertiser(fields)
        page, size = (_whole(fields.get(name, first)) for name, first in (("page", "1"), ("page_size", "10")))
        if page < 1 or not 1 <= size <= 100:
            raise refuse(_PARAMETER, "page: from 1, page_size: 1 to 100")
        found = [one for one in self.audiences.values() if one.account == advertiser and not one.deleted]
        info = {
            "page": page,
            "page_size": size,
            "total_number": len(found),
            "total_page": max(1, -(-len(found) // size)),
        }
        entries = [self._facts(one) for one in found[(page - 1) * size : page * size]]
        return envelope(0, data={"page_info": info, "list": entries})

    def _get(self, request: Request, fields: Mapping[str, Any]) -> Answer:
        advertiser = self._advertiser(fields)
        try:
            ids = json.loads(str(fields.get("custom_audience_ids")))
        except ValueError:
            raise refuse(_PARAMETER, "custom_audience_ids: a JSON list") from None
        if not isinstance(ids, list) or not 1 <= len(ids) <= 100 or not all(isinstance(one, str) for one in ids):
            raise refuse(_PARAMETER, "custom_audience_ids: 1 to 100 texts")
        found = [one for one in self.audiences.values() if one.id in ids and one.account == advertiser]
        entries = [
            {"audience_details": {**self._facts(one), "type": "Partner", "error_msg": ""}, "audience_history": []}
            for one in found
            if not one.deleted
        ]
        return envelope(0, data={"list": entries})

    def _facts(self, audience: Audience) -> dict[str, Any]:
        left_s = _end(audience) - self.clock.now()
        people = audience.members.count if self.policy["settled"] and left_s > 0 else 0
        return {
            "audience_id": audience.id,
            "name": audience.name,
            "audience_type": "Partner",
            "cover_num": people,
            "is_valid": people > 0,
            "is_expiring": 0 < left_s < _WARNED_S,
            "create_time": _said(audience.created),
            "expired_time": _said(_end(audience)),
            "is_creator": True,
            "shared": False,
        }

    def _audience(self, audience_id: Any, advertisers: Iterable[str]) -> Audience:
        if not isinstance(audience_id, str):
            raise refuse(_PARAMETER, "an audience's id is a text")
        audience = self.audiences.get(audience_id)
        if audience is None or audience.deleted or audience.account not in advertisers:
            raise refuse(_GONE, "the audience does not exist")
        return audience

    # -- members ----------------------------------------------------------------------------------------------

    def _map(self, request: Request, fields: Mapping[str, Any]) -> Answer:
        """add, remove: all rows or none."""
        advertisers, schema, rows = fields.get("advertiser_ids"), fields.get("id_schema"), fields.get("batch_data")
        if not isinstance(advertisers, list) or not advertisers or not all(type(one) is str for one in advertisers):
            raise refuse(_PARAMETER, "advertiser_ids: a list of texts")
        if not isinstance(schema, list) or not schema or len(set(map(str, schema))) < len(schema):
            raise refuse(_PARAMETER, "id_schema: a list of types, none twice")
        names = [str(name).upper() for name in schema]
        if not set(names) <= set(CODEC.names) or fields.get("action", "add") not in ("add", "delete"):
            raise refuse(_PARAMETER, "id_schema or action: unknown value")
        if not isinstance(rows, list) or not rows:
            raise refuse(_PARAMETER, "batch_data: a list of rows")
        if len(rows) > MAX_ROWS or len(request.body) > MAX_BYTES:
            raise refuse(_TOO_MANY, "the batch is too large")
        work = [one for row in rows for one in self._row(row, names, advertisers)]
        if any(_end(audience) <= self.clock.now() for audience, _ in work):
            raise refuse(_PARAMETER, "the audience is not editable")
        kept = work[request.skip :]
        for audience, keys in kept:
            if request.op == "remove":
                audience.members.remove(keys, self.clock.today())
            else:
                audience.members.add(keys, self.clock.today())
            audience.traits["changed"] = self.clock.now()
        answer = envelope(20001, "partial success") if request.skip else envelope(0)
        answer.note |= {"rows": len(rows)}
        return answer

    def _row(self, row: Any, names: list[str], advertisers: list[str]) -> list[tuple[Audience, list[Key]]]:
        """The keys of one person, by the audiences that they are for."""
        if not isinstance(row, list) or len(row) != len(names):
            self.violation("a row of another length than id_schema")
            raise refuse(_PARAMETER, "batch_data: a row does not fit id_schema")
        keys: dict[str, list[Key]] = {}
        for name, cell in zip(names, row, strict=True):
            if cell == {}:
                continue
            if not isinstance(cell, dict) or set(cell) != {"id", "audience_ids"} or not cell["audience_ids"]:
                raise refuse(_PARAMETER, "batch_data: a cell holds id and audience_ids, or nothing")
            if not isinstance(cell["id"], str) or not _DIGEST(cell["id"]):
                self.violation(f"{name}: no SHA-256 in lower case")
                raise refuse(_NOT_HASHED, "an id is not hashed")
            for audience_id in cell["audience_ids"]:
                keys.setdefault(audience_id, []).append(CODEC.encode(name, cell["id"]))
        if not keys:
            self.violation("a row without any id")
        return [(self._audience(audience_id, advertisers), found) for audience_id, found in keys.items()]


def _end(audience: Audience) -> float:
    """The moment at which it expires."""
    return float(audience.traits.get("changed", audience.created) + _LIFE_S)


def _whole(text: str) -> int:
    """0 for what is no number."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _said(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


PLATFORM = TikTok
