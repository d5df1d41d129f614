"""LinkedIn's DMP segments as a sandbox.

Source: LinkedIn Marketing API 202608, "Create and manage segments", "Create and manage segment users", "Error
handling", "Versioning", and "Programmatic refresh tokens". Stricter than the platform where a careful sender loses
nothing: unknown fields and larger batches than connectors send are refused, a missing `X-RestLi-Method` too where it
matters.

Assumptions, where no source says: the words of errors (`code`); a listing shows what `GET` shows; a segment without a
destination is refused; more than 5,000 elements are refused with 400; a segment that has expired or failed still takes
members, for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.linkedin_elements import CODEC, ElementError, read_element
from dbt_segments.sandbox.platform import Answer, Audience, Clock, Platform, Refusal, Request

VERSIONS = ("202604", "202605", "202606", "202607", "202608")
TOKEN = "sandbox-token"  # noqa: S105
CLIENT = ("sandbox-client", "sandbox-secret", "sandbox-refresh")
MAX_ELEMENTS = 5_000
MAX_SEGMENTS = 1_000
_PATH = re.compile(r"/rest/dmpSegments(?:/(\d+)(?:/(users|companies))?)?")
_TOKEN_PATH = "/oauth/v2/accessToken"  # noqa: S105
_ACCOUNT = re.compile(r"urn:li:sponsoredAccount:(\d+)")
# (is there an id, edge, method) -> op, and the Rest.li methods that may name it.
_OPS = {
    (False, "", "GET"): ("find", ("FINDER",)),
    (False, "", "POST"): ("create", ("CREATE",)),
    (True, "", "GET"): ("get", ("GET",)),
    (True, "", "POST"): ("update", ("PARTIAL_UPDATE",)),
    (True, "", "DELETE"): ("delete", ("DELETE",)),
    (True, "users", "POST"): ("add", ("BATCH_CREATE",)),
    (True, "companies", "POST"): ("add", ("BATCH_CREATE",)),
}
_CREATE = frozenset(("name", "description", "account", "type", "sourcePlatform", "sourceSegmentId", "destinations"))
_FIND = frozenset(("q", "account", "sourcePlatform", "sourceSegmentId", "start", "count"))
_EDGES = {"USER": "users", "COMPANY": "companies"}
_STATUSES = {401: "EXPIRED_ACCESS_TOKEN", 404: "RESOURCE_NOT_FOUND", 429: "TOO_MANY_REQUESTS"}


def refuse(status: int, message: str, code: str = "") -> Refusal:
    """An error in LinkedIn's words."""
    return Refusal(_error(status, message, code))


def _error(status: int, message: str, code: str = "") -> Answer:
    code = code or _STATUSES.get(status, "")
    body: dict[str, Any] = {"message": message, "status": status, "serviceErrorCode": 100}
    if code:
        body["code"] = code
    return Answer(status, body, note={"code": f"{status}/{code}" if code else str(status)})


class LinkedIn(Platform):
    """One or many ad accounts of one app, with its token endpoint.

    tokens   that are good, besides those that the endpoint hands out

    Policies: `young_s`, seconds in which a new segment answers 404; `source_platform`, the app's own; `statuses`,
    segment id -> the status that its destination has in place of READY or BUILDING; `refresh_days` that the refresh
    token has left, None: it is not said.
    """

    name = "linkedin"
    codec = CODEC
    defaults: ClassVar[Mapping[str, Any]] = {"young_s": 0, "source_platform": "SANDBOX", "refresh_days": 365}

    def __init__(self, clock: Clock, tokens: Iterable[str] = (TOKEN,)) -> None:
        self._fixed = frozenset(tokens)
        super().__init__(clock)

    def reset(self) -> None:
        super().reset()
        self.policy["statuses"] = {}
        self._issued: set[str] = set()
        self._exchanges = 0

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        if request.path == _TOKEN_PATH:
            return "token"
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        op = _OPS.get((place[1] is not None, place[2] or "", request.method), ("", ()))[0]
        return "remove" if op == "add" and b'"action":"REMOVE"' in request.body.replace(b" ", b"") else op

    def answer(self, request: Request) -> Answer:
        try:
            if request.op == "token":
                return self._exchange(request)
            self._admit(request)
            return self._route(request)
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        status = {"throttle": 429, "expired_token": 401, "gone": 404, "too_small": 400}.get(fault.kind)
        if fault.kind == "expired_token":
            self._issued.clear()
        answer = _error(
            status or int(fault.get("status", 500)), fault.get("message", "injected"), fault.get("code", "")
        )
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        """LinkedIn has no such headers."""
        return {}

    def _exchange(self, request: Request) -> Answer:
        fields = request.fields()
        given = tuple(fields.get(name) for name in ("client_id", "client_secret", "refresh_token"))
        if request.method != "POST" or fields.get("grant_type") != "refresh_token" or len(fields) != 4:
            return Answer(400, {"error": "invalid_request", "error_description": "sandbox"})
        if given[:2] != CLIENT[:2]:
            return Answer(401, {"error": "invalid_client", "error_description": "sandbox"})
        if given[2] != CLIENT[2]:
            return Answer(400, {"error": "invalid_grant", "error_description": "sandbox"})
        self._exchanges += 1
        token = f"sandbox-issued-{self._exchanges}"
        self._issued.add(token)
        body = {
            "access_token": token,
            "expires_in": 5_184_000,
            "refresh_token": CLIENT[2],
            "scope": "rw_dmp_segments,rw_ads",
        }
        if self.policy["refresh_days"] is not None:
            body["refresh_token_expires_in"] = int(self.policy["refresh_days"] * 86_400)
        return Answer(200, body)

    def _admit(self, request: Request) -> None:
        """Refuse what lacks a header, a good token, or a path."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self._fixed | self._issued:
            raise refuse(401, "The token is not good")
        version = request.headers.get("linkedin-version", "")
        if not version:
            raise refuse(400, "A version must be present", "VERSION_MISSING")
        if version not in VERSIONS:
            raise refuse(426, "Requested version is not active", "NONEXISTENT_VERSION")
        if not request.op:
            raise refuse(404, "No such resource")
        if request.headers.get("x-restli-protocol-version") != "2.0.0":
            raise refuse(400, "X-Restli-Protocol-Version: 2.0.0 is required")
        place = _PATH.fullmatch(request.path)
        assert place is not None
        words = _OPS[place[1] is not None, place[2] or "", request.method][1]
        word = request.headers.get("x-restli-method", "")
        if word not in words and (word or words[0] in ("BATCH_CREATE", "PARTIAL_UPDATE")):
            raise refuse(400, "X-RestLi-Method does not fit the request")
        if request.method == "POST" and not request.headers.get("content-type", "").startswith("application/json"):
            raise refuse(415, "Content-Type: application/json is required")
        if request.method != "GET" and request.query:
            self.violation(f"{request.op}: a query string")
            raise refuse(400, "No query parameters here")

    def _route(self, request: Request) -> Answer:
        place = _PATH.fullmatch(request.path)
        assert place is not None
        if place[1] is None:
            return self._find(request) if request.op == "find" else self._create(request)
        audience = self.audiences.get(place[1])
        if audience is None or audience.deleted or self._is_young(audience):
            raise refuse(404, "The segment does not exist")
        handlers: dict[str, Callable[[Request, Audience], Answer]] = {
            "get": self._get,
            "update": self._update,
            "delete": self._delete,
        }
        return handlers.get(request.op, self._members)(request, audience)

    def _is_young(self, audience: Audience) -> bool:
        return bool(self.clock.now() - audience.created < self.policy["young_s"])

    def _object(self, request: Request, known: frozenset[str]) -> dict[str, Any]:
        try:
            fields = request.fields()
        except ValueError:
            raise refuse(400, "The body is no JSON object") from None
        unknown = sorted(fields.keys() - known)
        if unknown:
            raise refuse(400, f"Unknown fields: {', '.join(unknown)}")
        return fields

    # -- segments ---------------------------------------------------------------------------------------------

    def _create(self, request: Request) -> Answer:
        fields = self._object(request, _CREATE)
        account = _ACCOUNT.fullmatch(str(fields.get("account", "")))
        if account is None or fields.get("type") not in _EDGES or not str(fields.get("name") or "").strip():
            raise refuse(400, "name, account and type are required")
        if fields.get("destinations") != [{"destination": "LINKEDIN"}]:
            raise refuse(400, "destinations: LINKEDIN")
        self._check_app(fields.get("sourcePlatform"))
        owned = sum(1 for one in self.audiences.values() if one.account == account[1] and not one.deleted)
        if owned >= MAX_SEGMENTS:
            raise refuse(429, "Too many segments in this ad account", "SEGMENT_LIMIT_EXCEEDED")
        self.made += 1
        audience = Audience(
            id=str(9_000_000 + self.made),
            account=account[1],
            name=str(fields["name"]),
            description=str(fields.get("description", "")),
            members=self.new_members(),
            created=self.clock.now(),
            traits={"type": fields["type"], "sourceSegmentId": fields.get("sourceSegmentId"), "input": 0},
        )
        self.audiences[audience.id] = audience
        return Answer(201, "", {"x-restli-id": audience.id}, note={"audience": audience.id})

    def _check_app(self, source: Any) -> None:
        if source != self.policy["source_platform"]:
            raise refuse(403, "Not this app's sourcePlatform", "ACCESS_DENIED")

    def _find(self, request: Request) -> Answer:
        query = request.query
        account = _ACCOUNT.fullmatch(query.get("account", ""))
        if query.get("q") != "account" or account is None or query.keys() - _FIND:
            raise refuse(400, "Query parameters of the finder `account` are wrong")
        self._check_app(query.get("sourcePlatform"))
        found = [one for one in self.audiences.values() if one.account == account[1] and not one.deleted]
        if "sourceSegmentId" in query:
            found = [one for one in found if one.traits["sourceSegmentId"] == query["sourceSegmentId"]]
        start, count = int(query.get("start", 0)), int(query.get("count", len(found) or 1))
        page = {"start": start, "count": count, "links": [], "total": len(found)}
        return Answer(200, {"paging": page, "elements": [self._facts(one) for one in found[start : start + count]]})

    def _get(self, request: Request, audience: Audience) -> Answer:
        return Answer(200, self._facts(audience), note={"audience": audience.id})

    def _update(self, request: Request, audience: Audience) -> Answer:
        patch = self._object(request, frozenset(("patch",))).get("patch")
        changes = patch.get("$set") if isinstance(patch, dict) else None
        if not isinstance(changes, dict) or changes.keys() - {"name", "description"}:
            raise refuse(400, "patch.$set: name or description")
        audience.name = str(changes.get("name", audience.name))
        audience.description = str(changes.get("description", audience.description))
        return Answer(204, "", note={"audience": audience.id})

    def _delete(self, request: Request, audience: Audience) -> Answer:
        audience.deleted = True
        return Answer(204, "", note={"audience": audience.id})

    def _facts(self, audience: Audience) -> dict[str, Any]:
        people, made = audience.members.count, int(audience.created * 1000)
        place: dict[str, Any] = {
            "destination": "LINKEDIN",
            "destinationSegmentId": f"urn:li:adSegment:{audience.id}",
            "status": self.policy["statuses"].get(audience.id, "READY" if people else "BUILDING"),
            "created": made,
            "lastModified": made,
        }
        facts = {
            "id": int(audience.id),
            "name": audience.name,
            "type": audience.traits["type"],
            "sourcePlatform": self.policy["source_platform"],
            "sourceSegmentId": audience.traits["sourceSegmentId"],
            "description": audience.description,
            "account": f"urn:li:sponsoredAccount:{audience.account}",
            "created": made,
            "lastModified": made,
        }
        if people:
            place |= {"matchedCount": people, "audienceSize": people}
            facts["inputCount"] = audience.traits["input"]
        return {**facts, "destinations": [place]}

    # -- members ----------------------------------------------------------------------------------------------

    def _members(self, request: Request, audience: Audience) -> Answer:
        """One result for each element, in order."""
        kind = audience.traits["type"]
        if not request.path.endswith(_EDGES[kind]):
            raise refuse(400, "The segment takes another kind of members")
        elements = self._object(request, frozenset(("elements",))).get("elements")
        if not isinstance(elements, list) or len(elements) > MAX_ELEMENTS:
            raise refuse(400, f"elements: a list of at most {MAX_ELEMENTS}")
        if not elements:
            self.violation("a batch without elements")
        results = [
            self._member(audience, element, kind, number < request.skip) for number, element in enumerate(elements)
        ]
        note = {"audience": audience.id, "rows": len(elements)}
        return Answer(200, {"elements": results}, note=note)

    def _member(self, audience: Audience, element: Any, kind: str, injected: bool) -> dict[str, Any]:
        try:
            if injected:
                raise ElementError("injected")
            action, keys = read_element(element, kind)
        except ElementError as error:
            if not injected:
                self.violation(str(error))
            return {"status": 400, "error": {"status": 400, "message": str(error)}}
        if action == "ADD":
            audience.traits["input"] += 1
            audience.members.add(keys, self.clock.today())
        else:
            audience.members.remove(keys, self.clock.today())
        return {"status": 201}


PLATFORM = LinkedIn
