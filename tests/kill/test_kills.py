"""A run is killed before or after each of its state writes and requests; the next run mends it.

What is compared is who is in the audience, identifier by identifier.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kill.harness import (
    KILLED,
    Checkpoint,
    Data,
    check_members,
    check_mended,
    checkpoint,
    furnish,
    let_leases_end,
    points,
    sandbox_of,
    start,
    sync,
)
from tests.projects import Warehouse
from tests.world import World, make_world, sandbox


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        made = make_world(tmp_path / "shop", warehouse, serving)
        furnish(made)
        yield made


@pytest.fixture
def on_duckdb(tmp_path: Path, duckdb_warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        made = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        furnish(made)
        yield made


def a_first_sync() -> Data:
    """Five who may be sent, in three requests; two share a phone, one refuses, of one consent is not known."""
    return Data(
        customers={
            1: ("a@example.com", "2015550101", True),
            2: ("b@example.com", "2015550102", True),
            3: ("c@example.com", "2015550102", True),
            4: ("d@example.com", None, True),
            5: (None, "2015550105", True),
            6: ("f@example.com", "2015550106", False),
            7: ("g@example.com", None, None),
        },
        members={1, 2, 3, 4, 5, 6, 7},
    )


def before_the_change() -> Data:
    """Those who were synced before `a_change`."""
    return Data(
        customers={
            1: ("a@example.com", "2015550101", True),
            2: ("b@example.com", "2015550102", True),
            3: ("c@example.com", "2015550102", True),
            4: ("shared@example.com", "2015550104", True),
            5: ("shared@example.com", None, True),
            6: ("f@example.com", "2015550106", True),
            7: ("g@example.com", "2015550101", True),
            8: ("h@example.com", None, True),
            9: ("i@example.com", "2015550109", True),
        },
        members={1, 2, 3, 4, 5, 6, 7, 8},
    )


def a_change() -> Data:
    """2 leaves and 3 keeps the phone they share; 4 leaves, 5 has the same e-mail; 6 has a new e-mail; 7 refuses and
    shares a phone with 1, who stays; 8 was deleted; 9, 10 and 11 come, 10 with the e-mail that 8 had."""
    found = before_the_change()
    found.customers[6] = ("f-new@example.com", "2015550106", True)
    found.customers[7] = ("g@example.com", "2015550101", False)
    del found.customers[8]
    found.customers[10] = ("h@example.com", "2015550110", True)
    found.customers[11] = ("k@example.com", None, True)
    found.members = {1, 3, 5, 6, 7, 8, 9, 10, 11}
    return found


SCENARIOS = {"first": (None, a_first_sync()), "change": (before_the_change(), a_change())}


def prepare(world: World, scenario: str) -> Data:
    """The world right before the sync that is to be killed; returns what that sync must bring about."""
    before, after = SCENARIOS[scenario]
    if before is not None:
        before.write(world)
        sync(world)
        check_members(world, before.expected())
    after.write(world)
    return after


def kill(world: World, after: Data, saved: Checkpoint, moment: str, number: int, name: str) -> None:
    """Kill at one point and mend."""
    saved.restore()
    killed = start(world, kill=(moment, number))
    code = killed.end()
    assert code == KILLED, f"{moment} {name}: exit code {code}\n{killed.output}"
    try:
        check_mended(world, after.expected())
    except AssertionError as error:
        raise AssertionError(f"killed {moment} point {number}, {name}: {error}") from None


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_point(world: World, scenario: str, request: pytest.FixtureRequest) -> None:
    """Wherever a run dies, the next one ends well, and the audience is the one that was wanted."""
    after = prepare(world, scenario)
    wrong = []
    with checkpoint(world, request) as saved:
        names = points(world)
        assert len(names) > 20, names
        for number, name in enumerate(names, start=1):
            for moment in ("before", "after"):
                try:
                    kill(world, after, saved, moment, number, name)
                except AssertionError as error:
                    wrong.append(str(error))
    assert not wrong, f"{len(wrong)} of {2 * len(names)} points:\n\n" + "\n\n".join(wrong)


@pytest.mark.parametrize(
    ("scenario", "moment", "point"),
    [
        ("first", "after", "commit audiences intended"),
        ("first", "after", "request POST customaudiences"),
        ("change", "after", "commit pointers refused pointers generation"),
        ("change", "after", "request POST users remove"),
        ("change", "after", "commit sync_batches accepted+sending"),
        ("change", "after", "request POST users"),
        ("change", "before", "commit pointers ledger"),
    ],
)
def test_killed(on_duckdb: World, scenario: str, moment: str, point: str) -> None:
    """The points that matter most: an audience or a batch whose fate only the destination knows, and the commits."""
    after = prepare(on_duckdb, scenario)
    assert start(on_duckdb, kill=(moment, point)).end() == KILLED
    check_mended(on_duckdb, after.expected())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [random.SystemRandom().randrange(10**6) for _ in range(2)], ids=lambda seed: "seed")
def test_killed_at_random(world: World, seed: int) -> None:
    """Killed from outside at any time, once or several times while the data change, several requests in flight."""
    print(f"seed {seed}")
    world.connections = {"meta": world.meta()}
    sandbox_of(world).platforms["meta"].policy["latency_s"] = 0.01
    luck = random.Random(seed)
    data = some_people(luck)
    data.write(world)
    ever = {key: data.sent(key) for key in range(1, 21)}
    began = time.monotonic()
    sync(world)
    lasts_s = time.monotonic() - began
    for _ in range(12):
        for _ in range(luck.randint(1, 3)):
            data = some_people(luck)
            data.write(world)
            ever = {key: units | data.sent(key) for key, units in ever.items()}
            running = start(world)
            time.sleep(luck.uniform(0, lasts_s))
            if running.runs:
                running.send(signal.SIGKILL)
            assert running.end() in (0, KILLED), running.output
            let_leases_end(world)
        check_mended(world, data.expected(), perhaps={unit for key in data.refusing() for unit in ever[key]})


def some_people(luck: random.Random) -> Data:
    """Up to twenty customers who share e-mails and phones, change them, refuse, leave and come back."""
    mails = [f"{letter}@example.com" for letter in "abcdefghijkl"] + [None]
    phones = [f"20155501{number:02}" for number in range(12)] + [None, None]
    customers = {
        key: (luck.choice(mails), luck.choice(phones), luck.choices([True, False, None], [8, 1, 1])[0])
        for key in range(1, 21)
        if luck.random() < 0.9
    }
    members = {key for key in range(1, 21) if luck.random() < 0.7} | {1}
    return Data(customers, members, set(luck.sample(sorted(customers), luck.randint(0, 1))))
