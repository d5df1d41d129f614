"""The webhook destination over real HTTP on loopback; every signature is checked with the `standardwebhooks` package.

Expectations are typed from Standard Webhooks 1.0.0 and from docs/reference/destinations/webhook.md, not from our own
output.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from dbt_segments.destinations.base import Audience, Batch, Op, Target
from dbt_segments.destinations.webhook import Webhook, WebhookSettings
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)
from dbt_segments.retry import Budget
from dbt_segments.send import Sender, Sent
from tests.receiver import Answer, Received, Receiver, receiving

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"an older key of 32 bytes in all.").decode()
AUDIENCE = Audience("shop.customers.crm")
ADA = '{"op":"upsert","key":{"id":42},"values":{"email":"ada@example.com","segment_membership":["vip"]}}'
BEA = '{"op":"upsert","key":{"id":43},"values":{"email":null,"segment_membership":[]}}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


def target(mode: str = "upsert", object: str = "") -> Target:
    types = {"email": "text", "segment_membership": "json", "id": "integer"}
    return Target(AUDIENCE.id, "customers", object, mode, ("id",), ("email", "segment_membership"), types)


def batch(*rows: str, op: Op = Op.ADD, mode: str = "upsert", object: str = "", **changes: Any) -> Batch:
    values: dict[str, Any] = {
        "op": op,
        "rows": ",".join(rows),
        "count": len(rows),
        "number": 1,
        "last": True,
        "total": len(rows),
        "id": "generation-7",
        "session": 5,
        "target": target(mode, object),
        "run_id": "20261123T100000Z-0193aa",
    }
    return Batch(**{**values, **changes})


def webhook(receiver: Receiver, **settings: Any) -> Webhook:
    return Webhook(WebhookSettings(**{"url": receiver.url, "secret": SECRET, **settings}))


def send(destination: Webhook, *batches: Batch, tries: int = 3) -> list[Sent]:
    waits: list[float] = []
    with Sender(destination, sleep=waits.append, jitter=lambda: 0.0, budget=Budget(tries=tries)) as sender:
        return [sender.send(AUDIENCE, one) for one in batches]


def verified(received: Received, secret: str = SECRET) -> Any:
    """The event, once its signature has been checked. Raises WebhookVerificationError."""
    return Verifier(secret).verify(received.body, dict(received.headers))


# -- the signature --------------------------------------------------------------------------------------------


def test_a_receiver_can_verify_what_is_sent(receiver: Receiver) -> None:
    """Signed over id, timestamp and the very bytes of the body; non-ASCII text stays as it is."""
    row = '{"op":"upsert","key":{"id":1},"values":{"name":"Zoë 漢字 \U0001f600","segment_membership":[]}}'
    assert send(webhook(receiver), batch(row))[0].fate == "accepted"
    [received] = receiver.requests
    assert verified(received)["data"]["rows"] == [json.loads(row)]
    assert "Zoë 漢字 \U0001f600".encode() in received.body
    assert received.headers["content-type"] == "application/json; charset=utf-8"
    assert received.headers["user-agent"].startswith("dbt-segments/")
    assert received.headers["webhook-id"].startswith("msg_")
    assert "." not in received.headers["webhook-id"]
    assert "content-encoding" not in received.headers


@pytest.mark.parametrize("wrong", ["body", "webhook-id", "webhook-timestamp", "webhook-signature", "late"])
def test_what_was_tampered_with_is_refused(receiver: Receiver, wrong: str) -> None:
    """One byte, one header, six minutes."""
    destination = webhook(receiver)
    if wrong == "late":
        destination = Webhook(destination.settings, lambda: datetime.now(timezone.utc) - timedelta(minutes=6))
    send(destination, batch(ADA))
    [received] = receiver.requests
    headers, body = dict(received.headers), bytearray(received.body)
    if wrong == "body":
        body[40] ^= 1
    else:
        headers.pop(wrong, None)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(bytes(body), headers)


def test_two_secrets_sign_during_a_rotation(receiver: Receiver) -> None:
    """Each verifies alone; a stranger does not."""
    send(webhook(receiver, secret=[SECRET, OLD_SECRET]), batch(ADA))
    [received] = receiver.requests
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OLD_SECRET):
        assert verified(received, secret)
    with pytest.raises(WebhookVerificationError):
        verified(received, "whsec_" + base64.b64encode(b"x" * 32).decode())


def test_an_unpadded_and_a_raw_secret(receiver: Receiver) -> None:
    """Base64 needs no padding; a raw text is the key itself."""
    send(webhook(receiver, secret=SECRET.rstrip("=")), batch(ADA))
    raw = "a plain text that is a key"
    send(webhook(receiver, secret=raw, secret_encoding="raw"), batch(ADA))
    assert verified(receiver.requests[0])
    assert verified(receiver.requests[1], base64.b64encode(raw.encode()).decode())


def test_the_older_signature(receiver: Receiver) -> None:
    """Hexadecimal HMAC-SHA256 of the body alone."""
    send(webhook(receiver, signature="hex_sha256", secret="plain"), batch(ADA))
    [received] = receiver.requests
    assert received.headers["x-signature"] == hmac.new(b"plain", received.body, hashlib.sha256).hexdigest()
    assert "webhook-signature" not in received.headers


def test_no_signature(receiver: Receiver) -> None:
    """`signature: none` needs no secret and sends none; a header of one's own may authenticate."""
    destination = Webhook(WebhookSettings(url=receiver.url, signature="none", headers={"Authorization": "Bearer t-1"}))
    send(destination, batch(ADA))
    [received] = receiver.requests
    assert received.headers["authorization"] == "Bearer t-1"
    assert not {"webhook-signature", "x-signature"} & received.headers.keys()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"secret": ""},
        {"secret": "no prefix, so no key"},
        {"secret": "whsec_%%%"},
        {"secret": "whsec_" + base64.b64encode(b"short").decode()},
        {"secret": "whsec_" + base64.b64encode(b"x" * 65).decode()},
        {"secret": [SECRET, SECRET], "signature": "hex_sha256"},
        {"secret": SECRET, "headers": {"Bad Name": "x-secret-value"}},
        {"secret": SECRET, "headers": {"X-Key": "x-secret-value\r\nHost: elsewhere"}},
        {"secret": SECRET, "headers": {"Webhook-Id": "x-secret-value"}},
        {"secret": SECRET, "url": "https://h.example.com/?a=1&a=2"},
        {"secret": SECRET, "method": "DELETE"},
    ],
)
def test_settings_that_cannot_work_are_refused_unseen(settings: dict[str, Any]) -> None:
    """Before anything is sent, and without a word of what was written."""
    with pytest.raises(ValidationError) as caught:
        WebhookSettings(**{"url": "https://h.example.com/hook", **settings})
    shown = str(caught.value)
    assert "x-secret-value" not in shown
    assert not any(one in shown for one in (SECRET, "no prefix, so no key", "short"))


def test_nothing_shows_a_secret(receiver: Receiver) -> None:
    """Neither the settings' nor the destination's or a call's text holds secret, token or a query's secret."""
    url = receiver.url + "?token=q-secret"
    destination = webhook(receiver, url=url, headers={"X-Token": "h-secret"})
    call = next(destination.push(AUDIENCE, batch(ADA)))
    shown = f"{destination.settings!r} {destination!r} {destination.account()} {destination.root()} {call.path}"
    assert not [word for word in ("q-secret", "h-secret", SECRET, "ada@") if word in shown]
    assert "ada@" not in repr(call)


# -- bodies ---------------------------------------------------------------------------------------------------


def test_a_batch_is_an_event(receiver: Receiver) -> None:
    """Type, moment, and the rows with what they belong to; rows as they were written."""
    moment = datetime(2026, 11, 23, 10, 0, 5, tzinfo=timezone.utc)
    destination = Webhook(WebhookSettings(url=receiver.url, signature="none"), lambda: moment)
    send(destination, batch(ADA, BEA, number=3))
    expected = (
        '{"type":"record.upsert","timestamp":"2026-11-23T10:00:05Z","data":{"sync":"shop.customers.crm",'
        f'"run_id":"20261123T100000Z-0193aa","batch":3,"key":["id"],"rows":[{ADA},{BEA}]}}}}'
    )
    assert receiver.requests[0].body.decode() == expected


@pytest.mark.parametrize(
    ("op", "mode", "object", "kind", "head"),
    [
        (Op.ADD, "upsert", "", "record.upsert", {"op": "upsert"}),
        (Op.ADD, "update", "", "record.upsert", {"op": "update"}),
        (Op.ADD, "create", "", "record.upsert", {"op": "create"}),
        (Op.ADD, "append", "", "record.upsert", {"op": "insert"}),
        (Op.ADD, "mirror", "", "record.upsert", {"op": "upsert"}),
        (Op.REMOVE, "mirror", "", "record.delete", {"op": "delete"}),
        (Op.ADD, "delete", "", "record.delete", {"op": "delete"}),
        (Op.ADD, "mirror", "membership", "segment.membership", {"op": "add", "segment": "customers"}),
        (Op.REMOVE, "mirror", "membership", "segment.membership", {"op": "remove", "segment": "customers"}),
    ],
)
def test_what_a_row_asks_for(receiver: Receiver, op: Op, mode: str, object: str, kind: str, head: Any) -> None:
    """The words of each mode and operation, and the event's type."""
    destination = webhook(receiver)
    assert destination.head(target(mode, object), op) == head
    row = json.dumps({**head, "key": {"id": 43}, "values": None})
    send(destination, batch(row, op=op, mode=mode, object=object))
    event = verified(receiver.requests[0])
    assert (event["type"], event["data"]["rows"]) == (kind, [{**head, "key": {"id": 43}, "values": None}])


def test_an_unknown_object_is_refused() -> None:
    """There are records, and membership."""
    assert "contacts" in (Webhook.refuses(target(object="contacts")) or "")
    assert Webhook.refuses(target()) is None
    assert Webhook.refuses(target(object="membership")) is None


def test_bare_rows_and_single_rows(receiver: Receiver) -> None:
    """`rows` is an array of rows; `single` is one row, and one row fits a request."""
    send(webhook(receiver, body="rows"), batch(ADA, BEA))
    single = webhook(receiver, body="single")
    assert single.limits.members == 1
    send(single, batch(ADA))
    assert receiver.requests[0].body.decode() == f"[{ADA},{BEA}]"
    assert receiver.requests[1].body.decode() == ADA
    assert all(verified(received) for received in receiver.requests)


def test_nulls_are_kept_or_left_out(receiver: Receiver) -> None:
    """A null clears a value; `null_behavior: omit` leaves the field alone."""
    send(webhook(receiver), batch(BEA))
    send(webhook(receiver, null_behavior="omit"), batch(BEA))
    kept, omitted = (event["data"]["rows"][0]["values"] for event in receiver.events)
    assert kept == {"email": None, "segment_membership": []}
    assert omitted == {"segment_membership": []}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_method_path_and_query(receiver: Receiver, method: str) -> None:
    """The URL as it is configured."""
    send(webhook(receiver, method=method, url=receiver.url + "/a%20b/?token=x%26y&empty="), batch(ADA))
    [received] = receiver.requests
    assert (received.method, received.path) == (method, "/hook/a%20b/?token=x%26y&empty=")
    assert verified(received)


def test_an_empty_batch_sends_nothing(receiver: Receiver) -> None:
    """Nobody to tell of, nothing told."""
    assert send(webhook(receiver), batch())[0].fate == "accepted"
    assert receiver.requests == []


# -- replace --------------------------------------------------------------------------------------------------


def test_a_replace_starts_and_completes(receiver: Receiver) -> None:
    """Started before the first batch, completed with the number of rows after the last; each event with its own id."""
    first = batch(ADA, op=Op.REPLACE, mode="replace", last=False, total=2, id="g-1")
    second = batch(BEA, op=Op.REPLACE, mode="replace", number=2, total=2, id="g-2")
    assert [sent.fate for sent in send(webhook(receiver), first, second)] == ["accepted", "accepted"]
    events = [verified(received) for received in receiver.requests]
    assert [event["type"] for event in events] == ["sync.started", "record.upsert", "record.upsert", "sync.completed"]
    facts = {"sync": AUDIENCE.id, "run_id": first.run_id, "replace": True, "key": ["id"], "rows": 2}
    assert events[0]["data"] == events[-1]["data"] == facts
    assert len({received.headers["webhook-id"] for received in receiver.requests}) == 4


def test_a_replace_of_nobody_empties(receiver: Receiver) -> None:
    """Started and completed with nothing in between."""
    send(webhook(receiver), batch(op=Op.REPLACE, mode="replace"))
    assert [event["type"] for event in receiver.events] == ["sync.started", "sync.completed"]
    assert [event["data"]["rows"] for event in receiver.events] == [0, 0]


def test_a_replace_that_fails_is_not_completed(receiver: Receiver) -> None:
    """The receiver never swaps to half a set."""
    receiver.plan = [Answer(), Answer(400)]
    [sent] = send(webhook(receiver), batch(ADA, op=Op.REPLACE, mode="replace"))
    assert sent.fate == "unknown"
    assert [event["type"] for event in receiver.events] == ["sync.started", "record.upsert"]


# -- size -----------------------------------------------------------------------------------------------------


def test_a_row_over_the_limit_fails_alone(receiver: Receiver) -> None:
    """It is refused before any request; the others are sent."""
    long = json.dumps({"op": "upsert", "key": {"id": 1}, "values": {"note": "x" * 3000}})
    [sent] = send(webhook(receiver, max_bytes=2000), batch(ADA, long, BEA))
    assert (sent.fate, sent.refused) == ("accepted", {1: "too_large"})
    assert [row["key"]["id"] for row in receiver.events[0]["data"]["rows"]] == [42, 43]
    assert send(webhook(receiver, max_bytes=2000), batch(long))[0].refused == {0: "too_large"}
    assert len(receiver.requests) == 1


def test_no_body_is_over_the_limit(receiver: Receiver) -> None:
    """A batch whose rows fit only apart is sent in halves."""
    rows = [json.dumps({"op": "upsert", "key": {"id": n}, "values": {"note": "x" * 600}}) for n in range(5)]
    [sent] = send(webhook(receiver, max_bytes=2000), batch(*rows))
    assert (sent.fate, sent.refused) == ("accepted", {})
    assert sorted(row["key"]["id"] for event in receiver.events for row in event["data"]["rows"]) == list(range(5))
    assert max(len(received.body) for received in receiver.requests) <= 2000


def test_413_is_sent_in_halves(receiver: Receiver) -> None:
    """With new ids; a row that is too large alone is refused."""
    receiver.decide = lambda received: Answer(413) if b"ada@" in received.body else None
    [sent] = send(webhook(receiver), batch(ADA, BEA))
    assert (sent.fate, sent.refused) == ("accepted", {0: "413"})
    assert len({received.headers["webhook-id"] for received in receiver.requests}) == 3
    assert all(verified(received) for received in receiver.requests)


# -- answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_under_the_same_id(receiver: Receiver, status: int) -> None:
    """One id for all attempts, one body, and a signature that verifies each time."""
    moments = iter(datetime(2026, 11, 23, 10, tzinfo=timezone.utc) + timedelta(minutes=n) for n in range(99))
    receiver.plan = [Answer(status)]
    destination = Webhook(WebhookSettings(url=receiver.url, secret=SECRET), lambda: next(moments))
    assert send(destination, batch(ADA))[0].fate == "accepted"
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    for name in ("webhook-timestamp", "webhook-signature"):
        assert first.headers[name] != second.headers[name]


def test_a_silent_receiver_gets_the_same_id_again(receiver: Receiver) -> None:
    """It took the batch and gave no answer: tried again; with no answer at all the fate is unknown."""
    receiver.plan = [Answer(hang_up=True)] * 3
    sent = send(webhook(receiver), batch(ADA), batch(BEA, id="generation-8"), tries=1)
    assert [one.fate for one in sent] == ["unknown", "unknown"]
    receiver.plan = []
    assert send(webhook(receiver), batch(ADA))[0].fate == "accepted"
    assert receiver.requests[0].headers["webhook-id"] == receiver.requests[-1].headers["webhook-id"]
    assert receiver.requests[0].headers["webhook-id"] != receiver.requests[1].headers["webhook-id"]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 8),
        ("in a minute", 50, 70),
        ("86400", 300, 331),
    ],
)
def test_retry_after(receiver: Receiver, asked: str, least: float, most: float) -> None:
    """Seconds or a date; at most five minutes, and the call is repeated."""
    if asked == "in a minute":
        asked = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=60), usegmt=True)
    receiver.plan = [Answer(429, headers={"Retry-After": asked})]
    waits: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    with Sender(webhook(receiver), sleep=sleep, clock=lambda: now[0], jitter=lambda: 0.0) as sender:
        assert sender.send(AUDIENCE, batch(ADA)).fate == "accepted"
    assert least <= sum(waits) <= most


@pytest.mark.parametrize(
    ("status", "error", "fate"),
    [
        (400, RefusedError, "rejected"),
        (404, RefusedError, "rejected"),
        (422, RefusedError, "rejected"),
        (410, GoneError, "unsent"),
        (401, AuthError, "unsent"),
        (403, AuthError, "unsent"),
        (302, DestinationError, "unsent"),
        (307, DestinationError, "unsent"),
    ],
)
def test_what_is_final_is_not_tried_again(
    receiver: Receiver, status: int, error: type[DestinationError], fate: str
) -> None:
    """One request, and no redirect is followed."""
    receiver.plan = [Answer(status, headers={"Location": receiver.url + "/elsewhere"})]
    [sent] = send(webhook(receiver), batch(ADA, BEA))
    assert (type(sent.error), sent.fate, len(receiver.requests)) == (error, fate, 1)


def test_a_wrong_clock_is_named(receiver: Receiver) -> None:
    """Where the receiver's clock is more than five minutes from ours, a refusal says so."""
    late = format_datetime(datetime.now(timezone.utc) - timedelta(minutes=10))
    for status in (400, 401):
        receiver.plan = [Answer(status, headers={"Date": late})]
        [sent] = send(webhook(receiver), batch(ADA))
        assert sent.error is not None
        assert "clock" in (sent.error.hint or "")


@pytest.mark.parametrize("status", [200, 207])
def test_results_row_by_row(receiver: Receiver, status: int) -> None:
    """Rows are placed by index; a code is kept, the words are not; `retryable` rows may pass."""
    results = [
        {"index": 2, "status": "error", "code": "busy", "retryable": True},
        {"index": 0, "status": "ok"},
        {"index": 1, "status": "error", "code": "bad_email", "message": "ada@example.com is bad"},
        {"index": 3, "status": "error", "code": "ada@example.com"},
    ]
    receiver.plan = [Answer(status, {"results": results})]
    [sent] = send(webhook(receiver), batch(ADA, BEA, BEA, ADA))
    assert sent.fate == "accepted"
    assert sent.refused == {1: "bad_email", 2: "busy", 3: "refused"}
    assert sent.outcome is not None
    assert sent.outcome.passing == {2}


def test_errors_row_by_row(receiver: Receiver) -> None:
    """Rows that `errors` does not list are accepted."""
    receiver.plan = [Answer(200, {"errors": [{"index": 1, "message": "no"}]})]
    [sent] = send(webhook(receiver), batch(ADA, BEA))
    assert (sent.fate, sent.refused) == ("accepted", {1: "refused"})


def test_rows_without_a_result_have_failed(receiver: Receiver) -> None:
    """Fewer results than rows: what is not listed is not accepted."""
    receiver.plan = [Answer(200, {"results": [{"index": 0, "status": "ok"}]})]
    [sent] = send(webhook(receiver), batch(ADA, BEA))
    assert sent.refused == {1: "no_result"}


@pytest.mark.parametrize("entry", [{"index": 9, "status": "error"}, {"status": "error"}, {"index": True}, "no"])
@pytest.mark.parametrize("key", ["results", "errors"])
def test_a_result_that_cannot_be_placed_proves_nothing(receiver: Receiver, key: str, entry: Any) -> None:
    """Not accepted, not refused: unknown."""
    receiver.plan = [Answer(200, {key: [{"index": 0, "status": "ok"}, entry]})]
    [sent] = send(webhook(receiver), batch(ADA, BEA))
    assert sent.fate == "unknown"
    assert isinstance(sent.error, UnknownError)


@pytest.mark.parametrize("answer", [None, "ok", 1, [], {"anything": 1}, {"results": "odd"}])
def test_any_other_success_accepts_all(receiver: Receiver, answer: Any) -> None:
    """The contract asks for a 2xx and nothing more."""
    receiver.plan = [Answer(202, answer)]
    assert send(webhook(receiver), batch(ADA, BEA))[0].refused == {}


def test_a_private_name_is_not_called() -> None:
    """A name that is loopback in disguise is refused before a request is made."""
    destination = Webhook(WebhookSettings(url="http://2130706433:9/hook", secret=SECRET))
    [sent] = send(destination, batch(ADA))
    assert (sent.error.code if sent.error else "", sent.fate) == ("private_address", "unsent")
    assert not isinstance(sent.error, TransientError)


def test_the_account_names_the_receiver_without_its_path() -> None:
    """Another path is another receiver, and a path may hold a token."""
    one = Webhook(WebhookSettings(url="https://Hooks.example.com/in/s3cr3t?x=1", signature="none"))
    same = Webhook(WebhookSettings(url="https://hooks.example.com/in/s3cr3t?x=2", signature="none"))
    other = Webhook(WebhookSettings(url="https://hooks.example.com/in/other", signature="none"))
    assert one.account() == same.account() != other.account()
    assert "s3cr3t" not in one.account()
