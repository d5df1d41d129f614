"""Plays one random history against the engine and compares, after every step and at the end, with the reference.

    python -m tests.properties.history meta 0 100        # seeds 0..99 on DuckDB; prints each seed that fails
    python -m tests.properties.history meta 17 -v        # one seed, step by step

Everything random comes from the seed: one writer, one request at a time, no waiting between tries.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import ssl
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb

from dbt_segments import deliver, pipeline
from dbt_segments.destinations.base import Limits
from dbt_segments.destinations.meta import Meta
from dbt_segments.errors import SegmentsError
from dbt_segments.retry import Budget
from dbt_segments.send import Sender
from dbt_segments.values import SyncResult
from tests.projects import DuckDBWarehouse, PostgresWarehouse, Warehouse
from tests.properties.accidents import Killed
from tests.properties.faults import Faults
from tests.properties.model import raw, sent
from tests.properties.outcome import Mismatch, Played
from tests.properties.records import RECORD_SHAPES, RecordHistory
from tests.properties.shop import STAGE, Shop, Size, forgets, is_asynchronous, sweeps
from tests.scripted import destination as scripted
from tests.scripted.records import Records, serve_records
from tests.scripted.server import serve_scripted
from tests.world import World, make_world, sandbox

SHAPES = (
    "meta",
    "scripted",
    "scripted_async",
    "scripted_single",
    "scripted_positional",
    "scripted_replace",
    "scripted_dedup",
    "scripted_blind",
    "scripted_oauth",
    "scripted_born",
    "scripted_sweep",
    "scripted_retention",
    "scripted_piecewise",
    "scripted_composite",
)
EVERY_SHAPE = (*SHAPES, *RECORD_SHAPES)
_META_FIELDS = {"email": "EMAIL", "phone": "PHONE", "external_id": "EXTERN_ID"}
_SAME_FIELDS = {kind: kind for kind in ("email", "phone", "external_id", "pair")}
# Syncs without faults until everything must be right: one; where batches become jobs, as many as these may need.
_MENDS = 1
_MENDS_WITH_JOBS = 12

SMALL = Size()
LONG = Size(steps=12)
LARGE = Size(keys=120, pool=160, batch=25, steps=4)


class History:
    """One world and its reference; `play` raises Mismatch."""

    def __init__(self, world: World, shape: str, rng: random.Random, size: Size, say: Callable[[str], None]) -> None:
        self.world = world
        self.rng = rng
        self.size = size
        self.say = say
        self.fields = _META_FIELDS if shape == "meta" else _SAME_FIELDS
        self.shop = Shop(world, shape, rng, size, say)
        self.truth = self.shop.truth
        self.faults = Faults(self.shop, rng, self.fields, say)
        self.played = Played(met=self.faults.met, changed=self.shop.changed)
        self.clean = False

    # -- syncs --------------------------------------------------------------------------------------------

    def sync(self, **options: Any) -> list[SyncResult] | None:
        """One sync to each destination; None where it was killed, or failed as a whole."""
        self.shop.write()
        if self.shop.active:
            self.truth.note()
        self.faults.calls()
        lists = self._lists()
        met = self.faults.met.total()
        self.played.syncs += 1
        try:
            with self.faults.during():
                results = list(self.world.run(**options).syncs)
        except Killed:
            self.say("  was killed")
            results = None
        except SegmentsError as error:
            if self.faults.met.total() == met:
                raise Mismatch(f"it ended without a fault: {error.message}") from None
            self.say(f"  ended: {error.message}")
            results = None
        except AssertionError:
            raise
        except Exception as error:
            where = "".join(traceback.format_exception(error, limit=-4))
            raise Mismatch(f"a bug: {type(error).__name__}: {error}\n{where}") from None
        calls = self.faults.calls()
        self.clean = self.faults.met.total() == met
        if not self.clean:
            self._let_leases_end()
        for one in results or ():
            self.say(f"  {options or ''} {one.sync_id} -> {one.status} {one.reason} {one.counts} {one.requests}")
        self._check(results, calls, lists, options)
        self._count(results or [], options)
        return results

    def _count(self, results: list[SyncResult], options: dict[str, Any]) -> None:
        """Holds by a threshold, what may release them, and full resyncs, after which no row is missing any more."""
        self.shop.changed["hold by a threshold"] += any(one.reason.startswith("too_many_") for one in results)
        self.shop.changed["release"] += "allow_removals" in options
        if not options.get("full") or not self.clean or len(results) < len(self.shop.shapes):
            return
        done = [one for one in results if one.status in ("success", "noop")]
        self.shop.changed["full resync"] += bool(done)
        if len(done) == len(results) and not any(
            one.counts.pending + one.unconfirmed + one.counts.rejected for one in done
        ):
            self.faults.needs_full = False

    def _check(
        self,
        results: list[SyncResult] | None,
        calls: list[dict[str, Any]],
        lists: Counter[str],
        options: dict[str, Any],
    ) -> None:
        """What holds after every sync, whatever it met."""
        if not self.shop.active and (results or calls):
            raise Mismatch(f"the sync is switched off, and yet: {results} {calls}")
        if options.get("target") == STAGE:
            if calls or any(one.reason != "target_not_allowed" for one in results or () if one.status != "failed"):
                raise Mismatch(f"target {STAGE} may not send, and yet: {results} {calls}")
            self.faults.met["not_allowed"] += 1
        if self.faults.gone is not None and results is not None:
            self._check_gone(results, lists)
        for one in results or ():
            self.faults.met["not_due"] += one.reason == "not_due"
            if self.shop.held and self.shop.active and "target" not in options:
                self.faults.met["held"] += one.status == "held"
                if one.status in ("success", "noop", "partial"):
                    raise Mismatch(f"{one.sync_id} is {one.status} although the segment is broken or empty")

    def _check_gone(self, results: list[SyncResult], lists: Counter[str]) -> None:
        """A deleted audience is told, and nobody makes another one. The other destination may make its first."""
        account = self.faults.account(str(self.faults.gone))
        if self._lists()[account] > lists[account]:
            raise Mismatch("an audience that was deleted was made again")
        for one in results:
            if one.destination == self.faults.gone and "no longer exists" in one.reason:
                self.faults.met["deleted"] += 1
            elif self.clean and self._was_asked(one) and one.status in ("success", "partial"):
                raise Mismatch(f"the audience is deleted, and yet: {one.status} {one.reason}")

    def _was_asked(self, one: SyncResult) -> bool:
        """Whether this sync needed the deleted audience; asking for old jobs does not."""
        mine = one.destination == self.faults.gone
        return mine and bool(one.requests) and not is_asynchronous(self.shop.shapes[one.destination])

    def _lists(self) -> Counter[str]:
        """How many audiences were ever made in each account."""
        with self.faults.sandbox.lock:
            return Counter(audience.account for audience in self.faults.platform.audiences.values())

    def _let_leases_end(self) -> None:
        """What time does to the lease of a dead run; on DuckDB there is none."""
        schema = f"{self.world.warehouse.schema}_dbt_segments"
        if self.world.warehouse.type == "postgres" and self.world.sql(f"select to_regclass('{schema}.leases')") != [
            (None,)
        ]:
            self.world.sql(f"update {schema}.leases set expires_at = expires_at - interval '400 days'")

    # -- what is held -------------------------------------------------------------------------------------

    def held(self, connection: str) -> set[tuple[str, str]]:
        """Every identifier whose person is in a destination's audience now."""
        account = self.faults.account(connection)
        found = [audience for audience in self.world.audiences() if audience["account"] == account]
        if len(found) > 1:
            raise Mismatch(f"{len(found)} audiences instead of one")
        return {(name, value) for name, value in found[0]["keys"]} if found else set()

    def compare(self, connection: str, when: str) -> None:
        """Identifier by identifier."""
        held = self.held(connection)
        fleeting = forgets(self.shop.shapes[connection])
        missing = sent(self.truth.required(fleeting), self.fields) - held
        others = self.faults.others if sweeps(self.shop.shapes[connection]) else set()
        extra = held - sent(self.truth.allowed(fleeting) | others, self.fields)
        # Whose last id the platform has forgotten can be taken out by nobody; they go when it forgets them wholly.
        extra = {key for key in extra if key[0] not in fleeting}
        if missing or extra:
            raise Mismatch(f"{when}: {connection}: missing {self._names(missing)}, too many {self._names(extra)}")

    def _names(self, keys: set[tuple[str, str]]) -> list[str]:
        known: dict[tuple[str, str], str] = {}
        for number in range(-2, self.size.pool + 1):
            for kind in self.shop.kinds:
                unit = raw(kind, number).unit
                assert unit is not None
                known |= dict.fromkeys(sent({unit}, self.fields), f"{kind} {unit[1]}")
        return sorted(known.get(key, str(key)) for key in keys)

    def judge(self, result: SyncResult, when: str) -> None:
        """What a single result claims must be so already."""
        open_ = result.counts.pending + result.unconfirmed
        settled = result.exit_code == 0 and open_ == 0 and result.counts.rejected == 0
        if result.destination == self.faults.gone and not self._was_asked(result):
            return  # nothing had to be sent, so nobody knows yet
        if result.status in ("success", "noop") and settled and not self.faults.needs_full:
            self.compare(result.destination, f"{when}, which said {result.status}")

    def refusals_are_out(self, when: str) -> None:
        """Invariant 13, for a sync without faults that was held or not."""
        for connection, shape in self.shop.shapes.items():
            if is_asynchronous(shape) or shape == "scripted_replace" or connection == self.faults.gone:
                continue
            present = self.held(connection) & sent(self.truth.refused(), self.fields)
            if present:
                raise Mismatch(f"{when}: {connection}: refused but in: {self._names(present)}")

    # -- steps --------------------------------------------------------------------------------------------

    def play(self) -> Played:
        """Every step, then no more faults."""
        for step in range(self.size.steps):
            self.say(f"step {step}")
            self.step(step)
        self.say("mend")
        self.finish()
        return self.played

    def step(self, number: int) -> None:
        """Something changes, something breaks, a sync runs, and perhaps somebody mends what broke."""
        rng = self.rng
        self.played.steps += 1
        if number:
            self.shop.change()
        quiet = rng.random() < 0.35
        if not quiet:
            self.faults.arm()
        self.sync_and_judge(f"step {number}")
        if rng.random() < 0.4:
            self.faults.recover_gone()
        if quiet or rng.random() < 0.5:
            self.faults.mend()
        if rng.random() < 0.4:
            self.shop.mend()

    def sync_and_judge(self, when: str) -> None:
        """A sync with any options, and what its results claim."""
        results = self.sync(**self._options())
        for one in results or ():
            self.judge(one, when)
        if results and self.clean and all(one.status == "held" for one in results) and not self.faults.needs_full:
            self.refusals_are_out(f"{when}, held")

    def use(self, luck: random.Random) -> None:
        """From now on everything random comes from here."""
        self.rng = self.shop.rng = self.faults.rng = luck

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.rng.random() < 0.1:
            options["full"] = True
        if self.shop.strict and self.shop.active and self.rng.random() < 0.5:
            options["allow_removals"] = (self.shop.name,)
        chance = self.rng.random()
        if chance < 0.08:
            options["target"] = STAGE
        elif chance < 0.16:
            options["now"] = False
        return options

    def finish(self) -> None:
        """Without faults the engine must get there, and then be still."""
        self.faults.mend()
        self.faults.recover_gone()
        self.shop.mend()
        truth = self.truth
        if not truth.segment & truth.people.keys():
            truth.segment.add(self.rng.choice(sorted(truth.people)))
        release: dict[str, Any] = {}
        if self.shop.strict:
            release = {"allow_removals": (self.shop.name,)}
            if self.rng.random() < 0.5:
                self.sync()
                if not self.faults.needs_full:
                    self.refusals_are_out("after a sync without faults, held or not")
        jobs = any(is_asynchronous(shape) for shape in self.shop.shapes.values())
        mends = _MENDS_WITH_JOBS if jobs else _MENDS
        if self.faults.needs_full:
            # A job may still run that the full resync would have to wait for.
            for _ in range(mends if jobs else 0):
                self.sync(**release)
            release["full"] = True
            self.faults.needs_full = False
        for number in range(1, mends + 1):
            results = self.sync(**release)
            release.pop("full", None)
            self.played.mends = number
            quiet = not any(map(sweeps, self.shop.shapes.values())) or not any(one.requests for one in results or ())
            if quiet and self._is_right() and all(one.counts.pending == 0 for one in results or ()):
                break
        for connection in self.shop.shapes:
            self.compare(connection, f"after {self.played.mends} syncs without faults")
        self._be_still()
        if self.faults.others:
            self._sweep_out(mends)

    def _sweep_out(self, most: int) -> None:
        """With the next change whoever was put in by others goes, in as many syncs as the jobs need."""
        self.faults.pass_time(30 * 86_400)  # a sweep that was never answered has ended
        self.shop.add_somebody()
        release = {"allow_removals": (self.shop.name,)} if self.shop.strict else {}
        for _ in range(most):
            results = self.sync(**release)
            if not any(one.requests for one in results or ()):
                break
        self.faults.others = set()
        for connection in self.shop.shapes:
            self.compare(connection, "after a change and a sweep")
        self._be_still()

    def _be_still(self) -> None:
        results = self.sync()
        if results is None or any((one.status, one.requests) != ("noop", 0) for one in results):
            raise Mismatch(f"one more sync was no noop: {results}")
        for connection in self.shop.shapes:
            self.compare(connection, "after the noop")
        violations = [text for platform in self.faults.sandbox.platforms.values() for text in platform.violations]
        if violations:
            raise Mismatch(f"violations: {violations}")

    def _is_right(self) -> bool:
        try:
            for connection in self.shop.shapes:
                self.compare(connection, "")
        except Mismatch:
            return False
        return True


@contextlib.contextmanager
def surroundings(shape: str, size: Size) -> Iterator[Any]:
    """A server for a shape; batches are small, tries few, and nobody waits."""
    with contextlib.ExitStack() as stack:
        limits = Limits(members=size.batch, concurrency=1)
        stack.enter_context(mock.patch.object(Meta, "limits", limits))
        for kind in (*scripted.ALL, Records):
            stack.enter_context(mock.patch.object(kind, "limits", limits))
        stack.enter_context(mock.patch.object(deliver, "WAVE", 2))

        def sender(*args: Any, **kwargs: Any) -> Sender:
            return Sender(*args, **kwargs, sleep=lambda seconds: None, jitter=lambda: 0.0, budget=Budget(tries=2))

        stack.enter_context(mock.patch.object(pipeline, "Sender", sender))
        stack.enter_context(scripted.registered())
        if shape in RECORD_SHAPES:
            yield stack.enter_context(serve_records())[0]
            return
        yield stack.enter_context(sandbox() if shape == "meta" else serve_scripted())


@contextlib.contextmanager
def quickly(warehouse: Warehouse) -> Iterator[None]:
    """Spare a history what costs seconds and proves nothing in it: certificates for plain HTTP are read once, and
    the DuckDB file stays open in this process, so that each of the hundreds of connections finds it open."""
    with contextlib.ExitStack() as stack:
        context = ssl.create_default_context()
        stack.enter_context(mock.patch.object(ssl, "create_default_context", lambda *args, **kwargs: context))
        if isinstance(warehouse, DuckDBWarehouse):
            stack.enter_context(contextlib.closing(duckdb.connect(str(warehouse.path))))
        yield


def run(path: Path, warehouse: Warehouse, shape: str, seed: int, size: Size = SMALL, verbose: bool = False) -> Played:
    """Play one history; raises Mismatch with the seed in its message, and the command that plays it again."""
    said: list[str] = []
    say = print if verbose else said.append
    with surroundings(shape, size) as serving:
        kind = RecordHistory if shape in RECORD_SHAPES else History
        history = kind(make_world(path, warehouse, serving), shape, random.Random(f"{shape} {seed}"), size, say)
        try:
            return history.play()
        except Mismatch as error:
            text = "" if verbose else "\n".join(said) + "\n"
            raise Mismatch(f"{text}{shape}, seed {seed}: {error}\n{replay(warehouse, shape, seed, size)}") from None


def replay(warehouse: Warehouse, shape: str, seed: int, size: Size) -> str:
    """The command that plays a history again."""
    where = " --postgres" if isinstance(warehouse, PostgresWarehouse) else ""
    how = " --large" if size.keys == LARGE.keys else f" --steps {size.steps}"
    return f"replay: python -m tests.properties.history {shape} {seed}{where}{how} -v"


def main() -> int:
    """Play some seeds, one after the other."""
    from tests.postgres import running_server

    parser = argparse.ArgumentParser(prog="python -m tests.properties.history", description=main.__doc__)
    parser.add_argument("shape", choices=EVERY_SHAPE)
    parser.add_argument("first", type=int, metavar="SEED")
    parser.add_argument("end", type=int, nargs="?", help="play SEED up to, not including, this one")
    parser.add_argument("--steps", type=int, default=SMALL.steps)
    parser.add_argument("--large", action="store_true", help="many customers, and thresholds that hold")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server made for this")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what happens, step by step")
    options = parser.parse_args()
    size = LARGE if options.large else Size(steps=options.steps)
    bad = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server()) if options.postgres else None
        for seed in range(options.first, options.end or options.first + 1):
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as one:
                path = Path(folder)
                warehouse: Warehouse = (
                    PostgresWarehouse(one.enter_context(server.fresh_database()))
                    if server
                    else DuckDBWarehouse(path / "w.duckdb")
                )
                one.enter_context(quickly(warehouse))
                try:
                    run(path / "shop", warehouse, options.shape, seed, size, options.verbose)
                    word = "ok"
                except Mismatch as error:
                    word = f"FAILED {error}"
                    bad.append(seed)
            print(f"{options.shape} {seed} {time.monotonic() - started:.1f}s {word}", flush=True)
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())
