"""The body of /users and /usersreplace: payload, session and rows of the Meta Marketing API, read strictly.

Source: contract of the Meta Marketing API, sections 3 and 4 (v26.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dbt_segments.sandbox.meta_errors import invalid
from dbt_segments.sandbox.people import Codec, Key
from dbt_segments.sandbox.platform import Request

MAX_ROWS = 10_000
# Match keys and whether they are hashed; any one of them identifies a person alone.
CODEC = Codec({"EMAIL": True, "PHONE": True, "MADID": False, "EXTERN_ID": False, "APPUID": False, "PAGEUID": False})
_HASHED = frozenset(("FN", "LN", "FI", "GEN", "DOBY", "DOBM", "DOBD", "CT", "ST", "ZIP", "COUNTRY"))
_OTHER = frozenset(
    (
        "LOOKALIKE_VALUE",
        "DATA_PROCESSING_OPTIONS",
        "DATA_PROCESSING_OPTIONS_COUNTRY",
        "DATA_PROCESSING_OPTIONS_STATE",
    )
)
# What the columns of limited data use may hold; none of them is hashed.
_LIMITS: Mapping[str, tuple[Any, ...]] = {
    "DATA_PROCESSING_OPTIONS": ([], ["LDU"]),
    "DATA_PROCESSING_OPTIONS_COUNTRY": (0, 1),
    "DATA_PROCESSING_OPTIONS_STATE": (0, 1000),
}
_SINGLE = {"EMAIL_SHA256": "EMAIL", "PHONE_SHA256": "PHONE", "MOBILE_ADVERTISER_ID": "MADID"}
_SHAPES = {
    "digest": re.compile("[0-9a-f]{64}").fullmatch,
    "MADID": re.compile("(?!0{8}-0{4}-0{4}-0{4}-0{12})[0-9a-z]{8}(-[0-9a-z]{4}){3}-[0-9a-z]{12}").fullmatch,
    "EXTERN_ID": re.compile(r"\S(?:.*\S)?", re.DOTALL).fullmatch,
    "APPUID": re.compile("[0-9]+").fullmatch,
    "PAGEUID": re.compile("[0-9]+").fullmatch,
}


@dataclass(frozen=True)
class Session:
    """The `session` object of an upload."""

    id: int
    seq: int
    last: bool


@dataclass
class Upload:
    """One upload: match keys per good row, and what was wrong with the others.

    form      multi or single: the two are never mixed in one audience
    rows      the match keys of each good row; empty where only other cells are filled
    total     rows that arrived
    invalid   rows with a malformed cell, or without any cell
    samples   refused cells with their reason, as Meta echoes them
    faults    the same without values
    """

    form: str
    schema: tuple[str, ...]
    session: Session
    total: int
    rows: list[list[Key]] = field(default_factory=list, repr=False)
    invalid: int = 0
    samples: dict[str, str] = field(default_factory=dict, repr=False)
    faults: set[str] = field(default_factory=set)


def read_upload(request: Request) -> Upload:
    """Read and check the whole body. Raises a Refusal with code 100 for what makes Meta refuse a request."""
    fields = request.fields()
    payload = _object(fields.get("payload"), "payload", ("schema", "data", "is_raw", "app_ids", "page_ids"))
    session = _session(fields.get("session"))
    schema, data = payload.get("schema"), payload.get("data")
    form = "single" if isinstance(schema, str) else "multi"
    names = _names(schema)
    if not isinstance(data, list) or not data:
        raise invalid("payload.data: a list of rows is required")
    if len(data) > MAX_ROWS:
        raise invalid(f"payload.data: more than {MAX_ROWS} rows")
    rows = [[cell] for cell in data] if form == "single" else data
    upload = Upload(form, names, session, total=len(rows))
    _read_rows(upload, rows, request.skip)
    return upload


def _object(value: Any, name: str, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    """A JSON object, or JSON text of one, with known keys only."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise invalid(f"{name}: is no JSON") from None
    if not isinstance(value, dict):
        raise invalid(f"{name}: an object is required")
    unknown = sorted(value.keys() - set(allowed))
    if unknown:
        raise invalid(f"{name}: unknown keys {', '.join(unknown)}")
    return value


def _session(value: Any) -> Session:
    data = _object(value, "session", ("session_id", "batch_seq", "last_batch_flag", "estimated_num_total"))
    number, seq, last = data.get("session_id"), data.get("batch_seq"), data.get("last_batch_flag", False)
    if type(number) is not int or not 0 < number < 2**63:
        raise invalid("session.session_id: a positive 64-bit integer is required")
    if type(seq) is not int or seq < 1:
        raise invalid("session.batch_seq: an integer from 1 is required")
    if type(last) is not bool:
        raise invalid("session.last_batch_flag: true or false is required")
    return Session(number, seq, last)


def _names(schema: Any) -> tuple[str, ...]:
    if isinstance(schema, str) and schema in _SINGLE:
        return (_SINGLE[schema],)
    if not isinstance(schema, list) or not schema:
        raise invalid("payload.schema: a list of keys, or a single hashed key, is required")
    known = CODEC.codes.keys() | _HASHED | _OTHER
    if not all(isinstance(name, str) and name in known for name in schema):
        raise invalid("payload.schema: unknown key")
    if len(set(schema)) < len(schema):
        raise invalid("payload.schema: a key is there twice")
    return tuple(schema)


def _read_rows(upload: Upload, rows: list[Any], skip: int) -> None:
    """Sort rows into good and invalid; a row of another length than the schema's refuses the request."""
    width = len(upload.schema)
    columns = [_column(name) for name in upload.schema]
    digest = _SHAPES["digest"]
    fromhex = bytes.fromhex
    for index, row in enumerate(rows):
        if type(row) is not list or len(row) != width:
            raise invalid("payload.data: Data is missing or does not match schema")
        if index < skip:
            _reject(upload, "injected", row[0])
            continue
        keys: list[Key] = []
        filled = False
        for cell, (name, prefix, hashed) in zip(row, columns, strict=True):
            if cell == "":
                continue
            filled = True
            if hashed:
                if type(cell) is str and digest(cell):
                    if prefix:
                        keys.append(prefix + fromhex(cell))
                    continue
            elif not prefix:
                if name not in _LIMITS or cell in _LIMITS[name]:
                    continue
            elif type(cell) is str and _SHAPES[name](cell):
                keys.append(prefix + cell.encode())
                continue
            _reject(upload, f"{name}: malformed cell", cell)
            break
        else:
            if filled:
                upload.rows.append(keys)
            else:
                _reject(upload, "a row without any cell", "")


def _column(name: str) -> tuple[str, bytes, bool]:
    """Name, prefix of its match keys (empty: matches nobody alone), and whether its cells are digests."""
    if name in CODEC.codes:
        return name, *CODEC.encoder(name)
    return name, b"", name in _HASHED


def _reject(upload: Upload, reason: str, cell: Any) -> None:
    upload.invalid += 1
    if reason != "injected":
        upload.faults.add(reason)
    if len(upload.samples) < 100:
        upload.samples[str(cell)] = reason
