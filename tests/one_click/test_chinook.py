"""Real input to every ad platform at once: 59 Chinook customers, whom each can use, and why not the rest."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbt_segments.sandbox.server import build, serve
from tests.e2e.test_chinook import DATA, phone_digits
from tests.one_click.case import Case, Person, cases
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the Chinook data set is not at {DATA}")

COLUMNS = ("customer_id", "email", "phone", "first_name", "last_name", "city", "state", "postal_code", "country")
IDENTIFIERS: dict[str, Any] = {
    "email": "email",
    "phone": {"column": "phone", "country": "country"},
    "first_name": "first_name",
    "last_name": "last_name",
    "city": "city",
    "region": {"column": "state", "country": "country"},
    "postal_code": {"column": "postal_code", "country": "country"},
    "country": "country",
}


def customers() -> list[dict[str, str]]:
    with (DATA / "customer.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def person(row: dict[str, str]) -> Person:
    digits = phone_digits(row["phone"], row["country"]) if row["phone"] else ""
    return Person(int(row["customer_id"]), row["email"], digits or None)


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> Iterator[World]:
    """Every customer in one segment that goes to every platform with nothing but its name."""
    platforms = [case.name for case in cases()]
    with serve(sandbox=build(platforms)) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.identifiers = IDENTIFIERS
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path) for case in cases()}
        world.segments = {"buyers": {"label": "Buyers", "destinations": platforms}}
        world._table(
            "customers",
            ", ".join(f"{name} {'integer' if name == 'customer_id' else 'varchar'}" for name in COLUMNS),
            [[row[name] or None for name in COLUMNS] for row in customers()],
        )
        world.segment([row["customer_id"] for row in customers()], "buyers", key="integer")
        yield world


def held(world: World, case: Case, name: str) -> set[tuple[str, str]]:
    assert world.serving is not None
    state = world.serving.state()
    assert state["violations"][case.name] == []
    found = [one for one in state["audiences"] if one["platform"] == case.name and case.label(one["name"]) == name]
    assert len(found) == 1, case.name
    return {(field, value) for field, value in found[0]["keys"]}


def test_everybody_reaches_every_platform(world: World) -> None:
    """All 59 by their e-mail, and by their phone where the platform takes it and the number can be dialled."""
    runs = [world.run() for _ in range(max(case.syncs for case in cases()))]
    assert {one.status for one in runs[-1].syncs} == {"noop"} or len(runs) == 1, runs[-1]
    people = [person(row) for row in customers()]
    for case in cases():
        want = set().union(*(case.keys(one) for one in people))
        found = held(world, case, "Buyers")
        assert {key for key in found if key[0] in {field for field, _ in want}} == want, case.name
    first = {one.destination: one.counts for one in runs[0].syncs}
    assert {counts.added + counts.pending for counts in first.values()} == {59}
    last = world.run()
    assert {(one.status, one.requests) for one in last.syncs} == {("noop", 0)}, last


def test_by_phone_alone(world: World) -> None:
    """Whoever has no phone, or one that cannot be dialled, is unusable with that reason, at every platform alike."""
    takes_phone = [case for case in cases() if case.keys(Person(0, None, "12015550101"))]
    world.segments = {
        "buyers": {
            "label": "Buyers",
            "destinations": [{"to": case.name, "identifiers": ["phone"]} for case in takes_phone],
        }
    }
    for _ in range(max(case.syncs for case in takes_phone)):
        last = world.run()
    people = [person(row) for row in customers()]
    for case in takes_phone:
        assert held(world, case, "Buyers") == set().union(*(case.keys(Person(0, None, one.digits)) for one in people))
    assert {one.counts.members for one in last.syncs} == {59}
    assert sum(1 for one in people if one.digits) == 56
    rejects = world.state("rejects", "distinct sync_id, key, reason")
    reasons = Counter((sync_id, reason) for sync_id, _, reason in rejects)
    for case in takes_phone:
        found = {reason: count for (sync_id, reason), count in reasons.items() if sync_id == f"shop.buyers.{case.name}"}
        assert found == {"no_identifier": 1, "phone_too_short": 1, "phone_too_long": 1}, case.name
