"""The made-up platform as destinations, one class per capability shape; `server` documents its API.

scripted             keyed rows, refusals by index, one answer per batch
scripted_async       batches become jobs that are polled
scripted_single      one match unit a row, one type a request
scripted_positional  arrays of cells
scripted_replace     replace only: the platform cannot add or remove
scripted_dedup       an addition applies twice unless its id says that it is a repeat
scripted_blind       there is no such id: a repeat does harm
scripted_oauth       access tokens end, refresh tokens rotate
scripted_born        a list comes with its first members, and is of use once it has been put to use
scripted_sweep       jobs, and a replace in two steps: everybody is sent, then a sweep takes out whoever else was there
scripted_piecewise   jobs, and one match unit a row: what became of a member's rows is learnt one after the other
scripted_composite   phone and external id are one match unit together, and nothing without each other
scripted_retention   members are forgotten after 30 days, external ids after 10
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

from pydantic import SecretStr

from dbt_segments.destinations.auth import Auth, Bearer, OAuthRefresh
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
from dbt_segments.destinations.registry import register, unregister
from dbt_segments.errors import AuthError, GoneError, RefusedError, TransientError, UnknownError
from dbt_segments.identifiers import rules
from tests.scripted.server import MAX_ROWS, REFRESH_TOKEN, TOKEN


class ScriptedSettings(ConnectionSettings):
    """Everything is optional but `base_url`: the server knows these tokens."""

    account: str = "acct-1"
    access_token: SecretStr = SecretStr(TOKEN)
    refresh_token: SecretStr = SecretStr(REFRESH_TOKEN)


class Scripted(Destination):
    type = "scripted"
    base_url = "http://127.0.0.1:1"
    version = "v1"
    settings_model = ScriptedSettings
    identifiers: ClassVar = {
        "email": Accepts("email", rules.email()),
        "phone": Accepts("phone", rules.phone(plus=False)),
        "maid": Accepts("maid", rules.maid(case="lower", hashed=False, hexadecimal=True)),
        "external_id": Accepts("external_id", rules.opaque_id()),
    }
    units = (("email",), ("phone",), ("maid",), ("external_id",))
    row = Row.KEYED
    limits = Limits(members=MAX_ROWS, concurrency=1)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.VENDOR_LACKS}
    one_click = True

    def root(self) -> str:
        base = (self.settings.base_url or self.base_url).rstrip("/")
        return f"{base}/{self.type}/{self.version}"

    def auth(self) -> Auth:
        return Bearer(self.settings.access_token)

    def account(self) -> str:
        return str(self.settings.account)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        if 200 <= reply.status < 300:
            if isinstance(reply.json, dict):
                return None
            return Fault(UnknownError("scripted: no readable answer", code=str(reply.status)), retry=True)
        error = reply.json.get("error") if isinstance(reply.json, dict) else None
        code = str(error.get("code")) if isinstance(error, dict) else str(reply.status)
        if reply.status == 429:
            return Fault(TransientError("scripted: throttled", code=code), retry=True)
        if reply.status >= 500:
            return Fault(UnknownError("scripted: server error", code=code), retry=True)
        if reply.status in (401, 403):
            return Fault(AuthError("scripted: refused credentials", code=code), renew=reply.status == 401)
        if code == "list_not_found":
            return Fault(GoneError("scripted: the list is gone", code=code))
        if code == "job_not_found":
            return Fault(RefusedError("scripted: the job's status is gone", code=code))
        owed, divisible = code == "too_small", code == "bad_row"
        return Fault(RefusedError("scripted: refused", code=code, owed=owed, divisible=divisible))

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        reply = yield Call("GET", "/lists", query={"mark": mark, "name": name})
        return [self._audience(entry) for entry in reply.json["lists"]]

    def get(self, audience_id: str) -> Flow[Audience]:
        reply = yield Call("GET", f"/lists/{audience_id}")
        return self._audience(reply.json)

    def create(self, name: str, mark: str) -> Flow[Audience]:
        reply = yield Call("POST", "/lists", body=json.dumps({"name": name, "mark": mark}), safe=False)
        return self._audience(reply.json)

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        reply = yield Call("PATCH", f"/lists/{audience.id}", body=json.dumps({"mark": mark}))
        return self._audience(reply.json)

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        reply = yield self._call(audience, batch)
        return Outcome(job=reply.json["job"], done=False) if "job" in reply.json else _outcome(reply)

    def poll(self, audience: Audience, job: str) -> Flow[Outcome]:
        try:
            reply = yield Call("GET", f"/jobs/{job}")
        except RefusedError as error:
            return Outcome(lost=error.code)
        if reply.json["state"] == "failed":
            return Outcome(lost="job_failed")
        return Outcome(job=job, done=False) if reply.json["state"] == "running" else _outcome(reply)

    def size(self, audience: Audience) -> Flow[Size]:
        reply = yield Call("GET", f"/lists/{audience.id}")
        size, rate = reply.json["size"], reply.json["match_rate"]
        return Size(lower=size, upper=size, status="ready", match_rate=rate)

    def delete(self, audience: Audience) -> Flow[None]:
        try:
            yield Call("DELETE", f"/lists/{audience.id}")
        except GoneError:
            return

    def check(self) -> Flow[list[Finding]]:
        yield Call("GET", "/lists", query={"mark": "", "name": ""})
        return [Finding("credentials", True, "the token is known")]

    def _call(self, audience: Audience, batch: Batch) -> Call:
        numbers = {"id": batch.id, "session": batch.session, "number": batch.number, "last": batch.last}
        fields = [self.identifiers[name].field for name in batch.fields or self.identifiers]
        envelope = json.dumps({"op": batch.op.value, "batch": numbers, "fields": fields})
        return Call("POST", f"/lists/{audience.id}/members", body=f'{envelope[:-1]}, "rows": [{batch.rows}]}}')

    def _audience(self, entry: Any) -> Audience:
        return Audience(id=entry["id"], name=entry["name"], mark=entry["mark"], account=self.account())


def _outcome(reply: Reply) -> Outcome:
    return Outcome(refused={entry["index"]: entry["code"] for entry in reply.json["refused"]})


class ScriptedAsync(Scripted):
    type = "scripted_async"


class ScriptedSingle(Scripted):
    type = "scripted_single"
    row = Row.SINGLE


class ScriptedPositional(Scripted):
    type = "scripted_positional"
    row = Row.POSITIONAL


class ScriptedReplace(Scripted):
    type = "scripted_replace"
    operations: ClassVar = {
        Op.ADD: Support.VENDOR_LACKS,
        Op.REMOVE: Support.VENDOR_LACKS,
        Op.REPLACE: Support.FULL,
    }


class ScriptedDedup(Scripted):
    type = "scripted_dedup"

    def _call(self, audience: Audience, batch: Batch) -> Call:
        call = super()._call(audience, batch)
        return Call(call.method, call.path, body=call.body, headers={"Dedup-Id": batch.id})


class ScriptedBlind(Scripted):
    type = "scripted_blind"

    def _call(self, audience: Audience, batch: Batch) -> Call:
        call = super()._call(audience, batch)
        return Call(call.method, call.path, body=call.body, safe=False)


class ScriptedOAuth(Scripted):
    type = "scripted_oauth"

    def auth(self) -> Auth:
        token_url = self.root().removesuffix(f"/{self.version}") + "/token"
        return OAuthRefresh(token_url, "client", SecretStr("client-secret"), self.settings.refresh_token)


class ScriptedBorn(Scripted):
    type = "scripted_born"
    limits = Limits(members=2, concurrency=2)
    made_with_members = True
    attends = True

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        if audience.id:
            return (yield from super().push(audience, batch))
        members = self._call(audience, batch).body
        head = json.dumps({"name": audience.name, "mark": audience.mark})
        reply = yield Call("POST", "/lists", body=f'{head[:-1]}, "members": {members}}}', safe=False)
        return Outcome(audience=self._audience(reply.json))

    def attend(self, audience: Audience) -> Flow[str | None]:
        try:
            yield Call("POST", f"/lists/{audience.id}/use", body="{}")
        except RefusedError as error:
            return f"scripted: not in use ({error.code})"
        return None

    def is_attended(self, audience: Audience) -> Flow[bool]:
        reply = yield Call("GET", f"/lists/{audience.id}")
        return bool(reply.json["used"])


class ScriptedSweep(Scripted):
    type = "scripted_sweep"
    modes = ("mirror", "replace")
    sweeps = True

    def clock(self, audience: Audience) -> Flow[datetime]:
        reply = yield Call("GET", f"/lists/{audience.id}")
        return parsedate_to_datetime(reply.headers["date"])

    def sweep(self, audience: Audience, before: datetime) -> Flow[Outcome]:
        body = json.dumps({"before": before.isoformat()})
        reply = yield Call("POST", f"/lists/{audience.id}/sweep", body=body)
        return Outcome(job=reply.json["job"], done=False)


class ScriptedPiecewise(Scripted):
    type = "scripted_piecewise"
    row = Row.SINGLE


class ScriptedComposite(Scripted):
    type = "scripted_composite"
    units = (("email",), ("phone", "external_id"))

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        pair = [cells[name] for name in ("phone", "external_id") if name in cells]
        whole = " and ".join(f"{cell} is not null" for cell in pair) if len(pair) == 2 else "false"
        parts = {
            name: cell if name == "email" else f"case when {whole} then {cell} end" for name, cell in cells.items()
        }
        return super().write(op, parts)


class ScriptedRetention(Scripted):
    type = "scripted_retention"
    retention_days = 30
    forgets_after_days: ClassVar = {"external_id": 10}


ALL: tuple[type[Scripted], ...] = (
    Scripted,
    ScriptedAsync,
    ScriptedSingle,
    ScriptedPositional,
    ScriptedReplace,
    ScriptedDedup,
    ScriptedBlind,
    ScriptedOAuth,
    ScriptedBorn,
    ScriptedSweep,
    ScriptedPiecewise,
    ScriptedComposite,
    ScriptedRetention,
)


@contextmanager
def registered() -> Iterator[None]:
    """Within it, destinations.yml may name every scripted type."""
    for cls in ALL:
        register(cls)
    try:
        yield
    finally:
        for cls in ALL:
            unregister(cls)
