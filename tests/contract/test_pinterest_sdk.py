"""Pinterest's API as a client generated from its description (5.28.0) knows it, against ours and against the sandbox.

The client's models read what a sync sends, and must lose nothing of it; the client itself drives the sandbox, which
therefore takes what a real client sends, answers what it can read, and refuses what it should.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pinterestsdk import ApiClient, Configuration
from pinterestsdk.api.audiences_api import AudiencesApi
from pinterestsdk.api.customer_lists_api import CustomerListsApi
from pinterestsdk.api.oauth_api import OauthApi
from pinterestsdk.exceptions import ApiException, NotFoundException
from pinterestsdk.models.ad_accounts_audience_create import AdAccountsAudienceCreate
from pinterestsdk.models.ad_accounts_audience_update import AdAccountsAudienceUpdate
from pinterestsdk.models.customer_list_create import CustomerListCreate
from pinterestsdk.models.customer_list_update_with_required_body import CustomerListUpdateWithRequiredBody
from pydantic import BaseModel, ValidationError

from dbt_segments.destinations.base import Audience, Batch, Flow, Op, Reply
from dbt_segments.destinations.pinterest import Pinterest, PinterestSettings
from dbt_segments.sandbox.pinterest import APP_ID, APP_SECRET, REFRESH_TOKEN, TOKEN
from dbt_segments.sandbox.server import Serving, build, serve

ACCOUNT = "549756359984"
HASHES = ("c9" * 32, "02" * 32)
MARK = "dbt-segments:state1:shop.vip.pinterest:n0nce"


def sent(flow: Flow[Any], *replies: Any) -> Any:
    """The body of the last call of a flow."""
    call = next(flow)
    for reply in replies:
        call = flow.send(Reply(200, {}, reply))
    return json.loads(str(call.body))


def bodies() -> dict[str, tuple[Any, Any]]:
    """Everything that a sync sends, and the client's model of it."""
    ours = Pinterest(PinterestSettings(ad_account_id=ACCOUNT, access_token=TOKEN))
    rows = ",".join(f'"{one}"' for one in HASHES)
    new, known = Audience("", "VIP", MARK, ACCOUNT), Audience("643", "VIP", MARK, ACCOUNT)
    target = {"id": "2540", "rule": {"customer_list_id": "643"}, "description": MARK}
    return {
        "create": (CustomerListCreate, sent(ours.push(new, Batch(Op.ADD, rows, 2, 1, True, 2, "b", 1)))),
        "add": (
            CustomerListUpdateWithRequiredBody,
            sent(ours.push(known, Batch(Op.ADD, rows, 2, 1, True, 2, "b", 1))),
        ),
        "remove": (
            CustomerListUpdateWithRequiredBody,
            sent(ours.push(known, Batch(Op.REMOVE, rows, 2, 1, True, 2, "b", 1))),
        ),
        "attend": (AdAccountsAudienceCreate, sent(ours.attend(known), {"items": [], "bookmark": None})),
        "delete": (AdAccountsAudienceUpdate, sent(ours.delete(known), {"items": [target], "bookmark": None})),
    }


@pytest.mark.parametrize("what", ["create", "add", "remove", "attend", "delete"])
def test_the_models_read_what_a_sync_sends(what: str) -> None:
    """Types, enumerations and required fields are right, and no field is unknown to them (those are dropped)."""
    model, body = bodies()[what]
    assert issubclass(model, BaseModel)
    read = model.from_dict(body).to_dict()
    assert {name: value for name, value in read.items() if value is not None} == body


def test_the_models_refuse_what_is_wrong() -> None:
    """So that the test above says something."""
    with pytest.raises(ValidationError):
        CustomerListCreate.from_dict({"list_type": "EMAIL", "records": "a"})
    with pytest.raises(ValidationError):
        CustomerListUpdateWithRequiredBody.from_dict({"operation_type": "REPLACE", "records": "a"})
    with pytest.raises(ValidationError):
        CustomerListUpdateWithRequiredBody.from_dict({"operation_type": "ADD", "records": ["a"]})


@pytest.fixture
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("pinterest",))) as one:
        yield one


@pytest.fixture
def client(serving: Serving) -> Iterator[ApiClient]:
    configuration = Configuration(
        host=f"{serving.url}/pinterest/v5", access_token=TOKEN, username=APP_ID, password=APP_SECRET, retries=0
    )
    with ApiClient(configuration) as one:
        yield one
        one.rest_client.pool_manager.clear()


def test_the_client_drives_the_sandbox(serving: Serving, client: ApiClient) -> None:
    """A list, an addition, a removal, its audience: each answer is one that the client can read."""
    lists, audiences = CustomerListsApi(client), AudiencesApi(client)
    made = lists.customer_lists_create(ACCOUNT, CustomerListCreate(name="VIP", records=HASHES[0]))
    assert (made.num_batches, made.num_uploaded_user_records, made.status) == (1, 1, "READY")
    add = CustomerListUpdateWithRequiredBody(operation_type="ADD", records=",".join(HASHES))
    assert lists.customer_lists_update(ACCOUNT, made.id, add).num_uploaded_user_records == 3
    remove = CustomerListUpdateWithRequiredBody(operation_type="REMOVE", records=HASHES[0])
    assert lists.customer_lists_update(ACCOUNT, made.id, remove).num_removed_user_records == 1
    (held,) = serving.state()["audiences"]
    assert held["keys"] == [["record", HASHES[1]]]
    assert [one.id for one in lists.customer_lists_list(ACCOUNT, page_size=250, order="DESCENDING").items] == [made.id]
    body = bodies()["attend"][1] | {"rule": {"customer_list_id": made.id}}
    target = audiences.audiences_create(ACCOUNT, AdAccountsAudienceCreate.from_dict(body))
    (found,) = audiences.audiences_list(ACCOUNT, ownership_type="OWNED").items
    assert (found.id, found.size, found.rule.customer_list_id) == (target.id, 1, made.id)


def test_the_sandbox_refuses_the_client_what_it_should(client: ApiClient) -> None:
    """No people, another person's account, people in clear."""
    lists = CustomerListsApi(client)
    with pytest.raises(ApiException) as refused:
        lists.customer_lists_create(ACCOUNT, CustomerListCreate(name="VIP"))
    assert refused.value.status == 400
    made = lists.customer_lists_create(ACCOUNT, CustomerListCreate(name="VIP", records=HASHES[0]))
    with pytest.raises(NotFoundException):
        lists.customer_lists_get("1", made.id)
    with pytest.raises(ApiException):
        lists.customer_lists_create(ACCOUNT, CustomerListCreate(name="VIP", records="ada@example.com"))


def test_the_client_exchanges_a_refresh_token(client: ApiClient) -> None:
    """HTTP Basic and a form, as a sync does."""
    answer = OauthApi(client).oauth_token("refresh_token", refresh_token=REFRESH_TOKEN, continuous_refresh="true")
    assert (answer.access_token, answer.token_type) == ("pina_sandbox_1", "bearer")
