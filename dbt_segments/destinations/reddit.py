"""Reddit customer lists.

Source: Reddit Ads API v3 (current since 2025-09-30, when v2 ended): "Create Custom Audience", "Update Custom Audience
Users", "Manage customer lists", "Authenticate", and the normalising rules and test vectors of "Manual Advanced Matching
for Developers"; read 2026-11.

One identifier is sent a row, one kind a request. The API takes up to two in a row, but does not check that rows have as
many as `column_order` says, and has one column for two kinds of mobile ids: alone, none can land in a wrong place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator

from dbt_segments.destinations._reddit_faults import CAUSES, RECONNECT, classify, pace_s
from dbt_segments.destinations.auth import Auth, OAuthRefresh, Outgoing, Post, refreshing
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
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

TOKEN_URL = "https://www.reddit.com/api/v1/access_token"  # noqa: S105
CUSTOMER_LIST = "CUSTOMER_LIST"
PAGE = "100"
_ACTIONS = {Op.ADD: "ADD", Op.REMOVE: "REMOVE"}
_STATUS = {
    "PENDING": "processing",
    "VALID": "ready",
    "SUCCESSFUL": "ready",
    "NOT_ENOUGH_MATCHES_ERROR": "too small to deliver",
    "EXPIRED": "expired",
}
_WRONG = {
    "USER_ERROR": "refused by Reddit: look at it in the Ads Manager",
    "INVALID_DATA_SOURCE": "refused by Reddit: look at it in the Ads Manager",
    "SERVER_ERROR": "processing failed at Reddit; if this stays, `dbt-segments sync --full` sends everybody again",
}
# What HTTP libraries call themselves; Reddit blocks such names.
_LIBRARIES = re.compile(
    r"(?:python|requests|httpx|aiohttp|urllib\d?|curl|wget|go-http-client|java|okhttp|apache-httpclient|node|axios|got|"
    r"undici|ruby|faraday|guzzlehttp|php|libwww-perl|postmanruntime|insomnia|mozilla)(?=[/\s-]|$)",
    re.IGNORECASE,
)


class RedditSettings(RefreshSettings):
    """`user_agent` as Reddit wants it: `<platform>:<app id>:<version> (by /u/<name>)`."""

    ad_account_id: str
    client_secret: SecretStr
    user_agent: str

    @field_validator("ad_account_id")
    @classmethod
    def _known_shape(cls, value: str) -> str:
        if not re.fullmatch(r"(?:t2|a2)_[A-Za-z0-9_-]+", value.strip()):
            raise ValueError("must begin with a2_ or t2_")
        return value.strip()

    @field_validator("user_agent")
    @classmethod
    def _own_name(cls, value: str) -> str:
        name = value.strip()
        if not name or not name.isascii() or not name.isprintable():
            raise ValueError("must be printable ASCII, as in web:com.example.audiences:v1.0.0 (by /u/example_ads)")
        if _LIBRARIES.match(name):
            raise ValueError("must not begin with the name of an HTTP library or browser: Reddit blocks those")
        return name


class _Named(Auth):
    """The refreshed token and, on every call, the application's own name."""

    def __init__(self, inner: OAuthRefresh, user_agent: str) -> None:
        self._inner = inner
        self._user_agent = user_agent

    def ready(self, post: Post) -> int:
        return self._inner.ready(post)

    def renew(self, used: int, post: Post) -> bool:
        return self._inner.renew(used, post)

    def left_s(self) -> float | None:
        return self._inner.left_s()

    def apply(self, outgoing: Outgoing) -> None:
        self._inner.apply(outgoing)
        outgoing.headers["User-Agent"] = self._user_agent
        outgoing.headers["Accept"] = "application/json"


class Reddit(Destination):
    """Customer lists of one ad account, type CUSTOMER_LIST; no description, no rename, no expiry that is documented."""

    type = "reddit"
    title = "Reddit customer lists"
    base_url = "https://ads-api.reddit.com/api"
    token_endpoint = TOKEN_URL
    version = "v3"
    settings_model = RedditSettings
    identifiers: ClassVar = {
        "email": Accepts("EMAIL_SHA256", rules.bare_email()),
        "idfa": Accepts("MAID_SHA256", rules.maid(case="upper", hashed=True)),
        "aaid": Accepts("MAID_SHA256", rules.maid(case="lower", hashed=True)),
        "maid": Accepts("MAID_SHA256", rules.maid(case=None, hashed=True)),
    }
    units = (("email",), ("idfa",), ("aaid",), ("maid",))
    row = Row.SINGLE
    # 3,000 requests in 900 s; updates of one audience are not ordered if they are in flight together.
    limits = Limits(members=2_500, requests_per_s=3.3, concurrency=1)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    one_click = True
    has_mark = False
    minimum = 1_000
    settles_h = 48
    proves = "that the request was well formed: Reddit answers 204 without a word about rows, and matches later"
    unsure = (
        "whether names of audiences are unique",
        "whether `=` and a name filter a listing; if not, a run that died while making an audience makes another",
        "whether a refresh token is ever replaced; if so the new one is kept",
        "after how long an audience gets the status EXPIRED",
        "how long matching takes; 48 hours are allowed before anything is said about sizes",
        "whether letters other than a to z in an address are deleted before hashing, as others do and as is done here",
    )

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        name = self.settings.user_agent
        return _Named(refreshing(self.settings, TOKEN_URL, basic=True, headers={"User-Agent": name}), name)

    def account(self) -> str:
        return str(self.settings.ad_account_id)

    def pace(self, reply: Reply) -> float | None:
        return pace_s(reply)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """A row of one cell; `column_order` of the request says what it is."""
        (cell,) = cells.values()
        return f"concat('[', {cell}, ']')"

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Customer lists of exactly this name. There is no place for a mark.

        The filter is a wish only: what comes back is compared again.
        """
        call = Call("GET", f"/ad_accounts/{self.account()}/custom_audiences", {"name": f"={name}", "page.size": PAGE})
        found, asked = [], set()
        while True:
            reply = yield call
            entries, following = _page(reply)
            found += [self._audience(entry) for entry in entries if _is_live_list(entry, name)]
            if not following:
                return sorted(found, key=lambda one: one.id)
            # Given as a whole address. Credentials go to our own host only, so it must be there.
            if urlsplit(following)[:2] != urlsplit(self.root())[:2]:
                raise DestinationError("reddit: the next page of a listing is at another host", code="next_url")
            if following in asked:
                raise UnknownError("reddit: a listing that has no end", code="next_url")
            asked.add(following)
            call = Call("GET", following)

    def get(self, audience_id: str) -> Flow[Audience]:
        reply = yield Call("GET", f"/custom_audiences/{audience_id}")
        entry = _data(reply)
        if entry.get("status") == "DELETED":
            raise GoneError("reddit: the audience was deleted", code="DELETED")
        if str(entry.get("type") or CUSTOMER_LIST) != CUSTOMER_LIST:
            raise RefusedError(f"reddit: the audience takes no uploads, it is no {CUSTOMER_LIST}", code="type")
        return self._audience(entry)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        body = json.dumps({"data": {"name": name, "type": CUSTOMER_LIST}}, ensure_ascii=False, separators=(",", ":"))
        # Names may not be unique: a repeat could make a second audience.
        reply = yield Call("POST", f"/ad_accounts/{self.account()}/custom_audiences", body=body, safe=False)
        return self._audience({"name": name, **_data(reply)})

    def size(self, audience: Audience) -> Flow[Size]:
        """An estimate of matched people; no figures while Reddit is still matching."""
        reply = yield Call("GET", f"/custom_audiences/{audience.id}")
        entry = _data(reply)
        status = str(entry.get("status", ""))
        if status == "DELETED":
            raise GoneError("reddit: the audience was deleted", code=status)
        said, wrong = _STATUS.get(status, status.lower()), _WRONG.get(status, "")
        if said == "processing":
            return Size(status=said)
        lower, upper = _count(entry.get("size_range_lower")), _count(entry.get("size_range_upper"))
        return Size(lower, upper, said, ended=_ended(entry), wrong=wrong)

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            yield Call("DELETE", f"/custom_audiences/{audience.id}")
        except GoneError:
            return

    def check(self) -> Flow[list[Finding]]:
        """Reads one audience's worth of the listing: that proves the tokens, the account and `adsread`."""
        try:
            yield Call("GET", f"/ad_accounts/{self.account()}/custom_audiences", {"page.size": "1"})
        except AuthError as error:
            what = "account" if error.code.startswith("404") else "credentials"
            return [Finding(what, False, error.message, error.hint or RECONNECT)]
        return [
            Finding("credentials", True, "the refresh token gives access tokens, and they are taken"),
            Finding("account", True, f"{self.account()} can be read"),
            Finding(
                "scopes", None, f"adsread is granted; adsedit shows with the first upload. A 403 there is {CAUSES}"
            ),
        ]

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch of one kind of identifier: whole or not at all, and never a word about rows."""
        if batch.count == 0:
            return Outcome()
        (name,) = batch.fields
        head = f'"action_type":"{_ACTIONS[batch.op]}","column_order":["{self.identifiers[name].field}"]'
        body = f'{{"data":{{{head},"user_data":[{batch.rows}]}}}}'
        yield Call("PATCH", f"/custom_audiences/{audience.id}/users", body=body)
        return Outcome()

    def _audience(self, entry: Mapping[str, Any]) -> Audience:
        audience_id = entry.get("id")
        if not isinstance(audience_id, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", audience_id):
            raise UnknownError("reddit: an answer without the audience's id", code="id")
        account = str(entry.get("ad_account_id") or self.account())
        return Audience(audience_id, str(entry.get("name") or ""), account=account, ended=_ended(entry))


def _page(reply: Reply) -> tuple[list[dict[str, Any]], str]:
    """The audiences of a page, and the address of the next one; empty on the last."""
    entries, pages = reply.json["data"], reply.json.get("pagination") or {}
    if not isinstance(entries, list) or not isinstance(pages, dict):
        raise UnknownError("reddit: a listing that is no list", code="data")
    return [entry for entry in entries if isinstance(entry, dict)], str(pages.get("next_url") or "")


def _is_live_list(entry: Mapping[str, Any], name: str) -> bool:
    return entry.get("name") == name and entry.get("type") == CUSTOMER_LIST and entry.get("status") != "DELETED"


def _ended(entry: Mapping[str, Any]) -> str:
    """Reddit's remedy for an expired list is another one."""
    return "EXPIRED" if entry.get("status") == "EXPIRED" else ""


def _data(reply: Reply) -> dict[str, Any]:
    data = reply.json["data"]
    if not isinstance(data, dict):
        raise UnknownError("reddit: an answer without the audience", code="data")
    return data


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
