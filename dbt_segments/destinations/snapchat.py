"""Snapchat customer lists, formerly Snap Audience Match.

Source: Marketing API v1, "Customer Lists", "Authentication", "Rate Limits", read 2026-11, and working clients for the
calls that those pages do not show. There are no minor versions.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, SecretStr, field_validator

from dbt_segments.destinations._marks import carries, mark_of, with_mark
from dbt_segments.destinations._snapchat_faults import classify
from dbt_segments.destinations.auth import Auth, refreshing
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
    RefreshSettings,
    Reply,
    Row,
    Size,
    Support,
)
from dbt_segments.errors import AuthError, GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

TOKEN_URL = "https://accounts.snapchat.com/login/oauth2/access_token"  # noqa: S105
PAGE = "1000"
MAX_AUDIENCES = 1_000
# Members stay until they are removed.
FOR_EVER_DAYS = 9_999
_KIND = "FIRST_PARTY"
_METHODS = {Op.ADD: "POST", Op.REMOVE: "DELETE"}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TARGETABLE = {"READY": "ready", "TOO_FEW_USERS": "too few people", "NOT_READY": "not ready"}


class SnapchatSettings(RefreshSettings):
    """`batch_size`: identifiers of one request."""

    ad_account_id: str
    client_secret: SecretStr
    batch_size: int = Field(default=50_000, ge=1, le=100_000)

    @field_validator("ad_account_id")
    @classmethod
    def _uuid(cls, value: str) -> str:
        text = value.strip().lower()
        if not _UUID.fullmatch(text):
            raise ValueError("must be a UUID, as 8adc3db7-8148-4fbf-999c-8d2266369d74")
        return text


class Snapchat(Destination):
    """Segments of one ad account: source type FIRST_PARTY, one kind of identifier a request, no expiry."""

    type = "snapchat"
    title = "Snapchat customer lists"
    base_url = "https://adsapi.snapchat.com"
    token_endpoint = TOKEN_URL
    version = "v1"
    settings_model = SnapchatSettings
    identifiers: ClassVar = {
        "email": Accepts("EMAIL_SHA256", rules.email()),
        "phone": Accepts("PHONE_SHA256", rules.phone(plus=False)),
        "maid": Accepts("MOBILE_AD_ID_SHA256", rules.maid(case="lower", hashed=True)),
        "idfa": Accepts("MOBILE_AD_ID_SHA256", rules.maid(case="lower", hashed=True)),
        "aaid": Accepts("MOBILE_AD_ID_SHA256", rules.maid(case="lower", hashed=True)),
    }
    units = (("email",), ("phone",), ("maid",), ("idfa",), ("aaid",))
    row = Row.SINGLE
    # 20 requests a second an app, 10 a token. Updates of one segment go one by one: their order is not promised.
    limits = Limits(members=50_000, requests_per_s=8.0, concurrency=1)
    # Emptying a segment and filling it again is two calls, and in between nobody can be reached.
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.NOT_YET}
    one_click = True
    minimum = 1_000
    settles_h = 48
    longest_name = 375
    proves = "the identifiers were received; who is known is matched later, and not said by row"
    unsure = (
        "every call but the creation of a segment, which Snap's pages do not show and other clients make",
        "what an update of a segment may change, which only taking over an audience of yours does",
        "the list of error codes, the longest body, and how long processing takes",
        "whether an audience lapses after 13 months without use, as one vendor reports",
        "whether refresh tokens are ever replaced; one that is, is kept",
    )

    def __init__(self, settings: SnapchatSettings) -> None:
        super().__init__(settings)
        self.limits = dataclasses.replace(type(self).limits, members=settings.batch_size)  # type: ignore[misc]

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        return refreshing(self.settings, TOKEN_URL)

    def account(self) -> str:
        return str(self.settings.ad_account_id)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """An array of the hash alone: the request names the kind of identifier."""
        (cell,) = cells.values()
        return f"concat('[', {cell}, ']')"

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every customer list with the mark or the name, lowest id first; names are not unique, nor filtered by."""
        found = yield from self._every(mark)
        return [one for one in found if one.name == name or carries(one.mark, mark)]

    def get(self, audience_id: str) -> Flow[Audience]:
        reply = yield Call("GET", f"/segments/{audience_id}")
        entry = _segment(reply)
        if entry.get("source_type", _KIND) != _KIND:
            raise RefusedError("snapchat: the segment takes no uploads, it is no customer list", code="source_type")
        return self._audience(entry)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        fields = self._fields(name, mark)
        # Names are not unique: a repeat would make a second segment.
        reply = yield Call("POST", self._segments(), body=json.dumps({"segments": [fields]}), safe=False)
        return Audience(id=_id(_segment(reply)), name=name, mark=mark, account=self.account())

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Keep what people wrote in the description, put our mark behind it, and let members stay."""
        reply = yield Call("GET", f"/segments/{audience.id}")
        entry = _segment(reply)
        words = str(entry.get("description") or "")
        text = with_mark(words, mark)
        if text != words or entry.get("retention_in_days") != FOR_EVER_DAYS:
            fields = {"id": audience.id, **self._fields(str(entry.get("name") or audience.name), text)}
            yield Call("PUT", self._segments(), body=json.dumps({"segments": [fields]}))
        return dataclasses.replace(audience, mark=mark)

    def size(self, audience: Audience) -> Flow[Size]:
        """The number means something once everything that was received is matched."""
        reply = yield Call("GET", f"/segments/{audience.id}")
        entry = _segment(reply)
        upload, people = entry.get("upload_status"), entry.get("approximate_number_users")
        if upload == "NO_UPLOAD":
            return Size(status="nothing uploaded")
        if upload != "COMPLETE" or not isinstance(people, int):
            return Size(status="processing")
        return Size(lower=people, upper=people, status=_TARGETABLE.get(str(entry.get("targetable_status")), ""))

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            yield Call("DELETE", f"/segments/{audience.id}")
        except GoneError:
            return

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch: it passes or fails as a whole.

        Two members with the same e-mail are one row: Snap wants each once. `number_uploaded_users` counts what was
        received, so a smaller number proves that some did not arrive.
        """
        if batch.count == 0:
            return Outcome()
        # Rows hold nothing but a hash, so every comma separates two of them.
        rows = dict.fromkeys(batch.rows.split(","))
        schema = self.identifiers[batch.fields[0]].field
        body = f'{{"users":[{{"schema":["{schema}"],"data":[{",".join(rows)}]}}]}}'
        reply = yield Call(_METHODS[batch.op], f"/segments/{audience.id}/users", body=body)
        received = _part(reply, "users", "user").get("number_uploaded_users")
        if isinstance(received, int) and received < len(rows):
            raise UnknownError("snapchat: fewer identifiers were received than sent", code="number_uploaded_users")
        return Outcome()

    # -- doctor -----------------------------------------------------------------------------------------------

    def check(self) -> Flow[list[Finding]]:
        """Reading the segments needs a good token and a role on the ad account."""
        try:
            segments = yield from self._entries()
        except AuthError as error:
            what = "account" if error.code in ("E3002", "E3003", "403") else "credentials"
            return [Finding(what, False, error.message, error.hint or "")]
        said = f"{len(segments):,} of {MAX_AUDIENCES:,} audiences"
        room = len(segments) < MAX_AUDIENCES
        return [
            Finding("credentials", True, "accepted"),
            Finding("account", True, f"{self.account()} can be read; whether it can be written to is not said"),
            Finding("audiences", room, said, "" if room else "delete audiences that nobody uses"),
        ]

    # -- parts ------------------------------------------------------------------------------------------------

    def _segments(self) -> str:
        return f"/adaccounts/{self.account()}/segments"

    def _fields(self, name: str, description: str) -> dict[str, Any]:
        return {
            "name": name,
            "description": description,
            "source_type": _KIND,
            "retention_in_days": FOR_EVER_DAYS,
            "ad_account_id": self.account(),
        }

    def _entries(self) -> Flow[list[dict[str, Any]]]:
        """Every segment of the ad account; the next page is where the one before says."""
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        call = Call("GET", self._segments(), query={"limit": PAGE})
        while True:
            reply = yield call
            parts = reply.json.get("segments")
            if not isinstance(parts, list):
                raise UnknownError("snapchat: a listing without segments", code="segments")
            inner = [part.get("segment") for part in parts if isinstance(part, dict)]
            found += [segment for segment in inner if isinstance(segment, dict)]
            paging = reply.json.get("paging")
            link = paging.get("next_link") if isinstance(paging, dict) else None
            if not isinstance(link, str) or not link:
                return found
            if link in seen:
                raise UnknownError("snapchat: a page that follows itself", code="next_link")
            seen.add(link)
            call = Call("GET", link)

    def _every(self, mark: str) -> Flow[list[Audience]]:
        entries = yield from self._entries()
        found = [self._audience(entry, mark) for entry in entries if entry.get("source_type") == _KIND]
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def _audience(self, entry: Mapping[str, Any], mark: str = "") -> Audience:
        return Audience(
            id=_id(entry),
            name=str(entry.get("name") or ""),
            mark=mark_of(str(entry.get("description") or ""), mark),
            account=str(entry.get("ad_account_id") or self.account()),
        )


def _part(reply: Reply, parts: str, part: str) -> dict[str, Any]:
    """The only part of an answer that has one. Raises UnknownError where it is not there."""
    found = reply.json.get(parts)
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict):
        inner = found[0].get(part)
        if isinstance(inner, dict):
            return inner
    raise UnknownError(f"snapchat: an answer without {parts}", code=parts)


def _segment(reply: Reply) -> dict[str, Any]:
    return _part(reply, "segments", "segment")


def _id(entry: Mapping[str, Any]) -> str:
    """Ids are decimal texts, longer than a JSON number holds."""
    value = entry.get("id")
    if not isinstance(value, str) or not value.isdigit():
        raise UnknownError("snapchat: an answer without the segment's id", code="id")
    return value
