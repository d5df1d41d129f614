"""The sandbox's receiver of webhooks: what the destination sends it is there afterwards, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments.sandbox import Serving, build, serve

HEADERS = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,abc="}


@pytest.fixture
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("meta", "webhook"))) as one:
        yield one


def send(serving: Serving, kind: str, *rows: tuple[int, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    """An event as docs/reference/destinations/webhook.md has it, about rows of a number and a value."""
    found = [{"op": "upsert", "key": {"id": number}, "values": value} for number, value in rows]
    body = {"type": kind, "timestamp": "2026-11-01T00:00:00Z", "data": {"sync": "s", "key": ["id"], "rows": found}}
    return httpx.post(f"{serving.url}/webhook/crm", json=body, headers=HEADERS if headers is None else headers)


def records(serving: Serving) -> dict[str, Any]:
    with serving.sandbox.lock:
        platform: Any = serving.sandbox.platforms["webhook"]
        return {key: dict(values) for key, values in platform.records.items()}


def report(serving: Serving) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{serving.url}/_sandbox/state").json()["reports"]["webhook"]["records"]
    return found


def test_records_are_written_over_and_deleted(serving: Serving) -> None:
    """The last word of each key counts; a deletion takes only its own."""
    assert send(serving, "record.upsert", (1, {"a": 1}), (2, {"a": 2})).status_code == 200
    assert send(serving, "record.upsert", (1, {"a": 3})).status_code == 200
    assert send(serving, "record.delete", (2, None), (9, None)).status_code == 200
    assert records(serving) == {"crm": {'{"id": 1}': {"a": 3}}}
    assert report(serving) == {"crm": 1}


def test_a_replaced_set_is_there_when_it_is_complete(serving: Serving) -> None:
    """Between its first and its last event the old set stays."""
    send(serving, "record.upsert", (1, {"a": 1}))
    send(serving, "sync.started")
    send(serving, "record.upsert", (2, {"a": 2}))
    assert list(records(serving)["crm"]) == ['{"id": 1}']
    send(serving, "sync.completed")
    assert list(records(serving)["crm"]) == ['{"id": 2}']


def test_a_refused_row_is_named_and_not_kept(serving: Serving) -> None:
    """The fault `partial` refuses rows in the words that the destination reads."""
    httpx.post(f"{serving.url}/_sandbox/faults", json={"kind": "partial", "match": {"platform": "webhook"}})
    reply = send(serving, "record.upsert", (1, {}), (2, {}))
    assert reply.json() == {"errors": [{"index": 0, "code": "refused"}]}
    assert list(records(serving)["crm"]) == ['{"id": 2}']


@pytest.mark.parametrize(
    "body", ["[]", "{}", '{"type": "other", "data": {}}', '{"type": "record.upsert", "data": {"rows": [1]}}']
)
def test_what_is_no_event_is_refused(serving: Serving, body: str) -> None:
    """With 400 and a reason; nothing is kept."""
    headers = {**HEADERS, "content-type": "application/json"}
    reply = httpx.post(f"{serving.url}/webhook/crm", content=body, headers=headers)
    assert (reply.status_code, list(reply.json())) == (400, ["detail"])
    assert report(serving) == {}


def test_an_event_without_a_signature_is_told_of(serving: Serving) -> None:
    """It is taken, and noted with what it lacks."""
    assert send(serving, "record.upsert", (1, {}), headers={"webhook-id": "msg_1"}).status_code == 200
    (told,) = httpx.get(f"{serving.url}/_sandbox/state").json()["violations"]["webhook"]
    assert told == "an event without webhook-timestamp, webhook-signature"


@pytest.mark.parametrize(("fault", "status"), [("throttle", 429), ("expired_token", 401), ("gone", 410)])
def test_faults_have_a_receivers_statuses(serving: Serving, fault: str, status: int) -> None:
    """Those that the destination takes for not now, for a wrong secret and for a receiver that withdrew."""
    httpx.post(f"{serving.url}/_sandbox/faults", json={"kind": fault, "match": {"op": "add"}})
    assert send(serving, "record.upsert", (1, {})).status_code == status
    assert report(serving) == {}


def test_the_page_and_the_file_have_the_records(tmp_path: Path) -> None:
    """Counts for people; all of them from one start to the next."""
    file = tmp_path / "sandbox.json"
    with serve(sandbox=build(("webhook",)), state_file=str(file)) as serving:
        send(serving, "record.upsert", (1, {"a": "secret text"}))
        page = httpx.get(serving.url).text
    assert "<td>crm</td>" in page
    assert "<td>webhook</td><td>POST</td><td>/<wbr>crm</td><td>add</td>" in page
    assert "secret text" not in page
    assert json.loads(file.read_text(encoding="utf-8"))["platforms"]["webhook"]["records"]
    with serve(sandbox=build(("webhook",)), state_file=str(file)) as serving:
        assert report(serving) == {"crm": 1}
