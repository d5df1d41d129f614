"""Google Ads customer lists (Customer Match), by the Data Manager API.

Source: Google, Data Manager API v1 (v1.8, 2026-07-30), "Customer Match" guides, "Formatting", "Limits", "Diagnostics"
and the REST reference, read 2026-11. The Google Ads API's own route is closed to new integrations since 2026-04-01.

Members go in and out by jobs: an accepted request says nothing of its members, its status some 30 minutes later does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

from dbt_segments.destinations import _google_ads_lists as lists
from dbt_segments.destinations._google_ads_auth import TOKEN_URL, auth_of
from dbt_segments.destinations._google_ads_faults import NAME_TAKEN, RowsRefusedError, classify, objects, word
from dbt_segments.destinations._google_ads_rows import ADDRESS, CONTACTS, MOBILE, member
from dbt_segments.destinations._google_ads_settings import CONSENT, DENIED, GRANTED, GoogleAdsSettings
from dbt_segments.destinations._marks import carries
from dbt_segments.destinations.auth import Auth
from dbt_segments.destinations.base import (
    Accepts,
    Audience,
    Batch,
    Call,
    Destination,
    Fault,
    Finding,
    Flow,
    Limits,
    Op,
    Outcome,
    Reply,
    Row,
    Size,
    Support,
)
from dbt_segments.errors import AuthError, GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules
from dbt_segments.values import Identifier

PAGE = "1000"
# How often the rest of a batch is sent again without members that were refused: each time some are named.
_ROUNDS = 50
_KINDS = {"contact_id": (*CONTACTS, *ADDRESS), "user_id": ("external_id",)}
_PROCESSING = ("PROCESSING", "REQUEST_STATUS_UNKNOWN")


class GoogleAds(Destination):
    """Customer lists of one Google Ads account; a list holds one kind of key, by default contact data."""

    type = "google_ads"
    title = "Google Ads Customer Match"
    base_url = "https://datamanager.googleapis.com"
    token_endpoint = TOKEN_URL
    version = "v1"
    settings_model = GoogleAdsSettings
    identifiers: ClassVar = {
        "email": Accepts(CONTACTS["email"], rules.email(unspaced=True, gmail=True)),
        "phone": Accepts(CONTACTS["phone"], rules.phone(plus=True)),
        "first_name": Accepts(ADDRESS["first_name"], rules.spaced_name(drops="title")),
        "last_name": Accepts(ADDRESS["last_name"], rules.spaced_name(drops="suffix")),
        "country": Accepts(ADDRESS["country"], rules.country(case="upper", hashed=False)),
        "postal_code": Accepts(ADDRESS["postal_code"], rules.postal_code_as_written()),
        "maid": Accepts("mobileIds", rules.maid(case=None)),
        "idfa": Accepts("mobileIds", rules.maid(case=None)),
        "aaid": Accepts("mobileIds", rules.maid(case=None)),
        "external_id": Accepts("userId", rules.opaque_id()),
        **{
            name: Accepts(field, rules.consent(GRANTED, DENIED), trait=True, instead="`granted` or `denied`")
            for name, field in CONSENT.items()
        },
    }
    units = (("email",), ("phone",), tuple(ADDRESS), ("maid",), ("idfa",), ("aaid",), ("external_id",))
    row = Row.KEYED
    limits = Limits(members=10_000, requests_per_s=5.0, concurrency=4)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    modes = ("mirror", "replace")
    sweeps = True
    one_click = True
    retention_days = 540
    minimum = 100
    settles_h = 48
    proves = "the job has ended, and counted the members that it did not take"
    unsure = (
        "the smallest list that is served (100 members by newer sources, 1,000 by older help pages)",
        "how a refusal names a member of an audience; every number in brackets is taken for its place",
        "how long jobs take, and whether bodies have a largest size",
        "whether an external id may be hashed; it travels in clear",
        "whether mobile ids that differ in case only are one; they are sent as they stand, and count as two here",
        "how a removal by time treats members whose jobs run at that moment; `mode: replace` sends those once more",
    )

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        return auth_of(self.settings)

    def account(self) -> str:
        return str(self.settings.customer_id)

    def held(self) -> str | None:
        if self.settings.customer_match_terms == "accepted":
            return None
        return (
            "terms_not_accepted: Google takes members only from advertisers who accepted its Customer Match terms; "
            "if yours did, set `customer_match_terms: accepted` on this connection"
        )

    def warnings(self) -> tuple[str, ...]:
        absent = self.settings.consent.absent
        if not absent:
            return ()
        said = f"consent: {' and '.join(absent)} not set, so none is sent"
        return (f"{said}; Google does not use members in the European Economic Area without both",)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    # -- rows -------------------------------------------------------------------------------------------------

    @classmethod
    def offers(cls, settings: Any) -> Collection[str]:
        kind = settings.upload_key_type
        return MOBILE[settings.key_space] if kind == "mobile_id" else _KINDS[kind]

    @classmethod
    def traits(cls, settings: Any) -> tuple[Identifier, ...]:
        return tuple(Identifier(name, column) for name, column in settings.consent.columns.items())

    def constants(self) -> str:
        said = self.settings.consent.constants
        return json.dumps(said) if said else ""

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        return member(op, cells, self.settings.upload_key_type, self.settings.consent)

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every list of the account with the mark or the name, lowest id first.

        All of them are read: no filter finds a word of a description for certain, and none knows `or`.
        """
        found: list[Audience] = []
        query = {"pageSize": PAGE}
        while True:
            reply = yield self._lists("GET", query=query)
            for entry in lists.page(reply):
                audience = lists.audience(entry, self.account(), mark)
                if audience.name == name or carries(audience.mark, mark):
                    found.append(audience)
            token = reply.json.get("nextPageToken")
            if not token:
                return sorted(found, key=lambda one: (len(one.id), one.id))
            query = {"pageSize": PAGE, "pageToken": str(token)}

    def get(self, audience_id: str) -> Flow[Audience]:
        reply = yield self._lists("GET", audience_id)
        lists.check_kind(reply.json, self.settings.upload_key_type)
        return lists.audience(reply.json, self.account())

    def create(self, name: str, mark: str) -> Flow[Audience]:
        """A name is there only once, so a repeat whose first answer was lost finds what it made."""
        body = lists.body(name, mark, self.settings.upload_key_type, self.settings.app_id, self.settings.key_space)
        try:
            reply = yield self._lists("POST", body=json.dumps(body, ensure_ascii=False))
        except RefusedError as error:
            if error.code not in NAME_TAKEN:
                raise
            found = yield from self.find(mark, name)
            ours = [one for one in found if one.mark == mark]
            if not ours:
                raise
            return ours[0]
        return dataclasses.replace(lists.audience(reply.json, self.account()), name=name, mark=mark)

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Keep what people wrote in the description and put our mark behind it; members stay as long as in our lists.

        Raises RefusedError for a list that holds another kind of key.
        """
        reply = yield self._lists("GET", audience.id)
        lists.check_kind(reply.json, self.settings.upload_key_type)
        change = lists.taken_over(reply.json, mark)
        if change:
            body = json.dumps(change, ensure_ascii=False)
            yield self._lists("PATCH", audience.id, query={"updateMask": ",".join(change)}, body=body)
        return dataclasses.replace(audience, mark=mark)

    def size(self, audience: Audience) -> Flow[Size]:
        reply = yield self._lists("GET", audience.id)
        return lists.size(reply.json)

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            yield self._lists("DELETE", audience.id)
        except GoneError:
            return

    def check(self) -> Flow[list[Finding]]:
        """Reads one list of the account; nothing is changed. Raises what is no refusal of the login."""
        findings = []
        try:
            yield self._lists("GET", query={"pageSize": "1"})
        except AuthError as error:
            findings.append(Finding("credentials", False, error.message, error.hint or ""))
        else:
            findings.append(Finding("credentials", True, "the login was accepted, with the scope of the Data Manager"))
            findings.append(Finding("account", True, f"the customer lists of {self.account()} can be read"))
        held, warned = self.held(), self.warnings()
        findings.append(
            Finding("terms", False, "not accepted on this connection", held.partition(": ")[2])
            if held
            else Finding("terms", None, "accepted on this connection; Google does not say whether it agrees")
        )
        findings.append(
            Finding("consent", False, warned[0], "set `consent` on this connection")
            if warned
            else Finding("consent", True, "ad_user_data and ad_personalization are set")
        )
        findings.append(Finding("token", None, "Google does not say when a login ends"))
        return findings

    def _lists(
        self, method: str, audience_id: str = "", *, query: Mapping[str, str] | None = None, body: str | None = None
    ) -> Call:
        """A call to the account's lists, or to one of them; through a manager it says so in a header."""
        manager = self.settings.login_customer_id
        headers = {"login-account": f"accountTypes/GOOGLE_ADS/accounts/{manager}"} if manager else {}
        path = f"/accountTypes/GOOGLE_ADS/accounts/{self.account()}/userLists"
        path += f"/{audience_id}" if audience_id else ""
        return Call(method, path, query=query or {}, body=body, headers=headers)

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Hand one batch to a job. Members whose values are refused are left out, and the rest is sent again."""
        places, rows = list(range(batch.count)), batch.rows
        refused: dict[int, str] = {}
        for _ in range(_ROUNDS):
            if not places:
                return Outcome(refused=refused)
            try:
                reply = yield self._upload(audience, batch.op, rows)
            except RowsRefusedError as error:
                if any(place >= len(places) for place in error.rows):
                    raise
                refused |= {places[place]: reason for place, reason in error.rows.items()}
                left = [row for place, row in enumerate(json.loads(f"[{rows}]")) if place not in error.rows]
                rows = ",".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in left)
                places = [place for index, place in enumerate(places) if index not in error.rows]
            else:
                warnings = _field_warnings(reply)
                return Outcome(job=_request_id(reply), done=False, refused=refused, warnings=warnings)
        raise RefusedError("google_ads: other members were refused each time it was sent", code="rows")

    def poll(self, audience: Audience, job: str) -> Flow[Outcome]:
        """Members that a job did not take are counted by Google without being named."""
        try:
            reply = yield Call("GET", "/requestStatus:retrieve", query={"requestId": job})
        except RefusedError as error:
            return Outcome(lost=error.code)
        statuses = reply.json.get("requestStatusPerDestination")
        if not isinstance(statuses, list) or len(statuses) != 1 or not isinstance(statuses[0], dict):
            raise UnknownError("google_ads: a status that is not that of one list", code="status")
        status = str(statuses[0].get("requestStatus"))
        refused, warned = _counts(statuses[0], "error"), _counts(statuses[0], "warning")
        if status in ("FAILED", "FAILURE"):  # the reference's word, and that of a guide
            return Outcome(lost=":".join(("FAILED", *(reason for reason, _ in refused))))
        if status in ("SUCCESS", "PARTIAL_SUCCESS"):
            unattributed = max(sum(count for _, count in refused), 1 if status == "PARTIAL_SUCCESS" else 0)
            said = (("members were not taken", refused), ("members were taken with warnings", warned))
            warnings = tuple(f"google_ads: {what} ({_listed(counts)})" for what, counts in said if counts)
            return Outcome(unattributed=unattributed, counted=_counted(statuses[0]), warnings=warnings)
        if status in _PROCESSING:
            return Outcome(job=job, done=False)
        raise UnknownError("google_ads: a status that is not documented", code="status")

    def clock(self, audience: Audience) -> Flow[datetime]:
        """When Google answers, as its answer says. Raises UnknownError where that is missing."""
        reply = yield self._lists("GET", audience.id)
        try:
            found = parsedate_to_datetime(reply.headers.get("date", ""))
        except ValueError:
            raise UnknownError("google_ads: an answer without its time", code="date") from None
        # HTTP's times are in UTC, also those that say `-0000`, which Python takes as no zone.
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)

    def sweep(self, audience: Audience, before: datetime) -> Flow[Outcome]:
        """Remove whoever was ingested last before a moment, as a job."""
        body = {"destinations": [self._destination(audience)], "removeAsOfTime": f"{before:%Y-%m-%dT%H:%M:%SZ}"}
        reply = yield Call("POST", "/audienceMembers:removeAll", body=json.dumps(body, separators=(",", ":")))
        return Outcome(job=_request_id(reply), done=False)

    def _destination(self, audience: Audience) -> dict[str, Any]:
        accounts = {"operatingAccount": self.account(), "loginAccount": self.settings.login_customer_id}
        return {
            "reference": "d1",
            **{key: {"accountType": "GOOGLE_ADS", "accountId": one} for key, one in accounts.items() if one},
            "productDestinationId": audience.id,
        }

    def _upload(self, audience: Audience, op: Op, rows: str) -> Call:
        head: dict[str, Any] = {"destinations": [self._destination(audience)], "encoding": "HEX"}
        if op is not Op.REMOVE:
            consent = self.settings.consent
            if consent.constants and not consent.columns:
                head["consent"] = {CONSENT[name]: word for name, word in consent.constants.items()}
            head["termsOfService"] = {"customerMatchTermsOfServiceStatus": "ACCEPTED"}
        verb = "remove" if op is Op.REMOVE else "ingest"
        text = json.dumps(head, separators=(",", ":"))
        return Call("POST", f"/audienceMembers:{verb}", body=f'{text[:-1]},"audienceMembers":[{rows}]}}')


def _request_id(reply: Reply) -> str:
    found = reply.json.get("requestId")
    if not isinstance(found, str) or not found:
        raise UnknownError("google_ads: members were taken without a request id", code="requestId")
    return found


def _field_warnings(reply: Reply) -> tuple[str, ...]:
    """What Google says against a request that it took, by its reasons; never a field's value."""
    reasons = sorted({word(one.get("reason")) or "UNNAMED" for one in objects(reply.json.get("fieldWarnings"))})
    return (f"google_ads: members were taken with warnings ({', '.join(reasons)})",) if reasons else ()


def _counts(status: Mapping[str, Any], kind: str) -> list[tuple[str, int]]:
    """Why a job did not take members (error) or took them with a warning, and how many of each.

    The reasons are Google's words less their common beginning.
    """
    info = status.get(f"{kind}Info")
    counts = info.get(f"{kind}Counts") if isinstance(info, dict) else None
    begins = f"PROCESSING_{kind.upper()}_REASON_"
    return [
        (word(one.get("reason")).removeprefix(begins) or "UNNAMED", lists.whole(one.get("recordCount")) or 0)
        for one in objects(counts)
    ]


def _listed(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in counts)


def _counted(status: Mapping[str, Any]) -> int | None:
    """How many members Google says a job had, those included that it did not take; None where it says nothing.

    Numbers are texts there, and a zero is left out.
    """
    for verb in ("audienceMembersIngestionStatus", "audienceMembersRemovalStatus"):
        for one in (status.get(verb) or {}).values():
            return lists.whole(one.get("recordCount", 0)) if isinstance(one, dict) else None
    return None
