"""The shop of a history: its customers, its project, and everything that people and analysts change in both.

`change` draws from `CHANGES`; `write` puts the shop as it is now into the warehouse and the project.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import yaml

from tests.properties.model import FORMS, KINDS, VARIANTS, Person, Raw, Truth, raw, some
from tests.scripted.server import SHAPES as TRAITS
from tests.world import World

_COLUMNS = {"email": "email", "phone": "phone", "external_id": "country"}
_NAMES = ("vip", "gold", "regulars")
STAGE = "stage"
# A second destination besides the first: what it does with a call differs, who is in it must not.
_OTHERS = ("scripted", "scripted_positional", "scripted_single", "scripted_replace")


@dataclass(frozen=True)
class Size:
    """How large a history is: `keys` of customers, values drawn from a `pool`, members per batch, steps."""

    keys: int = 14
    pool: int = 12
    batch: int = 3
    steps: int = 6


class Shop:
    """What the shop is now, and the reference that follows from it.

    shapes     connection -> the kind of destination it is; `meta` is the first one's name whatever its kind
    name       of the segment's model; `former` are its earlier names
    enabled    whether the sync is switched on; `wired` whether the segment names its destinations at all
    broken     dbt's last build of the segment failed
    emptied    a broken model yields no rows at all: the segment as it would be is kept
    strict     the guard's thresholds are low enough for a small shop
    changed    changes made, by name
    """

    def __init__(self, world: World, shape: str, rng: random.Random, size: Size, say: Callable[[str], None]) -> None:
        self.world = world
        self.rng = rng
        self.size = size
        self._tell = say
        self.changed: Counter[str] = Counter()
        self.kinds = ("email", "phone") if shape == "meta" else KINDS
        self.truth = Truth(kinds=self.kinds[: 1 + rng.randrange(len(self.kinds))], consents=rng.random() < 0.7)
        self.truth.paired = is_composite(shape)
        if self.truth.paired:
            self.truth.kinds = self._some_kinds()
        self.shapes = {"meta": shape}
        if shape != "meta" and not self.truth.paired and rng.random() < 0.25:
            self.shapes["other"] = rng.choice([other for other in _OTHERS if other != shape])
        self.name, self.former, self.label = _NAMES[0], (), "vip"
        self.ids: dict[str, str] = {}
        self.enabled = self.wired = True
        self.broken = self.emptied = False
        self.strict = size.keys >= 50 or rng.random() < 0.25
        self._begin()

    def _begin(self) -> None:
        rng, size, truth = self.rng, self.size, self.truth
        for key in range(1, size.keys + 1):
            truth.people[key] = self._person()
        truth.segment = {key for key in truth.people if rng.random() < 0.7}
        truth.suppressed = {key for key in truth.people if rng.random() < 0.05}
        if truth.consents:
            self.world.consent = {"ads": "ads_consent"}
        self.world.suppress = ["opt_outs"]
        if self.strict and size.keys < 50:
            limits = {"remove_fraction": 0.3, "remove_members": 2, "change_fraction": 0.5, "change_members": 3}
            self.world.variables["hold"] = limits
        self.world.connections = {name: self._connection(shape) for name, shape in self.shapes.items()}
        self._add_stage()

    def _connection(self, shape: str) -> dict[str, Any]:
        return self.world.meta() if shape == "meta" else {"type": shape, "base_url": self.world.url}

    def _add_stage(self) -> None:
        """A second dbt target on the same warehouse, which may not send."""
        output = self.world.warehouse.output()
        profile = {"target": "dev", "outputs": {"dev": output, STAGE: output}}
        self.world.project.write("profiles.yml", yaml.safe_dump({"shop": profile}))

    def _person(self) -> Person:
        rng = self.rng
        cells = {kind: some(rng, kind, self.size.pool) for kind in self.kinds}
        return Person(**cells, consent=rng.choice((True,) * 8 + (False, None)))

    def write(self) -> None:
        """Put everything into the warehouse and the project."""
        truth, world = self.truth, self.world
        if not truth.segment:
            truth.segment.add(self._key())
        if truth.suppressed and not truth.suppressed & truth.people.keys():
            truth.suppressed.add(self._key())  # a list of unknown keys only holds the sync, as it should
        world.identifiers = {kind: self._identifier(kind) for kind in truth.kinds}
        world.variables["default_country"] = truth.country
        if truth.country is None:
            del world.variables["default_country"]
        world.customers(
            [(k, p.email.text, p.phone.text, p.external_id.text, p.consent) for k, p in sorted(truth.people.items())]
        )
        world.segment([] if self.emptied else sorted(truth.segment), self.name)
        world.opt_outs(sorted(truth.suppressed))
        block: dict[str, Any] = {"label": self.label, "renamed_from": list(self.former)}
        for name, shape in self.shapes.items() if self.wired else ():
            block.setdefault("syncs" if sweeps(shape) else "destinations", []).append(self._item(name))
        world.segments = {self.name: block}
        status = dict.fromkeys(("customers", "opt_outs", self.name), "success")
        self._write_builds(status | ({self.name: "error"} if self.broken else {}))

    def _identifier(self, kind: str) -> str | dict[str, str]:
        form = self.truth.forms.get(kind, "auto")
        return _COLUMNS[kind] if form == "auto" else {"column": _COLUMNS[kind], "form": form}

    def _item(self, connection: str) -> dict[str, Any]:
        named = {"id": self.ids[connection]} if connection in self.ids else {}
        mode = {"mode": "replace"} if sweeps(self.shapes[connection]) else {}
        return {"to": connection, "enabled": self.enabled, **mode, **named}

    def _write_builds(self, statuses: dict[str, str]) -> None:
        content = {
            "metadata": {"generated_at": "2026-01-01T00:00:00Z", "invocation_id": "i"},
            "args": {"which": "build"},
            "results": [{"unique_id": f"model.shop.{name}", "status": status} for name, status in statuses.items()],
        }
        self.world.project.write("target/run_results.json", json.dumps(content))

    # -- changes ------------------------------------------------------------------------------------------

    def change(self) -> None:
        """Nothing, one thing or several."""
        if self.rng.random() < 0.4:
            self.mend()
        for _ in range(self.rng.choice((0, 1, 1, 2, 3, 5)) * (1 if self.size.keys < 50 else 6)):
            name = self.rng.choice(CHANGES)
            if getattr(self, f"_{name}")():
                self.changed[name] += 1

    def say(self, text: str) -> bool:
        """Tell of a change; true, because it was one."""
        self._tell(text)
        return True

    def mend(self) -> None:
        """What somebody broke is as it should be again: built, switched on, named."""
        self.broken = self.emptied = False
        self.enabled = self.wired = True

    @property
    def active(self) -> bool:
        """Whether there is anything to sync."""
        return self.enabled and self.wired

    @property
    def held(self) -> bool:
        """Whether what dbt built must hold the sync."""
        return self.broken or self.emptied

    def _key(self) -> int:
        return self.rng.choice(sorted(self.truth.people))

    def _enter(self) -> bool:
        key = self._key() if self.rng.random() < 0.8 else max(self.truth.people) + 1
        self.truth.people.setdefault(key, self._person())
        self.truth.segment.add(key)
        return self.say(f"  enter {key}")

    def add_somebody(self) -> None:
        """Somebody new, with an e-mail and a phone that nobody else has, enters."""
        key = max(self.truth.people) + 1
        cells = {kind: raw(kind, self.size.pool) for kind in self.kinds}
        self.truth.people[key] = Person(**cells)
        self.truth.segment.add(key)
        self.say(f"  enter {key}")

    def _leave(self) -> bool:
        if len(self.truth.segment) > 1:
            key = self.rng.choice(sorted(self.truth.segment))
            self.truth.segment.discard(key)
            return self.say(f"  leave {key}")
        return False

    def _set(self, key: int, person: Person, word: str) -> bool:
        self.truth.people[key] = person
        return self.say(f"  {word} {key}: {person.email.text!r} {person.phone.text!r} {person.external_id.text!r}")

    def _new_value(self) -> bool:
        key, kind = self._key(), self.rng.choice(self.kinds)
        person = self.truth.people[key].with_cell(kind, some(self.rng, kind, self.size.pool))
        return self._set(key, person, "value")

    def _swap(self) -> bool:
        one, other, kind = self._key(), self._key(), self.rng.choice(self.kinds)
        a, b = self.truth.people[one].cell(kind), self.truth.people[other].cell(kind)
        self._set(one, self.truth.people[one].with_cell(kind, b), "swap")
        return self._set(other, self.truth.people[other].with_cell(kind, a), "swap")

    def _respell(self) -> bool:
        """The same value in another spelling: upper case, spaces, a digest, without the country code."""
        key, kind = self._key(), self.rng.choice(("email", "phone"))
        if kind in self.kinds:
            cell = self.truth.people[key].cell(kind)
            if cell.unit is not None:
                again = raw(kind, _number(cell), self.rng.randrange(VARIANTS))
                assert again.unit == cell.unit
                return self._set(key, self.truth.people[key].with_cell(kind, again), "respell")
        return False

    def _share(self) -> bool:
        one, other, kind = self._key(), self._key(), self.rng.choice(self.kinds)
        cell = self.truth.people[other].cell(kind)
        return self._set(one, self.truth.people[one].with_cell(kind, cell), f"share {other}'s {kind} with")

    def _suppress(self) -> bool:
        key = self._key()
        self.truth.suppressed.add(key)
        return self.say(f"  suppress {key}")

    def _restore(self) -> bool:
        if self.truth.suppressed:
            key = self.rng.choice(sorted(self.truth.suppressed))
            self.truth.suppressed.discard(key)
            return self.say(f"  restore {key}")
        return False

    def _consent(self) -> bool:
        key, consent = self._key(), self.rng.choice((True, True, False, None))
        self.truth.people[key] = replace(self.truth.people[key], consent=consent)
        return self.say(f"  consent {key}: {consent}")

    def _forget(self) -> bool:
        """Delete a row of the entity; the segment, and the suppression list, may still name it."""
        if len(self.truth.people) > 4 and self.rng.random() < 0.5:
            key = self._key()
            del self.truth.people[key]
            return self.say(f"  delete {key}")
        return False

    def _erase(self) -> bool:
        """Delete somebody everywhere but in the suppression list."""
        if len(self.truth.people) > 4 and self.rng.random() < 0.5:
            key = self._key()
            del self.truth.people[key]
            self.truth.segment.discard(key)
            self.truth.suppressed.add(key)
            return self.say(f"  erase {key}")
        return False

    # -- the project --------------------------------------------------------------------------------------

    def _identifiers(self) -> bool:
        if self.rng.random() < 0.3:
            self.truth.kinds = self._some_kinds()
            return self.say(f"  identifiers {self.truth.kinds}")
        return False

    def _some_kinds(self) -> tuple[str, ...]:
        if self.truth.paired:  # who syncs a half of a pair alone syncs nobody
            return self.rng.choice((self.kinds, self.kinds, ("email",), ("phone", "external_id")))
        count = 1 + self.rng.randrange(len(self.kinds))
        chosen = set(self.rng.sample(self.kinds, count))
        return tuple(kind for kind in self.kinds if kind in chosen)

    def _rules(self) -> bool:
        """Another default country, or another word on what a column holds."""
        if self.rng.random() < 0.5:
            self.truth.country = self.rng.choice(("US", None))
        else:
            kind = self.rng.choice([kind for kind in self.kinds if kind != "external_id"])
            self.truth.forms[kind] = self.rng.choice((*FORMS, "auto"))
        return self.say(f"  rules {self.truth.country} {self.truth.forms}")

    def _rename(self) -> bool:
        """Rename the model, perhaps back to a name that it had."""
        if self.rng.random() < 0.4:
            name = self.rng.choice([name for name in _NAMES if name != self.name])
            self.former = (self.name, *(old for old in self.former if old not in (name, self.name)))
            self.name = name
            return self.say(f"  rename to {name}, was {self.former}")
        return False

    def _relabel(self) -> bool:
        self.label = self.rng.choice(("vip", "Very important", "Gold"))
        return self.say(f"  label {self.label}")

    def _switch(self) -> bool:
        """Switch the sync off or on, or take its destinations out of the project and put them in again."""
        if self.rng.random() < 0.5:
            self.enabled = not self.enabled
        else:
            self.wired = not self.wired
        return self.say(f"  enabled {self.enabled}, wired {self.wired}")

    def _breakage(self) -> bool:
        """The segment's build fails, or yields nobody; or is mended."""
        if self.held:
            self.broken = self.emptied = False
        elif self.rng.random() < 0.5:
            self.broken = True
        else:
            self.emptied = True
        return self.say(f"  broken {self.broken}, emptied {self.emptied}")


def _number(cell: Raw) -> int:
    """Which of the pool's values it is."""
    assert cell.unit is not None
    kind, value = cell.unit
    return int(value.removeprefix("p").split("@")[0]) if kind == "email" else int(value[-4:]) - 100


CHANGES = (
    "enter",
    "leave",
    "new_value",
    "new_value",
    "swap",
    "respell",
    "respell",
    "share",
    "suppress",
    "restore",
    "consent",
    "consent",
    "forget",
    "erase",
    "identifiers",
    "rules",
    "rename",
    "relabel",
    "switch",
    "breakage",
)


def is_asynchronous(shape: str) -> bool:
    """Whether batches become jobs."""
    return shape in TRAITS and TRAITS[shape].asynchronous


def is_composite(shape: str) -> bool:
    """Whether phone and external id are one match unit together."""
    return shape in TRAITS and TRAITS[shape].composite


def forgets(shape: str) -> Collection[str]:
    """Kinds of identifiers that the platform forgets before it forgets the person."""
    return TRAITS[shape].forgets if shape in TRAITS else ()


def sweeps(shape: str) -> bool:
    """Whether it is replaced in two steps, the second of which takes out whom others put in."""
    return shape in TRAITS and TRAITS[shape].sweeps
