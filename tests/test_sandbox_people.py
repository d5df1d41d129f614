"""The sandbox's people: the fast bookkeeping agrees with the plain rule, and the sandbox stands on its own feet."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import dbt_segments.sandbox
from dbt_segments.sandbox.people import Codec, Key, Members, People

CODEC = Codec({"EMAIL": False, "ID": False})
# Ann owns two keys and Bob one before anything is uploaded; the rest belongs to nobody.
KEYS = [CODEC.encode("EMAIL", name) for name in "abcdef"] + [CODEC.encode("ID", name) for name in "12"]
OWNERS = {KEYS[0]: "ann", KEYS[1]: "ann", KEYS[2]: "bob"}
ROWS = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)


class PlainMembers:
    """The rule as it reads: a list of people, each with the keys given since coming in."""

    def __init__(self) -> None:
        self.people: list[tuple[str | None, set[Key]]] = []

    def add(self, row: list[Key]) -> None:
        meant = [one for one in self.people if self._means(one, row)]
        persons = {OWNERS[key] for key in row if key in OWNERS} | {person for person, _ in meant if person}
        loose = {key for person, keys in meant if person is None for key in keys}
        loose |= {key for key in row if key not in OWNERS}
        self.people = [one for one in self.people if one not in meant]
        if not persons:
            self.people.append((None, loose))
        for person in persons:
            before = {key for name, keys in meant if name == person for key in keys}
            own = {key for key in row if OWNERS.get(key) == person}
            self.people.append((person, before | own | loose))

    def remove(self, row: list[Key]) -> None:
        self.people = [one for one in self.people if not self._means(one, row)]

    def _means(self, one: tuple[str | None, set[Key]], row: list[Key]) -> bool:
        person, keys = one
        return any(OWNERS.get(key, "") == person if key in OWNERS else key in keys for key in row)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ROWS), max_size=12))
def test_members_follow_the_plain_rule(changes: list[tuple[bool, list[Key]]]) -> None:
    """After any additions and removals the same people are in with the same keys, counted and predicted alike."""
    people = People()
    for key, person in OWNERS.items():
        people.seed(person, [key])
    members, plain = Members(people), PlainMembers()
    for is_addition, row in changes:
        before = len(plain.people)
        leaving = members.leaving([row])
        if is_addition:
            members.add(row, day=1)
            plain.add(row)
        else:
            members.remove(row, day=1)
            plain.remove(row)
            assert leaving == before - len(plain.people)
        seen = [(person, set(keys)) for person, keys in members.records()]
        assert sorted(map(repr, map(_stable, seen))) == sorted(map(repr, map(_stable, plain.people)))
        assert members.count == len(plain.people)
        assert sorted(members.given()) == sorted({key for _, keys in plain.people for key in keys})


def _stable(one: tuple[str | None, set[Key]]) -> tuple[str | None, list[Key]]:
    return one[0], sorted(one[1])


def test_members_leave_after_their_retention() -> None:
    """Those for whom nothing was given since the given day are out, seeded or not."""
    people = People()
    people.seed("ann", [KEYS[0]])
    members = Members(people)
    members.add([KEYS[0]], day=1)
    members.add([KEYS[3], KEYS[6]], day=1)
    members.add([KEYS[4], KEYS[7]], day=1)
    members.add([KEYS[7]], day=5)
    members.expire(before_day=5)
    assert sorted(members.given()) == sorted([KEYS[4], KEYS[7]])
    assert KEYS[0] not in members
    assert members.count == 1


def test_the_sandbox_shares_no_code_with_the_engine() -> None:
    """Its modules import the standard library, uvicorn and each other."""
    imported = set()
    for file in Path(dbt_segments.sandbox.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.startswith("dbt_segments")}
    assert ours
    assert {name for name in ours if not name.startswith("dbt_segments.sandbox")} == set()
