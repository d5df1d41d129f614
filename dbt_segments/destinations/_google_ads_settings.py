"""Settings of a Google Ads connection, and what they say of consent."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from dbt_segments.destinations.base import ConnectionSettings

# Our names of Google's two consents, and Google's.
CONSENT = {"ad_user_data": "adUserData", "ad_personalization": "adPersonalization"}
GRANTED, DENIED = "CONSENT_GRANTED", "CONSENT_DENIED"
_WORDS: Mapping[str, str] = {"granted": GRANTED, "denied": DENIED}
# So alike is a misspelt word; to take it for the word would grant what was perhaps not meant.
_ALIKE = 0.75
_DIGITS = re.compile(r"[0-9]{1,20}")


def _nearly(value: str) -> bool:
    """Whether nobody means a column by this: one of the words in another case or form, or a misspelt one.

    A name of several words, such as `is_granted`, is a column's.
    """
    word = value.strip().lower().removeprefix("consent_")
    return "_" not in word and bool(difflib.get_close_matches(word, _WORDS, n=1, cutoff=_ALIKE))


class ConsentSettings(BaseModel):
    """Each `granted`, `denied`, or a column of segment or entity that says so of each member."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    ad_user_data: str | None = Field(default=None, min_length=1)
    ad_personalization: str | None = Field(default=None, min_length=1)

    @field_validator("ad_user_data", "ad_personalization", mode="before")
    @classmethod
    def _a_word_or_a_column(cls, value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, str) and value not in _WORDS and _nearly(value)):
            raise ValueError(
                "is almost, but not quite, one of the words: must be `granted`, `denied` (in lower case), or the name "
                "of a column"
            )
        return value

    @property
    def constants(self) -> dict[str, str]:
        """Our name -> Google's word, of those that are the same for everybody."""
        return {name: _WORDS[said] for name, said in self._said().items() if said in _WORDS}

    @property
    def columns(self) -> dict[str, str]:
        """Our name -> column, of those that differ by member."""
        return {name: said for name, said in self._said().items() if said not in _WORDS}

    @property
    def absent(self) -> list[str]:
        """Those of which nothing is said."""
        return [name for name in CONSENT if name not in self._said()]

    def _said(self) -> dict[str, str]:
        found = {name: getattr(self, name) for name in CONSENT}
        return {name: said for name, said in found.items() if said is not None}


class GoogleAdsSettings(ConnectionSettings):
    """Either the three of a user's login, or `service_account_file`; hyphens in the ids are of no matter.

    upload_key_type  what the lists of this connection hold; `mobile_id` needs `app_id` and `key_space`
    """

    customer_id: str
    login_customer_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    refresh_token: SecretStr | None = None
    service_account_file: str | None = None
    customer_match_terms: Literal["accepted"] | None = None
    consent: ConsentSettings = ConsentSettings()
    upload_key_type: Literal["contact_id", "mobile_id", "user_id"] = "contact_id"
    app_id: str | None = None
    key_space: Literal["ios", "android"] | None = None

    @field_validator("customer_id", "login_customer_id", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> str:
        digits = str(value).strip().replace("-", "")
        if not _DIGITS.fullmatch(digits):
            raise ValueError("must be digits, with or without hyphens")
        return digits

    @model_validator(mode="after")
    def _whole(self) -> GoogleAdsSettings:
        login = (self.client_id, self.client_secret, self.refresh_token)
        if self.service_account_file is not None and any(login):
            raise ValueError("name `service_account_file`, or the login of a user, not both")
        if self.service_account_file is None and not all(login):
            raise ValueError(
                "`client_id`, `client_secret` and `refresh_token` are required together, or `service_account_file`"
            )
        if self.upload_key_type == "mobile_id" and not (self.app_id and self.key_space):
            raise ValueError("`upload_key_type: mobile_id` needs `app_id` and `key_space`")
        return self
