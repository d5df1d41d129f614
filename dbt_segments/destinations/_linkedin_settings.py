"""Settings of a LinkedIn connection.

Source: LinkedIn, "Programmatic refresh tokens", read 2026-11. An access token lasts 60 days, a refresh token 365 days
from the first consent: exchanging it does not extend that.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator

from dbt_segments.destinations.base import TokenSettings

URN = "urn:li:sponsoredAccount:"
TOKEN_URL = "https://www.linkedin.com/oauth/v2/accessToken"  # noqa: S105


class LinkedInSettings(TokenSettings):
    """`ad_account_id` as digits or as a URN."""

    ad_account_id: str
    source_platform: str

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
