"""The sandbox of Microsoft Advertising refuses what a careful sender never sends, and forgets what it must."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dbt_segments.sandbox.server import Serving, build, serve
from tests.world import sha

SCOPE = "https://ads.microsoft.com/msads.manage offline_access"
NEW = {"Type": "CustomerList", "Name": "VIP", "MembershipDuration": 30, "Scope": "Customer", "ParentId": "1001"}


class Client:
    """Calls as an account, with a token that was fetched."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.root = f"{serving.url}/microsoft_ads"
        self.headers = {"DeveloperToken": "SANDBOXDEVTOKEN", "CustomerId": "1001", "CustomerAccountId": "2001"}
        self.headers["Authorization"] = f"Bearer {self.token().json()['access_token']}"

    def token(self, refresh: str = "sandbox-refresh", **form: str) -> httpx.Response:
        fields = {
            "grant_type": "refresh_token",
            "client_id": "sandbox-client",
            "scope": SCOPE,
            "refresh_token": refresh,
        }
        return httpx.post(f"{self.root}/token", data={**fields, **form})

    def call(self, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.request(method, f"{self.root}/v13{path}", json=body, headers={**self.headers, **headers})

    def create(self, **changes: Any) -> httpx.Response:
        return self.call("POST", "/Audiences", {"Audiences": [{**NEW, **changes}]})

    def apply(self, list_id: str, items: Any, action: str = "Add", **changes: Any) -> httpx.Response:
        data = {"AudienceId": list_id, "ActionType": action, "CustomerListItemSubType": "Email"}
        whole = {**data, "CustomerListItems": items, "AcceptCustomerMatchTerm": True, **changes}
        return self.call("POST", "/CustomerListUserData/Apply", {"CustomerListUserData": whole})

    def held(self) -> set[str]:
        (audience,) = self.serving.state()["audiences"]
        return {value for _, value in audience["keys"]}


@pytest.fixture
def client() -> Iterator[Client]:
    with serve(sandbox=build(("microsoft_ads",))) as serving:
        yield Client(serving)


def codes(answer: httpx.Response) -> list[int]:
    body = answer.json()
    return [one["Code"] for place in ("PartialErrors", "OperationErrors", "Errors") for one in body.get(place) or []]


def test_members(client: Client) -> None:
    """Add, remove and replace are sets; a row that is no hash is named; everybody leaves after the duration."""
    (list_id,) = client.create().json()["AudienceIds"]
    hashes = [sha(str(number)) for number in range(4)]
    refused = client.apply(list_id, [hashes[0], hashes[1].upper(), hashes[2], hashes[0]]).json()["PartialErrors"]
    assert [(one["Code"], one["Index"]) for one in refused] == [(8004, 1)]
    client.apply(list_id, [hashes[0]], "Remove")
    assert client.held() == {hashes[2]}
    client.apply(list_id, [hashes[3]], "Replace")
    assert client.held() == {hashes[3]}
    client.serving.sandbox.clock.advance(31 * 86_400)
    assert client.held() == set()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"AcceptCustomerMatchTerm": False}, 8003),
        ({"AcceptCustomerMatchTerm": None}, 8003),
        ({"AcceptCustomerMatchTerm": "true"}, 100),
        ({"AudienceId": "1"}, 8000),
        ({"AudienceId": 8000000000000001}, 100),
        ({"ActionType": "Delete"}, 8001),
        ({"CustomerListItemSubType": "Phone"}, 8002),
        ({"CustomerListItems": []}, 100),
        ({"CustomerListItems": ["0" * 64] * 1_001}, 100),
        ({"Consent": True}, 100),
    ],
)
def test_uploads_that_are_refused(client: Client, changes: dict[str, Any], code: int) -> None:
    """Whole, with the platform's code, and nobody is added."""
    (list_id,) = client.create().json()["AudienceIds"]
    assert codes(client.apply(list_id, [sha("a")], **changes)) == [code]
    assert client.held() == set()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 4853),
        ({"Name": "Other", "MembershipDuration": 391}, 4842),
        ({"Name": "Other", "MembershipDuration": None}, 4842),
        ({"Name": "x" * 129}, 100),
        ({"Name": "Other", "Scope": "Account"}, 100),
        ({"Name": "Other", "Retention": 5}, 100),
    ],
)
def test_lists_that_are_refused(client: Client, changes: dict[str, Any], code: int) -> None:
    """Names are unique; a duration is required; a refused list has null in its place."""
    client.create()
    answer = client.create(**changes)
    assert codes(answer) == [code]
    assert answer.status_code == 400 or answer.json()["AudienceIds"] == [None]


def test_sizes_come_after_two_days(client: Client) -> None:
    """As text, and null before."""
    (list_id,) = client.create().json()["AudienceIds"]
    client.apply(list_id, [sha("a")])
    ask = {"AudienceIds": [list_id], "Type": "CustomerList"}
    shown = [client.call("POST", "/Audiences/QueryByIds", ask).json()["Audiences"][0]["SearchSize"]]
    client.serving.sandbox.clock.advance(48 * 3600)
    client.headers["Authorization"] = f"Bearer {client.token().json()['access_token']}"
    shown.append(client.call("POST", "/Audiences/QueryByIds", ask).json()["Audiences"][0]["SearchSize"])
    assert shown == [None, "1"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": "Bearer wrong"}, 109),
        ({"DeveloperToken": "wrong"}, 105),
        ({"CustomerAccountId": "X123"}, 1102),
        ({"CustomerId": ""}, 106),
    ],
)
def test_headers_that_are_refused(client: Client, headers: dict[str, str], code: int) -> None:
    """Four headers on every call."""
    ask = {"AudienceIds": None, "Type": "CustomerList"}
    assert codes(client.call("POST", "/Audiences/QueryByIds", ask, **headers)) == [code]


def test_lists_of_another_customer_are_not_there(client: Client) -> None:
    """Neither found nor written to."""
    (list_id,) = client.create().json()["AudienceIds"]
    client.headers["CustomerId"] = "1002"
    ask = {"AudienceIds": None, "Type": "CustomerList"}
    assert client.call("POST", "/Audiences/QueryByIds", ask).json()["Audiences"] == []
    assert codes(client.apply(list_id, [sha("a")])) == [8000]


def test_tokens(client: Client) -> None:
    """An hour long; each exchange names the next refresh token, whose use ends those before it."""
    assert client.token(scope="other").json() == {"error": "invalid_scope"}
    assert client.token(client_secret="wrong").status_code == 401
    assert client.token("stolen").json() == {"error": "invalid_grant"}
    second = client.token().json()["refresh_token"]
    assert client.token().status_code == 200
    assert client.token(second).status_code == 200
    assert client.token().json() == {"error": "invalid_grant"}
    client.serving.sandbox.clock.advance(3601)
    assert codes(client.create(Name="Late")) == [109]
