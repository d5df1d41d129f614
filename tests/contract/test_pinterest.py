"""The contract of every destination, for Pinterest and its sandbox; requests never leave the process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import httpx

from dbt_segments.destinations.base import Audience, Batch, Op
from dbt_segments.destinations.pinterest import Pinterest, PinterestSettings
from dbt_segments.sandbox import pinterest as sandbox
from dbt_segments.sandbox.platform import Clock, Request
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract

NUMBERS = {hashlib.sha256(f"m{number}@example.com".encode()).hexdigest(): number for number in range(3_000)}
HASHES = {number: digest for digest, number in NUMBERS.items()}


class TestPinterest(DestinationContract):
    secrets = (sandbox.TOKEN,)
    fields = ("email",)

    def setup_method(self) -> None:
        self.platform = sandbox.Pinterest(Clock())

    def destination(self) -> Pinterest:
        return Pinterest(PinterestSettings(ad_account_id="549756359984", access_token=sandbox.TOKEN))

    def answer(self, request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, request.url.path, dict(request.url.params), headers, request.content)
        asked.op = self.platform.classify(asked)
        given = self.platform.answer(asked)
        return httpx.Response(given.status, json=given.body, headers=given.headers)

    def audience(self, sender: Sender) -> Audience:
        """A list comes with its first member, who is taken out again."""
        audience = Audience("", "VIP buyers", "dbt-segments:state1:shop.vip.pinterest:n0nce", "549756359984")
        made = sender.send(audience, self._batch([0], Op.ADD)).outcome
        assert made is not None
        assert made.audience is not None
        assert sender.send(made.audience, self._batch([0], Op.REMOVE)).fate == "accepted"
        return made.audience

    def held(self) -> Iterable[int]:
        (audience,) = self.platform.audiences.values()
        return [NUMBERS[self.platform.codec.decode(key)[1]] for key in audience.members.given()]

    def row(self, number: int, op: Op) -> str:
        return f'"{HASHES[number]}"'

    def test_an_empty_list_is_not_made(self) -> None:
        """Nobody to add: no call, and no list."""
        with self._world() as world:
            nowhere = Audience("", "VIP", "", "549756359984")
            empty = Batch(Op.ADD, "", 0, 1, True, 0, "b", 1)
            sent = world.sender.send(nowhere, empty)
            assert sent.outcome is not None
            assert sent.outcome.audience is None
            assert world.line.requests == []
