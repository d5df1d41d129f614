"""Whole syncs to a webhook and to files, on both warehouses: what the receiver has and the files say in the end."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from standardwebhooks import Webhook as Verifier

from dbt_segments import retry
from tests.projects import Warehouse
from tests.receiver import Answer, Received, Receiver, receiving
from tests.world import World, make_project

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
ADA, BOB, CYD, DAN = (f"{name}@example.com" for name in ("ada", "bob", "cyd", "dan"))


class Crm:
    """A receiver that keeps records, as the webhook's page tells receivers to: verified, once per id, swapped whole."""

    def __init__(self, receiver: Receiver) -> None:
        self.records: dict[int, Any] = {}
        self.segments: set[tuple[str, int]] = set()
        self.refuse: dict[int, dict[str, Any]] = {}
        self.lose = False
        self.ops: list[tuple[str, int]] = []
        self._seen: set[str] = set()
        self._coming: dict[int, Any] | None = None
        receiver.decide = self.take

    def take(self, received: Received) -> Answer:
        event = Verifier(SECRET).verify(received.body, dict(received.headers))
        results: list[dict[str, Any]] = []
        if received.headers["webhook-id"] not in self._seen:
            self._seen.add(received.headers["webhook-id"])
            results = self._apply(event)
        return Answer(hang_up=True) if self.lose else Answer(207, {"results": results})

    def said(self) -> list[tuple[str, int]]:
        """What was asked for since the last call."""
        said, self.ops = sorted(self.ops), []
        return said

    def _apply(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["type"] == "sync.started":
            self._coming = {}
            return []
        if event["type"] == "sync.completed":
            assert self._coming is not None
            assert len(self._coming) == event["data"]["rows"]
            self.records, self._coming = self._coming, None
            return []
        return [self._row(index, row) for index, row in enumerate(event["data"]["rows"])]

    def _row(self, index: int, row: dict[str, Any]) -> dict[str, Any]:
        number = row["key"]["Id"]
        self.ops.append((row["op"], number))
        if number in self.refuse:
            return {"index": index, "status": "error", **self.refuse[number]}
        if row["op"] in ("add", "remove"):
            change = self.segments.add if row["op"] == "add" else self.segments.discard
            change((row["segment"], number))
        elif row["op"] == "delete":
            self.records.pop(number, None)
        else:
            (self.records if self._coming is None else self._coming)[number] = row["values"]
        return {"index": index, "status": "ok"}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with receiving() as started:
        yield started


@pytest.fixture
def crm(receiver: Receiver) -> Crm:
    return Crm(receiver)


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> World:
    """Three customers, two of them in the segment `vip`."""
    world = World(make_project(tmp_path / "shop", warehouse, {}), warehouse, "")
    world.customers([(1, ADA, "1"), (2, BOB, None), (3, CYD, "3")])
    world.segment([1, 2])
    return world


def to_webhook(world: World, receiver: Receiver, mode: str = "mirror", **more: Any) -> None:
    world.connections = {"crm": {"type": "webhook", "url": f"{receiver.url}/t0ken?key=q-s3cret", "secret": SECRET}}
    item = {"to": "crm", "mode": mode, "key": {"Id": "customer_id"}, "fields": {"Mail": "email"}, **more}
    world.segments = {"vip": {"syncs": [item]}}


def to_files(world: World, folder: Path, mode: str = "mirror", **settings: Any) -> None:
    world.connections = {"exports": {"type": "files", "path": str(folder), **settings}}
    item = {"to": "exports", "mode": mode, "key": {"Id": "customer_id"}, "fields": {"Mail": "email"}}
    world.segments = {"vip": {"syncs": [item]}}


# -- webhook --------------------------------------------------------------------------------------------------


def test_a_mirror(world: World, receiver: Receiver, crm: Crm) -> None:
    """Who is in is there, who changed is changed, who left is deleted; every request verifies."""
    to_webhook(world, receiver)
    assert (world.sync().status, crm.records) == ("success", {1: {"Mail": ADA}, 2: {"Mail": BOB}})
    assert world.sync().status == "noop"
    crm.said()
    world.customers([(1, DAN), (2, BOB), (3, CYD)])
    world.segment([1, 3])
    counts = world.sync().counts
    assert (counts.added, counts.changed, counts.removed) == (1, 1, 1)
    assert crm.records == {1: {"Mail": DAN}, 3: {"Mail": CYD}}
    assert crm.said() == [("delete", 2), ("upsert", 1), ("upsert", 3)]
    assert receiver.events[0]["data"]["run_id"] != receiver.events[-1]["data"]["run_id"]


def test_membership(world: World, receiver: Receiver, crm: Crm) -> None:
    """Who enters and who leaves, by the segment's name."""
    to_webhook(world, receiver, object="membership")
    world.sync()
    world.segment([2, 3])
    assert world.sync().status == "success"
    assert crm.segments == {("vip", 2), ("vip", 3)}
    assert receiver.events[-1]["type"] == "segment.membership"


def test_a_replace(world: World, receiver: Receiver, crm: Crm) -> None:
    """The whole set in several batches, swapped at the end; and nobody, once that is released."""
    to_webhook(world, receiver, "replace")
    world.connections["crm"]["batch_size"] = "10"
    world.customers([(n, f"c{n}@example.com") for n in range(1, 41)])
    world.segment(range(1, 36))
    crm.records = {99: {}}
    assert world.sync().status == "success"
    assert set(crm.records) == set(range(1, 36))
    assert [event["type"] for event in receiver.events] == ["sync.started", *["record.upsert"] * 4, "sync.completed"]
    world.segments["vip"]["syncs"][0]["hold"] = {"empty": "ignore", "remove_members": 99}
    world.segment([])
    assert world.sync().status == "success"
    assert crm.records == {}


def test_an_interrupted_replace_is_begun_again(world: World, receiver: Receiver, crm: Crm) -> None:
    """Half a set is never swapped in; the next run sends a whole one."""
    to_webhook(world, receiver, "replace")
    receiver.plan = [Answer(), Answer(500), *[Answer(500)] * 20]
    crm.records = {99: {}}
    assert world.sync().status == "failed"
    assert set(crm.records) == {99}
    receiver.plan.clear()
    assert world.sync().status == "success"
    assert set(crm.records) == {1, 2}


def test_a_lost_answer_is_mended(world: World, receiver: Receiver, crm: Crm) -> None:
    """The receiver took the batch and nobody heard: whoever left since is deleted, and nothing is doubled."""
    to_webhook(world, receiver)
    crm.lose = True
    assert world.sync().status == "failed"
    assert set(crm.records) == {1, 2}
    crm.lose = False
    world.segment([1])
    assert world.sync().status == "success"
    assert crm.records == {1: {"Mail": ADA}}
    assert world.sync().status == "noop"


def test_refused_rows(world: World, receiver: Receiver, crm: Crm) -> None:
    """One that may pass is sent again by the next run, one that is wrong when it changes; the rest is in."""
    to_webhook(world, receiver)
    world.segment([1, 2, 3])
    crm.refuse = {1: {"code": "busy", "retryable": True}, 2: {"code": "bad_mail"}}
    assert world.sync().status == "partial"
    assert crm.records == {3: {"Mail": CYD}}
    assert sorted(world.state("rejects", "key, reason, class")) == [("1", "busy", "passing"), ("2", "bad_mail", "data")]
    crm.said()
    crm.refuse = {}
    world.sync()
    assert crm.said() == [("upsert", 1)]
    world.customers([(1, ADA), (2, DAN), (3, CYD)])
    world.sync()
    assert crm.said() == [("upsert", 2)]
    assert crm.records == {1: {"Mail": ADA}, 2: {"Mail": DAN}, 3: {"Mail": CYD}}


def test_a_withdrawn_receiver_ends_the_sync(world: World, receiver: Receiver) -> None:
    """410: one request, told with its code, and mended once it takes events again."""
    to_webhook(world, receiver)
    receiver.decide = lambda received: Answer(410)
    result = world.sync()
    assert (result.status, len(receiver.requests)) == ("failed", 1)
    assert result.reason.startswith("410")
    crm = Crm(receiver)
    assert world.sync().status == "success"
    assert set(crm.records) == {1, 2}


def test_a_plan_shows_no_secret(world: World, receiver: Receiver) -> None:
    """Neither values nor the URL's path and query; nothing is sent."""
    to_webhook(world, receiver)
    ((_, shown),) = world.plan(show_requests=1).requests.items()
    assert '"op": "upsert"' in str(shown)
    assert not [word for word in (ADA, "t0ken", "q-s3cret", SECRET) if word in str(shown)]
    assert receiver.requests == []


def test_a_relation_and_the_membership_of_an_entity(
    world: World, receiver: Receiver, crm: Crm, warehouse: Warehouse
) -> None:
    """A classic sync of every customer, with a field of the employee and the segments' names."""
    schema = warehouse.schema
    world.sql(f"create table {schema}.staff (id varchar(9), name varchar(9))")
    world.sql(f"insert into {schema}.staff values ('1', 'Eve')")
    to_webhook(world, receiver)
    world.related = {"rep": {"model": "staff", "on": "phone", "key": "id"}}
    world.segments = {"vip": {}}
    fields = {"Rep": "rep.name", "Segments": "segment_membership"}
    world.syncs = [{"to": "crm", "mode": "mirror", "key": {"Id": "customer_id"}, "fields": fields}]
    assert world.sync().status == "success"
    assert crm.records == {
        1: {"Rep": "Eve", "Segments": ["vip"]},
        2: {"Rep": None, "Segments": ["vip"]},
        3: {"Rep": None, "Segments": []},
    }
    world.segment([3])
    world.sync()
    assert {number: values["Segments"] for number, values in crm.records.items()} == {1: [], 2: [], 3: ["vip"]}


def test_membership_events_keep_the_name_they_were_sent_under(world: World, receiver: Receiver, crm: Crm) -> None:
    """A segment whose name changes is left under its former name and entered under the new one."""
    to_webhook(world, receiver, object="membership", fields={})
    world.segments["vip"]["name"] = "vip"
    world.sync()
    assert crm.segments == {("vip", 1), ("vip", 2)}
    world.segments["vip"]["name"] = "best"
    for _ in range(2):
        world.sync(allow_removals=("best",))
    assert crm.segments == {("best", 1), ("best", 2)}


def test_a_number_that_is_none_is_no_key(world: World, receiver: Receiver, crm: Crm) -> None:
    """JSON has no NaN and no infinity: a record with such a key is rejected, a value of that kind is null."""
    world.sql(
        f"drop table {world.warehouse.schema}.vip; create table {world.warehouse.schema}.vip "
        "as select 1 as customer_id, cast('NaN' as double precision) as score, "
        "cast('Infinity' as double precision) as id union all select 2, 0.5, 7"
    )
    to_webhook(world, receiver, key={"Id": "id"}, fields={"Score": "score"})
    world.sync()
    assert crm.records == {7.0: {"Score": 0.5}}
    assert world.state("rejects", "key, reason") == [("1", "no_key")]


# -- files ----------------------------------------------------------------------------------------------------


def latest(folder: Path, sync: str = "shop.vip.exports") -> list[tuple[Any, ...]]:
    """The newest whole set, as a reader finds it."""
    pointer = json.loads((folder / sync / "_latest.json").read_text())
    manifest = json.loads((folder / pointer["manifest"]).read_text())
    assert manifest["complete"]
    rows: list[tuple[Any, ...]] = []
    for file in manifest["files"]:
        found = duckdb.sql(f"select * from '{folder / file['path']}'").fetchall()
        assert len(found) == file["rows"]
        rows += found
    assert len(rows) == pointer["rows"]
    return sorted(rows)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_whole_sets(world: World, tmp_path: Path, form: str) -> None:
    """Every change writes the whole set, in parts; readers follow the pointer."""
    folder = tmp_path / "out"
    to_files(world, folder, "replace", format=form, rows_per_part="2")
    world.segment([1, 2, 3])
    assert world.sync().status == "success"
    assert latest(folder) == [(1, ADA), (2, BOB), (3, CYD)]
    assert len(list(folder.rglob(f"*.{form}"))) == 2
    assert world.sync().status == "noop"
    world.segment([1])
    assert world.sync().status == "success"
    assert latest(folder) == [(1, ADA)]
    world.segments["vip"]["syncs"][0]["hold"] = {"empty": "ignore"}
    world.segment([])
    assert world.sync().status == "success"
    assert latest(folder) == []


def test_change_files(world: World, tmp_path: Path) -> None:
    """Whoever applies them in the order of `_synced_at` has what the mirror has."""
    folder = tmp_path / "out"
    to_files(world, folder, format="jsonl")
    changes: list[list[tuple[str, int, Any]]] = []
    seen: set[Path] = set()
    for mail, members in ((ADA, [1, 2]), (DAN, [1, 3]), (DAN, [3])):
        world.customers([(1, mail), (2, BOB), (3, CYD)])
        world.segment(members)
        assert world.sync().status == "success"
        fresh = set(folder.rglob("*.jsonl")) - seen
        seen |= fresh
        lines = [json.loads(line) for file in fresh for line in file.read_text().splitlines()]
        changes.append(sorted((line["_op"], line["Id"], line["Mail"]) for line in lines))
        assert {line["_run_id"] for line in lines} == {next(iter(fresh)).parent.name}
    assert changes == [
        [("upsert", 1, ADA), ("upsert", 2, BOB)],
        [("delete", 2, None), ("upsert", 1, DAN), ("upsert", 3, CYD)],
        [("delete", 1, None)],
    ]


def test_types_of_the_warehouse_reach_parquet(world: World, tmp_path: Path, warehouse: Warehouse) -> None:
    """Integers, decimals, booleans and arrays; null keeps its type."""
    folder = tmp_path / "out"
    schema = warehouse.schema
    world.sql(f"drop table {schema}.vip")
    world.sql(
        f"create table {schema}.vip as select 1 as customer_id, 42 as points, cast(1.50 as decimal(10, 2)) as spent, "
        f"cast(0.5 as double precision) as score, cast(null as boolean) as is_new, array['x', 'y,z'] as tags"
    )
    to_files(world, folder, "replace", format="parquet")
    names = ("points", "spent", "score", "is_new", "tags")
    world.segments["vip"]["syncs"][0]["fields"] = {name: name for name in names}
    assert world.sync().status == "success"
    assert latest(folder) == [(1, 42, "1.50", 0.5, None, ["x", "y,z"])]
    [part] = folder.rglob("*.parquet")
    kinds = [kind for _, kind, *_ in duckdb.sql(f"describe select * from '{part}'").fetchall()]
    assert kinds == ["BIGINT", "BIGINT", "VARCHAR", "DOUBLE", "BOOLEAN", "VARCHAR[]"]


def test_a_relative_folder_is_below_the_project(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command runs: files in another place would be missed by nobody who looks for them there."""
    to_files(world, Path("out"), "replace")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert world.sync().status == "success"
    assert latest(world.project.path / "out") == [(1, ADA), (2, BOB)]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_plan_of_change_files_shows_no_member(world: World, tmp_path: Path) -> None:
    """A Parquet file of changes cannot be written from masked values: the plan says how many members it has."""
    to_files(world, tmp_path / "out", "mirror", format="parquet")
    ((_, shown),) = world.plan(show_requests=1).requests.items()
    assert "2 members" in str(shown)
    assert ADA not in str(shown)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_fails_and_is_mended(world: World, tmp_path: Path) -> None:
    """A file stands where the folder should be: told with its reason; once it is gone the set is there."""
    folder = tmp_path / "out"
    folder.write_text("in the way")
    to_files(world, folder, "replace")
    assert world.sync().status == "failed"
    folder.unlink()
    assert world.sync().status == "success"
    assert latest(folder) == [(1, ADA), (2, BOB)]


def test_a_plan_of_files_writes_nothing(world: World, tmp_path: Path) -> None:
    """It says where a file would go and how large it is."""
    folder = tmp_path / "out"
    for form in ("csv", "parquet"):
        to_files(world, folder, "replace", format=form)
        ((_, shown),) = world.plan(show_requests=1).requests.items()
        assert "bytes)" in str(shown)
        assert ADA not in str(shown)
        assert not folder.exists()
