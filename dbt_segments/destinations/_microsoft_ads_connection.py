"""Settings of a Microsoft Advertising connection, and in whose name its calls are made.

Source: "Get tokens", "Require multi-factor authentication" and "Services protocol", Microsoft Advertising API guides,
read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import SecretStr, field_validator

from dbt_segments.destinations.auth import Auth, Outgoing, Post, refreshing
from dbt_segments.destinations.base import RefreshSettings, secret

TOKEN_URL = "https://login.microsoftonline.com/common/oauth2/v2.0/token"  # noqa: S105
# The only scope that is taken since a second factor is needed to sign in.
SCOPE = "https://ads.microsoft.com/msads.manage offline_access"


class MicrosoftAdsSettings(RefreshSettings):
    """`account_id` and `customer_id` are the numbers in the address bar; `client_secret` is that of a web app."""

    account_id: str
    customer_id: str
    developer_token: SecretStr
    customer_match_terms: Literal["accepted"] | None = None

    @field_validator("account_id", "customer_id", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> str:
        digits = str(value).strip()
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError("must be the number in the address bar (aid=, cid=), not the account number X...")
        return digits

    @field_validator("developer_token")
    @classmethod
    def _plain(cls, value: SecretStr) -> SecretStr:
        token = secret(value).strip()
        if not (token.isascii() and token.isalnum()):
            raise ValueError("must be letters and digits")
        return SecretStr(token)


class _AccountAuth(Auth):
    """A bearer token, and the three headers that say in whose name a call is made; one of them is a secret."""

    def __init__(self, token: Auth, headers: Mapping[str, str]) -> None:
        self._token = token
        self._headers = dict(headers)

    def ready(self, post: Post) -> int:
        return self._token.ready(post)

    def apply(self, outgoing: Outgoing) -> None:
        self._token.apply(outgoing)
        outgoing.headers.update(self._headers)

    def renew(self, used: int, post: Post) -> bool:
        return self._token.renew(used, post)

    def left_s(self) -> float | None:
        return self._token.left_s()


def account_auth(settings: MicrosoftAdsSettings) -> Auth:
    """How the calls of a connection are authenticated; refresh tokens are replaced at each use, and kept."""
    headers = {
        "DeveloperToken": secret(settings.developer_token),
        "CustomerId": settings.customer_id,
        "CustomerAccountId": settings.account_id,
    }
    return _AccountAuth(refreshing(settings, TOKEN_URL, scope=SCOPE), headers)
