"""Plays the calls of the files destination on a file system: PUT writes a file whole or not at all.

    PUT  /<path>       headers x-session, x-rows  -> 201 {"path", "rows", "bytes", "sha256"}
    GET  /?session=..                             -> 200 {"files": [the same of each]}

A failure is a status, with the error's name in `x-error` and never its text.

Local files go through a temporary file in the same folder, since only a rename within a file system is atomic. Object
stores show a finished upload whole. All others write beside the target and rename.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from pathlib import Path
from typing import Any, Protocol

import httpx

# One finished upload appears whole; there are no folders to make.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.ESTALE, errno.ENETUNREACH}


class FileSystem(Protocol):
    """Writes one file, whole or not at all. Raises OSError, or the backend's own."""

    def put(self, path: str, content: bytes) -> None: ...


class LocalFiles:
    """A folder on disk; links that lead out of it are not followed."""

    def __init__(self, root: str) -> None:
        self._root = Path(root).expanduser().absolute()

    def put(self, path: str, content: bytes) -> None:
        target = self._root / path
        if not target.parent.resolve().is_relative_to(self._root.resolve()):
            raise PermissionError(errno.EACCES, "outside of the root")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


class RemoteFiles:
    """Any fsspec file system, imported when the first file is written."""

    def __init__(self, scheme: str, root: str, options: dict[str, Any]) -> None:
        self._scheme, self._root, self._options = scheme, root, options
        self._fs: Any = None

    def put(self, path: str, content: bytes) -> None:
        if self._fs is None:
            import fsspec

            self._fs = fsspec.filesystem(self._scheme, **self._options)
        target = f"{self._root}/{path}"
        if self._scheme in OBJECT_STORES:
            self._fs.pipe_file(target, content)
            return
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        beside = f"{target}.{uuid.uuid4().hex}.part"
        try:
            self._fs.pipe_file(beside, content)
            self._fs.mv(beside, target)
        except BaseException:
            if self._fs.exists(beside):
                self._fs.rm_file(beside)
            raise


class Store(httpx.BaseTransport):
    """A file system behind HTTP's verbs. It remembers what was written under each session, for the manifest."""

    def __init__(self, files: FileSystem, prefix: str) -> None:
        self._files = files
        self._prefix = prefix
        self._sessions: dict[str, dict[str, dict[str, Any]]] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        if request.method == "GET":
            written = self._sessions.get(request.url.params["session"], {})
            return httpx.Response(200, json={"files": list(written.values())})
        path = request.url.path.removeprefix(self._prefix).lstrip("/")
        try:
            self._files.put(path, content)
        except Exception as error:
            return httpx.Response(_status(error), headers={"x-error": type(error).__name__})
        facts = {
            "path": path,
            "rows": int(request.headers.get("x-rows", 0)),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        if "x-session" in request.headers:
            self._sessions.setdefault(request.headers["x-session"], {})[path] = facts
        return httpx.Response(201, json=facts)


def _status(error: Exception) -> int:
    """What an error of a file system would be over HTTP."""
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return 403
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, ImportError):
        return 409
    if isinstance(error, (TimeoutError, ConnectionError)):
        return 503
    if isinstance(error, OSError) and error.errno is not None:
        return 413 if error.errno in _FULL else 503 if error.errno in _PASSING else 409
    return 500
