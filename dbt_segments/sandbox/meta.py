"""The Meta Marketing API, custom audiences, as a sandbox.

Source: contract of the Meta Marketing API (v26.0). Stricter than the platform where a careful sender loses nothing:
unknown fields, tokens and identifiers in a query string, sessions left out and paths without a version are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from dbt_segments.sandbox import meta_errors as errors
from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.meta_objects import audience_facts, filters, pick
from dbt_segments.sandbox.meta_sessions import Sessions
from dbt_segments.sandbox.meta_upload import CODEC, Upload, read_upload
from dbt_segments.sandbox.platform import Answer, Audience, Clock, Platform, Refusal, Request

VERSIONS = ("25.0", "26.0")
TOKEN = "sandbox-token"  # noqa: S105
_PATH = re.compile(r"/v(\d+\.\d+)/(act_(\d+)|\d+|debug_token|me)(?:/([a-z]+))?")
# (kind of object, edge, method) -> op; "account" is act_<digits>, "audience" is <digits>.
_OPS = {
    ("debug_token", "", "GET"): "debug_token",
    ("me", "permissions", "GET"): "permissions",
    ("account", "", "GET"): "account",
    ("account", "customaudiences", "GET"): "find",
    ("account", "customaudiences", "POST"): "create",
    ("account", "usersofanyaudience", "DELETE"): "erase",
    ("audience", "", "GET"): "get",
    ("audience", "", "POST"): "update",
    ("audience", "", "DELETE"): "delete",
    ("audience", "users", "POST"): "add",
    ("audience", "users", "DELETE"): "remove",
    ("audience", "usersreplace", "POST"): "replace",
    ("audience", "sessions", "GET"): "sessions",
}
_COMMON = frozenset(("access_token", "appsecret_proof", "method"))
_CREATE = frozenset(("name", "subtype", "description", "customer_file_source", "retention_days", "is_value_based"))
_SOURCES = ("USER_PROVIDED_ONLY", "PARTNER_PROVIDED_ONLY", "BOTH_USER_AND_PARTNER_PROVIDED")
# op -> the fields or query parameters it takes, besides _COMMON.
_TAKES: Mapping[str, frozenset[str]] = {
    "debug_token": frozenset(("input_token",)),
    "permissions": frozenset(),
    "account": frozenset(("fields",)),
    "find": frozenset(("fields", "filtering", "limit", "after", "before")),
    "create": _CREATE,
    **dict.fromkeys(("get", "size"), frozenset(("fields",))),
    "update": frozenset(("name", "description")),
    "delete": frozenset(),
    "sessions": frozenset(("session_id", "fields")),
    **dict.fromkeys(("add", "remove", "replace", "erase"), frozenset(("payload", "session"))),
}
_SECRETS = ("access_token", "input_token", "payload", "session")
_MAX_AUDIENCES = 500


class Meta(Platform):
    """One or many ad accounts.

    tokens      that are good; any account may be used with any of them
    app_secret  if given, every call must carry its appsecret_proof

    Policies besides those of all platforms: `terms_accepted`, `calls_per_hour`, `scopes` of the token, `token_days`
    until it ends (null: it does not), `may_inspect` (false: this app may not inspect its token).
    """

    name = "meta"
    codec = CODEC
    forgets: ClassVar[Mapping[str, int]] = {"EXTERN_ID": 90}
    defaults: ClassVar[Mapping[str, Any]] = {
        "terms_accepted": True,
        "calls_per_hour": None,
        "scopes": ("ads_management", "ads_read"),
        "token_days": None,
        "may_inspect": True,
    }

    def __init__(self, clock: Clock, tokens: Iterable[str] = (TOKEN,), app_secret: str | None = None) -> None:
        self._tokens = frozenset(tokens)
        self._app_secret = app_secret
        super().__init__(clock)

    def reset(self) -> None:
        super().reset()
        self._sessions = Sessions()
        self._calls: dict[tuple[str, int], int] = {}

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        kind = "account" if place[3] else "audience" if place[2].isdigit() else place[2]
        op = _OPS.get((kind, place[4] or "", self._method(request)), "")
        return "size" if op == "get" and "approximate_count" in request.query.get("fields", "") else op

    def answer(self, request: Request) -> Answer:
        headers = {}
        try:
            account = self._admit(request)
            headers = self._usage(account, self._used(account))
            answer = self._route(request, account)
        except Refusal as refusal:
            answer = refusal.answer
        return Answer(answer.status, answer.body, {**headers, **answer.headers}, answer.note)

    def fail(self, fault: Fault, request: Request) -> Answer:
        if fault.kind == "throttle":
            answer = errors.error(*errors.THROTTLED)
            answer.headers = self._usage(self._account(request), 100, int(fault.get("minutes", 1)))
            return answer
        known = {"expired_token": errors.EXPIRED, "too_small": errors.TOO_SMALL, "gone": errors.GONE}
        if fault.kind in known:
            return errors.error(*known[fault.kind])
        status = int(fault.get("status", 500))
        code, subcode = fault.get("code", 2 if status >= 500 else 100), fault.get("subcode", None)
        transient = bool(fault.get("transient", status >= 500))
        answer = errors.error(code, subcode, fault.get("message", "injected"), status=status, transient=transient)
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        return self._usage(self._account(request), percent)

    def _method(self, request: Request) -> str:
        """A form may carry the method, for senders whose stack drops bodies of DELETE."""
        try:
            wanted = str(request.fields().get("method", request.method)).upper()
        except ValueError:
            return request.method
        return wanted if request.method == "POST" else request.method

    def _admit(self, request: Request) -> str:
        """The account of a call that may be made."""
        place = _PATH.fullmatch(request.path)
        if place is None or not request.op:
            raise errors.refuse(2500, None, "Unknown path components, or no version")
        if place[1] not in VERSIONS:
            raise errors.refuse(2635, None, "You are calling a deprecated version of the Ads API")
        leaks = sorted(request.query.keys() & set(_SECRETS))
        if leaks or (request.query and request.method != "GET"):
            self.violation(f"{request.op}: query string with {', '.join(leaks or request.query)}")
            raise errors.invalid("sandbox: nothing secret or personal belongs into a query string")
        try:
            fields = request.fields()
        except ValueError:
            raise errors.invalid("the body is neither a form nor a JSON object") from None
        self._authenticate(request, fields)
        account = self._account(request)
        self._throttle(account)
        unknown = (fields.keys() | request.query.keys()) - _COMMON - _TAKES[request.op]
        if unknown:
            raise errors.invalid(f"unknown parameters: {', '.join(sorted(unknown))}")
        return account

    def _authenticate(self, request: Request, fields: Mapping[str, Any]) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token if scheme.lower() == "bearer" else str(fields.get("access_token", ""))
        if token not in self._tokens:
            raise errors.refuse(190, 467 if token else None, "Invalid OAuth access token")
        if self._app_secret is not None:
            proof = hmac.new(self._app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()
            given = fields.get("appsecret_proof", request.query.get("appsecret_proof", ""))
            if not hmac.compare_digest(proof, str(given)):
                raise errors.invalid("Invalid appsecret_proof provided in the API argument")

    def _account(self, request: Request) -> str:
        place = _PATH.fullmatch(request.path)
        if place is None:
            return ""
        audience = self.audiences.get(place[2])
        return place[3] or (audience.account if audience else "")

    # -- allowance --------------------------------------------------------------------------------------------

    def _allowance(self, account: str) -> int:
        owned = sum(1 for audience in self.audiences.values() if audience.account == account)
        return self.policy["calls_per_hour"] or 190_000 + 40 * owned

    def _used(self, account: str) -> int:
        """Percent of this hour's allowance."""
        return 100 * self._calls.get((account, self._hour()), 0) // self._allowance(account)

    def _hour(self) -> int:
        return int(self.clock.now() // 3600)

    def _throttle(self, account: str) -> None:
        hour = self._hour()
        self._calls[account, hour] = self._calls.get((account, hour), 0) + 1
        if self._calls[account, hour] > self._allowance(account):
            refusal = errors.refuse(*errors.THROTTLED)
            minutes = 1 + int((hour + 1) * 60 - self.clock.now() / 60)
            refusal.answer.headers = self._usage(account, 100, minutes)
            raise refusal

    def _usage(self, account: str, percent: int, minutes: int = 0) -> dict[str, str]:
        entry = {
            "type": "custom_audience",
            "call_count": percent,
            "total_cputime": 0,
            "total_time": 0,
            "estimated_time_to_regain_access": minutes,
        }
        return {"X-Business-Use-Case-Usage": json.dumps({account or "0": [entry]})}

    # -- operations -------------------------------------------------------------------------------------------

    def _route(self, request: Request, account: str) -> Answer:
        place = _PATH.fullmatch(request.path)
        assert place is not None
        of_account: dict[str, Callable[[Request, str], Answer]] = {
            "debug_token": self._show_token,
            "permissions": self._show_permissions,
            "account": self._show_account,
            "find": self._find,
            "create": self._create,
            "erase": self._erase,
        }
        if request.op in of_account:
            return of_account[request.op](request, account)
        audience = self.audiences.get(place[2])
        if audience is None or audience.deleted:
            raise errors.refuse(*errors.GONE)
        of_audience: dict[str, Callable[[Request, Audience], Answer]] = {
            "get": self._get,
            "size": self._get,
            "update": self._update,
            "delete": self._delete,
            "sessions": self._show_sessions,
        }
        return of_audience.get(request.op, self._upload)(request, audience)

    def _show_account(self, request: Request, account: str) -> Answer:
        facts = {
            "id": f"act_{account}",
            "account_id": account,
            "name": f"Sandbox account {account}",
            "tos_accepted": {"custom_audience_tos": int(self.policy["terms_accepted"])},
        }
        return Answer(200, pick(facts, request))

    def _show_token(self, request: Request, account: str) -> Answer:
        if not self.policy["may_inspect"]:
            raise errors.invalid("You must provide an app access token, or a token of the app's owner or developer")
        days = self.policy["token_days"]
        facts = {
            "type": "SYSTEM_USER",
            "is_valid": request.fields().get("input_token") in self._tokens,
            "expires_at": 0 if days is None else int(self.clock.now() + days * 86_400),
            "scopes": list(self.policy["scopes"]),
        }
        return Answer(200, {"data": facts})

    def _show_permissions(self, request: Request, account: str) -> Answer:
        return Answer(200, {"data": [{"permission": scope, "status": "granted"} for scope in self.policy["scopes"]]})

    def _create(self, request: Request, account: str) -> Answer:
        fields = request.fields()
        self._check_terms()
        if not str(fields.get("name", "")).strip():
            raise errors.invalid("name: is required")
        if fields.get("subtype") != "CUSTOM":
            raise errors.invalid("subtype: CUSTOM is required")
        if fields.get("customer_file_source") not in _SOURCES:
            raise errors.invalid("customer_file_source: is required")
        days = fields.get("retention_days")
        if days is not None and not (str(days).isdigit() and 1 <= int(days) <= 180):
            raise errors.invalid("retention_days: 1 to 180")
        if sum(1 for one in self.audiences.values() if one.account == account and not one.deleted) >= _MAX_AUDIENCES:
            raise errors.invalid("too many custom audiences in this account")
        self.made += 1
        audience = Audience(
            id=str(120210000000000000 + self.made),
            account=account,
            name=str(fields["name"]),
            description=str(fields.get("description", "")),
            members=self.new_members(),
            created=self.clock.now(),
            retention_days=int(days) if days is not None else None,
            traits={"customer_file_source": fields["customer_file_source"], "subtype": "CUSTOM"},
        )
        self.audiences[audience.id] = audience
        return Answer(200, {"id": audience.id, "message": ""}, note={"audience": audience.id})

    def _find(self, request: Request, account: str) -> Answer:
        found = [one for one in self.audiences.values() if one.account == account and not one.deleted]
        for test in filters(request.query.get("filtering", "[]")):
            found = [one for one in found if test(one)]
        found = [one for one in found if int(one.id) > int(request.query.get("after") or 0)]
        limit = int(request.query.get("limit", 25))
        page = found[:limit]
        body: dict[str, Any] = {"data": [pick(self._facts(one), request) for one in page]}
        if page:
            body["paging"] = {"cursors": {"before": page[0].id, "after": page[-1].id}}
        if len(found) > limit:
            host = request.headers.get("host", "localhost")
            body["paging"]["next"] = f"http://{host}{request.path}?limit={limit}&after={page[-1].id}"
        return Answer(200, body)

    def _get(self, request: Request, audience: Audience) -> Answer:
        return Answer(200, pick(self._facts(audience), request), note={"audience": audience.id})

    def _update(self, request: Request, audience: Audience) -> Answer:
        fields = request.fields()
        audience.name = str(fields.get("name", audience.name))
        audience.description = str(fields.get("description", audience.description))
        return Answer(200, {"success": True}, note={"audience": audience.id})

    def _delete(self, request: Request, audience: Audience) -> Answer:
        audience.deleted = True
        return Answer(200, {"success": True}, note={"audience": audience.id})

    def _show_sessions(self, request: Request, audience: Audience) -> Answer:
        wanted = request.query.get("session_id")
        self._sessions.replacing(audience, self.clock.now())
        facts = [session.facts() for session in self._sessions.of(audience) if wanted in (None, str(session.id))]
        return Answer(200, {"data": facts})

    # -- members ----------------------------------------------------------------------------------------------

    def _upload(self, request: Request, audience: Audience) -> Answer:
        """add, remove, replace"""
        self._check_terms()
        upload = self._read(request)
        if audience.form not in ("", upload.form):
            raise errors.refuse(2650, None, "multi hashes: single and multi key uploads are mixed")
        now, day = self.clock.now(), self.clock.today()
        if request.op == "remove":
            self._check_size(audience, upload)
        if request.op == "replace":
            session = self._sessions.replace(audience, upload, self.new_members(), now, day)
        else:
            session = self._sessions.upload(audience, request.op, upload, now, day)
        audience.form = upload.form
        body = {
            "audience_id": audience.id,
            "session_id": str(session.id),
            "num_received": session.received,
            "num_invalid_entries": upload.invalid,
            "invalid_entry_samples": upload.samples or [],
        }
        note = {"audience": audience.id, "session": session.id, "batch": upload.session.seq, "invalid": upload.invalid}
        return Answer(200, body, note={"rows": upload.total, **note})

    def _erase(self, request: Request, account: str) -> Answer:
        """Take people out of every audience of the account."""
        upload = self._read(request)
        for audience in self.audiences.values():
            if audience.account == account and not audience.deleted:
                for row in upload.rows:
                    audience.members.remove(row, self.clock.today())
        body = {"num_received": upload.total, "num_invalid_entries": upload.invalid, "invalid_entry_samples": []}
        return Answer(200, body, note={"rows": upload.total})

    def _read(self, request: Request) -> Upload:
        upload = read_upload(request)
        for fault in upload.faults:
            self.violation(f"{request.op}: {fault}")
        return upload

    def _check_terms(self) -> None:
        if not self.policy["terms_accepted"]:
            raise errors.refuse(*errors.TERMS)

    def _check_size(self, audience: Audience, upload: Upload) -> None:
        """Refuse a removal that takes somebody out and leaves fewer than `minimum_members`."""
        minimum = self.policy["minimum_members"]
        leaving = audience.members.leaving(upload.rows) if minimum else 0
        if leaving and audience.members.count - leaving < minimum:
            raise errors.refuse(*errors.TOO_SMALL)

    def _facts(self, audience: Audience) -> dict[str, Any]:
        return audience_facts(audience, self._sessions.replacing(audience, self.clock.now()) is not None)


PLATFORM = Meta
