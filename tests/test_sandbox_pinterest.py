"""The sandbox for Pinterest behaves as its contract says: strict about requests, slow where the platform is.

Expectations are typed by hand from the API's description (v5): `customer_lists`, `audiences`, `oauth/token`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments.sandbox.server import Serving, build, serve

LISTS = "/v5/ad_accounts/549756359984/customer_lists"
TARGETS = "/v5/ad_accounts/549756359984/audiences"
ANN, BOB = (hashlib.sha256(name).hexdigest() for name in (b"ann@example.com", b"bob@example.com"))
CREATE = {"name": "VIP", "list_type": "EMAIL", "records": f"{ANN},{BOB}"}


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("pinterest",))) as one:
        yield one


@pytest.fixture
def http(serving: Serving) -> Iterator[httpx.Client]:
    serving.sandbox.reset()
    headers = {"Authorization": "Bearer pina_sandbox"}
    with httpx.Client(base_url=serving.url, headers=headers, timeout=10) as client:
        yield client


def policy(serving: Serving, **policy: Any) -> None:
    serving.sandbox.platforms["pinterest"].policy.update(policy)


def keys(serving: Serving) -> set[str]:
    return {value for one in serving.state()["audiences"] for _, value in one["keys"]}


def test_a_list_from_first_to_last(serving: Serving, http: httpx.Client) -> None:
    """Made with people; counters grow with every call, repeats included, and say nothing of who is in."""
    made = http.post(LISTS, json=CREATE).json()
    path = f"{LISTS}/{made['id']}"
    assert (made["num_batches"], made["num_uploaded_user_records"], made["type"]) == (1, 2, "customerlist")
    http.patch(path, json={"operation_type": "ADD", "records": ANN})
    http.patch(path, json={"operation_type": "REMOVE", "records": BOB})
    http.patch(path, json={"operation_type": "REMOVE", "records": BOB})
    read = http.get(path).json()
    counters = (read["num_batches"], read["num_uploaded_user_records"], read["num_removed_user_records"])
    assert counters == (4, 3, 2)
    assert keys(serving) == {ANN}
    assert http.delete(path).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"records": None}, 400),
        ({"records": ""}, 400),
        ({"records": [ANN]}, 400),
        ({"records": "ann@example.com"}, 400),
        ({"records": ANN.upper()}, 400),
        ({"records": ANN[:63]}, 400),
        ({"records": f"{ANN}, {BOB}"}, 400),
        ({"records": ",".join([ANN] * 50_001)}, 400),
        ({"name": ""}, 400),
        ({"list_type": "PHONE"}, 400),
        ({"description": "x"}, 400),
    ],
)
def test_a_wrong_list_is_refused(serving: Serving, http: httpx.Client, change: dict[str, Any], status: int) -> None:
    """In the platform's envelope, and nothing is made."""
    body = {name: value for name, value in {**CREATE, **change}.items() if value is not None}
    answer = http.post(LISTS, json=body)
    assert (answer.status_code, sorted(answer.json())) == (status, ["code", "message"])
    assert serving.state()["audiences"] == []


@pytest.mark.parametrize(
    "body", [{"operation_type": "REPLACE", "records": ANN}, {"records": ANN}, {"operation_type": "ADD"}]
)
def test_a_wrong_update_is_refused(serving: Serving, http: httpx.Client, body: dict[str, str]) -> None:
    """Nobody comes or goes."""
    made = http.post(LISTS, json=CREATE).json()
    assert http.patch(f"{LISTS}/{made['id']}", json=body).status_code == 400
    assert keys(serving) == {ANN, BOB}


def test_who_may_call(http: httpx.Client) -> None:
    """A good token, JSON, nothing in the query of a call that changes something, this account's list."""
    made = http.post(LISTS, json=CREATE).json()
    assert http.get(LISTS, headers={"Authorization": "Bearer other"}).status_code == 401
    assert http.get(LISTS, headers={"Authorization": "Basic pina_sandbox"}).status_code == 401
    assert http.post(LISTS, data=CREATE).status_code == 415
    assert http.post(LISTS, params={"records": ANN}, json=CREATE).status_code == 400
    assert http.get(f"{LISTS}/1").status_code == 404
    assert http.get(f"/v5/ad_accounts/1/customer_lists/{made['id']}").status_code == 404
    assert http.get(f"{LISTS}?page_size=251").status_code == 400
    assert http.get("/v4/ad_accounts/1/customer_lists").status_code == 404


def test_refresh_tokens(http: httpx.Client) -> None:
    """HTTP Basic, a form; the token that replaces another ends it when it is used."""

    def exchange(token: str, secret: str = "sandbox-app-secret") -> httpx.Response:
        pair = base64.b64encode(f"1500000:{secret}".encode()).decode()
        form = {"grant_type": "refresh_token", "refresh_token": token, "continuous_refresh": "true"}
        return http.post("/v5/oauth/token", data=form, headers={"Authorization": f"Basic {pair}"})

    assert exchange("pinr_sandbox", "wrong").status_code == 401
    assert exchange("pinr_other").status_code == 401
    first = exchange("pinr_sandbox").json()
    assert first["token_type"] == "bearer"
    assert http.get(LISTS, headers={"Authorization": f"Bearer {first['access_token']}"}).status_code == 200
    assert exchange("pinr_sandbox").status_code == 200
    assert exchange(exchange("pinr_sandbox").json()["refresh_token"]).status_code == 200
    assert exchange("pinr_sandbox").status_code == 401


def test_an_access_token_ends(serving: Serving, http: httpx.Client) -> None:
    """After thirty days."""
    platform: Any = serving.sandbox.platforms["pinterest"]
    platform.tokens["short"] = serving.sandbox.clock.now() + 60
    assert http.get(LISTS, headers={"Authorization": "Bearer short"}).status_code == 200
    serving.sandbox.clock.advance(61)
    assert http.get(LISTS, headers={"Authorization": "Bearer short"}).status_code == 401


def test_pages(http: httpx.Client) -> None:
    """By bookmark, newest first where that is asked for, null on the last page."""
    made = [http.post(LISTS, json=CREATE).json()["id"] for _ in range(3)]
    first = http.get(LISTS, params={"page_size": 2, "order": "DESCENDING"}).json()
    rest = http.get(LISTS, params={"page_size": 2, "order": "DESCENDING", "bookmark": first["bookmark"]}).json()
    assert [one["id"] for one in first["items"] + rest["items"]] == made[::-1]
    assert rest["bookmark"] is None


def test_an_audience_of_a_list(serving: Serving, http: httpx.Client) -> None:
    """Refused while the list is being processed and while it is small; then it has a size."""
    policy(serving, processing_s=3600, minimum_members=2)
    made = http.post(LISTS, json={**CREATE, "records": ANN}).json()
    body = {"name": "VIP", "audience_type": "CUSTOMER_LIST", "rule": {"customer_list_id": made["id"]}}
    assert (made["status"], http.post(TARGETS, json=body).status_code) == ("PROCESSING", 400)
    serving.sandbox.clock.advance(3600)
    assert http.get(f"{LISTS}/{made['id']}").json()["status"] == "TOO_SMALL"
    assert http.post(TARGETS, json=body).status_code == 400
    http.patch(f"{LISTS}/{made['id']}", json={"operation_type": "ADD", "records": BOB})
    serving.sandbox.clock.advance(3600)
    target = http.post(TARGETS, json=body).json()
    assert (target["status"], target["size"]) == ("READY", 2)
    assert http.post(TARGETS, json={**body, "audience_type": "customer_list"}).status_code == 400
    assert http.post(TARGETS, json={**body, "rule": {}}).status_code == 400
    assert http.patch(f"{TARGETS}/{target['id']}", json={"operation_type": "REMOVE"}).status_code == 200
    assert http.get(f"{TARGETS}/{target['id']}").status_code == 404


def test_exceptions_are_told_once(serving: Serving, http: httpx.Client) -> None:
    """By the answer to one upload."""
    policy(serving, exceptions={"invalid": 1})
    assert http.post(LISTS, json=CREATE).json()["exceptions"] == {"invalid": 1}
    assert http.post(LISTS, json=CREATE).json()["exceptions"] == {}


def test_too_many_calls(serving: Serving, http: httpx.Client) -> None:
    """429, without a header unless the test asks for one."""
    serving.sandbox.faults.add([{"kind": "throttle"}, {"kind": "throttle", "retry_after": 3}])
    first, second = http.get(LISTS), http.get(LISTS)
    assert (first.status_code, "retry-after" in first.headers) == (429, False)
    assert second.headers["retry-after"] == "3"


def test_what_is_kept_in_a_file(tmp_path: Path) -> None:
    """Lists, people and audiences outlive the server."""
    file = str(tmp_path / "sandbox.json")
    for moment in ("first", "again"):
        with serve(sandbox=build(("pinterest",)), state_file=file) as serving:
            with httpx.Client(base_url=serving.url, headers={"Authorization": "Bearer pina_sandbox"}) as http:
                if moment == "first":
                    made = http.post(LISTS, json=CREATE).json()
                    rule = {"customer_list_id": made["id"]}
                    http.post(TARGETS, json={"name": "VIP", "audience_type": "CUSTOMER_LIST", "rule": rule})
                (target,) = http.get(TARGETS).json()["items"]
            assert (keys(serving), target["size"]) == ({ANN, BOB}, 2)
