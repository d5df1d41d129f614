"""A receiver of webhooks: it keeps the records that it is told of, by the path that they came to.

Source: this project's own contract, `dbt_segments.destinations.webhook`; the headers are those of Standard Webhooks
1.0.0. A signature is looked for, not checked: the sandbox knows no secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec
from dbt_segments.sandbox.platform import Answer, Platform, Request

Records = dict[str, Any]  # a record's key as JSON -> its values

_OPS = {"record.upsert": "add", "record.delete": "remove", "sync.started": "replace", "sync.completed": "replace"}
_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Webhook(Platform):
    """Any path is a receiver.

    records  path without its slash -> what is there now
    """

    name = "webhook"
    codec = Codec({})  # records are found by their keys, and matched with nobody

    def reset(self) -> None:
        super().reset()
        self.records: dict[str, Records] = {}
        self._coming: dict[str, Records] = {}  # of a set that is to stand in for what is there

    def classify(self, request: Request) -> str:
        try:
            return _OPS.get(str(request.fields().get("type")), "")
        except ValueError:
            return ""

    def answer(self, request: Request) -> Answer:
        """Take an event; the first `request.skip` rows are refused, as a receiver may."""
        try:
            event, rows = _read(request)
        except ValueError as error:
            return Answer(400, {"detail": str(error)})
        if missing := [name for name in _HEADERS if name not in request.headers]:
            self.violation(f"an event without {', '.join(missing)}")
        place = request.path.strip("/")
        if event == "sync.started":
            self._coming[place] = {}
        elif event == "sync.completed":
            self.records[place] = self._coming.pop(place, {})
        else:
            records = self._coming.get(place)
            self._write(self.records.setdefault(place, {}) if records is None else records, event, rows[request.skip :])
        refused = [{"index": index, "code": "refused"} for index in range(min(request.skip, len(rows)))]
        return Answer(200, {"errors": refused} if refused else {}, note={"rows": len(rows)})

    def fail(self, fault: Fault, request: Request) -> Answer:
        status = {"throttle": 429, "expired_token": 401, "gone": 410}.get(fault.kind, int(fault.get("status", 500)))
        return Answer(status, {})

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        return {}

    def report(self) -> dict[str, Any]:
        """How many records there are at each path; what is in them is nobody's but the receiver's."""
        return {"records": {place: len(records) for place, records in sorted(self.records.items())}}

    def dump(self) -> dict[str, Any]:
        return {**super().dump(), "records": self.records}

    def restore(self, data: Mapping[str, Any]) -> None:
        super().restore(data)
        self.records = dict(data["records"])

    @staticmethod
    def _write(records: Records, event: str, rows: list[Any]) -> None:
        for row in rows:
            key = json.dumps(row["key"], sort_keys=True)
            if event == "record.delete":
                records.pop(key, None)
            else:
                records[key] = row["values"]


def _read(request: Request) -> tuple[str, list[Any]]:
    """The event's type and its rows. Raises ValueError where it is no event that the sandbox keeps."""
    body = request.fields()
    event, data = body.get("type"), body.get("data")
    if event not in _OPS or not isinstance(data, dict):
        raise ValueError(f"no event of the webhook destination; the sandbox takes {', '.join(_OPS)}")
    rows = data.get("rows", []) if event.startswith("record.") else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "key" in row for row in rows):
        raise ValueError("rows without a key")
    return event, rows


PLATFORM = Webhook
