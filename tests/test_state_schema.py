"""Versions of the state's tables: an older state is migrated, a newer one refused, a damaged one told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbt_segments.errors import StateError
from dbt_segments.state import schema
from tests.projects import Warehouse
from tests.world import World, email, make_world, sandbox

ADDED = ("segment_sizes", "membership_changes", "gc_runs", "audience_sizes", "match_rates")


def first_version(world: World) -> None:
    """Make of the state what version 1 left: its tables, its rows, and nothing of later versions."""
    place = f"{world.warehouse.schema}_dbt_segments"
    world.sql(f"drop view {place}.customer_segment_membership")
    for (detail,) in world.state("pointers", "detail", "kind = 'membership'"):
        world.sql(f"drop table {place}.{json.loads(detail)['tables']['membership']}")
    world.sql(f"delete from {place}.pointers where kind = 'membership'")
    for name in ADDED:
        world.sql(f"drop table {place}.{name}")
    world.sql(f"update {place}.state_info set version = 1")


def synced(path: Path, warehouse: Warehouse, serving: object) -> World:
    world = make_world(path / "shop", warehouse, serving)  # type: ignore[arg-type]
    world.customers([(1, "ada@example.com"), (2, "bob@example.com")])
    world.segment([1])
    assert world.sync().status == "success"
    return world


def test_a_state_of_version_1_is_migrated(tmp_path: Path, warehouse: Warehouse) -> None:
    """The next command brings it to this version, keeps its id and what was sent, and membership starts."""
    with sandbox() as serving:
        world = synced(tmp_path, warehouse, serving)
        first_version(world)
        (state_id,) = world.state("state_info", "state_id")[0]
        world.segment([1, 2])
        result = world.sync()
        assert (result.status, result.counts.added, result.counts.unchanged) == ("success", 1, 1)
        assert world.held() == {email("ada@example.com"), email("bob@example.com")}
        assert world.state("state_info", "state_id, version") == [(state_id, schema.VERSION)]
        assert sorted(world.state("customer_segment_membership", "key, segments")) == [("1", ["vip"]), ("2", ["vip"])]


def test_a_table_of_its_own_version_must_be_there(tmp_path: Path, warehouse: Warehouse) -> None:
    """A version 1 that lacks one of its tables is damaged, and so is a version 2 without a table of version 2."""
    with sandbox() as serving:
        world = synced(tmp_path, warehouse, serving)
        place = f"{warehouse.schema}_dbt_segments"
        world.sql(f"drop table {place}.membership_changes")
        with pytest.raises(StateError, match="tables missing: membership_changes"):
            world.run()
        world.sql(f"create table {place}.membership_changes as select 1 as x")
        first_version(world)
        world.sql(f"drop table {place}.rejects")
        with pytest.raises(StateError, match="tables missing: rejects"):
            world.run()
        assert world.state("state_info", "version") == [(1,)]


def test_a_newer_state_is_refused(tmp_path: Path, warehouse: Warehouse) -> None:
    """A state that a later program wrote is left alone, with the remedy."""
    with sandbox() as serving:
        world = synced(tmp_path, warehouse, serving)
        world.sql(f"update {warehouse.schema}_dbt_segments.state_info set version = {schema.VERSION + 1}")
        with pytest.raises(StateError, match="newer dbt-segments") as error:
            world.run()
        assert error.value.hint == "pip install --upgrade dbt-segments"
