"""What only Pinterest has: two objects, a mark in a name, 100 people, lists that cannot be deleted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dbt_segments import pipeline, prune, retry, sizes
from dbt_segments.sandbox.server import build, serve
from tests.one_click.case_pinterest import CASE
from tests.projects import DuckDBWarehouse
from tests.world import KEY, World, make_world, sha


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A segment `vip` to the sandbox's Pinterest, which wants 100 people as the platform does."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with serve(sandbox=build(("pinterest",))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.connections = {"pinterest": CASE.connection(f"{serving.url}/pinterest", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": ["pinterest"]}}
        world.variables = {"hold": {"change_fraction": 1.0, "remove_fraction": 1.0}}
        platform(world).policy["minimum_members"] = 100
        yield world
        assert platform(world).violations == []


def platform(world: World) -> Any:
    assert world.serving is not None
    return world.serving.sandbox.platforms["pinterest"]


def have(world: World, count: int) -> None:
    world.customers([(n, f"c{n}@example.com") for n in range(1, 121)])
    world.segment(range(1, count + 1))


def want(count: int) -> set[KEY]:
    return {("record", sha(f"c{n}@example.com")) for n in range(1, count + 1)}


def waiting(result: Any) -> list[str]:
    return [note for note in result.notes if "is not there yet" in note]


def test_the_audience_comes_with_the_hundredth_member(world: World) -> None:
    """Until then a note says why, and each run asks once; then it is there, under the plain label, and all is quiet."""
    have(world, 99)
    first = world.sync()
    assert (first.status, first.exit_code) == ("success", 0), first
    assert "fewer than 100 people" in waiting(first)[0]
    assert platform(world).report()["targets"] == []
    quiet = world.sync()
    # a token, the listing, the refused call, the list's state
    assert (quiet.status, quiet.requests, len(waiting(quiet))) == ("noop", 4, 1), quiet
    have(world, 100)
    grown = world.sync()
    assert (grown.status, waiting(grown)) == ("success", []), grown
    (target,) = platform(world).report()["targets"]
    (audience,) = world.audiences()
    mark = audience["name"].removeprefix("VIP buyers [").removesuffix("]")
    assert mark.startswith("dbt-segments:")
    assert (target["name"], target["description"]) == ("VIP buyers", mark)
    assert target["rule"] == {"customer_list_id": audience["id"]}
    assert world.held() == want(100)
    assert (world.sync().requests, len(platform(world).report()["targets"])) == (0, 1)


def test_a_list_that_is_being_processed_is_waited_for(world: World) -> None:
    """A day or two, with a note and no failure."""
    platform(world).policy["processing_s"] = 86_400
    have(world, 100)
    assert "is being processed" in waiting(world.sync())[0]
    platform(world).clock.advance(86_400)
    assert waiting(world.sync()) == []
    assert len(platform(world).report()["targets"]) == 1


@pytest.mark.parametrize("kind", ["reset_after", "duplicate", "throttle"])
def test_an_audience_is_not_made_twice(world: World, kind: str) -> None:
    """An answer that never came is looked for before it is asked for again; only what arrives twice makes two."""
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": kind, "match": {"op": "target"}})
    have(world, 100)
    assert world.sync().exit_code == 0
    assert world.sync().exit_code == 0
    assert len(platform(world).report()["targets"]) == (2 if kind == "duplicate" else 1)
    assert world.sync().requests == 0


@pytest.mark.parametrize("kind", ["reset_after", "reset_before", "duplicate", "html"])
def test_more_members_in_doubt(world: World, kind: str) -> None:
    """The list exists and the answer to an addition is lost: everybody is there once in the end."""
    have(world, 100)
    world.sync()
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": kind, "match": {"op": "add"}})
    have(world, 110)
    for _ in range(2):
        last = world.sync()
    assert last.exit_code == 0, last
    assert (world.held(), len(world.audiences())) == (want(110), 1)


def test_a_creation_that_arrives_twice_leaves_a_list_behind(world: World) -> None:
    """Nothing can be done about it: names are not unique and there is no key for repeats. Ours is right."""
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "duplicate", "match": {"op": "create"}})
    have(world, 3)
    result = world.sync()
    have(world, 2)
    assert world.sync().exit_code == 0
    held = {one["id"]: {tuple(key) for key in one["keys"]} for one in world.audiences()}
    assert len(held) == 2
    assert held[str(result.audience_id)] == want(2)


def test_what_the_list_says_against_records_is_told(world: World) -> None:
    """As a warning, by name and without values; the members count as taken."""
    platform(world).policy["exceptions"] = {"invalid_records": {sha("c1@example.com"): "x"}}
    have(world, 3)
    result = world.sync()
    assert (result.status, result.counts.added) == ("success", 3)
    assert "warning: pinterest: the list reports exceptions (invalid_records)" in result.notes


def test_a_mobile_id_goes_into_the_same_list(world: World) -> None:
    """One request holds one kind; the list holds both."""
    world.identifiers = {"email": "email", "idfa": "phone"}
    idfa = "EA7583CD-A667-48BC-B806-42ECB2B48606"
    world.customers([(1, "c1@example.com", idfa), (2, None, "00000000-0000-0000-0000-000000000000")])
    world.segment([1, 2])
    result = world.sync()
    assert (result.counts.added, result.counts.unusable) == (1, 1), result
    assert world.held() == want(1) | {("record", sha(idfa.lower()))}
    assert len(world.audiences()) == 1


def test_a_deleted_audience_leaves_an_empty_list_that_is_used_again(world: World) -> None:
    """The list stays, with nobody in it; when the segment is back it is filled anew, and has an audience again."""
    have(world, 100)
    first = world.sync()
    segments, world.segments = world.segments, {}
    options = world.request().options
    (pruned,) = prune.prune(options, (), "delete", act=True, lock_timeout_s=20.0, tell=lambda *said: None)
    assert (pruned.done, pruned.note) == ("deleted", "the empty list stays: it cannot be deleted")
    assert (world.held(), platform(world).report()["targets"]) == (set(), [])
    world.segments = segments
    have(world, 101)
    again = world.sync()
    assert (again.status, again.audience_id) == ("success", first.audience_id), again
    assert (world.held(), len(platform(world).report()["targets"])) == (want(101), 1)


@pytest.mark.parametrize("policy", ["fail", "adopt", "recreate"])
def test_an_audience_that_is_removed_while_its_list_stays(world: World, policy: str) -> None:
    """The list is kept right by every policy; the audience is made again over it by one, and missed by the others."""
    have(world, 100)
    (made,) = (world.sync(), world.audiences())[1]
    platform(world).targets.clear()
    world.variables["gone"] = policy
    have(world, 110)
    result = world.sync()
    assert world.held() == want(110)
    assert [one["id"] for one in world.audiences()] == [made["id"]]
    again = policy == "recreate"
    assert (result.status, result.exit_code) == (("success", 0) if again else ("partial", 1)), result
    assert len(platform(world).report()["targets"]) == (1 if again else 0)
    assert any("taken away" in note and "made again" in note for note in result.notes) == again, result.notes
    if again:
        assert (world.sync().requests, result.counts.added) == (0, 10)
        return
    assert f"VIP buyers ({made['id']})" in result.reason
    assert any("beside `to: pinterest` in the meta of vip" in note for note in result.notes), result.notes


def test_a_missing_audience_is_told_where_nothing_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it was asked for, in each result and in `status`."""
    have(world, 100)
    world.sync()
    platform(world).targets.clear()
    monkeypatch.setattr(sizes, "settles_after", lambda cls: timedelta(hours=-2))
    for _ in range(2):
        result = world.sync()
        assert (result.status, result.requests) == ("noop", 0), result
        assert any(note.startswith("warning: what ads target was taken away") for note in result.notes), result.notes
    (line,) = pipeline.status(world.request()).syncs
    assert any("taken away" in note for note in line.notes), line.notes


def test_a_missing_audience_needs_reading_whatever_waits_besides(world: World) -> None:
    """Pinterest has trouble, which may pass; that the audience is missing does not: the exit code is not 3."""
    have(world, 100)
    world.sync()
    platform(world).targets.clear()
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "status", "status": 503, "match": {"op": "add"}, "times": 20})
    have(world, 110)
    result = world.sync()
    assert (result.exit_code, result.status) == (1, "failed"), result
    assert "unattended: what ads target was taken away" in result.reason
    assert "503" in result.reason


def test_an_audience_that_cannot_be_made_again_yet_is_asked_for_until_it_can(world: World) -> None:
    """The list is being processed when it is found missing: a later run without changes makes it."""
    have(world, 100)
    world.sync()
    platform(world).targets.clear()
    platform(world).policy["processing_s"] = 86_400
    world.variables["gone"] = "recreate"
    have(world, 110)
    assert "is being processed" in waiting(world.sync())[0]
    platform(world).clock.advance(86_400)
    assert waiting(world.sync()) == []
    assert len(platform(world).report()["targets"]) == 1


def test_another_case_of_idfas_takes_out_what_was_sent_before(world: World) -> None:
    """Each id is in the list once, as the setting says now."""
    ids = [f"CDDA802E-FB9C-47AD-9866-{number:012}" for number in range(3)]
    world.identifiers = {"maid": {"column": "email", "os": "ios"}}
    world.customers(list(enumerate(ids)))
    world.segment(range(3))
    world.sync()
    assert world.held() == {("record", sha(one.lower())) for one in ids}
    world.connections["pinterest"]["idfa_case"] = "upper"
    result = world.sync()
    assert world.held() == {("record", sha(one)) for one in ids}, result
