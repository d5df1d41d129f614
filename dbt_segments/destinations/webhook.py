"""Generic webhook: batches of rows as signed JSON, to a receiver of the user's own.

Source: Standard Webhooks 1.0.0 (standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`) for headers and
signature, read 2026-11. The bodies are this project's own contract; docs/reference/destinations/webhook.md has it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from dbt_segments.destinations._webhook_replies import classify, outcome_of
from dbt_segments.destinations._webhook_signature import Signature, key_of
from dbt_segments.destinations.auth import Auth
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
    secret,
)
from dbt_segments.errors import RefusedError

MEMBERSHIP = "membership"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS = {"content-type", "content-length", "host", "transfer-encoding", "webhook-id", "webhook-timestamp"}
_OURS |= {"webhook-signature", "x-signature"}


def _one_as_list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


class WebhookSettings(ConnectionSettings):
    """`secret` may be several during a rotation: each signs.

    signature        standard: Standard Webhooks; hex_sha256: `X-Signature`; none
    secret_encoding  base64: `whsec_` and base64; raw: the text itself is the key
    body             batch: an object with rows and what they belong to; rows: a bare array; single: one row a request
    null_behavior    keep: a null is sent; omit: its field is left out
    """

    url: str = Field(repr=False)
    secret: Annotated[
        tuple[SecretStr, ...],
        BeforeValidator(_one_as_list, json_schema_input_type=SecretStr | list[SecretStr]),
    ] = ()
    secret_encoding: Literal["base64", "raw"] = "base64"  # noqa: S105  no secret, but how one is written
    signature: Literal["standard", "hex_sha256", "none"] = "standard"
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    body: Literal["batch", "rows", "single"] = "batch"
    null_behavior: Literal["keep", "omit"] = "keep"
    batch_size: int = Field(default=100, ge=1, le=10_000)
    max_bytes: int = Field(default=1_000_000, ge=2_000, le=50_000_000)
    timeout_s: float = Field(default=30.0, gt=0, le=600)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            names = [name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)]
        except ValueError:
            raise ValueError("is no URL") from None
        if len(names) != len(set(names)):
            raise ValueError("names a query parameter twice")
        return url

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = secret(value)
            if not _HEADER.fullmatch(name) or not text.isascii() or not text.isprintable():
                raise ValueError("holds a header that no request can carry")
            if name.lower() in _OURS:
                raise ValueError("holds a header that each request sets itself")
        return headers

    @model_validator(mode="after")
    def _check_secrets(self) -> WebhookSettings:
        if self.signature != "none" and not [one for one in self.secret if secret(one)]:
            raise ValueError("`secret` is required unless `signature: none`")
        if self.signature == "hex_sha256" and len(self.secret) > 1:
            raise ValueError("`secret` must be one text for `signature: hex_sha256`")
        if self.signature == "standard":
            for one in self.secret:
                key_of(secret(one), self.secret_encoding)
        return self


class Webhook(RecordDestination):
    """One URL that takes events.

    now  the moment of an event and of an attempt, in UTC
    """

    type = "webhook"
    title = "Generic webhook"
    settings_model = WebhookSettings
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.FULL}
    modes = (*RecordDestination.modes, "replace")
    limits = Limits(members=100, body_bytes=1_000_000, concurrency=1)

    def __init__(
        self, settings: WebhookSettings, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    ) -> None:
        super().__init__(settings)
        self._now = now
        rows = 1 if settings.body == "single" else settings.batch_size
        # An instance's own: how much a request may hold is the receiver's to say.
        self.limits = Limits(members=rows, body_bytes=settings.max_bytes, concurrency=1)  # type: ignore[misc]

    # -- the connection ---------------------------------------------------------------------------------------

    def root(self) -> str:
        parts = urlsplit(self.settings.url)
        return str(self.settings.base_url or f"{parts.scheme}://{parts.netloc}").rstrip("/")

    def auth(self) -> Auth:
        keys = [key_of(secret(one), self.settings.secret_encoding) for one in self._signing("standard")]
        raw = next((secret(one).encode() for one in self._signing("hex_sha256")), None)
        headers = {name: secret(value) for name, value in self.settings.headers.items()}
        return Signature(keys, raw, headers, lambda: self._now().timestamp())

    def account(self) -> str:
        """The host, and a digest of the path: another path is another receiver, but it may hold a token."""
        parts = urlsplit(self.settings.url)
        return f"{parts.netloc.lower()}#{hashlib.sha256(parts.path.encode()).hexdigest()[:8]}"

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        return classify(reply, self._now())

    def _signing(self, kind: str) -> tuple[SecretStr, ...]:
        return tuple(self.settings.secret) if self.settings.signature == kind else ()

    # -- rows -------------------------------------------------------------------------------------------------

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        if target.object in ("", MEMBERSHIP):
            return None
        return f"webhook has no object `{target.object}`: write `{MEMBERSHIP}`, or leave it out for records"

    def head(self, target: Target, op: Op) -> Mapping[str, str]:
        """Membership rows name their segment, and say add or remove."""
        if target.object == MEMBERSHIP:
            gone = op is Op.REMOVE or target.mode == "delete"
            return {"op": "remove" if gone else "add", "segment": target.segment}
        return super().head(target, op)

    # -- flows ------------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Send one batch; around all batches of a replace an event says that it starts, and one that it is complete.

        A row that no request may hold is refused by itself, before any request.
        """
        replace = batch.op is Op.REPLACE
        if replace and batch.number == 1:
            yield self._event(audience, batch, "sync.started")
        outcome = yield from self._deliver(audience, batch)
        if replace and batch.last:
            yield self._event(audience, batch, "sync.completed")
        return outcome

    def _deliver(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        if batch.count == 0:
            return Outcome()
        rows = batch.rows if self.settings.null_behavior == "keep" else _without_nulls(batch.rows)
        sent = list(range(batch.count))
        if self._excess(audience, batch, rows) > 0:
            texts = _texts(rows)
            room = -self._excess(audience, batch, "")
            sent = [index for index, text in enumerate(texts) if len(text.encode()) <= room]
            rows = ",".join(texts[index] for index in sent)
            if self._excess(audience, batch, rows) > 0:
                raise RefusedError("webhook: the batch is over max_bytes", code="too_large", divisible=True)
        left_out = dict.fromkeys(set(range(batch.count)) - set(sent), "too_large")
        if not sent:
            return Outcome(refused=left_out)
        reply = yield self._request(self._body(audience, batch, rows), _id(audience, batch, "rows"))
        answer = outcome_of(reply, len(sent))
        refused = {sent[index]: code for index, code in answer.refused.items() if index in range(len(sent))}
        if len(refused) != len(answer.refused):
            return answer  # a refusal that cannot be placed proves nothing, and the sender says so
        return Outcome(refused=left_out | refused, passing=frozenset(sent[index] for index in answer.passing))

    def _excess(self, audience: Audience, batch: Batch, rows: str) -> int:
        """Bytes by which a body with these rows is too long."""
        return len(self._body(audience, batch, rows).encode()) - int(self.settings.max_bytes)

    def _body(self, audience: Audience, batch: Batch, rows: str) -> str:
        if self.settings.body == "rows":
            return f"[{rows}]"
        if self.settings.body == "single":
            return rows
        data = {
            "sync": audience.id,
            "run_id": batch.run_id,
            "batch": batch.number,
            "key": list(batch.target.keys) if batch.target else [],
        }
        head = _json({"type": _type(batch), "timestamp": self._stamp(), "data": data})
        return f'{head[:-2]},"rows":[{rows}]}}}}'

    def _event(self, audience: Audience, batch: Batch, kind: str) -> Call:
        data = {
            "sync": audience.id,
            "run_id": batch.run_id,
            "replace": True,
            "key": list(batch.target.keys) if batch.target else [],
            "rows": batch.total,
        }
        body = _json({"type": kind, "timestamp": self._stamp(), "data": data})
        return self._request(body, _id(audience, batch, kind))

    def _request(self, body: str, event_id: str) -> Call:
        parts = urlsplit(self.settings.url)
        return Call(
            self.settings.method,
            parts.path,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            body=body,
            headers={"Content-Type": "application/json; charset=utf-8", "webhook-id": event_id},
            private=True,
        )

    def _stamp(self) -> str:
        return self._now().astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _type(batch: Batch) -> str:
    if batch.target is not None and batch.target.object == MEMBERSHIP:
        return "segment.membership"
    deletes = batch.op is Op.REMOVE or (batch.target is not None and batch.target.mode == "delete")
    return "record.delete" if deletes else "record.upsert"


def _id(audience: Audience, batch: Batch, what: str) -> str:
    """The same for every attempt at one batch, another for each part of it; no dots, as the signature demands."""
    name = "\n".join((audience.id, batch.id, what))
    return f"msg_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


_DECODER = json.JSONDecoder()


def _texts(rows: str) -> list[str]:
    """Each row as it was written."""
    found = []
    start = 0
    while start < len(rows):
        _, end = _DECODER.raw_decode(rows, start)
        found.append(rows[start:end])
        start = end + 1
    return found


def _without_nulls(rows: str) -> str:
    values = json.loads(f"[{rows}]")
    for value in values:
        if isinstance(value["values"], dict):
            value["values"] = {name: item for name, item in value["values"].items() if item is not None}
    return _json(values)[1:-1]
