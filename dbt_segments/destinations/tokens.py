"""Refresh tokens that a platform replaced, kept for the next run in a file that only its owner can read.

Some platforms issue a new refresh token with every access token, and the old one ends some day. The connection goes on
naming the first one; what was issued since is found here, under a hash of what the connection names, so that a token
which the user exchanges begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import SecretStr

from dbt_segments.errors import AuthError, TransientError

_LOCK_TIMEOUT_S = 90.0


class TokenFile:
    """One JSON object: key of a connection -> its newest refresh token. Shared by processes and threads.

    path   the file; `~` is the home folder
    first  what the connection names: its token and whatever else tells connections apart
    """

    def __init__(self, path: str, *first: str) -> None:
        self._path = Path(path).expanduser()
        self._key = hashlib.sha256("\x1f".join(first).encode()).hexdigest()[:32]

    @contextmanager
    def held(self) -> Iterator[None]:
        """While one process exchanges a token, others wait, and then find the new one.

        Raises AuthError where the file cannot be written: a token that is replaced and lost locks its owner out.
        Raises TransientError after waiting for long.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600):
                if self._path.exists() and not os.access(self._path, os.W_OK):
                    raise PermissionError
                yield
        except Timeout:
            raise TransientError("another process is exchanging the refresh token", code="token_lock") from None
        except OSError:
            raise AuthError(
                f"the next refresh token could not be kept in {self._path}",
                code="token_file",
                hint="set `token_file` of the connection to a file that can be written",
            ) from None

    def newest(self) -> SecretStr | None:
        """The token of the last exchange; None where there was none."""
        found = self._all().get(self._key)
        return SecretStr(found) if found else None

    def keep(self, token: SecretStr) -> None:
        """Write the token that replaces the one before; the file is whole at any time."""
        tokens = {**self._all(), self._key: token.get_secret_value()}
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(tokens, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def _all(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            raise AuthError(
                f"{self._path} holds no JSON", code="token_file", hint="remove it, and connect the account again"
            ) from None
        return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
