"""The Data Manager API for Google Ads customer lists, as a sandbox.

Source: Google, Data Manager API v1 (v1.8), REST reference and guides, read 2026-11. Members go in and out by jobs: a
job is done at one of its polls, and all older ones of its list with it, those that nobody asks about included.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dbt_segments.sandbox import google_ads_lists as lists
from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.google_ads_access import Access
from dbt_segments.sandbox.google_ads_errors import error, invalid, of_http, refuse, unknown
from dbt_segments.sandbox.google_ads_upload import CODEC, Reader
from dbt_segments.sandbox.people import Key
from dbt_segments.sandbox.platform import DAY_S, Answer, Audience, Platform, Refusal, Request

_LISTS = re.compile(r"/v1/accountTypes/GOOGLE_ADS/accounts/([0-9]+)/userLists(?:/([0-9]+))?")
_OF_LISTS = {("GET", False): "find", ("POST", False): "create", ("GET", True): "get", ("PATCH", True): "update"}
_OF_MEMBERS = {
    "/v1/audienceMembers:ingest": "add",
    "/v1/audienceMembers:remove": "remove",
    "/v1/audienceMembers:removeAll": "sweep",
}
_QUERY: Mapping[str, tuple[str, ...]] = {
    "find": ("pageSize", "pageToken", "filter"),
    "create": ("validateOnly",),
    "update": ("updateMask",),
    "poll": ("requestId",),
}
_MASKS = ("displayName", "description", "membershipDuration")
_STATUS_DAYS = 50


@dataclass
class Job:
    """One accepted request.

    errors  members that processing does not take
    before  of a removeAll: whoever was ingested last before this moment goes
    """

    id: str
    audience: Audience
    op: str
    rows: list[list[Key]] = field(repr=False)
    errors: Counter[str]
    total: int
    made: float
    polls: int = 0
    lost: int = 0
    before: float = 0.0
    state: str = "PROCESSING"


class GoogleAds(Platform):
    """One account, which any login of the token endpoint may use. Policies besides the common ones:

    account            the customer id; None: whichever a call names first
    login_customer_id  the manager through whom the login has access; None: it has it directly
    polls              at which poll a job is done (1)
    fail               a reason: jobs fail at that poll, with nothing applied
    forget_jobs        their status is gone, whatever became of them
    lose               so many members of a job are lost on the way, without a word but the count of the others
    strict_consent     members without both consents are not processed
    refuse             {digest: reason}: requests with such a value are refused because of it
    warn               a reason: members are taken with this warning, by the request and by its job
    granted            whether the user still allows the access
    service_accounts   {e-mail: public key in PEM}
    match_rate         percent that lists with members show
    """

    name = "google_ads"
    codec = CODEC
    defaults: ClassVar[Mapping[str, Any]] = {
        "account": None,
        "login_customer_id": None,
        "polls": 1,
        "fail": None,
        "forget_jobs": False,
        "lose": 0,
        "strict_consent": False,
        "refuse": {},
        "warn": None,
        "granted": True,
        "service_accounts": {},
        "match_rate": None,
    }

    def reset(self) -> None:
        super().reset()
        self.policy |= {"refuse": {}, "service_accounts": {}}
        self.jobs: dict[str, Job] = {}
        # List -> key -> when it was ingested last; what was there when the sandbox was restored has no such time.
        self._ingested: dict[str, dict[Key, float]] = {}
        self._access = Access(self.clock)

    def report(self) -> dict[str, Any]:
        return {"jobs": [{"id": job.id, "op": job.op, "state": job.state} for job in self.jobs.values()]}

    # -- requests ---------------------------------------------------------------------------------------------

    def classify(self, request: Request) -> str:
        if request.path == "/token":
            return "token" if request.method == "POST" else ""
        if request.path in _OF_MEMBERS:
            return _OF_MEMBERS[request.path] if request.method == "POST" else ""
        if request.path == "/v1/requestStatus:retrieve":
            return "poll" if request.method == "GET" else ""
        place = _LISTS.fullmatch(request.path)
        if place is None:
            return ""
        if request.method == "DELETE" and place[2]:
            return "delete"
        return _OF_LISTS.get((request.method, place[2] is not None), "")

    def answer(self, request: Request) -> Answer:
        try:
            return self._route(request)
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        if fault.kind == "expired_token":
            self._access.revoke(_token(request))
            return error("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if fault.kind == "gone":
            where = "destinations[0].product_destination_id"
            return error("INVALID_ARGUMENT", "gone", violations=[(where, "INVALID_DESTINATION")])
        if fault.kind == "throttle":
            limit = "IngestionMutateRequestsPerMinutePerProject"
            answer = error("RESOURCE_EXHAUSTED", "Quota exceeded", metadata={"quota_limit": limit})
        elif fault.kind == "too_small":
            answer = error("INVALID_ARGUMENT", "this platform has no such refusal")
        else:
            answer = of_http(int(fault.get("status", 500)), "injected", str(fault.get("code", "")))
        if fault.get("retry_after", None) is not None:
            answer.headers["Retry-After"] = str(fault.get("retry_after", 0))
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        """Google says nothing of the kind."""
        return {}

    def _route(self, request: Request) -> Answer:
        if request.op == "token":
            return self._exchange(request)
        if not request.op:
            raise refuse("NOT_FOUND", "no such call")
        if not self._access.is_good(_token(request)):
            raise refuse("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        for name in request.query:
            if name not in _QUERY.get(request.op, ()):
                self.violation(f"{request.op}: query parameter {name}")
                raise unknown(name)
        try:
            request.fields()
        except ValueError:
            raise refuse("INVALID_ARGUMENT", "Invalid JSON payload received.") from None
        if request.op == "poll":
            return self._poll(request)
        if request.op in ("add", "remove"):
            return self._upload(request)
        if request.op == "sweep":
            return self._remove_all(request)
        place = _LISTS.fullmatch(request.path)
        assert place is not None
        self._admit(place[1], request.headers.get("login-account", "").rpartition("/")[2])
        if not place[2]:
            return self._find(request) if request.op == "find" else self._create(request)
        audience = self.audiences.get(place[2])
        if audience is None or audience.deleted:
            raise refuse("NOT_FOUND", "Requested entity was not found.")
        of_list: dict[str, Callable[[Request, Audience], Answer]] = {
            "get": self._get,
            "update": self._update,
            "delete": self._delete,
        }
        return of_list[request.op](request, audience)

    def _exchange(self, request: Request) -> Answer:
        if request.query:
            self.violation("token: query string")
        try:
            form = request.fields()
        except ValueError:
            return Answer(400, {"error": "invalid_request"})
        return self._access.exchange(form, self.policy["service_accounts"], granted=self.policy["granted"])

    def _admit(self, account: str, manager: str) -> None:
        """Whether the login may see an account, and came through the manager that it needs."""
        self.policy["account"] = self.policy["account"] or account
        if account != self.policy["account"] or manager != (self.policy["login_customer_id"] or ""):
            raise refuse("PERMISSION_DENIED", "The caller does not have permission")

    # -- lists ------------------------------------------------------------------------------------------------

    def _facts(self, audience: Audience) -> dict[str, Any]:
        return lists.facts(audience, self.policy["match_rate"])

    def _alive(self) -> list[Audience]:
        return [one for one in self.audiences.values() if not one.deleted]

    def _find(self, request: Request) -> Answer:
        found = self._alive()
        if "filter" in request.query:
            name = lists.named(request.query["filter"])
            found = [one for one in found if one.name == name]
        start, size = request.query.get("pageToken", "0"), request.query.get("pageSize", "50")
        if not size.isdigit() or not 0 < int(size) <= 1000:
            raise invalid("page_size", "INVALID_ARGUMENT")
        if not start.isdigit():
            raise invalid("page_token", "INVALID_PAGE_TOKEN")
        end = int(start) + int(size)
        body: dict[str, Any] = {"userLists": [self._facts(one) for one in found[int(start) : end]]} if found else {}
        return Answer(200, {**body, "nextPageToken": str(end)} if end < len(found) else body)

    def _create(self, request: Request) -> Answer:
        body = request.fields()
        traits, days = lists.traits_of(body), lists.days_of(body.get("membershipDuration"))
        if any(one.name == body["displayName"] for one in self._alive()):
            raise invalid("user_list.display_name", "DISPLAY_NAME_ALREADY_USED")
        audience = Audience(
            id=str(8_888_000_000 + self.made + 1),
            account=str(self.policy["account"]),
            name=body["displayName"],
            description=str(body.get("description", "")),
            members=self.new_members(),
            created=self.clock.now(),
            retention_days=days,
            traits=traits,
        )
        if request.query.get("validateOnly") != "true":
            self.made += 1
            self.audiences[audience.id] = audience
        return Answer(200, self._facts(audience), note={"audience": audience.id})

    def _get(self, request: Request, audience: Audience) -> Answer:
        return Answer(200, self._facts(audience), note={"audience": audience.id})

    def _update(self, request: Request, audience: Audience) -> Answer:
        body, masks = request.fields(), request.query.get("updateMask", "").split(",")
        if not masks[0] or any(mask not in _MASKS for mask in masks):
            raise invalid("update_mask", "INVALID_UPDATE_MASK")
        for name in body:
            if name not in _MASKS:
                raise unknown(f"user_list.{name}")
        days = lists.days_of(body.get("membershipDuration"))
        if "displayName" in masks:
            name = lists.name_of(body)
            if any(one.name == name and one is not audience for one in self._alive()):
                raise invalid("user_list.display_name", "DISPLAY_NAME_ALREADY_USED")
            audience.name = name
        if "description" in masks:
            audience.description = str(body.get("description", ""))
        if "membershipDuration" in masks:
            audience.retention_days = days
        return self._get(request, audience)

    def _delete(self, request: Request, audience: Audience) -> Answer:
        audience.deleted = True
        return Answer(200, {}, note={"audience": audience.id})

    # -- members ----------------------------------------------------------------------------------------------

    def _upload(self, request: Request) -> Answer:
        """add, remove"""
        with self._reading(request) as reader:
            upload = reader.read(request)
        audience = self._addressed(upload.list_id)
        if upload.kind != audience.traits["kind"]:
            raise invalid("destinations[0]", "INVALID_USER_LIST_TYPE")
        note = {"rows": upload.total, "audience": audience.id}
        if request.fields().get("validateOnly") is True:
            return Answer(200, {"requestId": f"validated-{len(self.jobs)}"}, note=note)
        job = Job(
            f"job-{len(self.jobs) + 1}",
            audience,
            request.op,
            upload.rows,
            upload.errors,
            upload.total,
            self.clock.now(),
        )
        self.jobs[job.id] = job
        said: dict[str, Any] = {"requestId": job.id}
        if self.policy["warn"]:
            said["fieldWarnings"] = [
                {"field": "audience_members", "description": "sandbox", "reason": self.policy["warn"]}
            ]
        return Answer(200, said, note={**note, "job": job.id})

    @contextmanager
    def _reading(self, request: Request) -> Iterator[Reader]:
        manager, account = self.policy["login_customer_id"] or "", self.policy["account"] or ""
        reader = Reader(account, manager, self.policy["strict_consent"], self.policy["refuse"])
        try:
            yield reader
        finally:
            for fault in sorted(reader.faults):
                self.violation(f"{request.op}: {fault}")

    def _addressed(self, list_id: str) -> Audience:
        audience = self.audiences.get(list_id)
        if audience is None or audience.deleted:
            raise invalid("destinations[0].product_destination_id", "INVALID_DESTINATION")
        return audience

    def _remove_all(self, request: Request) -> Answer:
        with self._reading(request) as reader:
            list_id, before = reader.read_sweep(request, self.clock.now())
        audience = self._addressed(list_id)
        job = Job(f"job-{len(self.jobs) + 1}", audience, "sweep", [], Counter(), 0, self.clock.now(), before=before)
        self.jobs[job.id] = job
        return Answer(200, {"requestId": job.id}, note={"audience": audience.id, "job": job.id})

    def _poll(self, request: Request) -> Answer:
        job = self.jobs.get(request.query.get("requestId", ""))
        if job is None:
            raise invalid("request_id", "INVALID_REQUEST_ID")
        job.polls += 1
        if job.polls >= self.policy["polls"]:
            self._finish(job)
        if self.policy["forget_jobs"] or self.clock.now() - job.made > _STATUS_DAYS * DAY_S:
            raise invalid("request_id", "REQUEST_TOO_OLD")
        return Answer(200, {"requestStatusPerDestination": [self._status(job)]}, note={"job": job.id})

    def _finish(self, last: Job) -> None:
        """End a job, and before it every older one of its list."""
        for job in self.jobs.values():
            if job.audience is last.audience and job.state == "PROCESSING":
                self._apply(job)
            if job is last:
                return

    def _apply(self, job: Job) -> None:
        if self.policy["fail"]:
            job.state, job.errors = "FAILED", Counter({f"PROCESSING_ERROR_REASON_{self.policy['fail']}": job.total})
            return
        members, day = job.audience.members, self.clock.today()
        ingested = self._ingested.setdefault(job.audience.id, {})
        if job.op == "sweep":
            for _, keys in list(members.records()):
                if max(ingested.get(key, 0.0) for key in keys) < job.before:
                    members.remove(keys, day)
        job.lost = min(self.policy["lose"], len(job.rows))
        for row in job.rows[job.lost :]:
            if job.op == "add":
                members.add(row, day)
                ingested |= dict.fromkeys(row, job.made)
            else:
                members.remove(row, day)
        job.state = "PARTIAL_SUCCESS" if job.errors else "SUCCESS"

    def _status(self, job: Job) -> dict[str, Any]:
        verb = ("audienceMembersIngestionStatus", "IngestionStatus")
        if job.op == "remove":
            verb = ("audienceMembersRemovalStatus", "RemovalStatus")
        data = {"CONTACT_ID": "compositeData", "MOBILE_ID": "mobileData", "USER_ID": "userIdData"}
        kind = data[job.audience.traits["kind"]]
        status: dict[str, Any] = {"destination": {"reference": "d1"}, "requestStatus": job.state}
        if job.errors:
            counts = [{"recordCount": str(count), "reason": reason} for reason, count in sorted(job.errors.items())]
            status["errorInfo"] = {"errorCounts": counts}
        if self.policy["warn"] and job.rows and job.state != "PROCESSING":
            reason = f"PROCESSING_WARNING_REASON_{self.policy['warn']}"
            status["warningInfo"] = {"warningCounts": [{"recordCount": str(len(job.rows)), "reason": reason}]}
        if job.op == "sweep":
            status["removeAllAudienceMembersStatus"] = {}
        elif job.state != "PROCESSING":
            status[verb[0]] = {f"{kind}{verb[1]}": {"recordCount": str(job.total - job.lost)}}
        return status


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""


PLATFORM = GoogleAds
