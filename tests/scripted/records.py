"""A made-up CRM: a destination of records, and its API as a platform of the sandbox.

    POST /records/v1/rows  {"sync", "object", "mode", "op", "batch": {"session", "number", "last"}, "rows": [...]}
                           -> {"refused": [{"index", "code"}]}

An upsert overwrites the values it names; a delete of what is not there does nothing; an insert is always one more. A
replace is staged by its session, and swapped when its last batch is there. Policy `refuse`: {key as JSON: code}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import SecretStr

from dbt_segments.destinations.auth import Auth, Bearer
from dbt_segments.destinations.base import (
    Audience,
    Batch,
    Call,
    ConnectionSettings,
    Fault,
    Flow,
    Limits,
    Op,
    Outcome,
    RecordDestination,
    Reply,
    Support,
    Target,
)
from dbt_segments.destinations.registry import register, unregister
from dbt_segments.errors import AuthError, RefusedError, UnknownError
from dbt_segments.sandbox import Serving, serve
from dbt_segments.sandbox.app import Sandbox
from dbt_segments.sandbox.faults import Fault as Wanted
from dbt_segments.sandbox.people import Codec
from dbt_segments.sandbox.platform import Answer, Clock, Platform, Request

TOKEN = "records-token"


class RecordsPlatform(Platform):
    """Records by sync, then by their key as JSON; `inserted` keeps what was appended."""

    name = "records-platform"
    codec = Codec({})
    defaults: ClassVar[Mapping[str, Any]] = {"refuse": {}}

    def reset(self) -> None:
        super().reset()
        self.policy["refuse"] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self._staged: dict[tuple[str, int], dict[str, Any]] = {}

    def classify(self, request: Request) -> str:
        return "rows" if (request.method, request.path) == ("POST", "/records/v1/rows") else ""

    def answer(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401, {"error": "token"})
        body = request.fields()
        batch, sync = body["batch"], body["sync"]
        place = (sync, batch["session"])
        records = self.records.setdefault(sync, {})
        if body["op"] == "replace":
            if batch["number"] == 1:
                self._staged[place] = {}
            records = self._staged[place]
        refused = []
        for index, row in enumerate(body["rows"]):
            key = json.dumps(row["key"], ensure_ascii=False, sort_keys=True)
            if key in self.policy["refuse"]:
                refused.append({"index": index, "code": self.policy["refuse"][key]})
                continue
            self.rows.append((sync, row))
            if row["op"] == "delete":
                records.pop(key, None)
            else:
                records[key] = {**records.get(key, {}), **row["values"]}
        if body["op"] == "replace" and batch["last"]:
            self.records[sync] = dict(records)  # what was staged stays: the last batch may arrive twice
        note = {"rows": len(body["rows"]), "object": body["object"], "refused": len(refused)}
        return Answer(200, {"refused": refused}, note=note)

    def fail(self, fault: Wanted, request: Request) -> Answer:
        return Answer(int(fault.get("status", 500)), {"error": "injected"})

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        return {}


class RecordsSettings(ConnectionSettings):
    """Nothing is required: the server knows this token."""

    access_token: SecretStr = SecretStr(TOKEN)


class Records(RecordDestination):
    """The CRM as a destination; ten rows a request."""

    type = "scripted_records"
    base_url = "http://127.0.0.1:1"
    settings_model = RecordsSettings
    limits = Limits(members=10, concurrency=1)
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.FULL}
    modes = ("upsert", "update", "create", "mirror", "append", "delete", "replace")

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        return None if target.object in ("", "Contact") else f"there is no object `{target.object}`"

    def root(self) -> str:
        return f"{(self.settings.base_url or self.base_url).rstrip('/')}/records/v1"

    def auth(self) -> Auth:
        return Bearer(self.settings.access_token)

    def account(self) -> str:
        return "crm"

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        if reply.status == 200:
            if isinstance(reply.json, dict):
                return None
            return Fault(UnknownError("records: no readable answer", code="200"), retry=True)
        code = str(reply.status)
        if reply.status >= 500:
            return Fault(UnknownError("records: server error", code=code), retry=True)
        return Fault(AuthError("records: token", code=code) if reply.status == 401 else RefusedError("no", code=code))

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        target = batch.target
        assert target is not None
        head = json.dumps(
            {
                "sync": audience.id,
                "object": target.object,
                "mode": target.mode,
                "op": batch.op.value,
                "batch": {"session": batch.session, "number": batch.number, "last": batch.last},
            }
        )
        reply = yield Call("POST", "/rows", body=f'{head[:-1]}, "rows": [{batch.rows}]}}')
        return Outcome(refused={entry["index"]: entry["code"] for entry in reply.json["refused"]})


@contextmanager
def serve_records() -> Iterator[tuple[Serving, RecordsPlatform]]:
    """The CRM on loopback, with its type registered."""
    clock = Clock()
    platform = RecordsPlatform(clock)
    register(Records)
    try:
        with serve(sandbox=Sandbox([platform], clock)) as serving:
            yield serving, platform
    finally:
        unregister(Records)
