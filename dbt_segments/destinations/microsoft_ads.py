"""Microsoft Advertising customer lists (Customer Match).

Source: Campaign Management service v13, REST: "ApplyCustomerListUserData", "CustomerList", "AddAudiences",
"GetAudiencesByIds", "UpdateAudiences", "DeleteAudiences"; "Authentication with OAuth", read 2026-11. The path's version
is the only live one and changes inside. SOAP, which serves the same, ends on 2027-01-31.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from dbt_segments.destinations._marks import carries, mark_of, with_mark
from dbt_segments.destinations._microsoft_ads_connection import TOKEN_URL, MicrosoftAdsSettings, account_auth
from dbt_segments.destinations._microsoft_ads_faults import APPLY, DUPLICATE_NAME, classify, refused_rows
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

LONGEST_DESCRIPTION = 1024
# The most that may be asked for; without a word from us it would be 30.
MEMBERSHIP_DAYS = 390
_FOR_EVER = -1
_KIND = "CustomerList"
_ACTIONS = {Op.ADD: "Add", Op.REMOVE: "Remove"}
# A creation whose answer holds neither a list nor an error is looked for, and tried once more.
_CREATE_TRIES = 2


class MicrosoftAds(Destination):
    """Customer lists of one customer: type CustomerList, scope Customer, members kept for 390 days."""

    type = "microsoft_ads"
    title = "Microsoft Advertising customer lists"
    base_url = "https://campaign.api.bingads.microsoft.com/CampaignManagement"
    token_endpoint = TOKEN_URL
    version = "v13"
    settings_model = MicrosoftAdsSettings
    identifiers: ClassVar = {"email": Accepts("Email", rules.email())}
    units = (("email",),)
    row = Row.SINGLE
    # 1,000 hashes are about 70 KB. One call at a time per account is a choice: no rate is published.
    limits = Limits(members=1_000, concurrency=1)
    # A replace of more than one call leaves the list incomplete in between, and an empty one is not documented.
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.NOT_YET}
    one_click = True
    retention_days = MEMBERSHIP_DAYS
    minimum = 300
    settles_h = 48
    longest_name = 128
    proves = "the upload was taken; who of it is known is matched within 48 hours, and not said by row"
    unsure = (
        "whether adding a member again renews the 390 days",
        "whether the description of a customer list can be changed, which only taking over a list of yours does",
        "whether e-mail is normalised beyond white space and case before it is hashed",
        "numbers of the rate limit, and the HTTP status of each error",
        "whether a hash that nobody has is ever reported by row",
    )

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        return account_auth(self.settings)

    def account(self) -> str:
        """The customer: lists of scope Customer belong to it, and calls are counted for it."""
        return str(self.settings.customer_id)

    def held(self) -> str | None:
        if self.settings.customer_match_terms is not None:
            return None
        return (
            "terms_not_accepted: uploads need the Customer Match terms of Microsoft Advertising; "
            "once you agree to them, set `customer_match_terms: accepted` in the connection"
        )

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """The hash itself: an item has no name, since a call takes one kind of item."""
        (cell,) = cells.values()
        return cell

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every customer list with the mark or the name, lowest id first; the API filters by neither."""
        found = yield from self._every(mark)
        return [one for one in found if one.name == name or carries(one.mark, mark)]

    def get(self, audience_id: str) -> Flow[Audience]:
        entry = yield from self._entry(audience_id)
        return self._audience(entry)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        """Make a list, or find the one that an earlier try made: a name is there once, so a repeat is harmless."""
        fields = {
            "Type": _KIND,
            "Name": name,
            "Description": mark,
            "MembershipDuration": MEMBERSHIP_DAYS,
            "Scope": "Customer",
            "ParentId": self.settings.customer_id,
        }
        for _ in range(_CREATE_TRIES):
            try:
                reply = yield Call("POST", "/Audiences", body=json.dumps({"Audiences": [fields]}))
            except RefusedError as error:
                if error.code != DUPLICATE_NAME:
                    raise
                made = yield from self._made(mark)
                if made is None:
                    raise _taken(name) from None
                return made
            ids = reply.json.get("AudienceIds")
            if isinstance(ids, list) and len(ids) == 1 and ids[0] is not None:
                return Audience(id=_id(ids[0]), name=name, mark=mark, account=self.account())
            made = yield from self._made(mark)
            if made is not None:
                return made
        raise UnknownError("microsoft_ads: the answer to a creation holds no list and no error", code="AudienceIds")

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Put our mark behind the words of the description, and let members stay for 390 days.

        Where the service changes nothing, or there is no room, the list is as much ours: the state knows its id.
        Raises RefusedError where members would be forgotten earlier than this sync knows.
        """
        entry = yield from self._entry(audience.id)
        words, days = str(entry.get("Description") or ""), entry.get("MembershipDuration")
        text, stays = with_mark(words, mark), days in (MEMBERSHIP_DAYS, _FOR_EVER)
        fits = len(text) <= LONGEST_DESCRIPTION
        if stays and (text == words or not fits):
            return dataclasses.replace(audience, mark=mark) if fits else audience
        fields = {
            "Type": _KIND,
            "Id": audience.id,
            "Name": entry.get("Name"),
            "Description": text if fits else words,
            "MembershipDuration": days if stays else MEMBERSHIP_DAYS,
        }
        try:
            yield Call("PUT", "/Audiences", body=json.dumps({"Audiences": [fields]}))
        except RefusedError as error:
            if stays:
                return audience
            hint = f"set its membership duration to {MEMBERSHIP_DAYS} days at Microsoft Advertising, then run again"
            said = f"microsoft_ads: the list forgets members after {days} days, and that could not be changed"
            raise RefusedError(said, code=error.code, hint=hint) from None
        return dataclasses.replace(audience, mark=mark) if fits else audience

    def size(self, audience: Audience) -> Flow[Size]:
        """The list's size in search and in the audience network; neither is there for up to 48 hours."""
        entry = yield from self._entry(audience.id)
        given = (_count(entry.get(field)) for field in ("SearchSize", "AudienceNetworkSize"))
        sizes = [size for size in given if size is not None]
        if not sizes:
            return Size(status="processing")
        small = self.minimum is not None and max(sizes) < self.minimum
        return Size(lower=min(sizes), upper=max(sizes), status="too small to serve" if small else "ready")

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            yield Call("DELETE", "/Audiences", body=json.dumps({"AudienceIds": [audience.id]}))
        except GoneError:
            return

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add or remove one batch; rows that are refused are named, the others are in."""
        if batch.count == 0:
            return Outcome()
        data = {
            "AudienceId": audience.id,
            "ActionType": _ACTIONS[batch.op],
            "CustomerListItemSubType": self.identifiers[batch.fields[0]].field,
            # Left out while the sync is held: removals of people who refused go out even then.
            **({"AcceptCustomerMatchTerm": True} if self.settings.customer_match_terms else {}),
        }
        body = f'{{"CustomerListUserData":{json.dumps(data)[:-1]},"CustomerListItems":[{batch.rows}]}}}}'
        reply = yield Call("POST", APPLY, body=body)
        return Outcome(refused=refused_rows(reply, batch.count))

    # -- doctor -----------------------------------------------------------------------------------------------

    def check(self) -> Flow[list[Finding]]:
        """Reading the lists needs a good token, the developer token, and a role on the account."""
        terms = self.settings.customer_match_terms
        findings = [
            Finding(
                "terms",
                None if terms else False,
                "the connection says that the terms are accepted; the API does not tell" if terms else "not accepted",
                "" if terms else "once you agree to the Customer Match terms, set customer_match_terms: accepted",
            ),
            Finding(
                "token",
                None,
                "Microsoft says only that it ends about 90 days after its last use: sync, or run doctor, before",
            ),
        ]
        try:
            lists = yield from self._every("")
        except AuthError as error:
            what = "account" if error.code in ("106", "1102") else "credentials"
            return [Finding(what, False, error.message, error.hint or ""), *findings]
        said = f"customer {self.settings.customer_id}: {len(lists)} customer lists can be read"
        return [Finding("credentials", True, "accepted"), Finding("account", True, said), *findings]

    # -- parts ------------------------------------------------------------------------------------------------

    def _query(self, ids: list[str] | None) -> Call:
        body = {"AudienceIds": ids, "Type": _KIND, "ReturnAdditionalFields": None}
        return Call("POST", "/Audiences/QueryByIds", body=json.dumps(body))

    def _every(self, mark: str) -> Flow[list[Audience]]:
        reply = yield self._query(None)
        found = [self._audience(entry, mark) for entry in _listed(reply)]
        return sorted(found, key=lambda one: (len(one.id), one.id))

    def _made(self, mark: str) -> Flow[Audience | None]:
        """The list with exactly this mark, which an earlier try of the same creation made."""
        found = yield from self._every(mark)
        return next((one for one in found if one.mark == mark), None)

    def _entry(self, audience_id: str) -> Flow[dict[str, Any]]:
        """One list as the service describes it. That it is gone is an error of its own, never a list left out."""
        reply = yield self._query([audience_id])
        for entry in _listed(reply):
            if str(entry.get("Id")) == audience_id:
                return entry
        raise UnknownError("microsoft_ads: the answer holds neither the list nor an error", code="Audiences")

    def _audience(self, entry: Mapping[str, Any], mark: str = "") -> Audience:
        return Audience(
            id=_id(entry.get("Id")),
            name=str(entry.get("Name") or ""),
            mark=mark_of(str(entry.get("Description") or ""), mark),
            account=str(entry.get("ParentId") or self.account()),
        )


def _listed(reply: Reply) -> list[dict[str, Any]]:
    """The lists of an answer; null means that there is none, and an unknown id has null in its place."""
    if "Audiences" not in reply.json:
        raise UnknownError("microsoft_ads: a listing without lists", code="Audiences")
    return [entry for entry in reply.json["Audiences"] or [] if isinstance(entry, dict)]


def _id(value: Any) -> str:
    """Ids have 64 bits and travel as text."""
    if not isinstance(value, (str, int)) or not str(value).isdigit():
        raise UnknownError("microsoft_ads: an answer without the list's id", code="Id")
    return str(value)


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None


def _taken(name: str) -> RefusedError:
    return RefusedError(
        f"microsoft_ads: the customer has an audience named {name} already, and it is no customer list of this sync",
        code=DUPLICATE_NAME,
        hint="choose another `audience_name:`",
    )
