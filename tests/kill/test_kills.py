"""A run is killed before or after each of its state writes and requests; the next run mends it.

What is compared is who is in the audience, identifier by identifier.
"""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.kill.harness import (
    KILLED,
    Checkpoint,
    Data,
    check_mended,
    checkpoint,
    let_leases_end,
    points,
    sandbox_of,
    some_people,
    start,
    sync,
)
from tests.kill.scenarios import SCENARIOS, prepare
from tests.world import World


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
