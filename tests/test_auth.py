"""Credentials: where they go, when they are renewed, and that nothing shows them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dbt_segments.destinations.auth import Auth, Bearer, OAuthRefresh, Outgoing
from dbt_segments.destinations.base import Reply
from dbt_segments.destinations.tokens import TokenFile
from dbt_segments.errors import AuthError, DestinationError, TransientError

URL = "https://auth.example.com/token"


class TokenServer:
    """Answers with access-1, access-2 ..; `forms` are what it was posted."""

    def __init__(self, *answers: Reply, **extra: Any) -> None:
        self.answers = list(answers)
        self.extra = extra
        self.forms: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []

    def __call__(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        assert url == URL
        self.forms.append(dict(form))
        self.headers.append(dict(headers))
        if self.answers:
            return self.answers.pop(0)
        return Reply(200, {}, {"access_token": f"access-{len(self.forms)}", "token_type": "bearer", **self.extra})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refresher(**options: Any) -> OAuthRefresh:
    return OAuthRefresh(URL, "client-1", SecretStr("client-secret"), SecretStr("refresh-0"), **options)


def header(auth: Auth) -> str:
    outgoing = Outgoing("GET")
    auth.apply(outgoing)
    return outgoing.headers["Authorization"]


def test_bearer_goes_into_the_header_and_nowhere_else() -> None:
    """The token is in the Authorization header, without the white space of a pasted one; query and form stay empty."""
    outgoing = Outgoing("POST", form={})
    Bearer(SecretStr(" token-1\n")).apply(outgoing)
    assert (outgoing.headers, outgoing.query, outgoing.form) == ({"Authorization": "Bearer token-1"}, {}, {})


@pytest.mark.parametrize("token", ["", "  ", "two words", "li\nne", "caf\u00e9", "zero\u0000"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(token: str) -> None:
    """Such a token is an AuthError here; the HTTP library's own complaint would print it."""
    with pytest.raises(AuthError) as caught:
        Bearer(SecretStr(token))
    assert not token.strip() or token not in str(caught.value)


def test_bearer_cannot_be_renewed() -> None:
    """A fixed token that is refused stays refused."""
    auth = Bearer(SecretStr("token-1"))
    assert auth.renew(auth.ready(TokenServer()), TokenServer()) is False


def test_refresh_posts_the_grant_of_rfc_6749() -> None:
    """Section 6: grant_type, refresh_token and the client's credentials, as a form."""
    server, auth = TokenServer(), refresher()
    auth.ready(server)
    grant = {"grant_type": "refresh_token", "refresh_token": "refresh-0"}
    assert server.forms == [{**grant, "client_id": "client-1", "client_secret": "client-secret"}]
    assert header(auth) == "Bearer access-1"


def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    """One hour of life: no new token after 58 minutes, a new one after 59."""
    clock, server = Clock(), TokenServer(expires_in=3600)
    auth = refresher(clock=clock)
    for minutes, fetched in ((0, 1), (58, 1), (59, 2)):
        clock.now = 1000.0 + minutes * 60
        auth.ready(server)
        assert len(server.forms) == fetched


def test_many_threads_renew_once() -> None:
    """Eight threads whose calls were refused with the same token cause one refresh."""
    server, auth = TokenServer(), refresher()
    used = auth.ready(server)
    threads = [threading.Thread(target=auth.renew, args=(used, server)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.forms) == 2
    assert header(auth) == "Bearer access-2"


def test_a_token_that_replaces_another_is_kept_for_the_next_run(tmp_path: Path) -> None:
    """The next exchange uses it, in this process and in another one; only its owner can read the file."""
    file = tmp_path / "tokens" / "tokens.json"
    server = TokenServer(refresh_token="refresh-1")
    auth = refresher(kept=TokenFile(str(file), "connection"))
    auth.renew(auth.ready(server), server)
    refresher(kept=TokenFile(str(file), "connection")).ready(server)
    refresher(kept=TokenFile(str(file), "another connection")).ready(server)
    assert [form["refresh_token"] for form in server.forms] == ["refresh-0", "refresh-1", "refresh-1", "refresh-0"]
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in sorted(file.parent.iterdir())] == ["tokens.json", "tokens.json.lock"]


def test_no_token_is_exchanged_where_the_next_one_could_not_be_kept(tmp_path: Path) -> None:
    """A file in the place of the folder: an AuthError that names `token_file`, and no request."""
    (tmp_path / "taken").write_text("")
    server = TokenServer(refresh_token="refresh-1")
    with pytest.raises(AuthError) as caught:
        refresher(kept=TokenFile(str(tmp_path / "taken" / "tokens.json"), "connection")).ready(server)
    assert caught.value.code == "token_file"
    assert server.forms == []


def test_a_damaged_token_file_is_told_of(tmp_path: Path) -> None:
    """What is no JSON is not overwritten."""
    file = tmp_path / "tokens.json"
    file.write_text("{")
    with pytest.raises(AuthError, match="holds no JSON"):
        refresher(kept=TokenFile(str(file), "connection")).ready(TokenServer())
    assert file.read_text() == "{"


def test_the_token_endpoint_gets_what_the_platform_asks_for() -> None:
    """Credentials in the header, a scope, headers of its own, no client secret in the form (RFC 6749, 2.3.1)."""
    server = TokenServer()
    refresher(basic=True, scope="ads.manage", headers={"User-Agent": "web:shop:v1"}).ready(server)
    assert server.forms == [{"grant_type": "refresh_token", "refresh_token": "refresh-0", "scope": "ads.manage"}]
    encoded = base64.b64encode(b"client-1:client-secret").decode()
    assert server.headers == [{"User-Agent": "web:shop:v1", "Authorization": f"Basic {encoded}"}]


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        # RFC 6749, 5.2
        (
            Reply(400, {}, {"error": "invalid_grant", "error_description": "for ada@example.com"}),
            AuthError,
            "invalid_grant",
        ),
        (Reply(401, {}, {"error": "invalid_client"}), AuthError, "invalid_client"),
        (Reply(403, {}, {"error": "ada@example.com is blocked"}), AuthError, "403"),
        (Reply(429), TransientError, "429"),
        (Reply(503), TransientError, "503"),
        (Reply(200, {}, None), TransientError, "200"),
        (Reply(200, {}, {"token_type": "bearer"}), TransientError, "200"),
    ],
)
def test_what_a_refused_refresh_means(answer: Reply, error: type[DestinationError], code: str) -> None:
    """A refused grant is final, trouble of the server is not; of the answer only a code is kept."""
    with pytest.raises(error) as caught:
        refresher().ready(TokenServer(answer))
    assert caught.value.code == code
    assert "ada@" not in f"{caught.value} {caught.value.hint}"


def test_nothing_shows_a_secret() -> None:
    """No repr of an Auth, nor of the parts of a request, holds a token or a client secret."""
    auth = refresher()
    auth.ready(TokenServer())
    outgoing = Outgoing("POST", form={"client_secret": "client-secret"})
    auth.apply(outgoing)
    shown = f"{auth!r} {vars(auth)['_client_secret']!r} {vars(auth)['_refresh_token']!r} {outgoing!r}"
    assert not any(word in shown for word in ("client-secret", "refresh-0", "access-1"))
