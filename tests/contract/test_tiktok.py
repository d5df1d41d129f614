"""TikTok against the public contract suite, and the sandbox against TikTok's own SDK.

The segment calls are not in the SDK; they go through its client all the same.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest

from dbt_segments.destinations.base import Audience, Op
from dbt_segments.destinations.tiktok import TikTok, TikTokSettings
from dbt_segments.sandbox import Serving, serve
from dbt_segments.sandbox.server import build
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from tests.world import sha

with warnings.catch_warnings():
    # The SDK's regular expressions are not raw strings.
    warnings.simplefilter("ignore")
    import business_api_client
    from business_api_client.rest import ApiException
    from business_api_client.tiktok_business.tiktok_exceptions import TiktokSDKError

ADVERTISER = "7000000000000000001"
TOKEN = "sandbox-token"


@pytest.fixture
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("tiktok",))) as serving:
        yield serving


class TestTikTok(DestinationContract):
    """Against the sandbox, which is asked over HTTP."""

    secrets = (TOKEN,)
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self, serving: Serving) -> Iterator[None]:
        with httpx.Client() as client:
            self.serving = serving
            self.client = client
            yield

    def destination(self) -> TikTok:
        settings = {"base_url": f"{self.serving.url}/tiktok", "advertiser_id": ADVERTISER}
        return TikTok(TikTokSettings(access_token=TOKEN, **settings))

    def answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.client.send(
            httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def audience(self, sender: Sender) -> Audience:
        return sender.play(self.destination().create("VIP", ""))

    def row(self, number: int, op: Op) -> str:
        return json.dumps([{"id": sha(f"{number}@example.com"), "audience_ids": ["?"]}], separators=(",", ":"))

    def held(self) -> Iterable[int]:
        [audience] = self.serving.state()["audiences"]
        numbers = {sha(f"{number}@example.com"): number for number in range(3_000)}
        return [numbers[value] for _, value in audience["keys"]]


# -- the official SDK -----------------------------------------------------------------------------------------


@pytest.fixture
def client(serving: Serving) -> Iterator[business_api_client.ApiClient]:
    """TikTok's own client, pointed at the sandbox; it hands out a pool of threads that it does not end by itself."""
    configuration = business_api_client.Configuration()
    configuration.host = f"{serving.url}/tiktok"
    client = business_api_client.ApiClient(configuration)
    yield client
    client.pool.terminate()
    client.pool.join()
    client.rest_client.pool_manager.clear()


def post(client: business_api_client.ApiClient, path: str, body: dict[str, Any], token: str = TOKEN) -> Any:
    """A segment call as the SDK's client sends it."""
    return client.call_api(
        f"/open_api/v1.3/{path}",
        "POST",
        {},
        [],
        {"Access-Token": token, "Content-Type": "application/json"},
        body=body,
        post_params=[],
        files={},
        response_type="InlineResponse200",
        auth_settings=[],
        _return_http_data_only=True,
    )


def create(client: business_api_client.ApiClient, name: str = "VIP") -> str:
    made = post(client, "segment/audience/", {"advertiser_id": ADVERTISER, "custom_audience_name": name})
    return str(made["data"]["audience_id"])


def cell(audience_id: str, number: int) -> dict[str, Any]:
    return {"id": sha(f"{number}@example.com"), "audience_ids": [audience_id]}


def mapping(rows: list[Any], action: str = "add") -> dict[str, Any]:
    return {
        "advertiser_ids": [ADVERTISER],
        "action": action,
        "id_schema": ["EMAIL_SHA256", "PHONE_SHA256"],
        "batch_data": rows,
    }


def test_the_sandbox_serves_the_official_sdk(serving: Serving, client: business_api_client.ApiClient) -> None:
    """Create, add and remove by its client; list, get and delete by its own calls."""
    audience_id = create(client)
    rows = [[cell(audience_id, 1), {}], [cell(audience_id, 2), cell(audience_id, 3)]]
    post(client, "segment/mapping/", mapping(rows))
    post(client, "segment/mapping/", mapping([[cell(audience_id, 1), {}]], "delete"))
    [audience] = serving.state()["audiences"]
    assert audience["keys"] == [["EMAIL_SHA256", sha("2@example.com")], ["PHONE_SHA256", sha("3@example.com")]]
    api = business_api_client.AudienceApi(client)
    listed = api.dmp_custom_audience_list(ADVERTISER, TOKEN, page=1, page_size=100)["data"]
    assert [(one["audience_id"], one["name"]) for one in listed["list"]] == [(audience_id, "VIP")]
    shown = api.dmp_custom_audience_get(ADVERTISER, [audience_id], TOKEN)["data"]
    assert shown["list"][0]["audience_details"]["cover_num"] == 1
    body = business_api_client.CustomAudienceDeleteBody(advertiser_id=ADVERTISER, custom_audience_ids=[audience_id])
    api.dmp_custom_audience_delete(TOKEN, body=body)
    assert api.dmp_custom_audience_list(ADVERTISER, TOKEN)["data"]["list"] == []


def test_the_sandbox_refuses_what_tiktok_refuses(serving: Serving, client: business_api_client.ApiClient) -> None:
    """In the words that the SDK understands: a code other than 0 is an error to it, whatever the HTTP status."""
    audience_id = create(client)
    wrong: list[tuple[int, dict[str, Any]]] = [
        (40007, mapping([[cell("1", 1), {}]])),
        (40002, mapping([[cell(audience_id, 1)]])),
        (40062, mapping([[{"id": "jane@example.com", "audience_ids": [audience_id]}, {}]])),
        (40002, {**mapping([[cell(audience_id, 1), {}]]), "action": "append"}),
        (40002, {**mapping([[cell(audience_id, 1), {}]]), "id_schema": ["EMAIL_SHA256", "EMAIL_SHA256"]}),
        (40002, {**mapping([[cell(audience_id, 1), {}]]), "advertiser_ids": [7000000000000000001]}),
        (40061, mapping([[cell(audience_id, 1), {}]] * 1_001)),
    ]
    for code, body in wrong:
        with pytest.raises(TiktokSDKError, match=str(code)):
            post(client, "segment/mapping/", body)
    with pytest.raises(TiktokSDKError, match="40105"):
        post(client, "segment/audience/", {"advertiser_id": ADVERTISER, "custom_audience_name": "x"}, token="other")
    with pytest.raises(ApiException) as caught:
        post(client, "segment/mapping", mapping([[cell(audience_id, 1), {}]]))
    assert caught.value.status == 404
    assert serving.state()["audiences"][0]["keys"] == []


@pytest.mark.parametrize("page", ["0", "-1", "x", "1.5", ""])
def test_a_page_that_is_none_is_refused(serving: Serving, page: str) -> None:
    """With TikTok's code for a wrong parameter; a token that is empty has a code of its own."""
    url = f"{serving.url}/tiktok/open_api/v1.3/dmp/custom_audience/list/"
    for name in ("page", "page_size"):
        query = {"advertiser_id": ADVERTISER, name: page}
        assert httpx.get(url, params=query, headers={"Access-Token": TOKEN}).json()["code"] == 40002
    assert httpx.get(url, headers={"Access-Token": ""}).json()["code"] == 40104


def test_a_long_name_is_cut_without_a_word(client: business_api_client.ApiClient) -> None:
    """Which is why such a name is refused before it is sent."""
    create(client, "x" * 71)
    listed = business_api_client.AudienceApi(client).dmp_custom_audience_list(ADVERTISER, TOKEN)["data"]
    assert listed["list"][0]["name"] == "x" * 67 + "..."
