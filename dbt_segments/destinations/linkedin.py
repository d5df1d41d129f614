"""LinkedIn matched audiences: DMP segments of people.

Source: LinkedIn Marketing API, version header 202608, "Create and manage segments", "Create and manage segment users",
"Programmatic refresh tokens", read 2026-11; batch size from two public connectors (RudderStack, Tealium).

The version is a header and never part of the path. A segment carries our mark as `sourceSegmentId`, a field that is the
sender's own, and in its description.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dbt_segments.destinations._linkedin_faults import SEGMENTS, PatientCall, classify, outcome_of
from dbt_segments.destinations._linkedin_settings import TOKEN_URL, URN, LinkedInSettings
from dbt_segments.destinations._marks import carries, mark_of, with_mark
from dbt_segments.destinations.auth import Auth, fixed_or_refreshing
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
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

_PAGE = 100
ACTIONS = {Op.ADD: "ADD", Op.REMOVE: "REMOVE"}
_STATUS = {
    "BUILDING": "processing",
    "UPDATING": "updating",
    "READY": "ready",
    "ARCHIVED": "archived",
    "EXPIRED": "expired",
    "FAILED": "failed",
    "ERROR": "failed",
}
# Ads cannot target such a segment again; LinkedIn's remedy is a new one.
_ENDED = ("EXPIRED", "FAILED", "ERROR")


class LinkedIn(Destination):
    """Streaming segments of one ad account, type USER.

    Names and country travel in clear, so a sync sends them only where it asks for them.
    """

    type = "linkedin"
    title = "LinkedIn matched audiences"
    base_url = "https://api.linkedin.com"
    token_endpoint = TOKEN_URL
    version = "202608"
    settings_model = LinkedInSettings
    identifiers: ClassVar = {
        "email": Accepts("SHA256_EMAIL", rules.email(unspaced=True)),
        "aaid": Accepts("GOOGLE_AID", rules.maid(case="lower", hashed=False)),
        "first_name": Accepts("firstName", rules.name_as_written(longest=35)),
        "last_name": Accepts("lastName", rules.name_as_written(longest=35)),
        "country": Accepts("country", rules.country(case="upper", hashed=False)),
    }
    units: ClassVar[Sequence[tuple[str, ...]]] = (("email",), ("aaid",), ("first_name", "last_name"))
    words = frozenset(("action", "idType"))
    on_request = frozenset(("first_name", "last_name", "country"))
    row = Row.KEYED
    limits = Limits(members=5_000, requests_per_s=10, concurrency=2)  # 600 a minute
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    one_click = True
    minimum = 300
    settles_h = 48
    sunset = "2027-08-15"
    proves = "each member has an answer of its own: well-formed and taken; nothing is said of a match"
    unsure = (
        "the largest batch: 5,000 is what connectors use",
        "whether a description is shown again, and partial updates, which only `audiences adopt` needs",
        "how long the API version lasts: a year at least, so until August 2027 or later",
        "after how many days an unused segment expires",
        "whether names are compared by case; they are sent as they stand, and count as different here",
    )
    kind: ClassVar[str] = "USER"
    edge: ClassVar[str] = "users"

    # -- the connection ---------------------------------------------------------------------------------------

    def root(self) -> str:
        base = (self.settings.base_url or self.base_url).rstrip("/")
        return base if base.endswith("/rest") else f"{base}/rest"

    def auth(self) -> Auth:
        return fixed_or_refreshing(self.settings, TOKEN_URL)

    def account(self) -> str:
        return f"{URN}{self.settings.ad_account_id}"

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    def _call(self, method: str, path: str, word: str, body: str | None = None, **more: Any) -> Call:
        """A call with the three headers that LinkedIn wants of each; `word` is the Rest.li method."""
        return Call(method, path, body=body, headers=self._headers(word), **more)

    def _headers(self, word: str) -> dict[str, str]:
        return {
            "LinkedIn-Version": self.settings.api_version or self.version,
            "X-Restli-Protocol-Version": "2.0.0",
            "X-RestLi-Method": word,
            "Content-Type": "application/json",
        }

    # -- rows -------------------------------------------------------------------------------------------------

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """`{"action": .., "userIds": [{"idType": .., "idValue": ..}, ..], "firstName": .., ..}`, no absent ones."""
        ids, beside = [], []
        for name, cell in cells.items():
            field = self.identifiers[name].field
            if (name,) in self.units:
                ids.append(f"""'{{"idType":"{field}","idValue":' || {cell} || '}}'""")
            else:
                beside.append(f"""'"{field}":' || {cell}""")
        if ids:
            beside.insert(0, f"""'"userIds":[' || nullif(concat_ws(',', {", ".join(ids)}), '') || ']'""")
        return f"""concat('{{"action":"{ACTIONS[op]}",', concat_ws(',', {", ".join(beside)}), '}}')"""

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every segment of the app in this ad account with the mark or the name, lowest id first.

        LinkedIn does not filter by name, and by `sourceSegmentId` only whole, so all are listed.
        """
        found = []
        for entry in (yield from self._listed()):
            audience = self._audience(entry, mark)
            same = audience.name == name and entry.get("type") == self.kind
            if same or carries(audience.mark, mark):
                found.append(audience)
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def get(self, audience_id: str) -> Flow[Audience]:
        entry = yield from self._entry(audience_id)
        return self._audience(entry)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        body = {
            "name": name,
            "description": mark,
            "account": self.account(),
            "type": self.kind,
            "sourcePlatform": self.settings.source_platform,
            "sourceSegmentId": mark,
            "destinations": [{"destination": "LINKEDIN"}],
        }
        # Names are not unique: a repeat would make a second segment.
        reply = yield self._call("POST", SEGMENTS, "CREATE", json.dumps(body), safe=False)
        found = reply.headers.get("x-restli-id") or reply.headers.get("x-linkedin-id") or ""
        return Audience(id=_id(found), name=name, mark=mark, account=self.account())

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Keep what people wrote in the description and put our mark behind it; an older mark of ours goes.

        Raises RefusedError for a segment of another type than this destination writes to.
        """
        entry = yield from self._entry(audience.id)
        if entry.get("type") != self.kind:
            raise RefusedError(
                f"linkedin: the segment is not of type {self.kind}", code="type", hint="choose a segment of that type"
            )
        words = str(entry.get("description") or "")
        described = with_mark(words, mark)
        if described != words:
            patch = {"patch": {"$set": {"description": described}}}
            yield self._call("POST", f"{SEGMENTS}/{audience.id}", "PARTIAL_UPDATE", json.dumps(patch))
        return dataclasses.replace(audience, mark=mark)

    def size(self, audience: Audience) -> Flow[Size]:
        """The members to target. The match rate is that of the last seven days' input; LinkedIn shows no other."""
        entry = yield from self._entry(audience.id)
        place = _place(entry)
        status = str(place.get("status") or "")
        people = _count(place.get("audienceSize"))
        given, matched = _count(entry.get("inputCount")), _count(place.get("matchedCount"))
        return Size(
            lower=people,
            upper=people,
            status=_STATUS.get(status, status.lower()),
            match_rate=min(1.0, matched / given) if given and matched is not None else None,
            ended=_ended(entry),
        )

    def delete(self, audience: Audience) -> Flow[None]:
        """A new segment may answer 404, and stays: only one that is not listed either is gone."""
        path = f"{SEGMENTS}/{audience.id}"
        try:
            yield self._call("DELETE", path, "DELETE")
        except GoneError:
            if (yield from self._is_listed(audience.id)):
                yield PatientCall("DELETE", path, headers=self._headers("DELETE"))

    def check(self) -> Flow[list[Finding]]:
        """Whether segments can be listed, which needs the token, the scope and the ad account together."""
        try:
            yield self._finder(0, 1)
        except AuthError as error:
            return [Finding("credentials", False, error.message, error.hint or "")]
        except DestinationError as error:
            return [Finding("account", False, error.message, error.hint or "")]
        role = "LinkedIn does not say which role the token's member has; writing needs one above VIEWER"
        # Its introspection is for the app alone, and a connection with a fixed token does not know the app's secret.
        if self.settings.access_token is not None:
            life = "an access token ends 60 days after it was made; LinkedIn tells only the app how many are left"
        else:
            life = "a refresh token ends 365 days after the first consent; LinkedIn did not say how many are left"
        return [
            Finding("credentials", True, "the access token works"),
            Finding("account", True, f"segments of {self.account()} can be listed"),
            Finding("scopes", None, role),
            Finding("token", None, life),
        ]

    def _finder(self, start: int, count: int) -> Call:
        query = {
            "q": "account",
            "account": self.account(),
            "sourcePlatform": self.settings.source_platform,
            "start": str(start),
            "count": str(count),
        }
        return self._call("GET", SEGMENTS, "FINDER", query=query)

    def _listed(self) -> Flow[list[dict[str, Any]]]:
        """Every segment of the app in this ad account, as LinkedIn describes them."""
        found: list[dict[str, Any]] = []
        while True:
            reply = yield self._finder(len(found), _PAGE)
            entries, total = reply.json.get("elements"), (reply.json.get("paging") or {}).get("total")
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise UnknownError("linkedin: a listing without elements", code="elements")
            found += entries
            if not entries or (len(found) >= total if isinstance(total, int) else len(entries) < _PAGE):
                return found

    def _is_listed(self, audience_id: str) -> Flow[bool]:
        return any(str(entry.get("id")) == audience_id for entry in (yield from self._listed()))

    def _entry(self, audience_id: str) -> Flow[dict[str, Any]]:
        """One segment. A new one may answer 404 for minutes: what is listed is there.

        Raises GoneError where it is not.
        """
        try:
            reply = yield self._call("GET", f"{SEGMENTS}/{audience_id}", "GET")
        except GoneError:
            for entry in (yield from self._listed()):
                if str(entry.get("id")) == audience_id:
                    return entry
            raise
        found: dict[str, Any] = reply.json
        return found

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch. Adding twice, or removing who is not there, is a success at LinkedIn.

        A 404 is the end of a segment only where it is not listed either; a new one is asked again for a while.
        """
        if batch.count == 0:
            return Outcome()
        path, body = f"{SEGMENTS}/{audience.id}/{self.edge}", f'{{"elements":[{batch.rows}]}}'
        try:
            reply = yield self._call("POST", path, "BATCH_CREATE", body)
        except GoneError:
            if not (yield from self._is_listed(audience.id)):
                raise
            reply = yield PatientCall("POST", path, body=body, headers=self._headers("BATCH_CREATE"))
        return outcome_of(reply, batch.count)

    def _audience(self, entry: Mapping[str, Any], mark: str = "") -> Audience:
        """One segment as LinkedIn describes it; of several marks the one asked for, else that of the description."""
        ours = mark_of(f"{entry.get('description') or ''} {entry.get('sourceSegmentId') or ''}", mark)
        account = str(entry.get("account") or self.account())
        return Audience(_id(entry.get("id")), str(entry.get("name") or ""), ours, account, _ended(entry))


def _place(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ads target of a segment, as LinkedIn shows it with the segment."""
    places = entry.get("destinations")
    return places[0] if isinstance(places, list) and places and isinstance(places[0], dict) else {}


def _ended(entry: Mapping[str, Any]) -> str:
    status = str(_place(entry).get("status") or "")
    return status if status in _ENDED else ""


def _id(value: Any) -> str:
    if not isinstance(value, (str, int)) or not str(value).isdigit():
        raise UnknownError("linkedin: an answer without the segment's id", code="id")
    return str(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
