"""X (formerly Twitter) custom audiences.

Source: X Ads API v12 (2022-10-27, the newest), "Audiences" guides and reference, "Web conversions" (the rule for
phones), "Making authenticated requests", read 2026-11; what the official SDK (`twitter-ads` 11.0.0) sends.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import SecretStr, field_validator

from dbt_segments.destinations._marks import carries, mark_of, with_mark
from dbt_segments.destinations._x_auth import OAuth1
from dbt_segments.destinations._x_check import check
from dbt_segments.destinations._x_faults import NameTakenError, classify, pace_s
from dbt_segments.destinations.auth import Auth
from dbt_segments.destinations.base import (
    Accepts,
    Audience,
    Batch,
    Call,
    ConnectionSettings,
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
from dbt_segments.errors import GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

PAGE = "1000"
LONGEST_NAME = 255
_OPERATIONS = {Op.ADD: "Update", Op.REMOVE: "Delete"}
_REASONS = {"PROCESSING": "processing", "TOO_SMALL": "too small to deliver"}
# Tries in all where the counts of an answer do not add up; nothing or all of such a request was applied.
_TRIES = 2


class XSettings(ConnectionSettings):
    """`account_id` is the short text in the URL of the Ads Manager, such as 18ce54d4x5t."""

    account_id: str
    consumer_key: SecretStr
    consumer_secret: SecretStr
    access_token: SecretStr
    access_token_secret: SecretStr

    @field_validator("account_id")
    @classmethod
    def _base_36(cls, value: str) -> str:
        if not re.fullmatch("[0-9a-z]+", value.strip()):
            raise ValueError("must be lower-case letters and digits, as in 18ce54d4x5t")
        return value.strip()


class X(Destination):
    """Customer lists (audience type CRM) of one ad account; members lapse 13 months after they were last sent."""

    type = "x"
    aliases = ("twitter",)
    title = "X custom audiences"
    base_url = "https://ads-api.x.com"
    version = "12"
    settings_model = XSettings
    identifiers: ClassVar = {
        "email": Accepts("email", rules.email()),
        "phone": Accepts("phone_number", rules.phone(plus=True)),
        "maid": Accepts("device_id", rules.maid(case="lower", hashed=True)),
        "idfa": Accepts("device_id", rules.maid(case="lower", hashed=True)),
        "aaid": Accepts("device_id", rules.maid(case="lower", hashed=True)),
        "android_id": Accepts("device_id", rules.android_id()),
        "device_id": Accepts("device_id", rules.device_id()),
        "handle": Accepts("handle", rules.handle()),
        "twitter_id": Accepts("twitter_id", rules.numeric_id()),
        "partner_user_id": Accepts("partner_user_id", rules.opaque_id()),
    }
    units = tuple((name,) for name in identifiers)
    row = Row.KEYED
    # X allows 5,000,000 bytes, and says nothing of users in one operation. Writes other than members: 450 a minute.
    limits = Limits(members=50_000, body_bytes=4_500_000, requests_per_s=7.0, concurrency=2)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    one_click = True
    retention_days = 390  # 13 months are 393 days at least
    minimum = 100
    settles_h = 48
    window_h = 6  # six to eight
    longest_name = LONGEST_NAME
    proves = "X counted every user of the request; it matches them in batches some hours later"
    unsure = (
        "the rule for phones is stated for web conversions only; the page on audiences is silent",
        "whether removing somebody who is not a member is always taken",
        "how errors of single operations are nested; any shape of them is taken",
        "that names of deleted audiences stay taken, and the words of that refusal, are known from other connectors",
        "whether X's own sandbox host serves the call that uploads members",
    )

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        own = self.settings
        return OAuth1(own.consumer_key, own.consumer_secret, own.access_token, own.access_token_secret)

    def account(self) -> str:
        return str(self.settings.account_id)

    def pace(self, reply: Reply) -> float | None:
        return pace_s(reply)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """A user: field -> list of values; identifiers of one field share its list."""
        fields: dict[str, list[str]] = {}
        for name, cell in cells.items():
            fields.setdefault(self.identifiers[name].field, []).append(cell)
        lists = (
            f"""'"{field}":[' || nullif(concat_ws(',', {", ".join(values)}), '') || ']'"""
            for field, values in fields.items()
        )
        return f"concat('{{', concat_ws(',', {', '.join(lists)}), '}}')"

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every audience that this account owns with the mark or the name, lowest id first.

        All of them are read: the API's filter knows beginnings of names only, and who was renamed keeps the mark.
        """
        found = []
        for entry in (yield from self._list({})):
            audience = self._audience(entry, mark)
            if audience.name == name or carries(audience.mark, mark):
                found.append(audience)
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def get(self, audience_id: str) -> Flow[Audience]:
        entry = _entry((yield Call("GET", self._path(audience_id))))
        if entry.get("audience_type", "CRM") != "CRM":
            raise RefusedError("x: the audience takes no uploads, it is no customer list", code="audience_type")
        return self._audience(entry)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        """Make it under this name, or where only a deleted one has it, under the next free one: `VIP (2)`."""
        name = name[:LONGEST_NAME]
        try:
            return (yield from self._make(name, mark))
        except NameTakenError as error:
            # `q` is a prefix without regard to case; the number may cost the name its last letters.
            stem = name[: LONGEST_NAME - 8]
            known = yield from self._list({"q": stem, "with_deleted": "true"})
            if any(entry.get("name") == name and entry.get("deleted") is not True for entry in known):
                hint = "adopt it, or choose another `audience_name:`"
                raise RefusedError("x: an audience of this name is there", code=error.code, hint=hint) from None
            taken = {str(entry.get("name", "")).casefold() for entry in known}
            free = (f"{stem} ({number})" for number in range(2, len(taken) + 3))
            return (yield from self._make(next(one for one in free if one.casefold() not in taken), mark))

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Keep what people wrote in the description and put our mark behind it; an older mark of ours goes."""
        reply = yield Call("GET", self._path(audience.id))
        words = str(_entry(reply).get("description") or "")
        described = with_mark(words, mark)
        if described != words:
            yield Call("PUT", self._path(audience.id), query={"description": described})
        return dataclasses.replace(audience, mark=mark)

    def size(self, audience: Audience) -> Flow[Size]:
        """Matched users, roughly; nothing until X has worked through its first batch."""
        reply = yield Call("GET", self._path(audience.id))
        entry = _entry(reply)
        people = entry.get("audience_size")
        people = people if isinstance(people, int) and not isinstance(people, bool) else None
        reasons = entry.get("reasons_not_targetable") or ()
        status = next((text for reason, text in _REASONS.items() if reason in reasons), "")
        if not status:
            status = "ready" if entry.get("targetable") is True else "processing" if people is None else ""
        return Size(people, people, status)

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            yield Call("DELETE", self._path(audience.id))
        except GoneError:
            return

    def check(self) -> Flow[list[Finding]]:
        return check(self.account())

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch: one operation, applied whole or not at all. Its counts must be those of the batch.

        `expires_at` is left out: X's default of 13 months is its longest.
        """
        if batch.count == 0:
            return Outcome()
        body = f'[{{"operation_type":"{_OPERATIONS[batch.op]}","params":{{"users":[{batch.rows}]}}}}]'
        for _ in range(_TRIES):
            reply = yield Call("POST", f"{self._path(audience.id)}/users", body=body)
            counts = reply.json["data"]
            if isinstance(counts, dict) and counts.get("success_count") == counts.get("total_count") == batch.count:
                return Outcome()
        raise UnknownError("x: the answer does not account for every user", code="success_count")

    # -- how --------------------------------------------------------------------------------------------------

    def _path(self, audience_id: str = "") -> str:
        return f"/accounts/{self.account()}/custom_audiences" + (f"/{audience_id}" if audience_id else "")

    def _make(self, name: str, mark: str) -> Flow[Audience]:
        # In the query, as X wants it. Names are unique, but a repeat would be refused as taken by the first.
        reply = yield Call("POST", self._path(), query={"name": name, "description": mark}, safe=False)
        return self._audience({"name": name, "description": mark, **_entry(reply)}, mark)

    def _list(self, query: Mapping[str, str]) -> Flow[list[dict[str, Any]]]:
        """Every audience of a listing, page by page."""
        entries: list[dict[str, Any]] = []
        seen: set[str] = set()
        cursor = ""
        while True:
            after = {"cursor": cursor} if cursor else {}
            reply = yield Call("GET", self._path(), query={"count": PAGE, **query, **after})
            page = reply.json["data"]
            if not isinstance(page, list):
                raise UnknownError("x: a listing that is no list", code="data")
            entries += [entry for entry in page if isinstance(entry, dict)]
            cursor = str(reply.json.get("next_cursor") or "")
            if not cursor:
                return entries
            if cursor in seen:
                raise UnknownError("x: a page that follows itself", code="next_cursor")
            seen.add(cursor)

    def _audience(self, entry: Any, mark: str = "") -> Audience:
        """One audience as X describes it; of several marks the one that was asked for."""
        audience_id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(audience_id, str) or not re.fullmatch("[0-9A-Za-z]+", audience_id):
            raise UnknownError("x: an answer without the audience's id", code="id")
        own = mark_of(str(entry.get("description") or ""), mark)
        account = str(entry.get("owner_account_id") or self.account())
        return Audience(audience_id, str(entry.get("name") or ""), own, account)


def _entry(reply: Reply) -> dict[str, Any]:
    """The one object of an answer. Raises UnknownError where it is another thing."""
    found = reply.json["data"]
    if not isinstance(found, dict):
        raise UnknownError("x: an answer without the audience", code="data")
    return found
