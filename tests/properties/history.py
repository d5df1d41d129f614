"""Plays one random history against the engine and compares, after every step and at the end, with the reference.

    python -m tests.properties.history meta 0 100        # seeds 0..99 on DuckDB; prints each seed that fails
    python -m tests.properties.history meta 17 -v        # one seed, step by step

Everything random comes from the seed: one writer, one request at a time, no waiting between tries.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from dbt_segments import deliver, pipeline
from dbt_segments.destinations.base import Limits
from dbt_segments.destinations.meta import Meta
from dbt_segments.retry import Budget
from dbt_segments.send import Sender
from dbt_segments.state.store import Store
from dbt_segments.values import SyncResult
from tests.projects import DuckDBWarehouse, Warehouse
from tests.properties.model import KINDS, Person, Truth, Unit, raw, sent, some
from tests.scripted import destination as scripted
from tests.scripted.server import ScriptedPlatform, serve_scripted
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
)
_META_FIELDS = {"email": "EMAIL", "phone": "PHONE", "external_id": "EXTERN_ID"}
_SAME_FIELDS = {kind: kind for kind in KINDS}
# Syncs without faults until everything must be right; every job takes one more.
_MENDS = 3
_COLUMNS = {"email": "email", "phone": "phone", "external_id": "country"}


class Mismatch(AssertionError):
    """The engine and the reference differ; the message says what and when."""


class Killed(BaseException):
    """The process died here, as far as an exception can play that."""


@dataclass(frozen=True)
class Size:
    """How large a history is: `keys` of customers, values drawn from a `pool`, members per batch, steps."""

    keys: int = 14
    pool: int = 12
    batch: int = 3
    steps: int = 6


SMALL = Size()
LARGE = Size(keys=120, pool=160, batch=25, steps=4)


class History:
    """One world and its reference; `play` raises Mismatch."""

    def __init__(self, world: World, shape: str, seed: int, size: Size, say: Callable[[str], None]) -> None:
        self.world = world
        self.shape = shape
        self.rng = random.Random(f"{shape} {seed}")
        self.size = size
        self.say = say
        self.fields = _META_FIELDS if shape == "meta" else _SAME_FIELDS
        self.kinds = ("email", "phone") if shape == "meta" else KINDS
        self.truth = Truth(kinds=self.kinds[: 1 + self.rng.randrange(len(self.kinds))])
        self.truth.consents = self.rng.random() < 0.7
        self.needs_full = False
        self.poison: set[Unit] = set()
        self.killed_at: tuple[str, int] | None = None

    # -- the world ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        rng, size, truth = self.rng, self.size, self.truth
        for key in range(1, size.keys + 1):
            truth.people[key] = self._person()
        truth.segment = {key for key in truth.people if rng.random() < 0.7}
        truth.suppressed = {key for key in truth.people if rng.random() < 0.05}
        if truth.consents:
            self.world.consent = {"ads": "ads_consent"}
        self.world.suppress = ["opt_outs"]
        if self.shape != "meta":
            self.world.connections = {"meta": {"type": self.shape, "base_url": self.world.url}}

    def _person(self) -> Person:
        rng = self.rng
        cells = {kind: some(rng, kind, self.size.pool) for kind in self.kinds}
        return Person(**cells, consent=rng.choice((True,) * 8 + (False, None)))

    def write(self) -> None:
        truth = self.truth
        self.world.identifiers = {kind: _COLUMNS[kind] for kind in truth.kinds}
        self.world.customers(
            [(k, p.email.text, p.phone.text, p.external_id.text, p.consent) for k, p in sorted(truth.people.items())]
        )
        self.world.segment(sorted(truth.segment))
        self.world.opt_outs(sorted(truth.suppressed))

    # -- changes ------------------------------------------------------------------------------------------

    def change(self) -> None:
        kinds_of_change = (
            self._enter,
            self._leave,
            self._new_value,
            self._new_value,
            self._swap,
            self._respell,
            self._share,
            self._suppress,
            self._restore,
            self._consent,
            self._forget,
            self._identifiers,
        )
        count = self.rng.choice((0, 1, 1, 2, 3, 5)) * (1 if self.size.keys < 50 else 6)
        for _ in range(count):
            self.rng.choice(kinds_of_change)()

    def _key(self) -> int:
        return self.rng.choice(sorted(self.truth.people))

    def _enter(self) -> None:
        key = self._key() if self.rng.random() < 0.8 else max(self.truth.people) + 1
        self.truth.people.setdefault(key, self._person())
        self.truth.segment.add(key)
        self.say(f"  enter {key}")

    def _leave(self) -> None:
        if len(self.truth.segment) > 1:
            key = self.rng.choice(sorted(self.truth.segment))
            self.truth.segment.discard(key)
            self.say(f"  leave {key}")

    def _set(self, key: int, person: Person, word: str) -> None:
        self.truth.people[key] = person
        self.say(f"  {word} {key}: {person.email.text!r} {person.phone.text!r} {person.external_id.text!r}")

    def _new_value(self) -> None:
        key, kind = self._key(), self.rng.choice(self.kinds)
        person = self.truth.people[key].with_cell(kind, some(self.rng, kind, self.size.pool))
        self._set(key, person, "value")

    def _swap(self) -> None:
        one, other, kind = self._key(), self._key(), self.rng.choice(self.kinds)
        a, b = getattr(self.truth.people[one], kind), getattr(self.truth.people[other], kind)
        self._set(one, self.truth.people[one].with_cell(kind, b), "swap")
        self._set(other, self.truth.people[other].with_cell(kind, a), "swap")

    def _respell(self) -> None:
        key, kind = self._key(), self.rng.choice(("email", "phone"))
        cell = getattr(self.truth.people[key], kind)
        if cell.unit is not None:
            digits = "".join(filter(str.isdigit, cell.unit[1]))
            number = int(digits) if kind == "email" else int(digits[-4:]) - 100
            again = raw(kind, number, self.rng.randrange(4))
            assert again.unit == cell.unit
            self._set(key, self.truth.people[key].with_cell(kind, again), "respell")

    def _share(self) -> None:
        one, other, kind = self._key(), self._key(), self.rng.choice(self.kinds)
        cell = getattr(self.truth.people[other], kind)
        self._set(one, self.truth.people[one].with_cell(kind, cell), f"share {other}'s {kind} with")

    def _suppress(self) -> None:
        key = self._key()
        self.truth.suppressed.add(key)
        self.say(f"  suppress {key}")

    def _restore(self) -> None:
        if self.truth.suppressed:
            key = self.rng.choice(sorted(self.truth.suppressed))
            self.truth.suppressed.discard(key)
            self.say(f"  restore {key}")

    def _consent(self) -> None:
        key, consent = self._key(), self.rng.choice((True, True, False, None))
        self.truth.people[key] = replace(self.truth.people[key], consent=consent)
        self.say(f"  consent {key}: {consent}")

    def _forget(self) -> None:
        """Delete a row of the entity; the segment, and the suppression list, may still name it."""
        if len(self.truth.people) > 4 and self.rng.random() < 0.5:
            key = self._key()
            del self.truth.people[key]
            self.say(f"  delete {key}")

    def _identifiers(self) -> None:
        if self.rng.random() < 0.3:
            count = 1 + self.rng.randrange(len(self.kinds))
            chosen = set(self.rng.sample(self.kinds, count))
            self.truth.kinds = tuple(kind for kind in self.kinds if kind in chosen)
            self.say(f"  identifiers {self.truth.kinds}")

    # -- faults -------------------------------------------------------------------------------------------

    def break_(self) -> None:
        """Queue some faults for the next sync."""
        rng = self.rng
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            fault: dict[str, Any] = {"kind": rng.choice(_KINDS_OF_FAULT)}
            op = rng.choice(("add", "remove", "remove", "replace", "poll", "create", "find", "get", None))
            op = "replace" if self.shape == "scripted_replace" and op in ("add", "remove") else op
            if fault["kind"] == "status":
                fault["status"] = rng.choice((500, 503, 429, 400))
                fault["applied"] = fault["status"] >= 500 and rng.random() < 0.4
            elif fault["kind"] in ("html", "truncated", "empty"):
                fault["applied"] = rng.random() < 0.5
            elif fault["kind"] == "too_small":
                op = "remove"
            elif fault["kind"] == "partial":
                op = "replace" if self.shape == "scripted_replace" else "add"
                self.needs_full = True
            elif fault["kind"] == "duplicate" and op not in ("add", "remove", "replace"):
                op = "add"  # a creation that arrives twice makes two lists whatever the sender does
            fault |= {"times": rng.choice((1, 2, 2, 3)), "after": rng.choice((0, 0, 0, 1, 2))}
            if op is not None:
                fault["match"] = {"op": op}
            self.world.serving.sandbox.faults.add(fault)  # type: ignore[union-attr]
            self.say(f"  fault {fault}")
        if rng.random() < 0.25:
            self.killed_at = (rng.choice(_PLACES), rng.randrange(1, 5))
            self.say(f"  killed {self.killed_at}")
        if self.shape != "meta":
            self._policies()

    @property
    def _platform(self) -> ScriptedPlatform:
        found = self.world.serving.sandbox.platforms[ScriptedPlatform.name]  # type: ignore[union-attr]
        assert isinstance(found, ScriptedPlatform)
        return found

    def _policies(self) -> None:
        rng, policy = self.rng, self._platform.policy
        if self.shape == "scripted_async":
            policy["finish_after_polls"] = rng.choice((1, 1, 2, 3))
            policy["fail_after_polls"] = rng.choice((None, None, 1, 2))
            policy["lose_after_polls"] = rng.choice((None, None, 1, 2))
            policy["lost_applied"] = rng.random() < 0.5
        if rng.random() < 0.3:
            found = sorted(self.truth.allowed())
            self.poison = set(rng.sample(found, min(len(found), rng.choice((0, 1, 2)))))
            policy["refuse"] = {value: "unwelcome" for _, value in sent(self.poison, self.fields)}
            self.needs_full |= bool(self.poison)
        changed = {k: v for k, v in policy.items() if k != "refuse" and v != self._platform.defaults.get(k)}
        self.say(f"  policy {changed}, refuses {sorted(self.poison)}")

    def mend(self) -> None:
        self.world.serving.sandbox.faults.clear()  # type: ignore[union-attr]
        self.killed_at = None
        if self.shape != "meta":
            self.poison = set()
            self._platform.policy.update(
                finish_after_polls=1, fail_after_polls=None, lose_after_polls=None, lost_applied=False, refuse={}
            )

    # -- syncs --------------------------------------------------------------------------------------------

    def sync(self, **options: Any) -> SyncResult | None:
        """One sync; None where it was killed."""
        self.write()
        self.truth.note()
        try:
            with _killing(self.killed_at):
                result = self.world.sync(**options)
        except Killed:
            self.say("  was killed")
            return None
        finally:
            self.killed_at = None
        self.say(f"  {options or ''} -> {result.status} {result.reason} {result.counts} requests={result.requests}")
        if result.reason.startswith("bug"):
            raise Mismatch(result.reason)
        return result

    def held(self) -> set[tuple[str, str]]:
        audiences = self.world.audiences()
        if len(audiences) > 1:
            raise Mismatch(f"{len(audiences)} audiences instead of one")
        return {(name, value) for name, value in audiences[0]["keys"]} if audiences else set()

    def compare(self, when: str) -> None:
        held = self.held()
        missing = sent(self.truth.required(), self.fields) - held
        extra = held - sent(self.truth.allowed(), self.fields)
        if missing or extra:
            raise Mismatch(f"{when}: missing {self._names(missing)}, too many {self._names(extra)}")

    def _names(self, keys: set[tuple[str, str]]) -> list[str]:
        known: dict[tuple[str, str], str] = {}
        for number in range(-2, self.size.pool + 1):
            for kind in self.kinds:
                unit = raw(kind, number).unit
                assert unit is not None
                known |= dict.fromkeys(sent({unit}, self.fields), f"{kind} {unit[1]}")
        return sorted(known.get(key, str(key)) for key in keys)

    def judge(self, result: SyncResult, when: str) -> None:
        """What a single result claims must be so already."""
        settled = result.exit_code == 0 and result.counts.pending == 0 and result.counts.rejected == 0
        if result.status in ("success", "noop") and settled and not self.needs_full:
            self.compare(f"{when}, which said {result.status}")

    def refusals_are_out(self, when: str) -> None:
        """Invariant 13, for a sync without faults that was held or not."""
        present = self.held() & sent(self.truth.refused(), self.fields)
        if present:
            raise Mismatch(f"{when}: refused but in: {self._names(present)}")

    def play(self) -> None:
        rng = self.rng
        self.begin()
        for step in range(self.size.steps):
            self.say(f"step {step}")
            if step:
                self.change()
            quiet = rng.random() < 0.35
            if not quiet:
                self.break_()
            options = self._options()
            result = self.sync(**options)
            if result is not None:
                self.judge(result, f"step {step}")
            if quiet or rng.random() < 0.5:
                self.mend()
        self.say("mend")
        self.mend()
        self.finish()

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.rng.random() < 0.1:
            options["full"] = True
        if self.size.keys >= 50 and self.rng.random() < 0.5:
            options["allow_removals"] = ("vip",)
        return options

    def finish(self) -> None:
        """Without faults the engine must get there, and then be still."""
        if not self.truth.segment & self.truth.people.keys():
            self._enter_anyone()
        mends = 12 if self.shape == "scripted_async" else _MENDS
        if self.size.keys >= 50:
            result = self.sync()
            if result is not None and not self.needs_full:
                self.refusals_are_out("after a sync without faults, held or not")
        release: dict[str, Any] = {"allow_removals": ("vip",)} if self.size.keys >= 50 else {}
        full = {"full": True} if self.needs_full else {}
        if full:
            # A job may still run that the full resync would have to wait for.
            for _ in range(mends if self.shape == "scripted_async" else 1):
                self.sync(**release)
        result = self.sync(**release, **full)
        self.needs_full = False
        for _ in range(mends - 1):
            assert result is not None
            if self._is_right() and result.status == "noop":
                break
            result = self.sync(**release)
        self.compare("in the end")
        result = self.sync()
        if result is None or (result.status, result.requests) != ("noop", 0):
            raise Mismatch(f"one more sync was no noop: {result}")
        self.compare("after the noop")
        violations = [v for found in self.world.serving.state()["violations"].values() for v in found]  # type: ignore[union-attr]
        if violations:
            raise Mismatch(f"violations: {violations}")

    def _enter_anyone(self) -> None:
        self.truth.segment.add(self._key())

    def _is_right(self) -> bool:
        try:
            self.compare("")
        except Mismatch:
            return False
        return True


_KINDS_OF_FAULT = (
    "reset_before",
    "reset_after",
    "reset_after",
    "status",
    "status",
    "throttle",
    "duplicate",
    "too_small",
    "partial",
    "html",
    "truncated",
    "empty",
    "expired_token",
    "gone",
)
_PLACES = ("before request", "after request", "before log", "after log", "before point", "after point")


@contextlib.contextmanager
def _killing(at: tuple[str, int] | None) -> Iterator[None]:
    """Within it the process dies at the n-th time it passes a place."""
    if at is None:
        yield
        return
    place, left = at
    when, what = place.split()
    owner, name = {"request": (Sender, "_roundtrip"), "log": (Store, "log"), "point": (Store, "point")}[what]
    original = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            raise Killed
        found = original(*args, **kwargs)
        if left == 0:
            raise Killed
        return found

    with mock.patch.object(owner, name, dying):
        yield


@contextlib.contextmanager
def surroundings(shape: str, size: Size) -> Iterator[Any]:
    """A server for a shape; batches are small, tries few, and nobody waits."""
    with contextlib.ExitStack() as stack:
        limits = Limits(members=size.batch, concurrency=1)
        stack.enter_context(mock.patch.object(Meta, "limits", limits))
        stack.enter_context(mock.patch.object(scripted.Scripted, "limits", limits))
        stack.enter_context(mock.patch.object(deliver, "WAVE", 2))

        def sender(*args: Any, **kwargs: Any) -> Sender:
            return Sender(*args, **kwargs, sleep=lambda seconds: None, jitter=lambda: 0.0, budget=Budget(tries=2))

        stack.enter_context(mock.patch.object(pipeline, "Sender", sender))
        stack.enter_context(scripted.registered())
        yield stack.enter_context(sandbox() if shape == "meta" else serve_scripted())


def run(path: Path, warehouse: Warehouse, shape: str, seed: int, size: Size = SMALL, verbose: bool = False) -> None:
    """Play one history; raises Mismatch with the seed in its message."""
    said: list[str] = []
    with surroundings(shape, size) as serving:
        history = History(make_world(path, warehouse, serving), shape, seed, size, print if verbose else said.append)
        try:
            history.play()
        except Mismatch as error:
            text = "" if verbose else "\n".join(said) + "\n"
            raise Mismatch(f"{text}{shape}, seed {seed}, size {size}: {error}") from None


def main(arguments: list[str]) -> int:
    shape, first = arguments[0], int(arguments[1])
    verbose, large = "-v" in arguments, "--large" in arguments
    last = int(arguments[2]) if len(arguments) > 2 and arguments[2].isdigit() else first + 1
    bad = []
    for seed in range(first, last):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            try:
                run(path / "shop", DuckDBWarehouse(path / "w.duckdb"), shape, seed, LARGE if large else SMALL, verbose)
                word = "ok"
            except Mismatch as error:
                word = "FAILED " + str(error).splitlines()[-1]
                bad.append(seed)
            except Exception as error:
                word = f"ERROR {type(error).__name__}: {error} {traceback.format_exc(limit=-3)}"
                bad.append(seed)
        print(f"{shape} {seed} {time.monotonic() - started:.1f}s {word}", flush=True)
    print(f"{len(bad)} of {last - first} failed: {bad}", flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
