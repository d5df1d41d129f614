"""Microsoft Advertising: the contract suite against the sandbox, and the vendor's own client and models.

Bodies are read by the models of `msads` 13.0.30.1. These drop unknown keys without a word, hence the comparison with
what went in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments.destinations.base import Audience, Batch, Call, Op
from dbt_segments.destinations.microsoft_ads import MicrosoftAds, MicrosoftAdsSettings
from dbt_segments.sandbox.server import build, serve
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from tests.one_click.case_microsoft_ads import CASE
from tests.world import sha

MARK = "dbt-segments:s:vip:n"
# The package was written for an older pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


class TestMicrosoftAds(DestinationContract):
    """The token endpoint is answered here, so that the suite's steps meet the service only."""

    bad = 2_500
    secrets = ("SANDBOXDEVTOKEN", "sandbox-refresh", "sandbox-access")
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self, tmp_path: Path) -> Iterator[None]:
        with serve(sandbox=build((CASE.name,))) as serving, httpx.Client() as client:
            self.serving, self.client = serving, client
            entry = CASE.connection(f"{serving.url}/{CASE.name}", tmp_path)
            self.settings = {name: value for name, value in entry.items() if name != "type"}
            yield

    def destination(self) -> MicrosoftAds:
        return MicrosoftAds(MicrosoftAdsSettings(**self.settings))

    def answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.client.send(
            httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        )
        return httpx.Response(answer.status_code, content=answer.content)

    def audience(self, sender: Sender) -> Audience:
        return sender.play(self.destination().create("VIP", MARK))

    def row(self, number: int, op: Op) -> str:
        return json.dumps("no hash" if number == self.bad else sha(f"{number}@example.com"))

    def held(self) -> Iterable[int]:
        [audience] = self.serving.state()["audiences"]
        numbers = {sha(f"{number}@example.com"): number for number in range(3_000)}
        return [numbers[value] for _, value in audience["keys"]]

    def test_limits_hold(self) -> None:
        super().test_limits_hold()
        assert self.destination().limits.members == 1_000


def destination() -> MicrosoftAds:
    entry = CASE.connection("http://127.0.0.1:1", Path("unused"))
    return MicrosoftAds(MicrosoftAdsSettings(**{name: value for name, value in entry.items() if name != "type"}))


def body(call: Call) -> Any:
    assert isinstance(call.body, str)
    return json.loads(call.body)


@pytest.mark.parametrize("op", [Op.ADD, Op.REMOVE])
def test_uploads_are_what_the_vendors_model_reads(op: Op) -> None:
    """Nothing is dropped, renamed or of another type."""
    from openapi_client.models.campaign.apply_customer_list_user_data_request import ApplyCustomerListUserDataRequest

    batch = Batch(op, json.dumps(sha("a@example.com")), 1, 1, True, 1, "g-1", 1, fields=("email",))
    sent = body(next(destination().push(Audience("8000123456"), batch)))
    read = ApplyCustomerListUserDataRequest.from_dict(sent)
    assert read is not None
    assert read.to_dict() == sent
    assert read.customer_list_user_data is not None
    assert read.customer_list_user_data.action_type == {Op.ADD: "Add", Op.REMOVE: "Remove"}[op]


@pytest.mark.slow
def test_lists_are_asked_for_as_the_vendors_model_reads() -> None:
    """The query for all and for one."""
    from openapi_client.api_client import ApiClient
    from openapi_client.models.campaign.get_audiences_by_ids_request import GetAudiencesByIdsRequest

    for flow in (destination().find(MARK, "VIP"), destination().get("8000123456")):
        sent = body(next(flow))
        read = GetAudiencesByIdsRequest.from_dict(sent)
        assert read is not None
        assert ApiClient().sanitize_for_serialization(read) == sent


@pytest.mark.slow
def test_the_vendors_client_works_with_the_sandbox(tmp_path: Path) -> None:
    """It makes a list, fills it, reads it and deletes it; what it sends to make one is what we send, nulls aside."""
    from openapi_client.api.campaign_management_service_api import CampaignManagementServiceApi
    from openapi_client.api_client import ApiClient
    from openapi_client.configuration import Configuration
    from openapi_client.models.campaign.add_audiences_request import AddAudiencesRequest
    from openapi_client.models.campaign.apply_customer_list_user_data_request import ApplyCustomerListUserDataRequest
    from openapi_client.models.campaign.customer_list import CustomerList
    from openapi_client.models.campaign.delete_audiences_request import DeleteAudiencesRequest
    from openapi_client.models.campaign.get_audiences_by_ids_request import GetAudiencesByIdsRequest

    ours = body(next(destination().create("VIP", MARK)))
    (entry,) = ours["Audiences"]
    wanted = AddAudiencesRequest(Audiences=[CustomerList(**entry)])
    theirs = ApiClient().sanitize_for_serialization(wanted)
    assert [{name: v for name, v in one.items() if v is not None} for one in theirs["Audiences"]] == ours["Audiences"]
    with serve(sandbox=build((CASE.name,))) as serving:
        root = f"{serving.url}/{CASE.name}"
        form = {"grant_type": "refresh_token", "refresh_token": "sandbox-refresh", "client_id": "sandbox-client"}
        scope = "https://ads.microsoft.com/msads.manage offline_access"
        token = httpx.post(f"{root}/token", data={**form, "scope": scope}).json()["access_token"]
        client = ApiClient(Configuration(host=root))
        client.default_headers |= {
            "Authorization": f"Bearer {token}",
            "DeveloperToken": "SANDBOXDEVTOKEN",
            "CustomerId": "1001",
            "CustomerAccountId": "2001",
        }
        api = CampaignManagementServiceApi(client)
        serving.sandbox.platforms[CASE.name].policy["terms_accepted"] = True
        made = api.add_audiences(AddAudiencesRequest.from_dict(ours))
        (list_id,) = made.audience_ids
        data = {"AudienceId": list_id, "ActionType": "Add", "CustomerListItemSubType": "Email"}
        items = [sha("a@example.com"), sha("b@example.com"), "no hash"]
        upload = {"CustomerListUserData": {**data, "CustomerListItems": items}}
        taken = api.apply_customer_list_user_data(ApplyCustomerListUserDataRequest.from_dict(upload))
        assert [(one.code, one.index) for one in taken.partial_errors] == [(8004, 2)]
        (held,) = serving.state()["audiences"]
        assert {value for _, value in held["keys"]} == set(items[:2])
        asked = {"AudienceIds": [list_id], "Type": "CustomerList"}
        (shown,) = api.get_audiences_by_ids(GetAudiencesByIdsRequest.from_dict(asked)).audiences
        assert (shown.name, shown.description, shown.membership_duration) == ("VIP", MARK, 390)
        api.delete_audiences(DeleteAudiencesRequest.from_dict({"AudienceIds": [list_id]}))
        assert [one["deleted"] for one in serving.state()["audiences"]] == [True]
