"""Snapchat: the contract suite against the sandbox; removals go out as a DELETE with a body."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from dbt_segments.destinations.base import Audience, Op
from dbt_segments.destinations.snapchat import Snapchat, SnapchatSettings
from dbt_segments.errors import RefusedError
from dbt_segments.sandbox.server import build, serve
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from tests.one_click.case_snapchat import CASE
from tests.world import sha

# Typed from the rules of Snap's page and of working clients; there is no official package for these calls.
USERS = {
    "type": "object",
    "required": ["users"],
    "additionalProperties": False,
    "properties": {
        "users": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["schema", "data"],
                "additionalProperties": False,
                "properties": {
                    "schema": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {"enum": ["EMAIL_SHA256", "PHONE_SHA256", "MOBILE_AD_ID_SHA256"]},
                    },
                    "data": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 100_000,
                        "items": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                        },
                    },
                },
            },
        }
    },
}


class TestSnapchat(DestinationContract):
    """A batch passes or fails as a whole, so no row is refused singly."""

    secrets = ("sandbox-secret", "sandbox-refresh", "sandbox-access")
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self, tmp_path: Path) -> Iterator[None]:
        with serve(sandbox=build((CASE.name,))) as serving, httpx.Client() as client:
            self.serving, self.client = serving, client
            entry = CASE.connection(f"{serving.url}/{CASE.name}", tmp_path)
            self.settings = {name: value for name, value in entry.items() if name != "type"}
            yield

    def destination(self) -> Snapchat:
        return Snapchat(SnapchatSettings(**self.settings))

    def answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.client.send(
            httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        )
        return httpx.Response(answer.status_code, content=answer.content)

    def audience(self, sender: Sender) -> Audience:
        return sender.play(self.destination().create("VIP", "dbt-segments:s:vip:n"))

    def row(self, number: int, op: Op) -> str:
        return json.dumps([sha(f"{number}@example.com")])

    def held(self) -> Iterable[int]:
        [audience] = self.serving.state()["audiences"]
        numbers = {sha(f"{number}@example.com"): number for number in range(3_000)}
        return [numbers[value] for _, value in audience["keys"]]

    def test_a_removal_is_a_delete_with_a_body(self) -> None:
        """On the wire, whole, as the rules say; the audience's own deletion has none."""
        with self._world() as world:
            world.send(self._batch([1, 2], Op.ADD))
            world.send(self._batch([2], Op.REMOVE))
            add, remove = world.line.requests
            world.sender.play(world.destination.delete(world.audience))
        for request, method, numbers in ((add, "POST", (1, 2)), (remove, "DELETE", (2,))):
            sent: Any = json.loads(request.content)
            jsonschema.validate(sent, USERS)
            assert (request.method, request.headers["content-length"]) == (method, str(len(request.content)))
            assert sent["users"][0]["data"] == [[sha(f"{number}@example.com")] for number in numbers]
        assert world.line.requests[-1].content == b""
        assert [one["deleted"] for one in self.serving.state()["audiences"]] == [True]

    def test_a_200_that_says_error_is_a_refusal(self) -> None:
        """Nobody is in, and the run says so."""
        with self._world() as world:
            self.serving.sandbox.faults.add({"kind": "status", "status": 200, "match": {"op": "add"}})
            sent = world.send(self._batch([1], Op.ADD))
            assert (sent.fate, type(sent.error)) == ("rejected", RefusedError)
            assert sorted(self.held()) == []

    def test_segments_of_several_pages(self) -> None:
        """Pages of the account are followed where they link to."""
        with self._world() as world:
            self.serving.sandbox.platforms[CASE.name].policy["longest_page"] = 2
            others = [world.sender.play(world.destination.create(f"Other {n}", f"m{n}")) for n in range(4)]
            world.line.requests.clear()
            found = world.sender.play(world.destination.find("dbt-segments:s:", others[3].name))
            assert [one.name for one in found] == ["VIP", "Other 3"]
            assert len(world.line.requests) == 3
