"""TikTok audiences by the partner (segment, "Streaming API") route.

Source: TikTok API for Business v1.3, pages 1739940583739393 and 1739940585975809 (segment), 1739940506015746 (list),
1739940507792385 (get), 1738373164380162 (authentication), help centre "List of supported IDs and formats" (September
2025), read 2026-11; batch size from public connectors (Segment, RudderStack).

The file route is not used: its removals fail where fewer than 1,000 matched people would be left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

from pydantic import SecretStr, field_validator

from dbt_segments.destinations._tiktok_faults import MAPPING, PARTIAL, SEGMENT, classify, code_of
from dbt_segments.destinations.auth import Auth, Outgoing, bearer
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
from dbt_segments.errors import AuthError, GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

_LIST = "/dmp/custom_audience/list/"
_GET = "/dmp/custom_audience/get/"
_PAGE = 100
# Stands for the audience's id in what SQL writes; no hash holds it.
_HERE = '["?"]'
_ACTIONS = {Op.ADD: "add", Op.REMOVE: "delete"}


class TikTokSettings(ConnectionSettings):
    """`advertiser_id` is a text of digits: 18 or 19 of them do not fit a number."""

    advertiser_id: str
    access_token: SecretStr

    @field_validator("advertiser_id", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> str:
        digits = str(value).strip()
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError("must be digits, in quotes")
        return digits


class _AccessToken(Auth):
    """The long-term token in TikTok's own header. It has no timer and is never refreshed."""

    def __init__(self, token: SecretStr) -> None:
        self._token = bearer(token.get_secret_value()).removeprefix("Bearer ")

    def apply(self, outgoing: Outgoing) -> None:
        outgoing.headers["Access-Token"] = self._token


class TikTok(Destination):
    """Partner audiences of one advertiser. They have no description, so they are found by their name alone."""

    type = "tiktok"
    title = "TikTok partner audiences"
    base_url = "https://business-api.tiktok.com"
    version = "v1.3"
    settings_model = TikTokSettings
    identifiers: ClassVar = {
        "email": Accepts("EMAIL_SHA256", rules.email(unspaced=True)),
        "phone": Accepts("PHONE_SHA256", rules.phone(plus=True)),
        "idfa": Accepts("IDFA_SHA256", rules.maid(case="lower", hashed=True)),
        "aaid": Accepts("AAID_SHA256", rules.maid(case="lower", hashed=True)),
    }
    units = (("email",), ("phone",), ("idfa",), ("aaid",))
    row = Row.POSITIONAL
    limits = Limits(members=1_000, body_bytes=1_000_000, requests_per_s=10, concurrency=2)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    one_click = True
    has_mark = False
    # Not of members but of audiences: one without any change for so long ends. Asserting members again is a change.
    retention_days = 365
    minimum = 1_000
    settles_h = 48
    longest_name = 70
    proves = "the request was accepted; nothing is said of single rows, which are applied within two days"
    unsure = (
        "the largest batch: 1,000 rows under 1 MB is what connectors send",
        "the e-mail rule: the newest of three official texts is followed (white space and case only)",
        "how a throttled call says its window, and whether partner audiences are always listed",
    )

    # -- the connection ---------------------------------------------------------------------------------------

    def root(self) -> str:
        base = (self.settings.base_url or self.base_url).rstrip("/")
        api = base if base.endswith("/open_api") else f"{base}/open_api"
        return f"{api}/{self.settings.api_version or self.version}"

    def auth(self) -> Auth:
        return _AccessToken(self.settings.access_token)

    def account(self) -> str:
        found: str = self.settings.advertiser_id
        return found

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    # -- rows -------------------------------------------------------------------------------------------------

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """`[{"id": .., "audience_ids": [..]}, {}, ..]`: one place for each identifier, `{}` where there is none."""
        places = (
            f"""coalesce('{{"id":' || {cell} || ',"audience_ids":{_HERE}}}', '{{}}')""" for cell in cells.values()
        )
        return f"""concat('[', {", ',', ".join(places)}, ']')"""

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every audience of that very name, lowest id first; there is no filter, and no field for a mark.

        Raises RefusedError for a name that TikTok would cut: it would not be found again.
        """
        if len(name) > (self.longest_name or 0):
            raise RefusedError(
                f"tiktok: the audience's name is longer than {self.longest_name} characters and would be cut",
                code="audience_name",
                hint="set a shorter `audience_name`",
            )
        found, page, pages = [], 1, 1
        while page <= pages:
            reply = yield self._list(page, _PAGE)
            data = _data(reply)
            entries, info = data.get("list"), data.get("page_info")
            total = _count(info.get("total_page")) if isinstance(info, dict) else None
            if not isinstance(entries, list) or total is None:
                raise UnknownError("tiktok: a listing without entries", code="list")
            pages = total
            named = (entry for entry in entries if isinstance(entry, dict) and str(entry.get("name")) == name)
            found += [self._audience(entry, reply) for entry in named]
            page += 1
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def get(self, audience_id: str) -> Flow[Audience]:
        details, reply = yield from self._details(audience_id)
        return self._audience(details, reply)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        body = {"advertiser_id": self.account(), "action": "create", "custom_audience_name": name}
        # Names are not unique: a repeat would make a second audience.
        reply = yield Call("POST", SEGMENT, body=json.dumps(body), safe=False)
        return Audience(id=_id(_data(reply).get("audience_id")), name=name, account=self.account())

    def size(self, audience: Audience) -> Flow[Size]:
        details, reply = yield from self._details(audience.id)
        people, ended = _count(details.get("cover_num")), _ended(details, reply)
        if ended:
            return Size(people, people, "expired", ended=ended)
        if details.get("error_msg"):
            return Size(status="failed", wrong="refused by TikTok: look at it in the Ads Manager")
        if not people:
            # Zero until it is processed, and zero where too few were matched: the two look alike.
            return Size(status="processing")
        ready = "expiring" if details.get("is_expiring") is True else "ready"
        return Size(people, people, ready if details.get("is_valid") is True else "not usable")

    def delete(self, audience: Audience) -> Flow[None]:
        body = {"advertiser_id": self.account(), "action": "delete", "delete_audience_id": audience.id}
        try:
            yield Call("POST", SEGMENT, body=json.dumps(body))
        except GoneError:
            return

    def check(self) -> Flow[list[Finding]]:
        """Whether audiences can be listed, which needs the token, scope 30 and the advertiser together."""
        try:
            yield self._list(1, 1)
        except AuthError as error:
            return [Finding("credentials", False, error.message, error.hint or "")]
        except (GoneError, RefusedError) as error:
            return [Finding("account", False, error.message, error.hint or "is `advertiser_id` right?")]
        return [
            Finding("credentials", True, "the access token works; it has no end of its own"),
            Finding("account", True, f"audiences of advertiser {self.account()} can be listed"),
            Finding("scopes", None, "30 (reading) is there; TikTok does not show 31 (writing) without a write"),
        ]

    def _list(self, page: int, size: int) -> Call:
        query = {"advertiser_id": self.account(), "page": str(page), "page_size": str(size)}
        return Call("GET", _LIST, query=query)

    def _details(self, audience_id: str) -> Flow[tuple[dict[str, Any], Reply]]:
        """What TikTok says of one audience, and in which answer. Raises GoneError where it says nothing."""
        query = {"advertiser_id": self.account(), "custom_audience_ids": json.dumps([audience_id])}
        reply = yield Call("GET", _GET, query=query)
        entries = _data(reply).get("list")
        if not isinstance(entries, list):
            raise UnknownError("tiktok: an answer without a list", code="list")
        for entry in entries:
            details = entry.get("audience_details") if isinstance(entry, dict) else None
            if isinstance(details, dict) and str(details.get("audience_id")) == audience_id:
                return details, reply
        raise GoneError("tiktok: the audience does not exist", code="40007")

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch; both are set operations.

        20001 says that some rows were refused, neither which nor how many: at least one, so the run is not clean.
        """
        if batch.count == 0:
            return Outcome()
        schema = json.dumps([self.identifiers[name].field for name in batch.fields], separators=(",", ":"))
        rows = batch.rows.replace(_HERE, json.dumps([audience.id]))
        head = f'{{"advertiser_ids":["{self.account()}"],"action":"{_ACTIONS[batch.op]}","id_schema":{schema}'
        reply = yield Call("POST", MAPPING, body=f'{head},"batch_data":[{rows}]}}')
        return Outcome(unattributed=1) if code_of(reply) == PARTIAL else Outcome()

    def _audience(self, entry: Mapping[str, Any], reply: Reply) -> Audience:
        """A listing names them `audience_id` and `name`, although a creation says `custom_audience_name`."""
        name, ended = str(entry.get("name") or ""), _ended(entry, reply)
        return Audience(_id(entry.get("audience_id")), name, account=self.account(), ended=ended)


def _ended(entry: Mapping[str, Any], reply: Reply) -> str:
    """`expired` where TikTok calls the audience not valid, and its last day is over by the answer's own clock.

    A young or a small audience is not valid either, so that alone says nothing. No page names the time zone of
    `expired_time`: a day more has to be over.
    """
    if entry.get("is_valid") is not False:
        return ""
    try:
        end = datetime.fromisoformat(str(entry.get("expired_time")))
        now = parsedate_to_datetime(reply.headers.get("date", ""))
    except (TypeError, ValueError):
        return ""
    end = end if end.tzinfo else end.replace(tzinfo=timezone.utc)
    now = now if now.tzinfo else now.replace(tzinfo=timezone.utc)
    return "expired" if end + timedelta(days=1) < now else ""


def _data(reply: Reply) -> dict[str, Any]:
    data = reply.json.get("data")
    if not isinstance(data, dict):
        raise UnknownError("tiktok: an answer without data", code="data")
    return data


def _id(value: Any) -> str:
    if not isinstance(value, (str, int)) or not str(value).isdigit():
        raise UnknownError("tiktok: an answer without the audience's id", code="id")
    return str(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
