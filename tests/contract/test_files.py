"""The files destination on a real folder and on fsspec's memory: what is on disk afterwards, read by other readers.

CSV is read by Python's own reader or compared as text typed by hand from RFC 4180; JSON and Parquet by DuckDB.
"""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest
from pydantic import ValidationError

from dbt_segments.destinations._files_names import DEFAULT, names_of, safe
from dbt_segments.destinations.base import Audience, Batch, Op, Target
from dbt_segments.destinations.files import Files, FilesSettings
from dbt_segments.errors import AuthError, DestinationError, GoneError, UnknownError
from dbt_segments.retry import Budget
from dbt_segments.send import Sender, Sent

SYNC = "shop.customers.exports"
RUN = "20261123T100005Z-0193aa"
TYPES = {"id": "integer", "name": "text", "spent": "text", "score": "number", "vip": "boolean", "tags": "json"}
FIELDS = ("name", "spent", "score", "vip", "tags")
ADA = {
    "op": "upsert",
    "key": {"id": 1},
    "values": {"name": 'Ada "A", Lovelace\nZoë', "spent": "12.50", "score": 0.5, "vip": True, "tags": ["vip", "a;b"]},
}
BEA = {
    "op": "upsert",
    "key": {"id": 2},
    "values": {"name": "", "spent": None, "score": None, "vip": None, "tags": None},
}
CYD = {"op": "delete", "key": {"id": 3}, "values": None}


def batch(*rows: dict[str, Any], mode: str = "upsert", op: Op | None = None, object: str = "", **changes: Any) -> Batch:
    target = Target(SYNC, "customers", object, mode, ("id",), FIELDS, TYPES)
    values: dict[str, Any] = {
        "op": op or (Op.REPLACE if mode == "replace" else Op.ADD),
        "rows": ",".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "count": len(rows),
        "number": 1,
        "last": True,
        "total": len(rows),
        "id": "generation-1",
        "session": 9,
        "target": target,
        "run_id": RUN,
    }
    return Batch(**{**values, **changes})


def files(path: Path | str, **settings: Any) -> Files:
    return Files(FilesSettings(path=str(path), **settings))


def send(destination: Files, *batches: Batch, tries: int = 2) -> list[Sent]:
    with Sender(destination, sleep=lambda seconds: None, budget=Budget(tries=tries)) as sender:
        return [sender.send(Audience(SYNC), one) for one in batches]


def written(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: relative path -> bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def only(folder: Path) -> bytes:
    [content] = written(folder).values()
    return content


# -- cells ----------------------------------------------------------------------------------------------------


def test_csv_of_changes(tmp_path: Path) -> None:
    """UTF-8, LF, a header, null empty and an empty text quoted; what is asked for stands ahead of the fields."""
    assert send(files(tmp_path), batch(ADA, BEA))[0].fate == "accepted"
    assert only(tmp_path).decode() == (
        "_op,_synced_at,_run_id,id,name,spent,score,vip,tags\n"
        f'upsert,2026-11-23T10:00:05Z,{RUN},1,"Ada ""A"", Lovelace\nZoë",12.50,0.5,true,"[""vip"",""a;b""]"\n'
        f'upsert,2026-11-23T10:00:05Z,{RUN},2,"",,,,\n'
    )


def test_csv_of_deletes(tmp_path: Path) -> None:
    """The key, and nothing else."""
    send(files(tmp_path), batch(CYD, op=Op.REMOVE, mode="mirror"))
    assert only(tmp_path).decode().splitlines()[1] == f"delete,2026-11-23T10:00:05Z,{RUN},3,,,,,"


def test_csv_options(tmp_path: Path) -> None:
    """Delimiter, text of a null, byte order mark, and formulas that no spreadsheet runs."""
    rows = [
        {"op": "upsert", "key": {"id": n}, "values": {**BEA["values"], "name": text}}
        for n, text in enumerate(["=1+1", "+1", "-1", "@a", "\tx", "\rx", "a=b", "NULL"])
    ]
    options = {"delimiter": ";", "null_text": "NULL", "bom": True, "escape_formulas": True}
    send(files(tmp_path, **options), batch(*rows))
    content = only(tmp_path)
    assert content.startswith(b"\xef\xbb\xbf_op;")
    lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert [line[4] for line in lines[1:]] == ["'=1+1", "'+1", "'-1", "'@a", "'\tx", "'\rx", "a=b", "NULL"]
    assert b'"NULL";NULL;NULL' in content, "a text is told from a null"


def test_jsonl(tmp_path: Path) -> None:
    """An object a line, keys in the order of the mapping, nulls and arrays kept, decimals as texts."""
    send(files(tmp_path, format="jsonl"), batch(ADA, BEA))
    first, second = (json.loads(line) for line in only(tmp_path).decode().splitlines())
    assert list(first) == ["_op", "_synced_at", "_run_id", "id", *FIELDS]
    assert first == {
        "_op": "upsert",
        "_synced_at": "2026-11-23T10:00:05Z",
        "_run_id": RUN,
        "id": 1,
        **ADA["values"],
    }
    assert {name: second[name] for name in FIELDS} == BEA["values"]


@pytest.mark.parametrize("rows", [(ADA, BEA), (BEA,), ()])
def test_parquet_has_one_schema(tmp_path: Path, rows: tuple[dict[str, Any], ...]) -> None:
    """Typed from the source, the same in a part of nulls and in an empty one; an array is a list of texts."""
    send(files(tmp_path, format="parquet"), batch(*rows, mode="replace"))
    [part] = tmp_path.rglob("*.parquet")
    schema = duckdb.sql(f"describe select * from '{part}'").fetchall()
    assert [(name, kind) for name, kind, *_ in schema] == [
        ("id", "BIGINT"),
        ("name", "VARCHAR"),
        ("spent", "VARCHAR"),
        ("score", "DOUBLE"),
        ("vip", "BOOLEAN"),
        ("tags", "VARCHAR[]"),
    ]
    expected = [(row["key"]["id"], *row["values"].values()) for row in rows]
    assert duckdb.sql(f"select * from '{part}'").fetchall() == expected


def test_parquet_of_changes(tmp_path: Path) -> None:
    """The moment is a timestamp in UTC; an object becomes a list of its one text."""
    row = {**ADA, "values": {**ADA["values"], "tags": {"a": 1}}}
    send(files(tmp_path, format="parquet", compression="zstd"), batch(row))
    [part] = tmp_path.rglob("*.parquet")
    found = duckdb.sql(f"select _op, epoch(_synced_at), typeof(_synced_at), _run_id, tags from '{part}'").fetchall()
    assert found == [("upsert", 1795428005.0, "TIMESTAMP WITH TIME ZONE", RUN, ['{"a":1}'])]
    codecs = duckdb.sql(f"select distinct compression from parquet_metadata('{part}')").fetchall()
    assert codecs == [("ZSTD",)]


def test_a_value_that_parquet_cannot_hold_costs_its_row(tmp_path: Path) -> None:
    """It is refused by its index; the others are written. Texts formats hold any number."""
    big = {**BEA, "key": {"id": 2**70}}
    [sent] = send(files(tmp_path / "p", format="parquet"), batch(ADA, big, BEA))
    assert sent.refused == {1: "not_representable"}
    [part] = (tmp_path / "p").rglob("*.parquet")
    assert duckdb.sql(f"select id from '{part}'").fetchall() == [(1,), (2,)]
    assert send(files(tmp_path / "c"), batch(big))[0].refused == {}
    assert str(2**70).encode() in only(tmp_path / "c")


def test_awkward_names_of_fields(tmp_path: Path) -> None:
    """Quotes, spaces and keywords in a field's name arrive as they are."""
    names = ('say "hi"', "it's", "select", "a,b", "Zoë")
    target = Target(SYNC, "customers", "", "append", ("the key",), names, dict.fromkeys(names, "text"))
    row = {"op": "insert", "key": {"the key": "k"}, "values": dict.fromkeys(names, "x")}
    send(files(tmp_path), batch(row, target=target))
    [header, line] = csv.reader(io.StringIO(only(tmp_path).decode()))
    assert header[3:] == ["the key", *names]
    assert line[3:] == ["k"] + ["x"] * 5


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_gzip(tmp_path: Path, form: str) -> None:
    """The name says so, and the bytes are the same each time."""
    for folder in ("a", "b"):
        send(files(tmp_path / folder, format=form, compression="gzip", bom=form == "csv"), batch(ADA, BEA))
    [one], [other] = (list((tmp_path / folder).rglob(f"*.{form}.gz")) for folder in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
    assert gzip.decompress(one.read_bytes()).decode("utf-8-sig").startswith(("_op,", '{"_op"'))


# -- names ----------------------------------------------------------------------------------------------------


def test_default_names(tmp_path: Path) -> None:
    """Sync, day, run; a part of changes says what it asks for and cannot meet another."""
    first, second = batch(ADA, mode="mirror"), batch(CYD, op=Op.REMOVE, mode="mirror", id="generation-2")
    send(files(tmp_path), first, second, batch(BEA, mode="mirror", id="generation-3"))
    names = sorted(written(tmp_path))
    folder = f"{SYNC}/2026-11-23/{RUN}/"
    assert all(name.startswith(folder + "customers-00001-") for name in names)
    assert sorted(name.split("-")[-2] for name in names) == ["delete", "upsert", "upsert"]


def test_a_repeat_overwrites_its_own_file(tmp_path: Path) -> None:
    """Same batch, same name, same bytes."""
    send(files(tmp_path), batch(ADA))
    before = written(tmp_path)
    send(files(tmp_path), batch(ADA))
    assert written(tmp_path) == before


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    """The root ends before the first placeholder."""
    path = f"{tmp_path}/out put/day={{run_date}}/{{segment}}_{{sync}}_{{run_id}}_{{part:03d}}.{{ext}}"
    send(files(path), batch(ADA, mode="replace"))
    assert sorted(written(tmp_path / "out put")) == [
        f"_latest-{SYNC}.json",
        f"day=2026-11-23/_manifest-{SYNC}-{RUN}.json",
        f"day=2026-11-23/customers_{SYNC}_{RUN}_001.csv",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", "a%2Fb"),
        ("a_b", "a_b"),
        ("..", "%2E%2E"),
        ("a%2Fb", "a%252Fb"),
        ("Zoë b.c", "Zoë b.c"),
        ("a\\b", "a%5Cb"),
    ],
)
def test_names_lead_nowhere_else(text: str, name: str) -> None:
    """Two texts never become one name, and none is a path."""
    assert safe(text) == name


def test_a_sync_id_cannot_escape(tmp_path: Path) -> None:
    """Slashes and dots of an id stay within the root."""
    destination = files(tmp_path / "root")
    with Sender(destination) as sender:
        assert sender.send(Audience("../../evil"), batch(ADA)).fate == "accepted"
    [name] = written(tmp_path)
    assert name.startswith("root/..%2F..%2Fevil/")


def test_links_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    """A link in the folder that leads elsewhere is refused, and nothing is written there."""
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / SYNC).symlink_to(tmp_path / "elsewhere")
    [sent] = send(files(tmp_path / "root"), batch(ADA))
    assert isinstance(sent.error, AuthError)
    assert written(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("out/../../etc", ".."),
        ("s3://bucket/../x", ".."),
        ("out/{sync}/{run_id}/{parts}.csv", "unknown"),
        ("out/{sync}/{run_id}/{part!r}.csv", "format"),
        ("out/{sync:>9}/{run_id}/{part}.csv", "format"),
        ("out/{sync.x}/{run_id}/{part}.csv", "unknown"),
        ("out/{sync}/{part}.csv", "{run_id}"),
        ("out/{run_id}/{part}.csv", "{sync}"),
        ("out/{sync", "brace"),
        ("", "folder"),
        ("s3://", "folder"),
        ("sftp://host/x", "safely"),
        ("https://host/x", "safely"),
        ("simplecache::s3://bucket/x", "safely"),
        ("s3://key:secret-9@bucket/x", "storage_options"),
        ("gibberish://bucket/x", "fsspec"),
        ("s3://bucket/x", "s3fs"),
    ],
)
def test_a_path_that_cannot_work_is_refused(path: str, said: str) -> None:
    """With what is wrong, and without a secret that it may hold."""
    with pytest.raises(ValidationError) as caught:
        FilesSettings(path=path)
    assert said in str(caught.value)
    assert "secret-9" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": "snappy"},
        {"compression": "zstd", "bom": True},
        {"delimiter": '"'},
        {"delimiter": ";;"},
        {"format": "xlsx"},
        {"rows_per_part": 0},
    ],
)
def test_options_that_do_not_go_together(settings: dict[str, Any]) -> None:
    """Found before anything is written."""
    with pytest.raises(ValidationError):
        FilesSettings(path="out", **settings)


def test_folders_become_names() -> None:
    """A path without a placeholder is a folder; one with some is a template."""
    assert (names_of("/data/out/").root, names_of("/data/out/").template) == ("/data/out", DEFAULT)
    assert names_of("/").root == "/"
    assert names_of("{sync}-{run_id}-{part}").root == "."
    assert names_of("memory://bucket").url == "memory://bucket"


# -- modes ----------------------------------------------------------------------------------------------------


def test_a_replace_ends_with_manifest_and_pointer(tmp_path: Path) -> None:
    """Parts, then what they are, then the pointer; without bookkeeping columns."""
    parts = [
        batch(ADA, mode="replace", last=False, total=2),
        batch(BEA, mode="replace", number=2, total=2, id="generation-2"),
    ]
    assert [sent.fate for sent in send(files(tmp_path), *parts)] == ["accepted", "accepted"]
    found = written(tmp_path)
    run = f"{SYNC}/2026-11-23/{RUN}"
    names = [f"{run}/customers-{n:05d}.csv" for n in (1, 2)]
    assert set(found) == {*names, f"{run}/_manifest.json", f"{SYNC}/_latest.json"}
    assert found[names[1]].decode() == 'id,name,spent,score,vip,tags\n2,"",,,,\n'
    manifest = json.loads(found[f"{run}/_manifest.json"])
    assert manifest["files"] == [
        {"path": name, "rows": 1, "bytes": len(found[name]), "sha256": hashlib.sha256(found[name]).hexdigest()}
        for name in names
    ]
    assert (manifest["rows"], manifest["complete"], manifest["mode"]) == (2, True, "replace")
    assert (manifest["run_id"], manifest["sync"], manifest["started_at"]) == (RUN, SYNC, "2026-11-23T10:00:05Z")
    assert manifest["schema"] == [{"name": name, "type": kind} for name, kind in TYPES.items()]
    pointer = json.loads(found[f"{SYNC}/_latest.json"])
    assert (pointer["manifest"], pointer["rows"]) == (f"{run}/_manifest.json", 2)


def test_a_replace_of_nobody_is_an_empty_part(tmp_path: Path) -> None:
    """Readers find the columns and no rows, and the pointer says so."""
    send(files(tmp_path), batch(mode="replace"))
    found = written(tmp_path)
    assert found[f"{SYNC}/2026-11-23/{RUN}/customers-00001.csv"].decode() == "id,name,spent,score,vip,tags\n"
    assert json.loads(found[f"{SYNC}/_latest.json"])["rows"] == 0


def test_a_replace_with_a_part_missing_is_not_completed(tmp_path: Path) -> None:
    """The last part alone makes no set: no manifest, the pointer stays."""
    [sent] = send(files(tmp_path), batch(BEA, mode="replace", number=2, total=2))
    assert isinstance(sent.error, UnknownError)
    assert not [name for name in written(tmp_path) if name.endswith(".json")]


def test_membership(tmp_path: Path) -> None:
    """`object: membership` says add and remove."""
    target = Target(SYNC, "vip", "membership", "mirror", ("id",), (), {"id": "integer"})
    destination = files(tmp_path)
    heads = [destination.head(target, op) for op in (Op.ADD, Op.REMOVE)]
    assert heads == [{"op": "add"}, {"op": "remove"}]
    rows = [{**head, "key": {"id": 1}, "values": None} for head in heads]
    send(
        destination,
        batch(rows[0], target=target),
        batch(rows[1], target=target, op=Op.REMOVE),
    )
    lines = [content.decode().splitlines() for content in written(tmp_path).values()]
    assert sorted(line[1].split(",")[0] for line in lines) == ["add", "remove"]
    assert {line[0] for line in lines} == {"_op,_synced_at,_run_id,id"}


@pytest.mark.parametrize(
    ("keys", "fields", "mode", "object", "said"),
    [
        (("id",), ("_OP",), "upsert", "", "`_op`"),
        (("id",), ("ID",), "upsert", "", "`id`"),
        (("id",), ("x",), "upsert", "contacts", "contacts"),
    ],
)
def test_what_a_file_cannot_be(keys: Any, fields: Any, mode: str, object: str, said: str) -> None:
    """Told by `validate`."""
    assert said in (Files.refuses(Target(SYNC, "s", object, mode, keys, fields, {})) or "")


def test_a_whole_set_may_have_any_column() -> None:
    """A replace has no bookkeeping columns, so their names are free."""
    assert Files.refuses(Target(SYNC, "s", "", "replace", ("id",), ("_op",), {})) is None


def test_an_empty_batch_writes_nothing(tmp_path: Path) -> None:
    """Nobody changed, no file."""
    assert send(files(tmp_path), batch())[0].fate == "accepted"
    assert written(tmp_path) == {}


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "fate", "tries"),
    [
        (PermissionError(errno.EACCES, "no"), AuthError, "unsent", 1),
        (OSError(errno.ENOSPC, "full"), DestinationError, "unsent", 1),
        (OSError(errno.EROFS, "read only"), DestinationError, "unsent", 1),
        (OSError(errno.EIO, "hiccup"), UnknownError, "unknown", 2),
        (TimeoutError(), UnknownError, "unknown", 2),
    ],
)
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[Exception], fate: str, tries: int
) -> None:
    """No temporary file, no half of a file; what may pass is tried again."""
    calls: list[int] = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    [sent] = send(files(tmp_path), batch(ADA))
    assert (type(sent.error), sent.fate, len(calls)) == (kind, fate, tries)
    assert written(tmp_path) == {}


def test_a_failed_repeat_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pointer to the newest set is replaced whole or not at all."""
    send(files(tmp_path), batch(ADA, mode="replace"))
    before = written(tmp_path)[f"{SYNC}/_latest.json"]

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "read only")

    monkeypatch.setattr(Path, "replace", fail)
    send(files(tmp_path), batch(BEA, mode="replace", run_id="20261124T100005Z-0193ab"))
    found = written(tmp_path)
    assert found[f"{SYNC}/_latest.json"] == before
    assert not [name for name in found if name.endswith(".tmp") or "20261124" in name]


# -- other file systems ---------------------------------------------------------------------------------------


def test_memory(tmp_path: Path) -> None:
    """Any fsspec file system is written to; here the one in memory."""
    send(files("memory://bucket/pre fix"), batch(ADA, mode="replace"))
    memory = fsspec.filesystem("memory")
    try:
        found = memory.find("/bucket/pre fix")
        assert f"/bucket/pre fix/{SYNC}/_latest.json" in found
        assert memory.cat(f"/bucket/pre fix/{SYNC}/2026-11-23/{RUN}/customers-00001.csv").startswith(b"id,name")
    finally:
        memory.rm("/bucket", recursive=True)


class Slow(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
    """A file system with folders, whose rename may fail."""

    protocol = "slowfs"
    store: dict[str, Any] = {}  # noqa: RUF012  fsspec's own way
    pseudo_dirs = [""]  # noqa: RUF012
    failure: Exception | None = None

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        if self.failure is not None:
            raise self.failure
        super().mv(path1, path2, **kwargs)


def test_file_systems_that_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written beside the target and renamed; a failure leaves nothing behind."""
    fsspec.register_implementation("slowfs", Slow, clobber=True)
    destination = files("slowfs://host/out", storage_options={"token": "s-secret"})
    assert send(destination, batch(ADA))[0].fate == "accepted"
    system = fsspec.filesystem("slowfs")
    assert len(system.find("/")) == 1
    monkeypatch.setattr(Slow, "failure", FileNotFoundError())
    [sent] = send(destination, batch(BEA, id="generation-2"))
    assert isinstance(sent.error, GoneError)
    assert len(system.find("/")) == 1
    assert "s-secret" not in f"{destination.settings!r} {destination.account()} {destination.root()}"
