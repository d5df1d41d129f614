"""LinkedIn against the public contract suite, and the sandbox against LinkedIn's own Python client."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest
from linkedin_api.clients.auth.client import AuthClient
from linkedin_api.clients.restli.client import RestliClient
from linkedin_api.common import constants

from dbt_segments.destinations.base import Audience, Batch, Op
from dbt_segments.destinations.linkedin import LinkedIn, LinkedInSettings
from dbt_segments.sandbox import Serving, serve
from dbt_segments.sandbox.server import build
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from tests.world import sha

MARK = "dbt-segments:s:vip:n"
ACCOUNT = "urn:li:sponsoredAccount:123456"


@pytest.fixture
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("linkedin",))) as serving:
        yield serving


def destination(serving: Serving, **more: Any) -> LinkedIn:
    settings = {"ad_account_id": "123456", "source_platform": "SANDBOX", "access_token": "sandbox-token", **more}
    return LinkedIn(LinkedInSettings(base_url=f"{serving.url}/linkedin", **settings))


def element(number: int, op: Op) -> dict[str, Any]:
    ids = [{"idType": "SHA256_EMAIL", "idValue": sha(f"{number}@example.com")}]
    return {"action": op.value.upper(), "userIds": ids}


class TestLinkedIn(DestinationContract):
    """Against the sandbox; a member with a hash of 63 digits is one that it refuses."""

    bad = 6_000
    secrets = ("sandbox-token",)
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self, serving: Serving) -> Iterator[None]:
        with httpx.Client() as client:
            self.serving = serving
            self.client = client
            yield

    def destination(self) -> LinkedIn:
        return destination(self.serving)

    def answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.client.send(
            httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def audience(self, sender: Sender) -> Audience:
        return sender.play(self.destination().create("VIP", MARK))

    def row(self, number: int, op: Op) -> str:
        row = element(number, op)
        if number == self.bad:
            row["userIds"][0]["idValue"] = sha("bad")[1:]
        return json.dumps(row, separators=(",", ":"))

    def held(self) -> Iterable[int]:
        [audience] = self.serving.state()["audiences"]
        numbers = {sha(f"{number}@example.com"): number for number in range(3_000)}
        return [numbers[value] for _, value in audience["keys"]]


# -- the official client --------------------------------------------------------------------------------------


@pytest.fixture
def client(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestliClient]:
    """LinkedIn's own client, pointed at the sandbox."""
    monkeypatch.setattr(constants, "VERSIONED_BASE_URL", f"{serving.url}/linkedin/rest")
    monkeypatch.setattr(constants, "OAUTH_BASE_URL", f"{serving.url}/linkedin/oauth/v2")
    found = RestliClient()
    yield found
    found.session.close()


GIVEN = {"access_token": "sandbox-token", "version_string": "202608"}
ENTITY = {
    "name": "VIP",
    "account": ACCOUNT,
    "type": "USER",
    "sourcePlatform": "SANDBOX",
    "sourceSegmentId": "key-1",
    "destinations": [{"destination": "LINKEDIN"}],
}


def test_the_sandbox_serves_the_official_client(serving: Serving, client: RestliClient) -> None:
    """Create, find, get, add, remove and delete as the client sends them, with results for single elements."""
    made = client.create(resource_path="/dmpSegments", entity=ENTITY, **GIVEN)
    assert made.status_code == 201
    query = {"account": ACCOUNT, "sourcePlatform": "SANDBOX", "sourceSegmentId": "key-1"}
    found = client.finder(resource_path="/dmpSegments", finder_name="account", query_params=query, **GIVEN)
    assert [(one["id"], one["name"]) for one in found.elements] == [(int(made.entity_id), "VIP")]
    keys = {"id": int(made.entity_id)}
    bad = {"action": "ADD", "userIds": [{"idType": "SHA256_EMAIL", "idValue": "AA"}]}
    entities = [element(1, Op.ADD), bad, element(2, Op.ADD)]
    added = client.batch_create(resource_path="/dmpSegments/{id}/users", path_keys=keys, entities=entities, **GIVEN)
    assert [one.status for one in added.elements] == [201, 400, 201]
    gone = [element(1, Op.REMOVE)]
    client.batch_create(resource_path="/dmpSegments/{id}/users", path_keys=keys, entities=gone, **GIVEN)
    [audience] = serving.state()["audiences"]
    assert audience["keys"] == [["SHA256_EMAIL", sha("2@example.com")]]
    shown = client.get(resource_path="/dmpSegments/{id}", path_keys=keys, **GIVEN)
    assert shown.entity["destinations"][0]["audienceSize"] == 1
    assert client.delete(resource_path="/dmpSegments/{id}", path_keys=keys, **GIVEN).status_code == 204
    assert client.get(resource_path="/dmpSegments/{id}", path_keys=keys, **GIVEN).status_code == 404


@pytest.mark.parametrize(
    ("given", "status"),
    [({"version_string": None}, 400), ({"version_string": "202401"}, 426), ({"access_token": "other"}, 401)],
)
def test_the_sandbox_refuses_the_official_client(client: RestliClient, given: dict[str, Any], status: int) -> None:
    """No version, a version that ended, a token that is not good."""
    if given.get("version_string", "") is None:
        # Without a version the client means the unversioned API, which has no segments.
        reply = httpx.post(
            f"{constants.VERSIONED_BASE_URL}/dmpSegments",
            json=ENTITY,
            headers={"Authorization": "Bearer sandbox-token", "X-Restli-Protocol-Version": "2.0.0"},
        )
        assert reply.status_code == status
        return
    assert client.create(resource_path="/dmpSegments", entity=ENTITY, **{**GIVEN, **given}).status_code == status


def test_the_token_endpoint_serves_the_official_client(client: RestliClient) -> None:
    """The form of a refresh, and a token that is then good."""
    auth = AuthClient("sandbox-client", "sandbox-secret", "https://example.com/back")
    answer = auth.exchange_refresh_token_for_access_token("sandbox-refresh")
    assert answer.expires_in == 5_184_000
    made = client.create(resource_path="/dmpSegments", entity=ENTITY, **{**GIVEN, "access_token": answer.access_token})
    assert made.status_code == 201
    auth.session.close()


class _Wire:
    """What a request was, from either side; header names in lower case."""

    def __init__(self, method: str, path: str, headers: Any, body: bytes | str | None) -> None:
        names = ("linkedin-version", "x-restli-protocol-version", "x-restli-method", "content-type", "authorization")
        lower = {name.lower(): value for name, value in headers.items()}
        self.facts = (method, path, {name: lower.get(name) for name in names}, json.loads(body) if body else None)


def test_a_sync_sends_what_the_official_client_sends(serving: Serving, client: RestliClient) -> None:
    """The same members, the same request: path, headers and body."""
    ours: list[_Wire] = []
    theirs: list[_Wire] = []

    def answer(request: httpx.Request) -> httpx.Response:
        ours.append(_Wire(request.method, request.url.path, request.headers, request.read()))
        return httpx.Response(200, json={"elements": [{"status": 201}]})

    rows = [element(1, Op.ADD)]
    made = client.create(resource_path="/dmpSegments", entity=ENTITY, **GIVEN).entity_id
    batch = Batch(Op.ADD, json.dumps(rows[0]), 1, 1, True, 1, "b1", 1, ("email",))
    with Sender(destination(serving), transport=httpx.MockTransport(answer)) as sender:
        assert sender.send(Audience(made, "VIP"), batch).fate == "accepted"
    sent = client.session.send

    def spy(request: Any, **more: Any) -> Any:
        path = httpx.URL(request.url).path
        theirs.append(_Wire(request.method, path, request.headers, request.body))
        return sent(request, **more)

    client.session.send = spy
    keys = {"id": int(made)}
    client.batch_create(resource_path="/dmpSegments/{id}/users", path_keys=keys, entities=rows, **GIVEN)
    assert ours[0].facts == theirs[0].facts
