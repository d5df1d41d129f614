"""Signs requests: Standard Webhooks 1.0.0, or the older `X-Signature`.

Source: standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`, "Signature scheme" and "Webhook headers".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence

from dbt_segments import __version__
from dbt_segments.destinations.auth import Auth, Outgoing

PREFIX = "whsec_"
SHORTEST_KEY, LONGEST_KEY = 24, 64


def key_of(secret: str, encoding: str) -> bytes:
    """The key of a secret as it is written: base64 behind `whsec_`, padded or not, or the text itself.

    Raises ValueError, which never repeats the secret.
    """
    if encoding == "raw":
        return secret.encode()
    if not secret.startswith(PREFIX):
        raise ValueError("`secret` must start with whsec_, or set `secret_encoding: raw`")
    text = secret.removeprefix(PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("`secret` must be base64 behind whsec_") from None
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise ValueError(f"`secret` must hold {SHORTEST_KEY} to {LONGEST_KEY} bytes")
    return key


class Signature(Auth):
    """Adds the user's own headers and signs the body, anew at every attempt.

    keys   one signature each, for `webhook-signature`
    raw    the key of `X-Signature`; None: not sent
    clock  seconds since 1970
    """

    def __init__(
        self, keys: Sequence[bytes], raw: bytes | None, headers: Mapping[str, str], clock: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._raw = raw
        self._headers = headers
        self._clock = clock

    def apply(self, outgoing: Outgoing) -> None:
        outgoing.headers["User-Agent"] = f"dbt-segments/{__version__}"
        outgoing.headers.update(self._headers)
        moment = str(int(self._clock()))
        outgoing.headers["webhook-timestamp"] = moment
        if self._keys:
            signed = b".".join((outgoing.headers["webhook-id"].encode(), moment.encode(), outgoing.body))
            outgoing.headers["webhook-signature"] = " ".join(f"v1,{_sign(key, signed)}" for key in self._keys)
        if self._raw is not None:
            outgoing.headers["X-Signature"] = hmac.new(self._raw, outgoing.body, hashlib.sha256).hexdigest()


def _sign(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
