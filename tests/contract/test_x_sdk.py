"""X's own SDK (`twitter-ads` 11.0.0) against the sandbox, and what it puts on the wire beside what a sync sends.

The SDK speaks version 11, a sync version 12. It checks nothing of what it is given to upload.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twitter_ads.account import Account
from twitter_ads.audience import CustomAudience
from twitter_ads.client import Client
from twitter_ads.error import BadRequest, NotAuthorized, NotFound, RateLimit
from twitter_ads.http import Request

from dbt_segments.destinations.base import Audience, Batch, Op
from dbt_segments.sandbox.server import Serving, build, serve
from tests.test_x import MARK, connected
from tests.world import sha

ADA, BOB = sha("ada@example.com"), sha("bob@example.com")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    with serve(sandbox=build(("x",))) as one:
        monkeypatch.setattr(Request, "_DEFAULT_DOMAIN", f"{one.url}/x")
        yield one


def account(secret: str = "sandbox-consumer-secret") -> Account:
    made = Account(Client("sandbox-consumer", secret, "sandbox-token", "sandbox-token-secret"))
    made._id = "18ce54d4x5t"
    return made


def members(serving: Serving) -> set[tuple[str, str]]:
    return {(field, value) for one in serving.state()["audiences"] for field, value in one["keys"]}


def operation(word: str, *users: dict[str, list[str]]) -> dict[str, Any]:
    return {"operation_type": word, "params": {"users": list(users)}}


def test_the_sandbox_takes_what_the_sdk_sends(serving: Serving) -> None:
    """Made, read, filled, emptied and deleted by the SDK; both operations in one request."""
    made = CustomAudience.create(account(), "VIP b: =+")
    assert (made.name, made.audience_type) == ("VIP b: =+", "CRM")
    both = {"email": [ADA], "handle": [sha("ada")]}
    assert made.users([operation("Update", both, {"email": [BOB]})]) == (2, 2)
    assert members(serving) == {("email", ADA), ("handle", sha("ada")), ("email", BOB)}
    assert made.users([operation("Delete", {"handle": [sha("ada")]}), operation("Update", {"email": [BOB]})]) == (2, 2)
    assert members(serving) == {("email", BOB)}
    assert made.delete().deleted is True
    with pytest.raises(NotFound):
        made.reload()


@pytest.mark.parametrize(
    "users",
    [
        {"email": [ADA.upper()]},
        {"email": ["ada@example.com"]},
        {"email": ADA},
        {"email": []},
        {"email": [None]},
        {"phone": [ADA]},
        {},
    ],
)
def test_the_sandbox_refuses_what_x_refuses(serving: Serving, users: Any) -> None:
    """Upper-case and raw values, nulls, empty lists and unknown fields: nothing of the request is applied."""
    made = CustomAudience.create(account(), "VIP")
    with pytest.raises(BadRequest) as caught:
        made.users([operation("Update", {"email": [BOB]}), operation("Update", users)])
    assert caught.value.response.body["operation_errors"][0] == []
    assert members(serving) == set()


def test_the_sdk_sees_refused_keys_and_throttling(serving: Serving) -> None:
    """A wrong secret makes a wrong signature; the reset of a 429 is the account's."""
    with pytest.raises(NotAuthorized):
        CustomAudience.create(account("wrong"), "VIP")
    serving.sandbox.faults.add({"kind": "throttle", "match": {"op": "create"}, "minutes": 2})
    with pytest.raises(RateLimit) as caught:
        CustomAudience.create(account(), "VIP")
    assert int(caught.value.reset_at) > 0


def test_a_sync_sends_what_the_sdk_sends(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path but for the version, the same parameters in the query, and the same JSON."""
    seen: list[tuple[str, str, dict[str, str], Any]] = []
    platform = serving.sandbox.platforms["x"]
    answer = platform.answer

    def watched(request: Any) -> Any:
        path = request.path.replace("/11/", "/12/")
        body = json.loads(request.body) if request.body else None
        seen.append((request.method, path, dict(request.query), body))
        return answer(request)

    monkeypatch.setattr(platform, "answer", watched)
    made = CustomAudience.create(account(), "VIP")
    made.users([operation("Update", {"email": [ADA]})])
    theirs = [call for call in seen if call[0] == "POST"]

    destination = connected(serving)
    create = next(destination.create("VIP", MARK))
    batch = Batch(Op.ADD, json.dumps({"email": [ADA]}), 1, 1, True, 1, id="b", session=1, fields=("email",))
    push = next(destination.push(Audience(made.id), batch))
    ours = [
        (create.method, f"/12{create.path}", {"name": create.query["name"]}, None),
        (push.method, f"/12{push.path}", dict(push.query), json.loads(str(push.body))),
    ]
    assert ours == theirs
