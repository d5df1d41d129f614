"""Customer lists of Microsoft Advertising (Campaign Management v13, REST), as a sandbox.

Source: Campaign Management service v13, "CustomerList", "CustomerListUserData", "ApplyCustomerListUserData", read
2026-11. Stricter than the platform where a careful sender loses nothing: unknown fields, ids that are no text, a
missing duration and empty uploads are refused. One hash is one item, so each is a person
unless seeded persons say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dbt_segments.sandbox import microsoft_ads_errors as errors
from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec
from dbt_segments.sandbox.platform import Answer, Audience, Platform, Refusal, Request
from dbt_segments.sandbox.refresh import TokenDesk

DEVELOPER_TOKEN = "SANDBOXDEVTOKEN"  # noqa: S105
SCOPE = "https://ads.microsoft.com/msads.manage offline_access"
MAX_ITEMS = 1_000
MAX_IDS = 100
SETTLES_S = 48 * 3600
_OPS = {
    ("POST", "/token"): "token",
    ("POST", "/v13/Audiences"): "create",
    ("PUT", "/v13/Audiences"): "update",
    ("DELETE", "/v13/Audiences"): "delete",
    ("POST", "/v13/Audiences/QueryByIds"): "query",
    ("POST", "/v13/CustomerListUserData/Apply"): "apply",
}
_CREATE = frozenset(("Type", "Name", "Description", "MembershipDuration", "Scope", "ParentId"))
_UPDATE = frozenset(("Type", "Id", "Name", "Description", "MembershipDuration"))
_DATA = frozenset(
    ("AudienceId", "ActionType", "CustomerListItemSubType", "CustomerListItems", "AcceptCustomerMatchTerm")
)
_ACTIONS = ("Add", "Remove", "Replace")
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch


class MicrosoftAds(Platform):
    """One or many customers.

    policy  terms_accepted: in the web interface; updates_lists: whether a customer list can be updated
    """

    name = "microsoft_ads"
    codec = Codec({"Email": True})
    defaults: ClassVar[Mapping[str, Any]] = {"terms_accepted": False, "updates_lists": True}

    def reset(self) -> None:
        super().reset()
        self.desk = TokenDesk(self.clock, scope=SCOPE, rotates=True, public=True)

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        # The vendor's own client says /CampaignManagement itself; elsewhere it belongs to the base URL.
        op = _OPS.get((request.method, request.path.removeprefix("/CampaignManagement")), "")
        try:
            fields = request.fields() if op in ("query", "apply") else {}
        except ValueError:
            return op
        if op == "query":
            return "find" if fields.get("AudienceIds") is None else "get"
        if op == "apply":
            data = fields.get("CustomerListUserData")
            action = data.get("ActionType") if isinstance(data, dict) else None
            return action.lower() if action in _ACTIONS else "apply"
        return op

    def answer(self, request: Request) -> Answer:
        if request.op == "token":
            return self.desk.exchange(request)
        try:
            customer, fields = self._admit(request)
            return self._route(request, customer, fields)
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        if fault.kind == "expired_token":
            self.desk.end_all()
            return errors.fault(*errors.EXPIRED)
        if fault.kind == "gone":
            where = errors.NO_AUDIENCE if request.op in ("get", "update", "delete") else errors.NO_LIST
            return _partially([errors.partial(*where)], Audiences=[None])
        if fault.kind == "throttle":
            answer = errors.fault(*errors.THROTTLED)
        else:
            status = int(fault.get("status", 500))
            known = errors.INTERNAL if status >= 500 else errors.MALFORMED
            code = fault.get("code", known[0])
            answer = errors.fault(code, known[1], fault.get("message", "injected"), status=status)
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        """The platform publishes no allowance."""
        return {}

    def _admit(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The customer of a call that may be made, and the fields of its body."""
        if not request.op:
            raise Refusal(Answer(404, {"Message": "No HTTP resource was found"}))
        if request.query:
            self.violation(f"{request.op}: a query string")
            raise errors.malformed("no call has a query string")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self.desk.is_good(token):
            raise errors.refuse(*errors.EXPIRED)
        if request.headers.get("developertoken") != DEVELOPER_TOKEN:
            raise errors.refuse(*errors.BAD_CREDENTIALS)
        customer, account = (request.headers.get(name, "") for name in ("customerid", "customeraccountid"))
        if not account.isdigit():
            raise errors.refuse(*errors.BAD_ACCOUNT)
        if not customer.isdigit():
            raise errors.refuse(*errors.UNAUTHORIZED)
        if request.headers.get("content-type") != "application/json":
            raise errors.malformed("Content-Type: application/json is required")
        try:
            return customer, request.fields()
        except ValueError:
            raise errors.malformed("the body is no JSON object") from None

    def _route(self, request: Request, customer: str, fields: dict[str, Any]) -> Answer:
        if request.op in ("create", "update"):
            _only(fields, {"Audiences"})
            entries = fields.get("Audiences")
            if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_IDS:
                raise errors.malformed("Audiences: 1 to 100 are required")
            return self._create(entries, customer) if request.op == "create" else self._update(entries, customer)
        if request.op in ("find", "get"):
            return self._query(fields, customer)
        if request.op == "delete":
            _only(fields, {"AudienceIds"})
            return self._delete(_ids(fields), customer)
        return self._apply(request, fields, customer)

    # -- lists ------------------------------------------------------------------------------------------------

    def _own(self, list_id: Any, customer: str) -> Audience | None:
        if not isinstance(list_id, str):
            raise errors.malformed("ids are text")
        found = self.audiences.get(list_id)
        return found if found is not None and not found.deleted and found.account == customer else None

    def _create(self, entries: list[Any], customer: str) -> Answer:
        ids: list[str | None] = []
        refused = []
        for index, entry in enumerate(entries):
            error = self._check_new(entry, customer)
            if error is not None:
                ids.append(None)
                refused.append(errors.partial(*error, index=index))
                continue
            self.made += 1
            audience = Audience(
                id=str(8000000000000000 + self.made),
                account=customer,
                name=entry["Name"],
                description=entry.get("Description") or "",
                members=self.new_members(),
                created=self.clock.now(),
                retention_days=_days(entry["MembershipDuration"]),
                traits={"uploaded": None},
            )
            self.audiences[audience.id] = audience
            ids.append(audience.id)
        return _partially(refused, AudienceIds=ids)

    def _check_new(self, entry: Any, customer: str) -> tuple[int, str] | None:
        """Why a list cannot be made; None where it can. What no careful sender writes refuses the whole call."""
        _only(entry, _CREATE)
        if entry.get("Type") != "CustomerList" or entry.get("Scope") != "Customer" or entry.get("ParentId") != customer:
            raise errors.malformed("Type CustomerList, Scope Customer and the customer as ParentId are required")
        name, words = entry.get("Name"), entry.get("Description") or ""
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or len(words) > 1024:
            raise errors.malformed("Name: 1 to 128 characters, Description: up to 1,024")
        duration = entry.get("MembershipDuration")
        if type(duration) is not int or not (duration == -1 or 1 <= duration <= 390):
            return errors.BAD_DURATION
        taken = (one for one in self.audiences.values() if one.account == customer and not one.deleted)
        return errors.DUPLICATE_NAME if any(one.name == name for one in taken) else None

    def _query(self, fields: dict[str, Any], customer: str) -> Answer:
        _only(fields, {"AudienceIds", "Type", "ReturnAdditionalFields"})
        if fields.get("Type") != "CustomerList":
            raise errors.malformed("Type: CustomerList is required")
        if fields.get("AudienceIds") is None:
            own = [one for one in self.audiences.values() if one.account == customer and not one.deleted]
            return _partially([], Audiences=[self._facts(one) for one in own])
        found = [self._own(list_id, customer) for list_id in _ids(fields)]
        missing = [errors.partial(*errors.NO_AUDIENCE, index=n) for n, one in enumerate(found) if one is None]
        return _partially(missing, Audiences=[self._facts(one) if one else None for one in found])

    def _facts(self, audience: Audience) -> dict[str, Any]:
        uploaded = audience.traits["uploaded"]
        settled = uploaded is not None and self.clock.now() - uploaded >= SETTLES_S
        return {
            "Type": "CustomerList",
            "Id": audience.id,
            "Name": audience.name,
            "Description": audience.description,
            "MembershipDuration": audience.retention_days or -1,
            "Scope": "Customer",
            "ParentId": audience.account,
            "CustomerShare": None,
            "SearchSize": str(audience.members.count) if settled else None,
            "AudienceNetworkSize": None,
            "SupportedCampaignTypes": ["Search", "Audience"],
            "ForwardCompatibilityMap": None,
        }

    def _update(self, entries: list[Any], customer: str) -> Answer:
        refused = []
        for index, entry in enumerate(entries):
            _only(entry, _UPDATE)
            audience = self._own(entry.get("Id"), customer)
            if audience is None or not self.policy["updates_lists"]:
                refused.append(errors.partial(*(errors.NO_AUDIENCE if audience is None else errors.MALFORMED), index))
                continue
            audience.name = entry.get("Name") or audience.name
            audience.description = entry.get("Description") or audience.description
            audience.retention_days = _days(entry.get("MembershipDuration", audience.retention_days or -1))
        return _partially(refused)

    def _delete(self, ids: list[Any], customer: str) -> Answer:
        refused = []
        for index, list_id in enumerate(ids):
            audience = self._own(list_id, customer)
            if audience is None:
                refused.append(errors.partial(*errors.NO_AUDIENCE, index=index))
            else:
                audience.deleted = True
        return _partially(refused)

    # -- members ----------------------------------------------------------------------------------------------

    def _apply(self, request: Request, fields: dict[str, Any], customer: str) -> Answer:
        _only(fields, {"CustomerListUserData"})
        data = _only(fields.get("CustomerListUserData"), _DATA)
        audience = self._own(data.get("AudienceId"), customer)
        items = data.get("CustomerListItems")
        if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
            raise errors.malformed("CustomerListItems: 1 to 1,000 are required")
        error = self._refusal(data, audience)
        if error is not None or audience is None:
            return _partially([errors.partial(*(error or errors.NO_LIST))])
        rows, refused = [], []
        for index, item in enumerate(items):
            if isinstance(item, str) and _DIGEST(item) and index >= request.skip:
                rows.append(self.codec.encode("Email", item))
                continue
            refused.append(errors.partial(*errors.NOT_HASHED, index=index))
            if index >= request.skip:
                self.violation(f"{request.op}: an item that is no SHA-256 in lower case")
        if data["ActionType"] == "Replace":
            audience.members = self.new_members()
        change = audience.members.remove if data["ActionType"] == "Remove" else audience.members.add
        for key in rows:
            change([key], self.clock.today())
        audience.traits["uploaded"] = audience.traits["uploaded"] or self.clock.now()
        note = {"rows": len(items), "audience": audience.id}
        answer = _partially(refused)
        return Answer(answer.status, answer.body, note={**answer.note, **note})

    def _refusal(self, data: Mapping[str, Any], audience: Audience | None) -> tuple[int, str] | None:
        """Why a whole upload is refused, in the platform's words."""
        accepted = data.get("AcceptCustomerMatchTerm")
        accepted = self.policy["terms_accepted"] if accepted is None else accepted
        if type(accepted) is not bool:
            raise errors.malformed("AcceptCustomerMatchTerm: true or false")
        if audience is None:
            return errors.NO_LIST
        if data.get("ActionType") not in _ACTIONS:
            return errors.BAD_ACTION
        if data.get("CustomerListItemSubType") != "Email":
            return errors.BAD_SUB_TYPE
        return None if accepted else errors.TERMS


def _only(value: Any, allowed: frozenset[str] | set[str]) -> dict[str, Any]:
    """The object, which has no field but these."""
    if not isinstance(value, dict):
        raise errors.malformed("an object is required")
    # The vendor's own client writes what it was not given as null.
    unknown = sorted({name for name, given in value.items() if given is not None} - allowed)
    if unknown:
        raise errors.malformed(f"unknown fields: {', '.join(unknown)}")
    return value


def _ids(fields: Mapping[str, Any]) -> list[Any]:
    ids = fields.get("AudienceIds")
    if not isinstance(ids, list) or not ids:
        raise errors.malformed("AudienceIds: a list is required")
    if len(ids) > MAX_IDS:
        raise errors.refuse(*errors.TOO_MANY_IDS)
    return ids


def _days(duration: int) -> int | None:
    return None if duration == -1 else duration


def _partially(partial_errors: list[dict[str, Any]], **body: Any) -> Answer:
    """HTTP 200 with what was refused."""
    codes = sorted({str(one["Code"]) for one in partial_errors})
    return Answer(200, {**body, "PartialErrors": partial_errors}, note={"code": "/".join(codes)} if codes else {})


PLATFORM = MicrosoftAds
