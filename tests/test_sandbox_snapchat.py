"""The sandbox of Snapchat refuses what a careful sender never sends, and takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dbt_segments.sandbox.server import Serving, build, serve
from tests.world import sha

ACCOUNT = "8adc3db7-8148-4fbf-999c-8d2266369d74"
NEW = {"name": "VIP", "source_type": "FIRST_PARTY", "retention_in_days": 9999, "ad_account_id": ACCOUNT}


class Client:
    """Calls with a token that was fetched."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.root = f"{serving.url}/snapchat"
        form = {"grant_type": "refresh_token", "refresh_token": "sandbox-refresh"}
        credentials = {"client_id": "sandbox-client", "client_secret": "sandbox-secret"}
        token = httpx.post(f"{self.root}/token", data={**form, **credentials}).json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return httpx.request(method, f"{self.root}/v1{path}", json=body, headers=self.headers)

    def create(self, **changes: Any) -> httpx.Response:
        return self.call("POST", f"/adaccounts/{ACCOUNT}/segments", {"segments": [{**NEW, **changes}]})

    def segment(self) -> str:
        return str(self.create().json()["segments"][0]["segment"]["id"])

    def users(self, method: str, segment: str, data: Any, schema: Any = ("EMAIL_SHA256",)) -> httpx.Response:
        return self.call(method, f"/segments/{segment}/users", {"users": [{"schema": schema, "data": data}]})

    def held(self) -> set[tuple[str, str]]:
        (audience,) = self.serving.state()["audiences"]
        return {(name, value) for name, value in audience["keys"]}

    def violations(self) -> list[str]:
        found: list[str] = self.serving.state()["violations"]["snapchat"]
        return found


@pytest.fixture
def client() -> Iterator[Client]:
    with serve(sandbox=build(("snapchat",))) as serving:
        yield Client(serving)


def test_each_kind_is_a_list_of_its_own(client: Client) -> None:
    """Removing an e-mail leaves the phone in; a removal of nobody is refused."""
    segment = client.segment()
    client.users("POST", segment, [[sha("a")], [sha("b")]])
    client.users("POST", segment, [[sha("1")]], ["PHONE_SHA256"])
    answer = client.users("DELETE", segment, [[sha("a")]]).json()
    assert answer["users"][0]["user"] == {"number_uploaded_users": 1}
    assert client.held() == {("EMAIL_SHA256", sha("b")), ("PHONE_SHA256", sha("1"))}
    assert client.call("DELETE", f"/segments/{segment}/users").status_code == 400
    assert client.violations() == []


@pytest.mark.parametrize(
    ("data", "schema"),
    [
        ([sha("a")], ["EMAIL_SHA256"]),
        ([["a@example.com"]], ["EMAIL_SHA256"]),
        ([[sha("a").upper()]], ["EMAIL_SHA256"]),
        ([[sha("a"), sha("1")]], ["EMAIL_SHA256", "PHONE_SHA256"]),
        ([[sha("a")]], ["EMAIL"]),
        ([[sha("a")]], "EMAIL_SHA256"),
        ([], ["EMAIL_SHA256"]),
        ([[sha("a")]] * 100_001, ["EMAIL_SHA256"]),
    ],
)
def test_uploads_that_are_refused(client: Client, data: Any, schema: Any) -> None:
    """Flat rows, rows of two, what is no hash, too many: the whole request."""
    segment = client.segment()
    assert client.users("POST", segment, data, schema).status_code == 400
    assert client.held() == set()


def test_a_repeat_in_one_batch_is_noted(client: Client) -> None:
    """It is taken, and a careful sender would not have sent it."""
    client.users("POST", client.segment(), [[sha("a")], [sha("a")]])
    assert client.violations() == ["add: an identifier twice in one batch"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 376},
        {"retention_in_days": None},
        {"source_type": "PIXEL"},
        {"ad_account_id": "other"},
        {"visible_to": []},
    ],
)
def test_segments_that_are_refused(client: Client, changes: dict[str, Any]) -> None:
    """What is required, and nothing that is not known."""
    assert client.create(**changes).status_code == 400
    assert client.serving.state()["audiences"] == []


def test_matching_takes_several_reads(client: Client) -> None:
    """NO_UPLOAD, PROCESSING, COMPLETE; under 1,000 people are too few; a new upload begins again."""
    segment = client.segment()

    def read() -> tuple[str, str, int]:
        facts = client.call("GET", f"/segments/{segment}").json()["segments"][0]["segment"]
        return (facts["upload_status"], facts["targetable_status"], facts["approximate_number_users"])

    assert read() == ("NO_UPLOAD", "NOT_READY", 0)
    client.users("POST", segment, [[sha("a")]])
    assert [read(), read()] == [("PROCESSING", "NOT_READY", 0), ("COMPLETE", "TOO_FEW_USERS", 1)]
    client.users("POST", segment, [[sha(str(number))] for number in range(1_000)])
    assert [read()[0], read()] == ["PROCESSING", ("COMPLETE", "READY", 1_001)]


def test_failures_on_request(client: Client) -> None:
    """429 with no header, a plain 401 that ends the token, 200 that says error."""
    segment = client.segment()
    for fault in ({"kind": "throttle"}, {"kind": "status", "status": 200}, {"kind": "expired_token"}):
        client.serving.sandbox.faults.add({**fault, "match": {"op": "add"}})
    throttled = client.users("POST", segment, [[sha("a")]])
    assert (throttled.status_code, "retry-after" in throttled.headers) == (429, False)
    assert client.users("POST", segment, [[sha("a")]]).json()["request_status"] == "ERROR"
    assert client.users("POST", segment, [[sha("a")]]).text == "unauthorized"
    assert client.users("POST", segment, [[sha("a")]]).status_code == 401
    assert client.held() == set()
