"""OAuth 1.0a, checked as X does: the signature is made again from what arrived, and compared.

Source: X, "Creating a signature"; RFC 5849, 3.4. A JSON body is not signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from urllib.parse import quote, unquote

from dbt_segments.sandbox.platform import Request

CONSUMER_KEY, CONSUMER_SECRET = "sandbox-consumer", "sandbox-consumer-secret"
TOKEN, TOKEN_SECRET = "sandbox-token", "sandbox-token-secret"
_PAIR = re.compile(r'\s*(\w+)="([^"]*)"\s*')
_NAMES = {
    "oauth_consumer_key",
    "oauth_nonce",
    "oauth_signature",
    "oauth_signature_method",
    "oauth_timestamp",
    "oauth_token",
    "oauth_version",
}
_SKEW_S = 300


class Nonces:
    """Which nonces were used; a request that is looked at twice is still the same one."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def is_fresh(self, nonce: str, request: Request) -> bool:
        return self._used.setdefault(nonce, id(request)) == id(request)


def is_signed(request: Request, nonces: Nonces) -> bool:
    """Whether the request carries a good signature of these credentials, made now and never used before."""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    pairs = [_PAIR.fullmatch(part) for part in rest.split(",")]
    if scheme != "OAuth" or not all(pairs):
        return False
    given = {pair[1]: unquote(pair[2]) for pair in pairs if pair}
    if given.keys() != _NAMES or given["oauth_signature_method"] != "HMAC-SHA1" or given["oauth_version"] != "1.0":
        return False
    if (given["oauth_consumer_key"], given["oauth_token"]) != (CONSUMER_KEY, TOKEN):
        return False
    stamp = given["oauth_timestamp"]
    # The caller's clock is the real one, whatever the sandbox's says.
    if not stamp.isdigit() or abs(time.time() - int(stamp)) > _SKEW_S:
        return False
    good = hmac.compare_digest(given.pop("oauth_signature"), _signature(request, given))
    return good and nonces.is_fresh(given["oauth_nonce"], request)


def _signature(request: Request, oauth: dict[str, str]) -> str:
    url = f"http://{request.headers.get('host', '')}{request.asked}"
    pairs = sorted((_strict(name), _strict(value)) for name, value in {**request.query, **oauth}.items())
    signed = "&".join(f"{name}={value}" for name, value in pairs)
    base = "&".join((request.method, _strict(url), _strict(signed)))
    key = f"{_strict(CONSUMER_SECRET)}&{_strict(TOKEN_SECRET)}"
    return base64.b64encode(hmac.new(key.encode(), base.encode(), hashlib.sha1).digest()).decode()


def _strict(text: str) -> str:
    """RFC 3986: letters, digits and -._~ stay."""
    return quote(text, safe="-._~")
