"""Meta (Facebook, Instagram) custom audiences.

Source: Marketing API v26.0 (2026-07-29, current), "Custom Audience", "Users", "Usersreplace", read 2026-11.

Bodies are forms with JSON in their fields, as the official SDK sends them. A removal is a POST with `method=DELETE`
in the form, since some HTTP stacks drop the body of a DELETE and a query string would show identifiers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from dbt_segments.destinations import _meta_check as checks
from dbt_segments.destinations._marks import carries, mark_of, with_mark
from dbt_segments.destinations._meta_faults import classify, pace_s
from dbt_segments.destinations.auth import Auth, Bearer, Outgoing
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
    secret,
)
from dbt_segments.errors import GoneError, RefusedError, UnknownError
from dbt_segments.identifiers import rules

PAGE = "100"
_STATUS = {
    "100": "expiring",
    "200": "ready",
    "414": "replacing",
    "415": "replace failed",
    "441": "populating",
    "470": "flagged",
    "471": "flagged",
}
_TOO_SMALL_TO_DELIVER = "300"
_UNUSABLE = 400  # and every delivery code above it
# Source: "Data Processing Options", read 2026-11. For customer lists only California counts.
_LIMITED = ("DATA_PROCESSING_OPTIONS", "DATA_PROCESSING_OPTIONS_COUNTRY", "DATA_PROCESSING_OPTIONS_STATE")


def _one_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class MetaSettings(ConnectionSettings):
    """`ad_account_id` with or without `act_`.

    data_processing_options  Limited Data Use for all members: [LDU], or [] to say that there is none; None: not said
    """

    ad_account_id: str
    access_token: SecretStr
    app_secret: SecretStr | None = None
    data_processing_options: (
        Annotated[tuple[Literal["LDU"], ...], BeforeValidator(_one_as_list, json_schema_input_type=str | list[str])]
        | None
    ) = None
    data_processing_options_country: int = Field(default=0, ge=0, le=1)
    data_processing_options_state: int = 0

    @field_validator("data_processing_options_state")
    @classmethod
    def _state(cls, value: int) -> int:
        if value not in (0, 1000):
            raise ValueError("must be 0 (Meta finds out) or 1000 (California)")
        return value

    @field_validator("ad_account_id", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> str:
        digits = str(value).strip().removeprefix("act_")
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError("must be digits, with or without act_ in front")
        return digits


class _ProvenBearer(Bearer):
    """A token with the proof that its sender knows the app's secret, where the app enforces that.

    A GET has no form, so there the proof is in the query. It is an HMAC of the token and opens nothing by itself.
    """

    def __init__(self, token: SecretStr, app_secret: SecretStr) -> None:
        super().__init__(token)
        key, message = secret(app_secret).encode(), secret(token).strip().encode()
        self._proof = hmac.new(key, message, hashlib.sha256).hexdigest()

    def apply(self, outgoing: Outgoing) -> None:
        super().apply(outgoing)
        fields = outgoing.form if outgoing.form is not None else outgoing.query
        fields["appsecret_proof"] = self._proof


class Meta(Destination):
    """Customer lists of one ad account: subtype CUSTOM, multi-key schema, no retention (members stay until removed)."""

    type = "meta"
    aliases = ("facebook",)
    title = "Meta custom audiences"
    base_url = "https://graph.facebook.com"
    version = "v26.0"
    settings_model = MetaSettings
    identifiers: ClassVar = {
        "email": Accepts("EMAIL", rules.email()),
        "phone": Accepts("PHONE", rules.phone(plus=False)),
        "maid": Accepts("MADID", rules.maid(case="lower", hashed=False, hexadecimal=False)),
        "idfa": Accepts("MADID", rules.maid(case="lower", hashed=False, hexadecimal=False)),
        "aaid": Accepts("MADID", rules.maid(case="lower", hashed=False, hexadecimal=False)),
        "external_id": Accepts("EXTERN_ID", rules.opaque_id()),
        "first_name": Accepts("FN", rules.name()),
        "last_name": Accepts("LN", rules.name()),
        "fi": Accepts("FI", rules.initial()),
        "gender": Accepts("GEN", rules.gender()),
        "doby": Accepts("DOBY", rules.birth_year()),
        "dobm": Accepts("DOBM", rules.birth_month()),
        "dobd": Accepts("DOBD", rules.birth_day()),
        "city": Accepts("CT", rules.city(fold=True)),
        "region": Accepts("ST", rules.region()),
        "postal_code": Accepts("ZIP", rules.postal_code()),
        "country": Accepts("COUNTRY", rules.country(case="lower", hashed=True)),
    }
    units = (("email",), ("phone",), ("maid",), ("idfa",), ("aaid",), ("external_id",))
    row = Row.POSITIONAL
    limits = Limits(members=10_000, concurrency=2)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.FULL}
    one_click = True
    modes = ("mirror", "replace")
    forgets_after_days: ClassVar = {"external_id": 90}
    minimum = 100
    settles_h = 24
    proves = "all rows were received; rows that Meta calls invalid are counted, not named"
    session_s = 5400.0  # 90 minutes from a replace's first batch to its last

    # -- the connection ---------------------------------------------------------------------------------------

    def auth(self) -> Auth:
        if self.settings.app_secret is None:
            return Bearer(self.settings.access_token)
        return _ProvenBearer(self.settings.access_token, self.settings.app_secret)

    def account(self) -> str:
        return f"act_{self.settings.ad_account_id}"

    def pace(self, reply: Reply) -> float | None:
        return pace_s(reply)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(call, reply)

    # -- audiences --------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every audience of the account with the mark or the name, lowest id first.

        One listing answers both. The API filters by name but not by description, and filtering by name is not
        confirmed for every account. `mark` may lack its last part, the nonce.
        """
        found = []
        after = ""
        while True:
            query = {"fields": "id,name,description", "limit": PAGE, **({"after": after} if after else {})}
            reply = yield Call("GET", f"/{self.account()}/customaudiences", query=query)
            entries, after = _page(reply)
            for entry in entries:
                audience = self._audience(entry, mark)
                if audience.name == name or carries(audience.mark, mark):
                    found.append(audience)
            if not after:
                return sorted(found, key=lambda one: (len(one.id), one.id))

    def get(self, audience_id: str) -> Flow[Audience]:
        query = {"fields": "id,name,description,account_id"}
        reply = yield Call("GET", f"/{audience_id}", query=query)
        return self._audience(reply.json)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        form = {
            "name": name,
            "subtype": "CUSTOM",
            "description": mark,
            "customer_file_source": "USER_PROVIDED_ONLY",
        }
        # Names are not unique: a repeat would make a second audience.
        reply = yield Call("POST", f"/{self.account()}/customaudiences", form=form, safe=False)
        return Audience(id=_id(reply.json), name=name, mark=mark, account=self.account())

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Keep what people wrote in the description and put our mark behind it; an older mark of ours goes.

        Raises RefusedError for an audience that is no customer list, or that forgets its members.
        """
        reply = yield Call("GET", f"/{audience.id}", query={"fields": "id,subtype,description,retention_days"})
        if reply.json.get("subtype") not in (None, "CUSTOM"):
            hint = "choose one of subtype CUSTOM, or let the sync make its own"
            raise RefusedError("meta: the audience is no customer list", code="subtype", hint=hint)
        days = _count(reply.json.get("retention_days"))
        if days:
            raise RefusedError(
                f"meta: the audience forgets its members after {days} days",
                code="retention_days",
                hint="take over one without retention, or let the sync make its own",
            )
        words = str(reply.json.get("description") or "")
        described = with_mark(words, mark)
        if described != words:
            reply = yield Call("POST", f"/{audience.id}", form={"description": described})
            _done(reply)
        return dataclasses.replace(audience, mark=mark)

    def size(self, audience: Audience) -> Flow[Size]:
        fields = "approximate_count_lower_bound,approximate_count_upper_bound,operation_status,delivery_status"
        reply = yield Call("GET", f"/{audience.id}", query={"fields": fields})
        return Size(
            lower=_count(reply.json.get("approximate_count_lower_bound")),
            upper=_count(reply.json.get("approximate_count_upper_bound")),
            status=_status(reply.json),
        )

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            reply = yield Call("POST", f"/{audience.id}", form={"method": "DELETE"})
        except GoneError:
            return
        _done(reply)

    def check(self) -> Flow[list[Finding]]:
        return checks.check(self.account(), secret(self.settings.access_token).strip())

    # -- members ----------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add, remove or replace one batch.

        Meta counts invalid entries without naming rows, and roughly: they are unattributed. `num_received` counts the
        session so far, so a smaller number than this batch has rows proves that some did not arrive.
        """
        if batch.count == 0:
            return Outcome()
        edge = "usersreplace" if batch.op is Op.REPLACE else "users"
        # A replace must not get its first batch twice; everything else is a set operation.
        safe = not (batch.op is Op.REPLACE and batch.number == 1)
        reply = yield Call("POST", f"/{audience.id}/{edge}", form=self._upload(batch), safe=safe)
        received = _count(reply.json.get("num_received"))
        invalid = _count(reply.json.get("num_invalid_entries"))
        if received is None or invalid is None or received < batch.count:
            raise UnknownError("meta: the answer does not account for every row", code="num_received")
        return Outcome(unattributed=min(invalid, batch.count))

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """The cells, and behind them what is said of data processing; a removal says nothing of it."""
        limits = self._limits
        if op is Op.REMOVE or limits is None:
            return super().write(op, cells)
        every = [f"coalesce({cell}, '\"\"')" for cell in cells.values()]
        said = [f"'{json.dumps(limit)}'" for limit in limits]
        return f"""concat('[', {", ',', ".join([*every, *said])}, ']')"""

    @property
    def _limits(self) -> list[Any] | None:
        """Cells of the columns `_LIMITED`; they are not hashed."""
        options = self.settings.data_processing_options
        if options is None:
            return None
        place = (self.settings.data_processing_options_country, self.settings.data_processing_options_state)
        return [list(options), *place]

    def _upload(self, batch: Batch) -> dict[str, str]:
        names = [self.identifiers[name].field for name in batch.fields]
        names += _LIMITED if batch.op is not Op.REMOVE and self._limits is not None else ()
        schema = json.dumps(names, separators=(",", ":"))
        session = {
            "session_id": batch.session,
            "batch_seq": batch.number,
            "last_batch_flag": batch.last,
            "estimated_num_total": batch.total,
        }
        form = {
            "payload": f'{{"schema":{schema},"data":[{batch.rows}]}}',
            "session": json.dumps(session, separators=(",", ":")),
        }
        return {**form, "method": "DELETE"} if batch.op is Op.REMOVE else form

    def _audience(self, entry: Any, mark: str = "") -> Audience:
        """One audience as Meta describes it; of several marks the one that was asked for."""
        ours = mark_of(str(entry.get("description") or ""), mark)
        owner = entry.get("account_id")
        account = f"act_{str(owner).removeprefix('act_')}" if owner else self.account()
        return Audience(id=_id(entry), name=str(entry.get("name") or ""), mark=ours, account=account)


def _page(reply: Reply) -> tuple[list[Any], str]:
    """The entries of a page and the cursor of the next one; empty on the last.

    The `next` URL itself is not followed: it carries the access token.
    """
    entries, paging = reply.json.get("data"), reply.json.get("paging") or {}
    if not isinstance(entries, list):
        raise UnknownError("meta: a listing without data", code="data")
    return entries, str(paging.get("cursors", {}).get("after") or "") if paging.get("next") else ""


def _id(entry: Any) -> str:
    value = entry.get("id")
    if not isinstance(value, (str, int)) or not str(value).isdigit():
        raise UnknownError("meta: an answer without the audience's id", code="id")
    return str(value)


def _done(reply: Reply) -> None:
    """Raises UnknownError where an answer does not say that the change was made."""
    if reply.json.get("success") is not True:
        raise UnknownError("meta: an answer that does not say that it was done", code="success")


def _count(value: Any) -> int | None:
    """A number that Meta writes as a number or as text; -1 and everything else is not available."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None


def _status(entry: Any) -> str:
    operation, delivery = (
        str((entry.get(key) or {}).get("code", "")) for key in ("operation_status", "delivery_status")
    )
    if operation == "200" and delivery == _TOO_SMALL_TO_DELIVER:
        return "too small to deliver"
    if operation == "200" and (_count(delivery) or 0) >= _UNUSABLE:
        return f"unusable (delivery code {delivery})"
    return _STATUS.get(operation, f"code {operation}" if operation else "")
