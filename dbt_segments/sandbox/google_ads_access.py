"""Google's token endpoint, and the tokens that it gave.

Source: Google, "Using OAuth 2.0 for Web Server Applications" and "... Server to Server Applications", read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbt_segments.sandbox.platform import Answer, Clock

CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-client-secret"  # noqa: S105
REFRESH_TOKEN = "sandbox-refresh-token"  # noqa: S105
SCOPE = "https://www.googleapis.com/auth/datamanager"
_LIFE_S = 3600
_REFRESH = {"grant_type", "refresh_token", "client_id", "client_secret"}
_ASSERT = {"grant_type", "assertion"}


class Access:
    """Tokens by the time at which they end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._given = 0

    def is_good(self, token: str) -> bool:
        return self._ends.get(token, 0.0) > self._clock.now()

    def revoke(self, token: str) -> None:
        self._ends.pop(token, None)

    def exchange(self, form: Mapping[str, Any], keys: Mapping[str, str], *, granted: bool) -> Answer:
        """A new token, or `invalid_grant`.

        keys     service account -> its public key, PEM
        granted  whether the user still allows it
        """
        if form.get("grant_type") == "refresh_token" and form.keys() == _REFRESH:
            if (form["client_id"], form["client_secret"]) != (CLIENT_ID, CLIENT_SECRET):
                return Answer(401, {"error": "invalid_client"}, note={"code": "invalid_client"})
            good = granted and form["refresh_token"] == REFRESH_TOKEN
        elif form.get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer" and form.keys() == _ASSERT:
            good = self._is_signed(str(form["assertion"]), keys)
        else:
            return Answer(400, {"error": "invalid_request"}, note={"code": "invalid_request"})
        if not good:
            return Answer(400, {"error": "invalid_grant"}, note={"code": "invalid_grant"})
        self._given += 1
        token = f"sandbox-access-{self._given}"
        self._ends[token] = self._clock.now() + _LIFE_S
        body = {"access_token": token, "expires_in": _LIFE_S - 1, "scope": SCOPE, "token_type": "Bearer"}
        return Answer(200, body)

    def _is_signed(self, assertion: str, keys: Mapping[str, str]) -> bool:
        """Whether one of the accounts signed it, for this scope and endpoint, and for no longer than an hour."""
        import jwt

        try:
            issuer = jwt.decode(assertion, options={"verify_signature": False})["iss"]
            options: Any = {"verify_aud": False, "require": ["iss", "scope", "aud", "iat", "exp"]}
            claims = jwt.decode(assertion, keys[issuer], algorithms=["RS256"], options=options)
        except (jwt.PyJWTError, KeyError):
            return False
        lasting = claims["exp"] - claims["iat"]
        return bool(claims["scope"] == SCOPE and str(claims["aud"]).endswith("/token") and 0 < lasting <= _LIFE_S)
