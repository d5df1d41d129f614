"""How calls are authenticated. Tokens are held as `SecretStr` and end up in headers or forms, never in a URL.

An `Auth` opens no socket: where it needs a token endpoint it is handed a function that posts a form.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from dbt_segments.destinations.base import RefreshSettings, Reply, TokenSettings, secret
from dbt_segments.destinations.tokens import TokenFile
from dbt_segments.errors import AuthError, TransientError

RENEW_EARLY_S = 60.0
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")

Post = Callable[[str, Mapping[str, str], Mapping[str, str]], Reply]
"""Posts a form to an absolute URL, with headers; raises TransientError where no answer comes."""


@dataclass
class Outgoing:
    """The parts of a request that authentication may add to. Where there is no form, `body` may be signed.

    url  without what is in `query`
    """

    method: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    query: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] | None = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)
    url: str = ""


class Auth:
    """No authentication, and the base of every kind. Shared by threads."""

    def ready(self, post: Post) -> int:
        """Make sure that a credential is at hand, and say which: a number that grows with each renewal.

        Raises AuthError or TransientError.
        """
        return 0

    def apply(self, outgoing: Outgoing) -> None:
        """Add the credential to a request."""

    def renew(self, used: int, post: Post) -> bool:
        """Replace the credential that was refused, unless another thread has done so; False: nothing to renew.

        used  what `ready` said before the refused request

        Raises AuthError or TransientError.
        """
        return False

    def left_s(self) -> float | None:
        """Seconds until somebody has to connect the account again; None: the platform has not said."""
        return None


class Bearer(Auth):
    """A fixed token in the `Authorization` header. Raises AuthError for a token that no header can carry."""

    def __init__(self, token: SecretStr) -> None:
        self._header = bearer(token.get_secret_value())

    def apply(self, outgoing: Outgoing) -> None:
        outgoing.headers["Authorization"] = self._header


class ShortLived(Auth):
    """A token that ends: fetched before the first call, shortly before it ends, and once when it is refused.

    However many threads notice an expiry, one of them renews and the others wait for it.

    clock  monotonic seconds
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._header = ""
        self._ends_at: float | None = None
        self._version = 0

    def ready(self, post: Post) -> int:
        with self._lock:
            expired = self._ends_at is not None and self._clock() >= self._ends_at - RENEW_EARLY_S
            if not self._header or expired:
                self._fetch(post)
            return self._version

    def apply(self, outgoing: Outgoing) -> None:
        outgoing.headers["Authorization"] = self._header

    def renew(self, used: int, post: Post) -> bool:
        with self._lock:
            if self._version == used:
                self._fetch(post)
            return True

    def _fetch(self, post: Post) -> None:
        answer = self._exchange(post)
        self._header = bearer(answer["access_token"])
        life = answer.get("expires_in")
        self._ends_at = self._clock() + life if isinstance(life, (int, float)) else None
        self._version += 1

    def _exchange(self, post: Post) -> dict[str, Any]:
        """The token endpoint's answer, see `token_of`."""
        raise NotImplementedError


class OAuthRefresh(ShortLived):
    """A short-lived token, fetched with a refresh token.

    client_secret  None: a public client
    basic    the client's credentials go into the `Authorization` header instead of the form
    scope    asked for again with every exchange, where the server wants that
    headers  sent to the token endpoint
    more     further fields of the form
    kept     where a refresh token is kept that replaces the one before; it is, before the new access token is used
    clock    monotonic seconds

    Source: RFC 6749, sections 2.3.1, 5.1, 5.2 and 6.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: SecretStr | None,
        refresh_token: SecretStr,
        *,
        basic: bool = False,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
        kept: TokenFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock=clock)
        self._token_url = token_url
        self._client_id = client_id
        self._client_secret = client_secret
        self._refresh_token = refresh_token
        self._basic = basic
        self._scope = scope
        self._headers = dict(headers or {})
        self._more = dict(more or {})
        self._kept = kept
        self._grant_ends_at: float | None = None

    def left_s(self) -> float | None:
        return None if self._grant_ends_at is None else self._grant_ends_at - self._clock()

    def _exchange(self, post: Post) -> dict[str, Any]:
        with self._kept.held() if self._kept else contextlib.nullcontext():
            return self._refreshed(post)

    def _refreshed(self, post: Post) -> dict[str, Any]:
        newest = self._kept.newest() if self._kept else None
        if newest is not None:
            self._refresh_token = newest
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token.get_secret_value(), **self._more}
        headers = dict(self._headers)
        if self._basic:
            pair = f"{self._client_id}:{secret(self._client_secret)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode('ascii')}"
        else:
            form["client_id"] = self._client_id
            if self._client_secret is not None:
                form["client_secret"] = self._client_secret.get_secret_value()
        if self._scope:
            form["scope"] = self._scope
        answer = token_of(post(self._token_url, form, headers))
        # Not in the RFC: LinkedIn and Pinterest say so.
        life = answer.get("refresh_token_expires_in")
        self._grant_ends_at = self._clock() + life if isinstance(life, (int, float)) else None
        fresh = answer.get("refresh_token")
        if isinstance(fresh, str) and fresh and fresh != self._refresh_token.get_secret_value():
            self._refresh_token = SecretStr(fresh)
            if self._kept is not None:
                self._kept.keep(self._refresh_token)
        return answer


def refreshing(settings: RefreshSettings, token_url: str, **options: Any) -> OAuthRefresh:
    """The authentication of a connection with a refresh token; a token that replaces it is kept in its file.

    token_url  the platform's; the connection's own wins
    """
    url = settings.token_url or token_url
    file = Path(settings._folder, Path(settings.token_file).expanduser())
    kept = TokenFile(str(file), url, settings.client_id, secret(settings.refresh_token))
    return OAuthRefresh(url, settings.client_id, settings.client_secret, settings.refresh_token, kept=kept, **options)


def fixed_or_refreshing(settings: TokenSettings, token_url: str, **options: Any) -> Auth:
    """The authentication of a connection with a fixed token, or with what `refreshing` needs."""
    if settings.access_token is not None:
        return Bearer(settings.access_token)
    shared = {name: getattr(settings, name) for name in RefreshSettings.model_fields}
    return refreshing(RefreshSettings(**shared).below(settings._folder), token_url, **options)


def bearer(token: str) -> str:
    """The header's value. Raises AuthError without showing the token where it is empty or cannot stand in a header.

    Checked here because the HTTP library's own complaint would print it.
    """
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise AuthError("the access token is empty or holds characters that no token has", code="token")
    return f"Bearer {token}"


def token_of(
    reply: Reply, refused: str = "the refresh token was refused", hint: str = "connect the account again"
) -> dict[str, Any]:
    """The token endpoint's answer as an object with a text `access_token`; of an error only its code is kept.

    refused, hint  what is said of a grant that is not good

    Raises AuthError or TransientError.
    """
    answer = reply.json if isinstance(reply.json, dict) else {}
    if 200 <= reply.status < 300 and isinstance(answer.get("access_token"), str):
        return answer
    if reply.status in (400, 401, 403):
        named = answer.get("error")
        code = named if isinstance(named, str) and _ERROR_CODE.fullmatch(named) else str(reply.status)
        if code in ("invalid_client", "unauthorized_client"):
            raise AuthError(
                f"the client was refused ({code})",
                code=code,
                hint="check client_id and client_secret of the connection",
            )
        if code == "temporarily_unavailable":
            raise TransientError("the token endpoint is not available for now", code=code)
        raise AuthError(f"{refused} ({code})", code=code, hint=hint)
    raise TransientError(f"the token endpoint answered {reply.status} without a token", code=str(reply.status))
