"""A token endpoint for refresh tokens, strict about what belongs into its form.

Source: RFC 6749, sections 2.3.1, 5 and 6. Where tokens rotate, each exchange names a new refresh token, and the ones
before it end with the first use of a later one: an answer that was lost locks nobody out.
"""

from __future__ import annotations

from dbt_segments.sandbox.platform import Answer, Clock, Request

CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-secret"  # noqa: S105
REFRESH_TOKEN = "sandbox-refresh"  # noqa: S105
LIFE_S = 3600


class TokenDesk:
    """Issues access tokens, good for an hour, and knows which are good now.

    scope    must be asked for with every exchange; empty: none is
    rotates  each exchange answers with a new refresh token
    public   clients without a secret are served too
    """

    def __init__(self, clock: Clock, *, scope: str = "", rotates: bool = False, public: bool = False) -> None:
        self._clock = clock
        self._scope = scope
        self._rotates = rotates
        self._public = public
        self._issued = 0
        self._used = 0
        self._ends: dict[str, float] = {}

    def is_good(self, token: str) -> bool:
        """Whether an access token was issued here and has not ended."""
        return self._ends.get(token, 0.0) > self._clock.now()

    def end_all(self) -> None:
        """Every access token that was issued ends now."""
        self._ends.clear()

    def exchange(self, request: Request) -> Answer:
        """POST of a form -> access token."""
        try:
            form = request.fields()
        except ValueError:
            return _refuse("invalid_request")
        known = {"grant_type", "client_id", "client_secret", "refresh_token", "scope"}
        if request.method != "POST" or request.query or not form or form.keys() - known:
            return _refuse("invalid_request")
        secret = form.get("client_secret")
        if form.get("client_id") != CLIENT_ID or secret != (None if self._public and secret is None else CLIENT_SECRET):
            return _refuse("invalid_client", 401)
        if form.get("grant_type") != "refresh_token":
            return _refuse("unsupported_grant_type")
        if form.get("scope", "") != self._scope:
            return _refuse("invalid_scope")
        number = self._number(str(form.get("refresh_token")))
        if number is None or number < self._used:
            return _refuse("invalid_grant")
        self._used = number
        return self._issue()

    def _number(self, token: str) -> int | None:
        """The how-manieth refresh token this is: the first has no number."""
        rest = token.removeprefix(REFRESH_TOKEN)
        if rest == token:
            return None
        return 0 if not rest else int(rest[1:]) if rest[0] == "-" and rest[1:].isdigit() else None

    def _issue(self) -> Answer:
        self._issued += 1
        number = max(self._issued, self._used + 1)
        self._issued = number
        access = f"sandbox-access-{number}"
        self._ends[access] = self._clock.now() + LIFE_S
        body = {"token_type": "Bearer", "expires_in": LIFE_S, "access_token": access, "scope": self._scope}
        if self._rotates:
            body["refresh_token"] = f"{REFRESH_TOKEN}-{number}"
        return Answer(200, body)


def _refuse(error: str, status: int = 400) -> Answer:
    return Answer(status, {"error": error}, note={"code": error})
