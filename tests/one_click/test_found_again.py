"""Lists that are found again, and lists that are somebody else's, where a run died or a platform refused."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbt_segments.destinations import registry
from dbt_segments.errors import RefusedError
from dbt_segments.sandbox.server import build, serve
from dbt_segments.send import Sender
from tests.one_click.case import Case, cases
from tests.projects import DuckDBWarehouse
from tests.world import World, email, make_world

# Two that have no place for a mark, and two that have.
_OF_INTEREST = ("meta", "reddit", "tiktok", "x")


class Killed(BaseException):
    """The process died here, as far as an exception can play that."""


@pytest.fixture(params=[case for case in cases() if case.name in _OF_INTEREST], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, case: Case) -> Iterator[World]:
    with serve(sandbox=build((case.name,))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.identifiers = case.identifiers
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": [case.name]}}
        world.customers([(1, "ada@example.com"), (2, "bob@example.com")])
        world.segment([1, 2])
        yield world


def _die_after_creation(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.get(case.name)
    create = cls.create

    def dying(self: Any, name: str, mark: str) -> Generator[Any, Any, Any]:
        yield from create(self, name, mark)
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(cls, "create", dying)
        world.sync()
    assert len(world.audiences()) == 1


def test_a_label_that_changes_after_a_death_makes_no_second_list(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made is known by its mark, or by the name that was intended."""
    _die_after_creation(world, case, monkeypatch)
    world.segments["vip"]["label"] = "Best buyers"
    assert world.sync().status == "success"
    assert len(world.audiences()) == 1


def test_a_rename_after_a_death_makes_no_second_list(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The intention was written down under the former id."""
    _die_after_creation(world, case, monkeypatch)
    world.segments = {"gold": {"label": "Gold", "renamed_from": ["vip"], "destinations": [case.name]}}
    world.segment([1, 2], "gold")
    assert world.sync().status == "success"
    assert len(world.audiences()) == 1


def test_what_was_refused_is_not_found_again(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform refused to make the list; one of that name that is there later is somebody else's."""
    cls = registry.get(case.name)

    def refused(self: Any, name: str, mark: str) -> Generator[Any, Any, Any]:
        raise RefusedError("the account is full", code="cap")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(cls, "create", refused)
        assert world.sync().status == "failed"
    destination = cls(world_settings(world, case))
    with Sender(destination) as sender:
        sender.play(destination.create("VIP buyers", ""))
    result = world.sync()
    assert (result.status, result.reason.split(":")[0]) == ("held", "name_taken"), result
    assert [one["people"] for one in world.audiences()] == [0]


def world_settings(world: World, case: Case) -> Any:
    """The settings of the only connection, as a run reads them."""
    from dbt_segments.connections import read_connections

    world.write()
    return read_connections(world.project.path / "destinations.yml", {}, world.project.path).ok[case.name].settings


@pytest.mark.parametrize(("one", "other"), [("vip", "vip:eu"), ("my sync", "my"), ("vip[1]", "vip")])
def test_ids_of_any_text_are_told_apart(
    tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, one: str, other: str
) -> None:
    """A sync's id may hold colons, spaces and brackets: each has its own audience, run after run."""
    with serve() as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.customers([(1, "ada@example.com"), (2, "bob@example.com"), (3, "cy@example.com")])
        world.segments = {
            "first": {"label": "First", "destinations": [{"to": "meta", "id": other}]},
            "second": {"label": "Second", "destinations": [{"to": "meta", "id": one}]},
        }
        world.segment([1], "first")
        world.segment([2], "second")
        assert {result.status for result in world.run().syncs} == {"success"}
        world.segment([2, 3], "second")
        assert {result.status for result in world.run().syncs} <= {"success", "noop"}
        assert world.held("First") == {email("ada@example.com")}
        assert world.held("Second") == {email("bob@example.com"), email("cy@example.com")}
