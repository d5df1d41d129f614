"""Files on disk or in an object store: CSV, JSONL or Parquet, whole sets or changes.

Source: fsspec 2026.9.0 for the schemes; RFC 4180 for CSV. docs/reference/destinations/files.md has the layout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from dbt_segments.destinations._files_names import Names, names_of
from dbt_segments.destinations.auth import Auth
from dbt_segments.destinations.base import (
    Audience,
    Batch,
    Call,
    ConnectionSettings,
    Fault,
    Flow,
    Limits,
    Op,
    Outcome,
    RecordDestination,
    Reply,
    Support,
    Target,
)
from dbt_segments.errors import AuthError, DestinationError, GoneError, UnknownError

MEMBERSHIP = "membership"
BOOKKEEPING = ("_op", "_synced_at", "_run_id")
LOCAL = ("file", "local")
# sftp: fsspec trusts any host key that it meets. http: nothing can be written. The others wrap a file system.
_REFUSED = {"sftp", "ssh", "http", "https", "ftp", "simplecache", "filecache", "blockcache", "zip", "tar", "reference"}


class FilesSettings(ConnectionSettings):
    """`path` is a folder or an fsspec URL, perhaps with a template of names; `storage_options` are the backend's own.

    rows_per_part  rows of one file at most
    part_bytes     size of one file's rows as JSON, at most
    """

    path: str
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    compression: Literal["none", "gzip", "zstd", "snappy"] | None = None
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    null_text: str = ""
    bom: bool = False
    escape_formulas: bool = False
    rows_per_part: int = Field(default=100_000, ge=1, le=1_000_000)
    part_bytes: int = Field(default=64_000_000, ge=10_000, le=256_000_000)
    storage_options: dict[str, Any] | None = Field(default=None, repr=False)
    timeout_s: float = Field(default=300.0, gt=0, le=600)

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        names = names_of(path)
        if names.scheme in _REFUSED or ":" in names.scheme or "::" in path:
            raise ValueError(f"files cannot be written safely to `{names.scheme}`")
        if "@" in names.root and names.scheme not in ("abfs", "abfss", *LOCAL):
            raise ValueError("must not hold credentials: write them into storage_options")
        _check_backend(names.scheme)
        return path

    @model_validator(mode="after")
    def _check_compression(self) -> FilesSettings:
        if self.compression == "snappy" and self.format != "parquet":
            raise ValueError("`compression: snappy` is for parquet")
        if self.bom and self.compression == "zstd":
            raise ValueError("`bom: true` does not go with `compression: zstd`")
        if self.delimiter in ('"', "\n", "\r"):
            raise ValueError("`delimiter` cannot be a quote or the end of a line")
        return self


def _check_backend(scheme: str) -> None:
    """Raises ValueError where fsspec does not know a scheme, or its package is not installed."""
    if scheme in LOCAL:
        return
    from fsspec.registry import known_implementations, registry

    if scheme in registry:
        return
    if scheme not in known_implementations:
        raise ValueError(f"`{scheme}://` is no scheme that fsspec knows")
    package = known_implementations[scheme]["class"].partition(".")[0]
    if find_spec(package) is None:
        raise ValueError(f"`{scheme}://` needs the Python package {package}: pip install {package}")


class Files(RecordDestination):
    """One folder or bucket.

    now  the moment where a run's id does not tell it, and of the manifest, in UTC
    """

    type = "files"
    title = "Files on disk or in an object store"
    settings_model = FilesSettings
    operations: ClassVar = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL, Op.REPLACE: Support.FULL}
    modes = (*RecordDestination.modes, "replace")
    limits = Limits(members=100_000, body_bytes=64_000_000, concurrency=1)

    def __init__(
        self, settings: FilesSettings, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    ) -> None:
        super().__init__(settings)
        self._now = now
        # An instance's own: how large a part may be is the user's to say.
        self.limits = Limits(  # type: ignore[misc]
            members=settings.rows_per_part, body_bytes=settings.part_bytes, concurrency=1
        )

    # -- the connection ---------------------------------------------------------------------------------------

    def root(self) -> str:
        names = self._names
        if names.scheme in LOCAL:
            # Named as RFC 8089 allows: the HTTP library drops the scheme of a URL without a host.
            uri = self._local.as_uri()
            return uri.replace("file:///", "file://localhost/", 1).rstrip("/")
        return f"{names.scheme}://{quote(names.root, safe='/@')}"

    def auth(self) -> Auth:
        return Auth()

    def account(self) -> str:
        return self._names.url

    def transport(self) -> Any:
        from dbt_segments.destinations._files_store import LocalFiles, RemoteFiles, Store

        names = self._names
        if names.scheme in LOCAL:
            return Store(LocalFiles(str(self._local)), self._prefix)
        return Store(RemoteFiles(names.scheme, names.root, dict(self.settings.storage_options or {})), self._prefix)

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        if reply.status in (200, 201):
            return None
        code = reply.headers.get("x-error", str(reply.status))
        if reply.status == 403:
            return Fault(AuthError("files: not allowed to write there", code=code, hint="check path and credentials"))
        if reply.status == 404:
            return Fault(GoneError("files: the bucket or container is not there", code=code, hint="check path"))
        if reply.status == 413:
            return Fault(DestinationError("files: no space is left, or a quota is used up", code="no_space"))
        if reply.status in (500, 503):
            return Fault(UnknownError(f"files: could not be written ({code})", code=code), retry=True)
        return Fault(DestinationError(f"files: cannot be written ({code})", code=code, hint="check path"))

    @property
    def _names(self) -> Names:
        return names_of(self.settings.path)

    @property
    def _local(self) -> Path:
        """The folder; a relative one is below the project's, whatever the current one."""
        return Path(self.settings._folder, Path(self._names.root).expanduser()).absolute()

    @property
    def _prefix(self) -> str:
        """The part of a request's path that the root is."""
        return unquote(urlsplit(self.root()).path)

    # -- rows -------------------------------------------------------------------------------------------------

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        if target.object not in ("", MEMBERSHIP):
            return f"files has no object `{target.object}`: write `{MEMBERSHIP}`, or leave it out for records"
        names = [name.lower() for name in (*target.keys, *target.fields)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            return f"two columns of a file would be called `{twice}`"
        taken = next((name for name in BOOKKEEPING if name in names), None)
        return f"`{taken}` is a column of every change file" if taken and target.mode != "replace" else None

    def head(self, target: Target, op: Op) -> Mapping[str, str]:
        """The word of the column `_op`."""
        if target.object == MEMBERSHIP:
            return {"op": "remove" if op is Op.REMOVE or target.mode == "delete" else "add"}
        return super().head(target, op)

    # -- flows ------------------------------------------------------------------------------------------------

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Write one part. After the last part of a replace its manifest follows, and last of all the pointer to it."""
        from dbt_segments.destinations._files_formats import Change, Columns, Shape, write

        target = batch.target
        assert target is not None, "a destination of records is told what it writes"
        whole = batch.op is Op.REPLACE
        if batch.count == 0 and not whole:
            return Outcome()
        settings = self.settings
        compression = settings.compression or ("snappy" if settings.format == "parquet" else "none")
        shape = Shape(
            settings.format,
            compression,
            settings.delimiter,
            settings.null_text,
            settings.bom,
            settings.escape_formulas,
        )
        begun = self._begun(batch)
        columns = Columns(target.keys, target.fields, target.types)
        made = write(batch.rows, columns, shape, None if whole else Change(begun, batch.run_id))
        path = self._names.part(
            suffix="" if whole else _unique(target, self, batch),
            number=batch.number,
            ext=shape.ext,
            sync=audience.id,
            segment=target.segment,
            run_id=batch.run_id,
            run_date=f"{begun:%Y-%m-%d}",
        )
        if made.rows or whole:
            headers = {"x-session": str(batch.session), "x-rows": str(made.rows)}
            yield Call("PUT", f"/{quote(path)}", body=made.content, headers=headers)
        if whole and batch.last:
            yield from self._complete(audience, batch, path, begun)
        return Outcome(refused=made.refused)

    def _complete(self, audience: Audience, batch: Batch, path: str, begun: datetime) -> Flow[None]:
        target = batch.target
        assert target is not None
        reply = yield Call("GET", "/", query={"session": str(batch.session)})
        files = reply.json["files"]
        if len(files) != batch.number:
            raise UnknownError("files: not every part of this set was written", code="parts")
        manifest = self._names.manifest(path, audience.id, batch.run_id)
        rows = sum(file["rows"] for file in files)
        finished = _iso(self._now())
        facts = {
            "run_id": batch.run_id,
            "sync": audience.id,
            "mode": target.mode,
            "schema": [
                {"name": name, "type": target.types.get(name, "text")} for name in (*target.keys, *target.fields)
            ],
            "files": files,
            "rows": rows,
            "started_at": _iso(begun),
            "finished_at": finished,
            "complete": True,
        }
        yield Call("PUT", f"/{quote(manifest)}", body=_json(facts))
        pointer = {
            "run_id": batch.run_id,
            "sync": audience.id,
            "manifest": manifest,
            "rows": rows,
            "finished_at": finished,
        }
        yield Call("PUT", f"/{quote(self._names.latest(path, audience.id))}", body=_json(pointer))

    def _begun(self, batch: Batch) -> datetime:
        """When the run began: its id says so, so that a repeat writes the same bytes under the same name."""
        try:
            begun = datetime.strptime(batch.run_id[:16], "%Y%m%dT%H%M%SZ")
        except ValueError:
            return self._now()
        return begun.replace(tzinfo=timezone.utc)


def _unique(target: Target, destination: Files, batch: Batch) -> str:
    """What tells apart the parts of one run: batches are numbered within each kind of change only."""
    word = destination.head(target, batch.op)["op"]
    return f"-{word}-{hashlib.sha256(batch.id.encode()).hexdigest()[:8]}"


def _iso(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
