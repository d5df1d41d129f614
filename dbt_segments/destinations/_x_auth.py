"""OAuth 1.0a as X wants it: every call signed with HMAC-SHA1, query included, a JSON body left out.

Source: X, "Making authenticated requests" and "Creating a signature", read 2026-11; RFC 5849. The signature itself is
made by oauthlib.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from dbt_segments.destinations.auth import Auth, Outgoing
from dbt_segments.destinations.base import secret
from dbt_segments.errors import AuthError


class OAuth1(Auth):
    """Four secrets that do not end until somebody revokes them; each request has a nonce and a signature of its own.

    Raises AuthError, without showing it, for a secret that is empty or holds characters that none has.
    """

    def __init__(
        self, consumer_key: SecretStr, consumer_secret: SecretStr, token: SecretStr, token_secret: SecretStr
    ) -> None:
        given = {
            "consumer_key": consumer_key,
            "consumer_secret": consumer_secret,
            "access_token": token,
            "access_token_secret": token_secret,
        }
        self._secrets = [_checked(name, value) for name, value in given.items()]
        self._client: Any = None

    def apply(self, outgoing: Outgoing) -> None:
        query = f"?{urlencode(outgoing.query, quote_via=quote)}" if outgoing.query else ""
        _, headers, _ = self._signer().sign(f"{outgoing.url}{query}", http_method=outgoing.method)
        outgoing.headers["Authorization"] = headers["Authorization"]

    def _signer(self) -> Any:
        """Made when it is first needed: the library takes a while to import."""
        if self._client is None:
            from oauthlib.oauth1 import Client

            # At DEBUG the library logs what it signs, and the token is in it.
            logging.getLogger("oauthlib.oauth1.rfc5849").setLevel(logging.INFO)
            self._client = Client(*self._secrets)
        return self._client


def _checked(name: str, value: SecretStr) -> str:
    text = secret(value).strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise AuthError(f"x: {name} is empty or holds characters that no key has", code=name)
    return text
