"""One random history of records: rows enter, leave, change and are refused, and a made-up CRM holds what it should.

records_mirror    it holds the wanted records, and no others
records_replace   the same, sent in whole sets
records_upsert    it holds the wanted records; who left stays as they were

A record is wanted where its row is in the segment and in the entity, and in no suppression list. What is compared are
the values of every field that the sync maps now. Nothing here is shared with the engine.
"""

from __future__ import annotations

import contextlib
import json
import random
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import yaml

from dbt_segments import warehouse
from dbt_segments.errors import SegmentsError
from dbt_segments.values import SyncResult
from tests.properties import accidents
from tests.properties.accidents import Accident, Killed
from tests.properties.outcome import Mismatch, Played
from tests.properties.shop import STAGE, Size
from tests.scripted.records import RecordsPlatform
from tests.world import World

RECORD_SHAPES = ("records_mirror", "records_replace", "records_upsert")
_COLUMNS = {"Mail": "email", "Phone": "phone", "Land": "country"}
_NAMES = ("vip", "gold", "regulars")
# What a cell may hold: records are sent as they are.
_TEXTS = (
    None,
    "",
    " ",
    "a@example.com",
    "A@example.com",
    "Zoë",
    "0049",
    "49",
    "null",
    "\\N",
    'x"y',
    "a\nb",
    "👩\u200d👧",
    "%s",
)
_AT_SERVER = (
    "reset_before",
    "reset_after",
    "reset_after",
    "status",
    "status",
    "duplicate",
    "html",
    "truncated",
    "empty",
)
_HOUR_S = 3_600
_JUMPS_S = (-3 * 24 * _HOUR_S, -_HOUR_S, _HOUR_S, 45 * 24 * _HOUR_S)
Values = dict[str, str | None]


class RecordHistory:
    """One world and what its CRM must hold; `play` raises Mismatch.

    people     key -> the cells of its row in the entity
    ever       keys that were wanted at any sync
    refuses    keys that the CRM refuses now, if it refuses any in this history (not `takes_all`)
    unsure     rows were refused: only a full resync surely brings them
    """

    def __init__(self, world: World, shape: str, rng: random.Random, size: Size, say: Callable[[str], None]) -> None:
        assert world.serving is not None
        self.world, self.rng, self.size, self.say = world, rng, size, say
        self.sandbox = world.serving.sandbox
        platform = self.sandbox.platforms[RecordsPlatform.name]
        assert isinstance(platform, RecordsPlatform)
        self.platform = platform
        self.mode = shape.removeprefix("records_")
        self.people: dict[int, Values] = {key: self._row() for key in range(1, size.keys + 1)}
        self.segment = {key for key in self.people if rng.random() < 0.7} or {1}
        self.suppressed = {key for key in self.people if rng.random() < 0.05}
        self.fields = tuple(_COLUMNS)
        self.name, self.former = _NAMES[0], ()
        self.enabled, self.broken, self.emptied = True, False, False
        self.strict = rng.random() < 0.25
        self.takes_all = rng.random() < 0.5
        self.ever: set[int] = set()
        self.unsure = False
        self.played = Played()
        self._accident: Accident | None = None
        self._ahead_s = 0
        self._seen = 0
        world.connections = {"crm": {"type": "scripted_records", "base_url": world.url}}
        world.suppress = ["opt_outs"]
        if self.strict:
            limits = {"remove_fraction": 0.3, "remove_members": 2, "change_fraction": 0.5, "change_members": 3}
            world.variables["hold"] = limits
        output = world.warehouse.output()
        profile = {"target": "dev", "outputs": {"dev": output, STAGE: output}}
        world.project.write("profiles.yml", yaml.safe_dump({"shop": profile}))

    def play(self) -> Played:
        """Every step, then no more faults."""
        for number in range(self.size.steps):
            self.say(f"step {number}")
            self._step(number)
        self.say("mend")
        self._finish()
        return self.played

    # -- what must be there -------------------------------------------------------------------------------

    def wanted(self) -> set[int]:
        return (self.segment & self.people.keys()) - self.suppressed

    def compare(self, when: str) -> None:
        """Record by record, and value by value."""
        held = self._held()
        for key in sorted(self.wanted()):
            expected = {name: self.people[key][name] for name in self.fields}
            found = {name: held[key].get(name) for name in self.fields} if key in held else None
            if found != expected:
                raise Mismatch(f"{when}: record {key} is {found}, not {expected}")
        others = held.keys() - (self.ever if self.mode == "upsert" else self.wanted())
        if others:
            raise Mismatch(f"{when}: too many records: {sorted(others)}")

    def _held(self) -> dict[int, Values]:
        with self.sandbox.lock:
            found = [records for records in self.platform.records.values() if records]
            if len(found) > 1:
                raise Mismatch(f"the records of {len(found)} syncs instead of one")
            return {int(json.loads(key)["Id"]): dict(values) for key, values in found[0].items()} if found else {}

    def _refused_are_out(self, when: str) -> None:
        present = self._held().keys() & self.suppressed
        if self.mode == "mirror" and present:
            raise Mismatch(f"{when}: refused but in: {sorted(present)}")

    # -- steps --------------------------------------------------------------------------------------------

    def _step(self, number: int) -> None:
        rng = self.rng
        self.played.steps += 1
        if number:
            for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
                name = rng.choice(_CHANGES)
                getattr(self, f"_{name}")()
                self.played.changed[name] += 1
        quiet = rng.random() < 0.35
        if not quiet:
            self._arm()
        results, clean = self._sync(**self._options())
        for one in results or ():
            settled = one.status in ("success", "noop") and one.exit_code == 0
            if settled and not (one.counts.pending + one.unconfirmed + one.counts.rejected) and not self.unsure:
                self.compare(f"step {number}, which said {one.status}")
        if results and clean and results[0].status == "held" and not self.unsure:
            self._refused_are_out(f"step {number}, held")
        if quiet or rng.random() < 0.5:
            self._mend_platform()
        if rng.random() < 0.4:
            self._mend()

    def _finish(self) -> None:
        """Without faults one sync must get there, and the next one must be still."""
        self._mend_platform()
        self._mend()
        if not self.wanted():
            key = self.rng.choice(sorted(self.people))
            self.segment.add(key)
            self.suppressed.discard(key)
        options: dict[str, Any] = {"full": True} if self.unsure else {}
        if self.strict:
            options |= {"allow_removals": (self.name,), "lift_refusals": (self.name,)}
        self._sync(**options)
        self.played.mends = 1
        self.compare("after a sync without faults")
        results, _ = self._sync()
        if results is None or [(one.status, one.requests) for one in results] != [("noop", 0)]:
            raise Mismatch(f"one more sync was no noop: {results}")
        self.compare("after the noop")
        if self.platform.violations:
            raise Mismatch(f"violations: {self.platform.violations}")

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"full": True} if self.rng.random() < 0.1 else {}
        if self.strict and self.enabled and self.rng.random() < 0.5:
            options["allow_removals"] = (self.name,)
        chance = self.rng.random()
        if chance < 0.16:
            options |= {"target": STAGE} if chance < 0.08 else {"now": False}
        return options

    # -- a sync -------------------------------------------------------------------------------------------

    def _sync(self, **options: Any) -> tuple[list[SyncResult] | None, bool]:
        """Results, None where it was killed or failed as a whole; and whether no fault was met."""
        self._write()
        if self.enabled:
            self.ever |= self.wanted()
        self._calls()
        met, self.played.syncs = self.played.met.total(), self.played.syncs + 1
        results: list[SyncResult] | None = None
        try:
            with self._during():
                results = list(self.world.run(**options).syncs)
        except Killed:
            self.say("  was killed")
        except SegmentsError as error:
            if self.played.met.total() == met:
                raise Mismatch(f"it ended without a fault: {error.message}") from None
            self.say(f"  ended: {error.message}")
        except Exception as error:
            where = "".join(traceback.format_exception(error, limit=-4))
            raise Mismatch(f"a bug: {type(error).__name__}: {error}\n{where}") from None
        calls = self._calls()
        clean = self.played.met.total() == met
        if not clean:
            self._let_leases_end()
        for one in results or ():
            self.say(f"  {options or ''} {one.sync_id} -> {one.status} {one.reason} {one.counts} {one.requests}")
        self._check(results or [], calls, options, clean)
        return results, clean

    def _check(
        self, results: list[SyncResult], calls: list[dict[str, Any]], options: dict[str, Any], clean: bool
    ) -> None:
        met, changed = self.played.met, self.played.changed
        if not self.enabled and (results or calls):
            raise Mismatch(f"the sync is switched off, and yet: {results} {calls}")
        if options.get("target") == STAGE:
            if calls:
                raise Mismatch(f"target {STAGE} may not send, and yet: {calls}")
            met["not_allowed"] += 1
        for one in results:
            met["not_due"] += one.reason == "not_due"
            changed["hold by a threshold"] += one.reason.startswith("too_many_")
            if (self.broken or self.emptied) and "target" not in options:
                met["held"] += one.status == "held"
                if one.status in ("success", "noop", "partial"):
                    raise Mismatch(f"{one.sync_id} is {one.status} although the segment is broken or empty")
            if options.get("full") and clean and one.status in ("success", "noop"):
                changed["full resync"] += 1
                self.unsure &= bool(one.counts.pending + one.unconfirmed + one.counts.rejected)
        changed["release"] += "allow_removals" in options

    @contextlib.contextmanager
    def _during(self) -> Iterator[None]:
        accident, self._accident = self._accident, None
        with contextlib.ExitStack() as stack:
            for kind in (warehouse._DuckDB, warehouse._Postgres):
                jumped = f"({kind.now} + interval '{self._ahead_s} second')"
                stack.enter_context(mock.patch.object(kind, "now", jumped))
            if accident is not None:
                stack.enter_context(accidents.happening(accident, self.played.met))
            yield

    def _let_leases_end(self) -> None:
        schema = f"{self.world.warehouse.schema}_dbt_segments"
        found = self.world.warehouse.type == "postgres" and self.world.sql(f"select to_regclass('{schema}.leases')")
        if found and found != [(None,)]:
            self.world.sql(f"update {schema}.leases set expires_at = expires_at - interval '400 days'")

    def _write(self) -> None:
        world = self.world
        if not self.segment:
            self.segment.add(min(self.people))
        if self.suppressed and not self.suppressed & self.people.keys():
            self.suppressed.add(min(self.people))  # a list of unknown keys only holds the sync, as it should
        rows = [(key, *(cells[name] for name in _COLUMNS)) for key, cells in sorted(self.people.items())]
        world.customers(rows)
        world.segment([] if self.emptied else sorted(self.segment), self.name)
        world.opt_outs(sorted(self.suppressed))
        item = {
            "to": "crm",
            "enabled": self.enabled,
            "mode": self.mode,
            "key": {"Id": "customer_id"},
            "fields": {name: _COLUMNS[name] for name in self.fields},
        }
        world.segments = {self.name: {"syncs": [item], "renamed_from": list(self.former)}}
        status = dict.fromkeys(("customers", "opt_outs", self.name), "success")
        if self.broken:
            status[self.name] = "error"
        content = {
            "metadata": {"generated_at": "2026-01-01T00:00:00Z", "invocation_id": "i"},
            "args": {"which": "build"},
            "results": [{"unique_id": f"model.shop.{name}", "status": word} for name, word in status.items()],
        }
        world.project.write("target/run_results.json", json.dumps(content))

    # -- faults -------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            fault: dict[str, Any] = {"kind": rng.choice(_AT_SERVER)}
            if fault["kind"] == "status":
                fault["status"] = rng.choice((500, 503, 400))
            if fault["kind"] in ("status", "html", "truncated", "empty"):
                fault["applied"] = fault.get("status") != 400 and rng.random() < 0.5
            fault |= {"times": rng.choice((1, 2, 2, 3)), "after": rng.choice((0, 0, 0, 1, 2))}
            self.sandbox.faults.add(fault)
            self.say(f"  fault {fault}")
        if rng.random() < 0.35:
            self._accident = accidents.draw(rng)
            self.say(f"  accident {self._accident}")
        if rng.random() < 0.15:
            self._ahead_s += rng.choice(_JUMPS_S)
            self.played.met["clock"] += 1
        if rng.random() < 0.3 and not self.takes_all:
            refused = rng.sample(sorted(self.people), min(len(self.people), rng.choice((0, 1, 2))))
            self.platform.policy["refuse"] = {json.dumps({"Id": key}): "unwelcome" for key in refused}
            self.say(f"  refuses {refused}")

    def _mend_platform(self) -> None:
        self.sandbox.faults.clear()
        self._accident = None
        self.platform.policy["refuse"] = {}

    def _calls(self) -> list[dict[str, Any]]:
        """What the CRM was asked since somebody asked last; counts the faults among it."""
        with self.sandbox.lock:
            new = [call for call in self.sandbox.calls if call["n"] > self._seen]
            self._seen = self.sandbox.made
        for call in new:
            self.unsure |= bool(call.get("refused"))
            kind = str(call["fault"] or "")
            if kind in ("html", "truncated", "empty"):
                kind = "unreadable"
            elif kind == "status":
                kind = "status_400" if call["status"] == 400 else "status_5xx"
            if kind:
                self.played.met[kind] += 1
            else:
                self.played.met["refused"] += call.get("refused", 0)
        return new

    # -- changes ------------------------------------------------------------------------------------------

    def _row(self) -> Values:
        return {name: self.rng.choice(_TEXTS) for name in _COLUMNS}

    def _key(self) -> int:
        return self.rng.choice(sorted(self.people))

    def _enter(self) -> None:
        key = self._key() if self.rng.random() < 0.8 else max(self.people) + 1
        self.people.setdefault(key, self._row())
        self.segment.add(key)
        self.say(f"  enter {key}")

    def _leave(self) -> None:
        key = self.rng.choice(sorted(self.segment)) if self.segment else 0
        self.segment.discard(key)
        self.say(f"  leave {key}")

    def _new_value(self) -> None:
        key, name = self._key(), self.rng.choice(tuple(_COLUMNS))
        self.people[key] = {**self.people[key], name: self.rng.choice(_TEXTS)}
        self.say(f"  value {key}: {self.people[key]}")

    def _swap(self) -> None:
        one, other = self._key(), self._key()
        self.people[one], self.people[other] = self.people[other], self.people[one]
        self.say(f"  swap {one} and {other}")

    def _suppress(self) -> None:
        key = self._key()
        self.suppressed.add(key)
        self.say(f"  suppress {key}")

    def _restore(self) -> None:
        key = self.rng.choice(sorted(self.suppressed)) if self.suppressed else 0
        self.suppressed.discard(key)
        self.say(f"  restore {key}")

    def _forget(self) -> None:
        if len(self.people) > 4:
            key = self._key()
            del self.people[key]
            self.say(f"  delete {key}")

    def _erase(self) -> None:
        if len(self.people) > 4:
            key = self._key()
            del self.people[key]
            self.segment.discard(key)
            self.suppressed.add(key)
            self.say(f"  erase {key}")

    def _identifiers(self) -> None:
        """Other fields are mapped."""
        chosen = self.rng.sample(tuple(_COLUMNS), 1 + self.rng.randrange(len(_COLUMNS)))
        self.fields = tuple(name for name in _COLUMNS if name in chosen)
        self.say(f"  fields {self.fields}")

    def _rename(self) -> None:
        name = self.rng.choice([name for name in _NAMES if name != self.name])
        self.former = (self.name, *(old for old in self.former if old not in (name, self.name)))
        self.name = name
        self.say(f"  rename to {name}, was {self.former}")

    def _switch(self) -> None:
        self.enabled = not self.enabled
        self.say(f"  enabled {self.enabled}")

    def _breakage(self) -> None:
        """The segment's build fails, or yields nobody; or is mended."""
        fails = self.rng.random() < 0.5
        whole = not (self.broken or self.emptied)
        self.broken, self.emptied = whole and fails, whole and not fails
        self.say(f"  broken {self.broken}, emptied {self.emptied}")

    def _mend(self) -> None:
        self.enabled, self.broken, self.emptied = True, False, False


_CHANGES = (
    "enter",
    "leave",
    "new_value",
    "new_value",
    "new_value",
    "swap",
    "suppress",
    "restore",
    "forget",
    "erase",
    "identifiers",
    "rename",
    "switch",
    "breakage",
)
