"""How Google takes credentials: a user's refresh token, or a service account's key.

Source: Google, "Using OAuth 2.0 for Web Server Applications" and "Using OAuth 2.0 for Server to Server Applications",
read 2026-11.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbt_segments.destinations.auth import Auth, OAuthRefresh, Post, ShortLived, token_of
from dbt_segments.errors import AuthError

TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105
SCOPE = "https://www.googleapis.com/auth/datamanager"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE_S = 3600  # the longest that Google takes
_MAKE_A_KEY = "make a JSON key of the service account in the Cloud console, and name its file"


def auth_of(settings: Any) -> Auth:
    """The authentication that the settings of a connection ask for; a refresh gives no new refresh token."""
    token_url = settings.token_url or TOKEN_URL
    if settings.service_account_file is not None:
        file = Path(settings._folder, Path(settings.service_account_file).expanduser())
        return ServiceAccount(str(file), token_url)
    return OAuthRefresh(token_url, settings.client_id, settings.client_secret, settings.refresh_token)


class ServiceAccount(ShortLived):
    """A token for an assertion that is signed with the account's key, whose file is read at every exchange.

    now  seconds since 1970
    """

    def __init__(self, path: str, token_url: str, *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._path = Path(path).expanduser()
        self._token_url = token_url
        self._now = now

    def _exchange(self, post: Post) -> dict[str, Any]:
        form = {"grant_type": _GRANT, "assertion": self._assertion()}
        hint = "is the key still listed with the service account, and this machine's clock right?"
        return token_of(post(self._token_url, form, {}), "the service account's key was refused", hint)

    def _assertion(self) -> str:
        """A JWT, RS256. Raises AuthError where the file is no key, or the libraries for it are not installed."""
        try:
            import jwt
            from jwt.algorithms import has_crypto
        except ImportError:
            has_crypto = False
        if not has_crypto:
            hint = "pip install 'dbt-segments[google]'"
            raise AuthError("a service account's key needs PyJWT and cryptography", code="extra", hint=hint)
        key = self._key()
        began = int(self._now())
        claims = {
            "iss": key["client_email"],
            "scope": SCOPE,
            "aud": self._token_url,
            "iat": began,
            "exp": began + _LIFE_S,
        }
        headers = {"kid": key["private_key_id"]} if key.get("private_key_id") else None
        try:
            return jwt.encode(claims, key["private_key"], algorithm="RS256", headers=headers)
        except (ValueError, TypeError, jwt.PyJWTError):
            raise AuthError("service_account_file: its private key cannot be read", code="key", hint=_MAKE_A_KEY) from (
                None
            )

    def _key(self) -> dict[str, str]:
        try:
            key = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            said = f"service_account_file: {self._path} cannot be read ({type(error).__name__})"
            raise AuthError(said, code="key", hint=_MAKE_A_KEY) from None
        wanted = ("client_email", "private_key")
        if not isinstance(key, dict) or not all(isinstance(key.get(name), str) for name in wanted):
            said = f"service_account_file: {self._path} is no service account's key"
            raise AuthError(said, code="key", hint=_MAKE_A_KEY)
        return {name: value for name, value in key.items() if isinstance(value, str)}
