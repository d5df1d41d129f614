"""Pinterest customer lists, and the audience that ads target.

Source: Pinterest API v5 (description 5.23.0 of 2025-12-11, with the additions of 5.28.0), `customer_lists`,
`audiences`, `oauth/token`; "Create audiences", "Rate limits", "Set up authentication and authorization", read 2026-11.

Two objects: a customer list holds people, an audience of type CUSTOMER_LIST points to it and is what ads target. A list
cannot be made without people, and an audience is refused below 100 of them. A list has no description, so our mark
stands in its name, behind the label; the audience has the plain label, and the mark in its description.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dbt_segments.destinations._marks import PREFIX, carries, mark_of
from dbt_segments.destinations._pinterest_faults import classify, pace_s
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
    TokenSettings,
)
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

PAGE = "250"
_MARKED = re.compile(rf"(?P<label>.*?) ?\[(?P<mark>{PREFIX}[^\[\]]+)\]", re.DOTALL)
# What may be told of `exceptions`, whose shape is not documented: never a value.
_WORD = re.compile(r"[A-Za-z_]{1,40}")
_STATUS = {
    "INITIALIZING": "processing",
    "UPLOADING": "processing",
    "PROCESSING": "processing",
    "READY": "ready",
    "TOO_SMALL": "too small",
}


class PinterestSettings(TokenSettings):
    """Options where Pinterest's documents leave something open.

    batch_size  records of one request; none is documented, others stop at 50,000
    idfa_case   of an IDFA before it is hashed
    """

    ad_account_id: str
    batch_size: int = Field(default=10_000, ge=1, le=50_000)
    idfa_case: Literal["lower", "upper"] = "lower"

    @field_validator("ad_account_id", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> str:
        digits = str(value).strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise ValueError("must be up to 18 digits")
        return digits


class Pinterest(Destination):
    """Customer lists of one ad account: list type EMAIL, members stay until removed."""

    type = "pinterest"
    title = "Pinterest audiences"
    base_url = "https://api.pinterest.com"
    version = "v5"
    settings_model = PinterestSettings
    identifiers: ClassVar = {
        "email": Accepts("records", rules.email()),
        "idfa": Accepts("records", rules.maid(case="lower", hashed=True)),
        "aaid": Accepts("records", rules.maid(case="lower", hashed=True)),
        "maid": Accepts("records", rules.maid(case="lower", hashed=True)),
    }
    units = (("email",), ("idfa",), ("aaid",), ("maid",))
    row = Row.SINGLE
    # No size is documented: 10,000 is what a connector sends. Writes: 400 a minute, as a vendor says.
    limits = Limits(members=10_000, requests_per_s=6, concurrency=1)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    one_click = True
    undeletable = True
    made_with_members = True
    attends = True
    minimum = 100
    settles_h = 72
    proves = "the list took the records; how many of them it matches is not said"
    unsure = (
        "the largest request",
        "the case of an IDFA before it is hashed: lower here, unless `idfa_case` says upper",
        "the shape of `exceptions`: its keys are told as a warning",
        "whether a list just made is already among the account's lists",
        "the longest name of a list",
        "headers of rate limits: used where they are there",
    )

    def __init__(self, settings: PinterestSettings) -> None:
        super().__init__(settings)
        self.limits = dataclasses.replace(type(self).limits, members=settings.batch_size)  # type: ignore[misc]
        idfa = Accepts("records", rules.maid(case=settings.idfa_case, hashed=True))
        self.identifiers = {**type(self).identifiers, "idfa": idfa}  # type: ignore[misc]

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        """`continuous_refresh` is ignored for apps made since 2025-09-25."""
        more = {"continuous_refresh": "true"}
        return fixed_or_refreshing(self.settings, f"{self.root()}/oauth/token", basic=True, more=more)

    def account(self) -> str:
        return str(self.settings.ad_account_id)

    def pace(self, reply: Reply) -> float | None:
        return pace_s(reply)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """The value alone: a list does not tell kinds of records apart."""
        (cell,) = cells.values()
        return cell

    # -- lists ------------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every list of the account with the mark or the label, lowest id first; there is no filter."""
        every = yield from self._every("customer_lists", order="DESCENDING")
        found = [one for one in map(self._audience, every) if one.name == name or carries(one.mark, mark)]
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def get(self, audience_id: str) -> Flow[Audience]:
        reply = yield Call("GET", self._path("customer_lists", audience_id))
        return self._audience(reply.json)

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Nothing is written: a list cannot be renamed, and has no description. The state alone knows it is ours."""
        yield from ()
        return dataclasses.replace(audience, mark=mark)

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch; without an id, make the list with it.

        Both are operations on a set, so they may be repeated. The list's counters grow with every repeat and prove
        nothing; only the making is not repeated, since names are not unique.
        """
        if batch.count == 0:
            return Outcome()
        # Every value is a SHA-256 in hexadecimal.
        records = batch.rows.replace('"', "")
        if audience.id:
            body = json.dumps({"operation_type": batch.op.name, "records": records}, separators=(",", ":"))
            reply = yield Call("PATCH", self._path("customer_lists", audience.id), body=body)
            if _id(reply.json) != audience.id:
                raise UnknownError("pinterest: the answer speaks of another list", code="id")
            return Outcome(warnings=_warnings(reply.json))
        fields = {"name": _marked(audience.name, audience.mark), "list_type": "EMAIL", "records": records}
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        reply = yield Call("POST", self._path("customer_lists"), body=body, safe=False)
        made = Audience(_id(reply.json), audience.name, audience.mark, self.account())
        return Outcome(audience=made, warnings=_warnings(reply.json))

    # -- the audience that ads target -------------------------------------------------------------------------

    def attend(self, audience: Audience) -> Flow[str | None]:
        """Make the audience of a list, once it has enough people. A refusal is explained by the list's state."""
        if (yield from self._target(audience)) is not None:
            return None
        body = {
            "name": audience.name,
            "audience_type": "CUSTOMER_LIST",
            "rule": {"customer_list_id": audience.id},
            "description": audience.mark,
        }
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        try:
            reply = yield Call("POST", self._path("audiences"), body=text, safe=False)
        except RefusedError as error:
            answer = yield Call("GET", self._path("customer_lists", audience.id))
            return _why(str(answer.json.get("status") or ""), error)
        _id(reply.json)
        return None

    def is_attended(self, audience: Audience) -> Flow[bool]:
        return (yield from self._target(audience)) is not None

    def size(self, audience: Audience) -> Flow[Size]:
        """That of the audience made from the list; the list itself counts uploads only."""
        target = yield from self._target(audience)
        if target is None:
            return Size(status="processing")
        status = str(target.get("status") or "")
        people = target.get("size") if status == "READY" else None
        people = people if isinstance(people, int) and people > 0 else None
        return Size(lower=people, upper=people, status=_STATUS.get(status, status.lower()))

    def delete(self, audience: Audience) -> Flow[None]:
        """Remove the audience that ads target, if it is ours. Lists cannot be deleted: members have to be removed."""
        target = yield from self._target(audience)
        if target is not None and self._is_ours(target, audience):
            call = Call("PATCH", self._path("audiences", _id(target)), body='{"operation_type":"REMOVE"}')
            try:
                yield call
            except GoneError:
                return

    def check(self) -> Flow[list[Finding]]:
        """Reads one entry of each listing; nothing tells beforehand whether the token may write."""
        findings = []
        for what, path in (("account", "customer_lists"), ("scopes", "audiences")):
            try:
                yield self._page(path, size="1")
            except AuthError as error:
                findings.append(Finding("credentials", False, error.message, error.hint or ""))
                return findings
            except DestinationError as error:
                findings.append(Finding(what, False, error.message, error.hint or ""))
                return findings
            said = f"ad account {self.account()} can be read" if what == "account" else "ads:read"
            findings.append(Finding(what, True, said))
        findings.insert(0, Finding("credentials", True, "accepted"))
        findings.append(Finding("ads:write", None, "is seen at the first write only"))
        fixed = "an access token lasts about 30 days from when it was made; Pinterest does not say how many are left"
        renewed = "a refresh token ends 60 days after its last use; Pinterest did not say how many are left"
        findings.append(Finding("token", None, renewed if self.settings.access_token is None else fixed))
        return findings

    def _target(self, audience: Audience) -> Flow[Mapping[str, Any] | None]:
        """The audience that points to a list: the one with our mark, else anybody's."""
        found: Mapping[str, Any] | None = None
        for entry in (yield from self._every("audiences", ownership_type="OWNED")):
            rule = entry.get("rule")
            if not isinstance(rule, dict) or str(rule.get("customer_list_id")) != audience.id:
                continue
            if found is None or self._is_ours(entry, audience):
                found = entry
        return found

    def _is_ours(self, target: Mapping[str, Any], audience: Audience) -> bool:
        return carries(mark_of(str(target.get("description") or "")), audience.mark or PREFIX)

    # -- calls ------------------------------------------------------------------------------------------------

    def _path(self, *parts: str) -> str:
        return "/".join((f"/ad_accounts/{self.account()}", *parts))

    def _page(self, path: str, bookmark: str = "", size: str = PAGE, **more: str) -> Call:
        query = {"page_size": size, **more, **({"bookmark": bookmark} if bookmark else {})}
        return Call("GET", self._path(path), query=query)

    def _every(self, path: str, **more: str) -> Flow[list[Any]]:
        """Every entry of a listing, page by page."""
        found: list[Any] = []
        seen: set[str] = set()
        bookmark = ""
        while True:
            reply = yield self._page(path, bookmark, **more)
            entries, bookmark = _page(reply)
            found += entries
            if not bookmark:
                return found
            if bookmark in seen:
                raise UnknownError("pinterest: a page that follows itself", code="bookmark")
            seen.add(bookmark)

    def _audience(self, entry: Any) -> Audience:
        name = str(entry.get("name") or "")
        ours = _MARKED.fullmatch(name)
        label, mark = (ours["label"], ours["mark"]) if ours else (name, "")
        return Audience(_id(entry), label, mark, str(entry.get("ad_account_id") or self.account()))


def _page(reply: Reply) -> tuple[list[Any], str]:
    """The entries of a page and the bookmark of the next one; empty on the last."""
    entries = reply.json.get("items")
    if not isinstance(entries, list):
        raise UnknownError("pinterest: a listing without items", code="items")
    return [entry for entry in entries if isinstance(entry, dict)], str(reply.json.get("bookmark") or "")


def _marked(label: str, mark: str) -> str:
    """The name of a list."""
    return f"{label} [{mark}]" if mark else label


def _id(entry: Any) -> str:
    value = entry.get("id")
    if not isinstance(value, (str, int)) or not str(value).isdigit():
        raise UnknownError("pinterest: an answer without an id", code="id")
    return str(value)


def _warnings(entry: Any) -> tuple[str, ...]:
    """What a list says against its records: the names of the errors, as far as they are words."""
    exceptions = entry.get("exceptions")
    if not exceptions:
        return ()
    names = [str(name) for name in exceptions] if isinstance(exceptions, dict) else []
    words = ", ".join(sorted(name for name in names if _WORD.fullmatch(name)))
    return (f"pinterest: the list reports exceptions ({words or 'unnamed'})",)


def _why(status: str, error: RefusedError) -> str:
    """Why there is no audience yet, for people."""
    waits = "the audience that ads target is not there yet"
    if status == "TOO_SMALL":
        return f"pinterest: {waits}: the list has fewer than 100 people with Pinterest accounts"
    if _STATUS.get(status) == "processing":
        return f"pinterest: {waits}: the list is being processed, which takes a day or two"
    return f"pinterest: {waits}: it was refused ({error.code}); is the list of 100 people or more?"
