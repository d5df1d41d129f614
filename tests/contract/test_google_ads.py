"""Google Ads keeps the contract of all destinations, against the sandbox of its API in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from urllib.parse import parse_qsl

import httpx

from dbt_segments.destinations.base import Audience, Destination, Op
from dbt_segments.destinations.google_ads import GoogleAds
from dbt_segments.sandbox.google_ads import PLATFORM
from dbt_segments.sandbox.platform import Clock, Request
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract

URL = "http://127.0.0.1:8199"


def digest(number: int) -> str:
    return hashlib.sha256(f"member{number}@example.com".encode()).hexdigest()


class TestGoogleAds(DestinationContract):
    bad = 4
    secrets = ("sandbox-client-secret", "sandbox-refresh-token")

    def setup_method(self) -> None:
        self.platform = PLATFORM(Clock())
        self.platform.policy["refuse"] = {digest(4): "INVALID_FORMAT"}

    def destination(self) -> Destination:
        return GoogleAds(
            GoogleAds.settings_model.model_validate(
                {
                    "base_url": URL,
                    "token_url": f"{URL}/token",
                    "customer_id": "1234567890",
                    "client_id": "sandbox-client",
                    "client_secret": "sandbox-client-secret",
                    "refresh_token": "sandbox-refresh-token",
                    "customer_match_terms": "accepted",
                }
            )
        )

    def audience(self, sender: Sender) -> Audience:
        """Making one fetches the access token, too, so that what follows begins with members."""
        return sender.play(sender._destination.create("VIP buyers", "dbt-segments:s:shop.vip.contract:n"))

    def answer(self, request: httpx.Request) -> httpx.Response:
        query = dict(parse_qsl(request.url.query.decode(), keep_blank_values=True))
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, request.url.path, query, headers, request.content)
        asked.op = self.platform.classify(asked)
        answer = self.platform.answer(asked)
        return httpx.Response(answer.status, json=answer.body)

    def held(self) -> Iterable[int]:
        number = {digest(n): n for n in range(2_100)}
        for audience in self.platform.audiences.values():
            yield from (number[self.platform.codec.decode(key)[1]] for key in audience.members.given())

    def row(self, number: int, op: Op) -> str:
        member = {"compositeData": {"userData": {"userIdentifiers": [{"emailAddress": digest(number)}]}}}
        return json.dumps(member, separators=(",", ":"))
