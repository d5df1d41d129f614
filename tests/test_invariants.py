"""One test per invariant of docs/architecture.md, on both warehouses, against the sandbox that models people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import Warehouse
from tests.world import World, email, make_world, phone, sandbox


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        yield make_world(tmp_path / "shop", warehouse, serving)


def test_converges(world: World) -> None:
    """First sync, no-op, change: the destination holds exactly what the segment wants, and a no-op sends nothing."""
    world.customers([(1, "a@example.com", "+1 201 555 0101"), (2, "b@example.com"), (3, "c@example.com")])
    world.segment([1, 2])
    first = world.sync()
    assert (first.status, first.counts.added) == ("success", 2)
    assert world.held() == {email("a@example.com"), phone("12015550101"), email("b@example.com")}
    again = world.sync()
    assert (again.status, again.requests, again.counts.unchanged) == ("noop", 0, 2)
    world.customers([(1, "A2@example.com", "+1 201 555 0101"), (2, "b@example.com"), (3, "c@example.com")])
    world.segment([1, 3])
    changed = world.sync()
    assert (changed.counts.added, changed.counts.changed, changed.counts.removed) == (1, 1, 1), changed
    assert world.held() == {email("a2@example.com"), phone("12015550101"), email("c@example.com")}
    assert world.sync().status == "noop"
