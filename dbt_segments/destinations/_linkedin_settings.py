"""Settings of a LinkedIn connection, and how its calls are authenticated.

Source: LinkedIn, "Programmatic refresh tokens", read 2026-11. An access token lasts 60 days, a refresh token 365 days
from the first consent: exchanging it does not extend that.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import SecretStr, field_validator, model_validator

from dbt_segments.destinations.auth import Auth, Bearer, refreshing
from dbt_segments.destinations.base import DEFAULT_TOKEN_FILE, ConnectionSettings, RefreshSettings

URN = "urn:li:sponsoredAccount:"
TOKEN_URL = "https://www.linkedin.com/oauth/v2/accessToken"  # noqa: S105
_ROUTES = "give `access_token`, or `client_id`, `client_secret` and `refresh_token`"


class LinkedInSettings(ConnectionSettings):
    """`ad_account_id` as digits or as a URN; either an access token or what fetches one."""

    ad_account_id: str
    source_platform: str
    access_token: SecretStr | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    refresh_token: SecretStr | None = None
    token_file: str = DEFAULT_TOKEN_FILE

    @field_validator("ad_account_id", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> str:
        digits = str(value).strip().removeprefix(URN)
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"must be digits, with or without {URN} in front")
        return digits

    @field_validator("source_platform")
    @classmethod
    def _assigned(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", value) or value == "LIST_UPLOAD":
            raise ValueError("must be the value that LinkedIn assigned to the app, in capitals")
        return value

    @model_validator(mode="after")
    def _one_route(self) -> LinkedInSettings:
        exchange = (self.client_id, self.client_secret, self.refresh_token)
        if (self.access_token is None) == (None in exchange) or (self.access_token and any(exchange)):
            raise ValueError(_ROUTES)
        return self


def authentication(settings: LinkedInSettings) -> Auth:
    """The fixed token, or one that the refresh token fetches."""
    if settings.access_token is not None:
        return Bearer(settings.access_token)
    shared = {name: getattr(settings, name) for name in RefreshSettings.model_fields}
    return refreshing(RefreshSettings(**shared).below(settings._folder), TOKEN_URL)
