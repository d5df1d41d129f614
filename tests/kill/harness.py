"""Starting, killing and repeating `dbt-segments` processes on a `World`, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dbt_segments.sandbox.app import Sandbox
from tests.kill import child
from tests.kill.child import Orders
from tests.projects import DuckDBWarehouse, PostgresWarehouse
from tests.world import KEY, World, email, phone

KILLED = -signal.SIGKILL
_ENDS_IN_S = 120.0

# A process that has dbt and our code imported and forks: 0.1 s a run instead of 2 s, and every run is a process.
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(
    ["tests.kill.child", "dbt_segments.pipeline", "dbt_segments.report", "dbt.adapters.duckdb", "dbt.adapters.postgres"]
)


class Running:
    """A `dbt-segments` process."""

    def __init__(self, arguments: list[str], orders: Orders) -> None:
        self._orders = orders
        self._process = _fork.Process(target=child.run, args=(arguments, orders))
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def output(self) -> str:
        """What it printed so far, on both streams."""
        path = Path(self._orders.output)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def end(self) -> int:
        """Wait; the exit code, negative for a signal."""
        self._process.join(_ENDS_IN_S)
        if self._process.is_alive():
            self._process.kill()
            raise AssertionError(f"still running after {_ENDS_IN_S:.0f} s:\n{self.output}")
        code = self._process.exitcode
        assert code is not None
        return code


def start(world: World, *arguments: str, orders: Orders | None = None, **more: Any) -> Running:
    """Start `dbt-segments sync --now` on the world as it is; `more` changes the orders."""
    world.write()
    number = time.monotonic_ns()
    orders = replace(orders or Orders(""), output=str(world.project.path / f"run-{number}.txt"), **more)
    folder = str(world.project.path)
    words = ["sync", "--now", "--project-dir", folder, "--profiles-dir", folder]
    return Running([*words, "--lock-timeout", "20", *arguments], orders)


def sync(world: World, *arguments: str, code: int = 0, **orders: Any) -> str:
    """Run to the end; what was printed. The exit code must be `code`."""
    running = start(world, *arguments, **orders)
    found = running.end()
    assert found == code, f"exit code {found}, expected {code}:\n{running.output}"
    return running.output


def points(world: World, **orders: Any) -> list[str]:
    """The names of all points of a sync of the world as it is."""
    trace = world.project.path / "trace.txt"
    trace.unlink(missing_ok=True)
    sync(world, trace=str(trace), **orders)
    return trace.read_text(encoding="utf-8").splitlines()


def let_leases_end(world: World) -> None:
    """What a day does to the lease of a dead process; on DuckDB there is none."""
    schema = f"{world.warehouse.schema}_dbt_segments"
    if world.warehouse.type == "postgres" and world.sql(f"select to_regclass('{schema}.leases')") != [(None,)]:
        world.sql(f"update {schema}.leases set expires_at = expires_at - interval '1 day'")


# -- people ---------------------------------------------------------------------------------------------------


# E-mail; phone of the US, in digits after +1; consent.
Person = tuple[str | None, str | None, bool | None]


@dataclass
class Data:
    """Customers and who of them is in the segment, and from both what the audience must hold.

    customers  by their id; somebody's `false`, or an opt-out, takes the identifiers from everybody (invariant 13)
    members    ids in the segment
    """

    customers: dict[int, Person]
    members: set[int]
    opt_outs: set[int] = field(default_factory=set)

    def write(self, world: World) -> None:
        """Put the tables as they are now into the warehouse."""
        world.customers(
            [
                (key, mail, f"+1 {number}" if number else None, "US", consent)
                for key, (mail, number, consent) in self.customers.items()
            ]
        )
        world.segment(sorted(self.members))
        world.opt_outs(sorted(self.opt_outs))

    def expected(self) -> set[KEY]:
        """Every identifier of everybody who may be sent, less those of whoever refuses."""
        refused = {unit for key in self.refusing() & self.customers.keys() for unit in self._units(key)}
        wanted = {unit for key in self.members if self._may(key) for unit in self._units(key)}
        return wanted - refused

    def sent(self, key: int) -> set[KEY]:
        """What may have been sent for one customer."""
        return set(self._units(key)) if key in self.members and self._may(key) else set()

    def refusing(self) -> set[int]:
        """Who refuses: opted out, or said no."""
        return {key for key in {*self.customers, *self.opt_outs} if self._refuses(key)}

    def _refuses(self, key: int) -> bool:
        return key in self.opt_outs or self.customers[key][2] is False

    def _may(self, key: int) -> bool:
        return key in self.customers and key not in self.opt_outs and self.customers[key][2] is True

    def _units(self, key: int) -> list[KEY]:
        mail, number, _ = self.customers[key]
        return [*([email(mail)] if mail else []), *([phone("1" + number)] if number else [])]


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


def sandbox_of(world: World) -> Sandbox:
    """The world's sandbox; lock it to touch what it keeps."""
    assert world.serving is not None
    return world.serving.sandbox


def furnish(world: World) -> None:
    """Consent, a suppression model, and one request at a time, so that points keep their numbers."""
    world.consent = {"ads": "ads_consent"}
    world.suppress = ["opt_outs"]
    world.connections = {"meta": world.meta(max_concurrency=1)}


# -- going back -----------------------------------------------------------------------------------------------


class Checkpoint:
    """The world's warehouse and sandbox as they are now, to return to."""

    def __init__(self, world: World, server: Any = None) -> None:
        self._world = world
        self._server = server
        self._sandbox = {name: one.dump() for name, one in sandbox_of(world).platforms.items()}
        self._copy()

    def restore(self) -> None:
        """Make both what they were."""
        sandbox = sandbox_of(self._world)
        with sandbox.lock:
            sandbox.reset()
            for name, kept in self._sandbox.items():
                sandbox.platforms[name].restore(kept)
        warehouse = self._world.warehouse
        if isinstance(warehouse, DuckDBWarehouse):
            Path(f"{warehouse.path}.wal").unlink(missing_ok=True)
            shutil.copyfile(self._saved, warehouse.path)
        elif isinstance(warehouse, PostgresWarehouse):
            name = warehouse.database.dbname
            self._server._administer(f"drop database {name} with (force)")
            self._server._administer(f"create database {name} template {name}_saved")

    def close(self) -> None:
        """Drop the copy."""
        if isinstance(self._world.warehouse, PostgresWarehouse):
            self._server._administer(f"drop database {self._world.warehouse.database.dbname}_saved with (force)")

    def _copy(self) -> None:
        warehouse = self._world.warehouse
        if isinstance(warehouse, DuckDBWarehouse):
            self._saved = warehouse.path.with_suffix(".saved")
            shutil.copyfile(warehouse.path, self._saved)
        elif isinstance(warehouse, PostgresWarehouse):
            name = warehouse.database.dbname
            self._server._administer(f"create database {name}_saved template {name}")


@contextlib.contextmanager
def checkpoint(world: World, request: Any) -> Iterator[Checkpoint]:
    """A checkpoint, its copy gone at the end; `request` is pytest's."""
    server = request.getfixturevalue("postgres_server") if world.warehouse.type == "postgres" else None
    saved = Checkpoint(world, server)
    try:
        yield saved
    finally:
        saved.close()


# -- a slow destination ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def unanswered(world: World, op: str, seconds: float = 60.0) -> Iterator[Callable[[], None]]:
    """The next request of this kind is applied, and not answered for so long, or until what is yielded is called."""
    sandbox_of(world).faults.add({"kind": "slow", "seconds": seconds, "match": {"op": op}})

    def release() -> None:
        sandbox_of(world).closing = True  # ends every wait; the server itself goes on

    try:
        yield release
    finally:
        release()


def in_flight(world: World, op: str, running: Running) -> None:
    """Wait until the destination has been asked, and has not answered."""
    before = len(world.calls(op))

    def asked() -> bool:
        assert running.runs, running.output
        return len(world.calls(op)) > before

    until(asked, f"a request to {op}")


# -- what must be true ----------------------------------------------------------------------------------------


def check_mended(world: World, expected: set[KEY], *, perhaps: AbstractSet[KEY] = frozenset()) -> None:
    """The run after a dead one ends well and leaves exactly what is expected; the run after that has nothing to do.

    perhaps  what may have been sent for members who refuse now: it is refused then, whoever has it today
    """
    let_leases_end(world)
    before = len(world.calls())
    ended = sync(world)
    check_members(world, expected, perhaps)
    check_batches(world, world.calls()[before:])
    before = len(world.calls())
    again = sync(world)
    assert "up to date" in again, f"the run after the mending one found more to do:\n{again}\nafter:\n{ended}"
    assert len(world.calls()) == before, "the run after the mending one sent requests"
    check_members(world, expected, perhaps)


def check_members(world: World, expected: set[KEY], perhaps: AbstractSet[KEY] = frozenset()) -> None:
    """One audience exists, and identifier by identifier it holds what is expected."""
    held = world.held()
    missing, too_much = expected - perhaps - held, held - expected
    assert not missing and not too_much, f"missing {sorted(missing)}, too much {sorted(too_much)}"


_ENDS = ("accepted", "rejected", "unknown")


def check_batches(world: World, calls: list[dict[str, Any]]) -> None:
    """`sync_batches` tells of every batch at most one end, always after its beginning, and of the newest run as many
    rows as the destination took in it."""
    rows = world.state("sync_batches", "generation, batch, state, members, run_id", "batch is not null")
    begun = {(generation, batch) for generation, batch, state, *_ in rows if state == "sending"}
    ended = [(generation, batch) for generation, batch, state, *_ in rows if state in _ENDS]
    assert len(ended) == len(set(ended)), "a batch ended twice"
    assert set(ended) <= begun, "a batch ended that never began"
    run = max(row[0] for row in world.state("sync_runs", "run_id"))
    accepted = sum(members or 0 for _, _, state, members, run_id in rows if run_id == run and state == "accepted")
    taken = sum(call["rows"] for call in calls if call["op"] in ("add", "remove") and call["status"] == 200)
    assert accepted == taken, f"{accepted} rows are on record as accepted, the destination took {taken}"


def is_stopped(running: Running) -> bool:
    """Whether SIGSTOP has taken effect. A process that has ended will never stop."""
    assert running.runs, f"ended before it was stopped:\n{running.output}"
    stat = Path(f"/proc/{running.pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0] == "T"


def until(condition: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.02)
    return found
