"""The reference: what a destination must hold, said without SQL, ledgers or batches.

    wanted member   in the segment, known to the entity, consent true, in no suppression list
    unit            one kind of identifier with its normalised value, e.g. ("email", "a1@example.com")

A destination must hold every unit of a wanted member, save those that belong to somebody who was explicitly refused,
and nothing else. Shares no code with the engine: raw values come from a pool in which each is written beside its unit.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

Unit = tuple[str, str]
KINDS = ("email", "phone", "external_id")
FORMS = ("auto", "raw", "hashed")
VARIANTS = 6
# What nobody can match on; null is None.
_INVALID = {"email": ("not an address", "@", " "), "phone": ("12", "call me", ""), "external_id": (" ", "")}


@dataclass(frozen=True)
class Raw:
    """A cell as it stands in the warehouse, and the unit that it means, if any.

    hashed    it is the digest already: nothing where the project declares that the column holds raw values
    national  it has no country code: nothing where the project has no default country
    """

    text: str | None
    unit: Unit | None = None
    hashed: bool = False
    national: bool = False


NOTHING = Raw(None)


def raw(kind: str, number: int, variant: int = 0) -> Raw:
    """The `number`th person's value of a kind, in one of several spellings that mean the same."""
    if kind == "email":
        value = f"p{number}@example.com"
        digest = hashlib.sha256(value.encode()).hexdigest()
        spellings = (value, value.upper(), f"  {value} ", f"P{number}@Example.com", digest, f" {digest.upper()}")
        return Raw(spellings[variant % VARIANTS], (kind, value), hashed=variant % VARIANTS >= 4)
    if kind == "phone":
        last = f"{100 + number:04d}"
        value = f"1907555{last}"
        digest = hashlib.sha256(value.encode()).hexdigest()
        spellings = (f"+1 907 555 {last}", f"+{value}", f"+1 (907) 555-{last}", f" +1-907-555-{last}")
        # As international numbers these would be no valid ones: 201 555 0100 might be one of Egypt's.
        spellings += (digest, f"(907) 555-{last}")
        place = variant % VARIANTS
        return Raw(spellings[place], (kind, value), hashed=place == 4, national=place == 5)
    return Raw((f"X-{number}", f" X-{number}")[variant % 2], (kind, f"X-{number}"))


def some(rng: random.Random, kind: str, pool: int) -> Raw:
    """A random cell: mostly a value that others may have too, now and then null or invalid."""
    chance = rng.random()
    if chance < 0.1:
        return NOTHING
    if chance < 0.17:
        return Raw(rng.choice(_INVALID[kind]))
    return raw(kind, rng.randrange(pool), rng.randrange(VARIANTS))


@dataclass(frozen=True)
class Person:
    """One row of the entity; `consent` None is "not known"."""

    email: Raw = NOTHING
    phone: Raw = NOTHING
    external_id: Raw = NOTHING
    consent: bool | None = True

    def cell(self, kind: str) -> Raw:
        found: Raw = getattr(self, kind)
        return found

    def with_cell(self, kind: str, cell: Raw) -> Person:
        return replace(self, **{kind: cell})  # type: ignore[arg-type]


@dataclass
class Truth:
    """The warehouse as it is now, and which units each key ever had while it could be sent.

    consents  whether the entity has a consent column at all
    country   the default country; None: phones without a country code are nothing
    paired    phone and external id are one unit together, and nothing without each other
    forms     what the project declares of a column's values, by kind: auto, raw, hashed
    """

    people: dict[int, Person] = field(default_factory=dict)
    segment: set[int] = field(default_factory=set)
    suppressed: set[int] = field(default_factory=set)
    kinds: tuple[str, ...] = ("email", "phone")
    consents: bool = True
    country: str | None = "US"
    paired: bool = False
    forms: dict[str, str] = field(default_factory=dict)
    ever: dict[int, set[Unit]] = field(default_factory=dict)

    def units(self, key: int) -> set[Unit]:
        """What one customer's row means under today's rules."""
        person = self.people[key]
        found = {unit for kind in self.kinds if (unit := self._read(person.cell(kind), kind)) is not None}
        return _in_pairs(found) if self.paired else found

    def _read(self, cell: Raw, kind: str) -> Unit | None:
        form = self.forms.get(kind, "auto")
        if (cell.hashed and form == "raw") or (not cell.hashed and form == "hashed"):
            return None
        return None if cell.national and self.country is None else cell.unit

    def refused_keys(self) -> set[int]:
        """Who said no: suppression and explicit refusals; consent that is not known refuses nothing of others."""
        said_no = {key for key, person in self.people.items() if self.consents and person.consent is False}
        return self.suppressed | said_no

    def refused(self) -> set[Unit]:
        """Units that may be sent for nobody."""
        found: set[Unit] = set()
        for key in self.refused_keys() & self.people.keys():
            found |= self.units(key)
        return found

    def wanted(self) -> set[int]:
        may = {key for key, person in self.people.items() if not self.consents or person.consent is True}
        return (self.segment & may) - self.suppressed

    def required(self, fleeting: Collection[str] = ()) -> set[Unit]:
        """What must be in."""
        return self._without(self.refused() | self.once_refused(), fleeting)

    def allowed(self, fleeting: Collection[str] = ()) -> set[Unit]:
        """What may be in."""
        return self._without(self.refused(), fleeting)

    def _without(self, refused: set[Unit], fleeting: Collection[str]) -> set[Unit]:
        """Units of wanted members, less these. Nobody is there by `fleeting` kinds alone: they are forgotten."""
        found: set[Unit] = set()
        for key in self.wanted():
            units = self.units(key) - refused
            if {kind for kind, _ in units} - set(fleeting):
                found |= units
        return found

    def once_refused(self) -> set[Unit]:
        """Units that refused people had before, under which they are removed: later owners may or may not be in."""
        found: set[Unit] = set()
        for key in self.refused_keys():
            found |= self.ever.get(key, set())
        return found - self.refused()

    def note(self) -> None:
        """To be called at every sync: what may be sent now."""
        for key in self.wanted():
            self.ever.setdefault(key, set()).update(self.units(key))


def _in_pairs(units: set[Unit]) -> set[Unit]:
    values = dict(units)
    if "phone" in values and "external_id" in values:
        values["pair"] = f"{values['phone']}+{values['external_id']}"
    return {(kind, value) for kind, value in values.items() if kind in ("email", "pair")}


def sent(units: Iterable[Unit], fields: dict[str, str]) -> set[tuple[str, str]]:
    """Units as the destination shows them: hashed but for external ids, under its own field names."""
    return {(fields[kind], _shown(kind, value)) for kind, value in units}


def _shown(kind: str, value: str) -> str:
    if kind == "pair":
        phone, _, own = value.partition("+")
        return f"{_shown('phone', phone)}+{own}"
    return value if kind == "external_id" else hashlib.sha256(value.encode()).hexdigest()
