"""Sizes and match rates: asked for once a day, not before a platform has had its time, on no sync's account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from dbt_segments import pipeline, retry
from dbt_segments.record import StatusRow
from dbt_segments.values import SyncResult
from tests.projects import Warehouse
from tests.scripted.destination import Scripted, registered
from tests.scripted.server import serve_scripted
from tests.test_cadence_engine import MORNING, Clock
from tests.world import World, make_world


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    made = Clock(monkeypatch)
    made.set(MORNING)
    return made


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Three members at a platform that needs ten hours for a change and five people for an audience."""
    monkeypatch.setattr(Scripted, "settles_h", 10)
    monkeypatch.setattr(Scripted, "minimum", 5)
    with registered(), serve_scripted() as serving:
        made = make_world(tmp_path / "shop", warehouse, serving)
        made.connections = {"acme": {"type": "scripted", "base_url": serving.url}}
        made.segments = {"vip": {"destinations": ["acme"]}}
        made.customers([(number, f"p{number}@example.com") for number in range(1, 9)])
        made.segment([1, 2, 3])
        yield made


def sizes(world: World) -> list[tuple[object, ...]]:
    return world.state("audience_sizes", "members, size_lower, size_upper, settled", "1 = 1 order by recorded_at")


def status(world: World, *, refresh: bool = False) -> StatusRow:
    (line,) = pipeline.status(world.request(), refresh=refresh).syncs
    return line


def below(result: SyncResult) -> bool:
    return any("below_minimum" in note for note in result.notes)


def test_sizes_are_asked_for_once_a_day(world: World, clock: Clock) -> None:
    """Nothing while the platform still works on the first upload; then once a day; no sync's request count has it."""
    world.sync()
    assert world.sync().requests == 0
    clock.pass_(hours=9)
    assert world.sync().requests == 0
    assert sizes(world) == []
    assert world.calls("get") == []
    clock.pass_(hours=2)
    assert world.serving is not None
    world.serving.sandbox.platforms["scripted-platform"].policy["match_rate"] = 0.5
    assert world.sync().requests == 0
    assert world.sync().requests == 0
    assert sizes(world) == [(3, 3, 3, True)]
    assert len(world.calls("get")) == 1
    assert world.state("match_rates", "sync_id, account, members, match_rate, settled") == [
        ("shop.vip.acme", "acct-1", 3, 0.5, True)
    ]
    clock.set(datetime(2026, 3, 2, 0, 10, tzinfo=MORNING.tzinfo))
    world.sync()
    assert len(sizes(world)) == 2
    line = status(world)
    assert (line.size_lower, line.size_upper, line.match_rate) == (3, 3, 0.5)
    assert line.sized_at == "2026-03-02T00:10:00+00:00"


def test_a_figure_that_is_read_too_soon_is_not_settled(world: World, clock: Clock) -> None:
    """Members were sent an hour ago: the figures are kept with a mark, and warn of nothing."""
    world.sync()
    clock.pass_(days=1)
    world.segment([1, 2, 3, 4])
    world.sync()
    assert [row[3] for row in sizes(world)] == [False]
    line = status(world)
    assert line.notes == ("processing until about 2026-03-02 16:00 UTC",)
    clock.pass_(days=1)
    assert status(world).notes == ()
    line = status(world, refresh=True)
    assert [row[3] for row in sizes(world)] == [False, True]
    assert line.notes == ("warning: below_minimum: 4 people matched; scripted uses an audience from about 5 on",)
    status(world, refresh=True)
    assert len(sizes(world)) == 2


def test_a_small_audience_is_warned_of_before_it_is_made(world: World) -> None:
    """In the plan and in the sync that makes it; not where there is nothing to do, and not from the minimum on."""
    (planned,) = world.plan().run.syncs
    assert below(planned)
    assert below(world.sync())
    assert not below(world.sync())
    world.segment([1, 2, 3, 4, 5])
    assert not below(world.sync())


@pytest.mark.parametrize("where", ["project", "item"])
def test_sizes_can_be_left_alone(world: World, clock: Clock, where: str) -> None:
    """By a setting of the project or of one destination nothing is asked."""
    if where == "project":
        world.variables["import_sizes"] = False
    else:
        world.segments = {"vip": {"destinations": [{"to": "acme", "import_sizes": False}]}}
    world.sync()
    clock.pass_(days=2)
    world.sync()
    status(world, refresh=True)
    assert world.calls("get") == []


def test_a_size_that_cannot_be_read_fails_nothing(world: World, clock: Clock) -> None:
    """The sync stays what it was, and the next run asks again."""
    world.sync()
    clock.pass_(days=1)
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "status", "status": 503, "match": {"op": "get"}, "times": 2})
    told: list[str] = []
    run = pipeline.sync(world.request(), lambda sync_id, text: told.append(text))
    assert [one.status for one in run.syncs] == ["noop"]
    assert any("its size could not be read" in text for text in told)
    assert sizes(world) == []
    world.sync()
    assert len(sizes(world)) == 1


def test_a_size_of_an_audience_that_is_gone_is_told(world: World, clock: Clock) -> None:
    """A sync that has nothing to send does not ask for its audience, and is told of its end all the same."""
    world.sync()
    clock.pass_(days=1)
    assert world.serving is not None
    for audience in world.serving.sandbox.platforms["scripted-platform"].audiences.values():
        audience.deleted = True
    for _ in range(2):
        result = world.sync()
        assert result.status == "noop"
        said = [note for note in result.notes if note.startswith("warning: shop.vip.acme: audience ")]
        assert ["no longer exists" in note for note in said] == [True], result.notes
        assert any("gone: recreate" in note for note in result.notes), result.notes
    assert len(world.calls("get")) == 1, "asked for once a day"
    assert world.state("audience_sizes", "size_lower, status") == [(None, "gone")]
    assert any("no longer exists" in note for note in status(world).notes)
    written = json.loads((world.project.path / "target" / "dbt_segments_results.json").read_text())
    assert any("no longer exists" in note for note in written["syncs"][0]["notes"])
    for audience in world.serving.sandbox.platforms["scripted-platform"].audiences.values():
        audience.deleted = False
    clock.pass_(days=1)
    assert not any("no longer exists" in note for note in (*world.sync().notes, *status(world).notes))
