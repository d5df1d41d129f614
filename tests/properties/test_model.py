"""The reference and the platforms are nobody's echo: they use no code of the engine."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

import dbt_segments.sandbox
import tests.properties.model
import tests.scripted.server
from tests.properties.model import Person, Raw, Truth, raw, sent

_FILES = [
    tests.properties.model.__file__,
    tests.scripted.server.__file__,
    *(str(path) for path in sorted(Path(dbt_segments.sandbox.__file__).parent.glob("*.py"))),
]


@pytest.mark.parametrize("file", _FILES, ids=lambda file: Path(file).stem)
def test_no_code_of_the_engine_is_used(file: str) -> None:
    """Of the package only the sandbox itself is imported, at whatever depth of the file."""
    found = set()
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    engine = {name for name in found if name.split(".")[0] == "dbt_segments"}
    assert {name for name in engine if not name.startswith("dbt_segments.sandbox")} == set()


def test_the_reference_reads_cells_by_the_project_s_rules() -> None:
    """A digest is nothing in a column of raw values, raw text is nothing in one of digests, and a national number is
    nothing without a default country; whoever refuses takes the unit from everybody."""
    digest, national = raw("email", 1, 4), raw("phone", 2, 5)
    truth = Truth({1: Person(digest, national), 2: Person(raw("email", 1), Raw("12"))}, {1, 2})
    assert (digest.hashed, national.national) == (True, True)
    email, phone = ("email", "p1@example.com"), ("phone", "19075550102")
    assert (truth.units(1), truth.units(2)) == ({email, phone}, {email})
    truth.country = None
    truth.forms = {"email": "raw"}
    assert (truth.units(1), truth.units(2)) == (set(), {email})
    truth.forms = {"email": "hashed"}
    assert (truth.units(1), truth.units(2)) == ({email}, set())
    truth.forms = {}
    assert truth.allowed() == {email}
    truth.suppressed = {2}
    assert truth.allowed() == set()


def test_the_reference_knows_pairs() -> None:
    """Phone and id are one unit together, and nothing alone; a refused pair is nobody's, its halves are free."""
    phone, own = raw("phone", 2), raw("external_id", 3)
    people = {
        1: Person(raw("email", 1), phone, own),
        2: Person(phone=phone),
        3: Person(phone=raw("phone", 4), external_id=own),
    }
    truth = Truth(people, {1, 2, 3}, kinds=("email", "phone", "external_id"), paired=True)
    pair, other = ("pair", "19075550102+X-3"), ("pair", "19075550104+X-3")
    assert [truth.units(key) for key in (1, 2, 3)] == [{("email", "p1@example.com"), pair}, set(), {other}]
    truth.suppressed = {1}
    assert truth.allowed() == {other}
    fields = {"email": "email", "pair": "pair"}
    assert sent({pair}, fields) == {("pair", hashlib.sha256(b"19075550102").hexdigest() + "+X-3")}
