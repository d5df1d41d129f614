"""Who is in an audience, where platforms see people and senders see identifiers.

A platform resolves every match key of an uploaded row to a person. Keys that belong to a seeded person mean that
person. Keys that nobody owns mean whoever they arrived with: the keys of one row are one person, and rows that share
a key are the same person. A person is in the audience or not; a removal that names any key the person owns, or that
was given for the person while in the audience, takes the person out altogether, with all keys. So a removal sent after
an addition can lose a current member, as on the real platforms.

A key is bytes: one byte for its field, then the digest (hashed fields) or UTF-8 text (fields in clear). Memory is
about 480 bytes a member with three keys (measured with four million), which is why records are bare tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Key = bytes
# A record alternates keys and the day on which each was last given: (key, day, key, day, ...).
_Record = tuple[Any, ...]


class Codec:
    """Match keys of one platform as bytes; `fields` maps a field's name to whether its values are SHA-256 digests."""

    def __init__(self, fields: Mapping[str, bool]) -> None:
        self.names = tuple(fields)
        self._hashed = tuple(fields.values())
        self.codes = {name: code for code, name in enumerate(fields)}
        self._prefix = [bytes([code]) for code in range(len(fields))]

    def encode(self, field: str, value: str) -> Key:
        """Raises KeyError for a field that is no match key, ValueError for a hashed value that is no digest."""
        code = self.codes[field]
        return self._prefix[code] + (bytes.fromhex(value) if self._hashed[code] else value.encode())

    def encoder(self, field: str) -> tuple[Key, bool]:
        """The prefix of a field's keys and whether its values are digests, for loops over many rows."""
        code = self.codes[field]
        return self._prefix[code], self._hashed[code]

    def decode(self, key: Key) -> tuple[str, str]:
        """The field and the value as they were sent."""
        code = key[0]
        return self.names[code], key[1:].hex() if self._hashed[code] else key[1:].decode()


class People:
    """Persons the platform knows before anything is uploaded, and which keys they own; a key has one owner."""

    def __init__(self) -> None:
        self.owners: dict[Key, str] = {}

    def seed(self, person: str, keys: Iterable[Key]) -> None:
        """Add a person, or more keys to one."""
        for key in keys:
            self.owners[key] = person


class Members:
    """The people in one audience.

    people    the platform's seeded persons
    forgets   field code -> days after which the platform no longer connects such a key with its person
    """

    def __init__(self, people: People, forgets: Mapping[int, int] | None = None) -> None:
        self._people = people
        self._forgets = dict(forgets or {})
        self._records: dict[Key, _Record] = {}
        self._anonymous = 0
        self._known: dict[str, dict[Key, int]] = {}
        self._given: dict[Key, set[str]] = {}

    @property
    def count(self) -> int:
        """How many people are in."""
        return self._anonymous + len(self._known)

    @property
    def persons(self) -> list[str]:
        """The seeded persons who are in."""
        return sorted(self._known)

    def given(self) -> Iterator[Key]:
        """Every key given for a person who is in; no order, no repeats."""
        yield from self._records
        seen: set[Key] = set()
        for given in self._known.values():
            yield from given.keys() - seen
            seen |= given.keys()

    def records(self) -> Iterator[tuple[str | None, list[Key]]]:
        """Each person who is in (None: nobody seeded) with the keys that were given."""
        for person, given in self._known.items():
            yield person, list(given)
        for key, record in self._records.items():
            if record[0] == key:
                yield None, list(record[::2])

    def __contains__(self, key: Key) -> bool:
        """Whether the person of this key is in."""
        return key in self._records or any(person in self._known for person in self._persons([key]))

    def add(self, row: Sequence[Key], day: int) -> None:
        """Put the person, or the persons, of these keys in."""
        if self._forgets:
            self._forget(row, day)
        persons = self._persons(row) if self._people.owners else None
        if persons:
            self._add_known(persons, row, day)
            return
        records = self._records
        found = {id(record): record for key in row if (record := records.get(key)) is not None}
        if not found:
            if row:
                self._anonymous += 1
                self._store(dict.fromkeys(row, day))
            return
        if len(found) == 1 and self._is_current(next(iter(found.values())), row, day):
            return
        merged: dict[Key, int] = {}
        for record in found.values():
            merged.update(zip(record[::2], record[1::2], strict=True))
        self._anonymous -= len(found) - 1
        merged.update(dict.fromkeys(row, day))
        self._store(merged)

    def remove(self, row: Sequence[Key], day: int) -> bool:
        """Take out every person whom any of these keys means; true if somebody was in."""
        if self._forgets:
            self._forget(row, day)
        left = False
        for key in row:
            record = self._records.get(key)
            if record is not None:
                self._drop(record)
                left = True
        for person in self._persons(row):
            left |= self._leave(person)
        return left

    def leaving(self, rows: Iterable[Sequence[Key]]) -> int:
        """How many people a removal of these rows would take out."""
        anonymous: set[int] = set()
        persons: set[str] = set()
        for row in rows:
            anonymous.update(id(record) for key in row if (record := self._records.get(key)) is not None)
            persons.update(person for person in self._persons(row) if person in self._known)
        return len(anonymous) + len(persons)

    def expire(self, before_day: int) -> None:
        """Take out people for whom no key was given on or after `before_day`."""
        for _, keys in list(self.records()):
            record = self._records.get(keys[0])
            if record is not None and max(record[1::2]) < before_day:
                self._drop(record)
        for person, given in list(self._known.items()):
            if max(given.values()) < before_day:
                self._leave(person)

    def _persons(self, row: Sequence[Key]) -> set[str]:
        owners, given = self._people.owners, self._given
        persons = {owners[key] for key in row if key in owners}
        if given:
            for key in row:
                persons |= given.get(key, set())
        return persons

    def _add_known(self, persons: set[str], row: Sequence[Key], day: int) -> None:
        """Seeded persons enter; keys that nobody owns are from now on theirs too, with what is known of them."""
        unowned = {key: day for key in row if key not in self._people.owners}
        for key in list(unowned):
            record = self._records.get(key)
            if record is not None:
                self._drop(record)
                unowned = {**dict(zip(record[::2], record[1::2], strict=True)), **unowned}
        for person in persons:
            given = self._known.setdefault(person, {})
            given.update({key: day for key in row if self._people.owners.get(key) == person})
            given.update(unowned)
            for key in unowned:
                self._given.setdefault(key, set()).add(person)

    def _leave(self, person: str) -> bool:
        given = self._known.pop(person, None)
        for key in given or ():
            holders = self._given.get(key, set())
            holders.discard(person)
            if not holders:
                self._given.pop(key, None)
        return given is not None

    def _is_current(self, record: _Record, row: Sequence[Key], day: int) -> bool:
        keys = record[::2]
        return all(key in keys and record[2 * keys.index(key) + 1] == day for key in row)

    def _store(self, merged: Mapping[Key, int]) -> None:
        record = tuple([part for pair in merged.items() for part in pair])
        for key in merged:
            self._records[key] = record

    def _drop(self, record: _Record) -> None:
        for key in record[::2]:
            del self._records[key]
        self._anonymous -= 1

    def _forget(self, row: Sequence[Key], day: int) -> None:
        """Cut the connection between a person and those keys of the row that are past their days."""
        for key in row:
            days = self._forgets.get(key[0])
            record = self._records.get(key) if days is not None else None
            if record is None or days is None:
                continue
            rest = dict(zip(record[::2], record[1::2], strict=True))
            if rest.pop(key) + days < day:
                del self._records[key]
                # With no key left the person stays in, out of anybody's reach.
                self._store(rest)
