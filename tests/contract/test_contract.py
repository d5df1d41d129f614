"""The public contract suite, run through every destination here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments.destinations.base import Audience, Op
from dbt_segments.destinations.files import Files, FilesSettings
from dbt_segments.destinations.meta import Meta, MetaSettings
from dbt_segments.destinations.webhook import Webhook, WebhookSettings
from dbt_segments.sandbox import Serving, serve
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from tests.world import sha

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


class TestMeta(DestinationContract):
    """Against the sandbox, which is asked over HTTP."""

    secrets = ("sandbox-token", "app-s3cret")
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self) -> Iterator[None]:
        with serve() as serving, httpx.Client() as client:
            self.serving: Serving = serving
            self.client = client
            yield

    def destination(self) -> Meta:
        settings = {"base_url": f"{self.serving.url}/meta", "ad_account_id": "1002003004005"}
        return Meta(MetaSettings(access_token="sandbox-token", **settings))

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


class TestWebhook(DestinationContract):
    """A receiver that refuses rows by index."""

    bad = 666
    secrets = (SECRET, "q-s3cret", "h-s3cret")

    def setup_method(self) -> None:
        self.records: dict[int, Any] = {}

    def destination(self) -> Webhook:
        url = "https://hooks.example.com/in?token=q-s3cret"
        return Webhook(WebhookSettings(url=url, secret=SECRET, headers={"X-Key": "h-s3cret"}))

    def answer(self, request: httpx.Request) -> httpx.Response:
        results = []
        for index, row in enumerate(json.loads(request.content)["data"]["rows"]):
            number = row["key"]["id"]
            results.append({"index": index, "status": "error" if number == self.bad else "ok"})
            if row["op"] == "delete":
                self.records.pop(number, None)
            elif number != self.bad:
                self.records[number] = row["values"]
        return httpx.Response(207, json={"results": results})

    def held(self) -> Iterable[int]:
        return self.records


class TestSingleWebhook(TestWebhook):
    """One row a request; the receiver refuses with a status."""

    def destination(self) -> Webhook:
        return Webhook(WebhookSettings(url="https://hooks.example.com/in", secret=SECRET, body="single"))

    def answer(self, request: httpx.Request) -> httpx.Response:
        row = json.loads(request.content)
        if row["key"]["id"] == self.bad:
            return httpx.Response(422)
        if row["op"] == "delete":
            self.records.pop(row["key"]["id"], None)
        else:
            self.records[row["key"]["id"]] = row["values"]
        return httpx.Response(204)

    def test_members_are_added(self) -> None:
        """One request a member."""
        with self._world() as world:
            for number in (1, 2):
                assert world.send(self._batch([number], Op.ADD, name=str(number))).fate == "accepted"
        assert sorted(self.held()) == [1, 2]

    def test_members_are_removed(self) -> None:
        """One request a member."""
        with self._world() as world:
            for number in (1, 2):
                world.send(self._batch([number], Op.ADD, name=str(number)))
            world.send(self._batch([1], Op.REMOVE))
        assert sorted(self.held()) == [2]

    def test_a_batch_whose_answer_is_lost_may_be_sent_again(self) -> None:
        """A record is found by its key, so a repeat changes nothing."""
        with self._world() as world:
            world.line.plan = [self._lose] * world.tries
            assert world.send(self._batch([1], Op.ADD)).fate == "unknown"
            assert world.send(self._batch([1], Op.ADD)).fate == "accepted"
        assert sorted(self.held()) == [1]


class TestFiles(DestinationContract):
    """A folder; whoever reads its change files knows whom they leave."""

    secrets = ("s3cret",)
    refused_credentials = 403
    throttled = None

    @pytest.fixture(autouse=True)
    def _platform(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def destination(self) -> Files:
        options = {"path": str(self.folder), "format": "jsonl", "storage_options": {"key": "s3cret"}}
        return Files(FilesSettings(**options))

    def held(self) -> Iterable[int]:
        lines = [json.loads(line) for file in self.folder.rglob("*.jsonl") for line in file.read_text().splitlines()]
        there = [line["id"] for line in lines if line["_op"] != "delete"]
        return [number for number in there if number not in {line["id"] for line in lines if line["_op"] == "delete"}]
