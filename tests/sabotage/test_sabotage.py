"""Every sabotage is noticed by the test that it names; one that no longer applies is a failure at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sabotage.cases import INVARIANTS, SABOTAGES, Sabotage
from tests.sabotage.runner import REPOSITORY, prove, times

each = pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda one: one.id)


def test_every_invariant_has_a_sabotage() -> None:
    """Thirteen invariants, each with three or more sabotages, whose tests bear its number."""
    assert [number for number in INVARIANTS if sum(one.invariant == number for one in SABOTAGES) < 3] == []
    assert [one.id for one in SABOTAGES if not one.test.startswith(f"test_{one.invariant}_")] == []


def test_every_invariant_has_a_test() -> None:
    """Each has a test, and every test that a sabotage names is there."""
    text = (REPOSITORY / "tests" / "test_invariants.py").read_text(encoding="utf-8")
    assert [number for number in INVARIANTS if f"def test_{number}_" not in text] == []
    assert [one.test for one in SABOTAGES if f"def {one.test}(" not in text] == []


@each
def test_a_sabotage_applies(sabotage: Sabotage) -> None:
    """The text that it replaces occurs exactly once."""
    assert times(sabotage) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param(one, marks=pytest.mark.postgres if one.warehouse == "postgres" else (), id=one.id)
        for one in SABOTAGES
    ],
)
def test_a_sabotage_is_noticed(sabotage: Sabotage, tmp_path: Path) -> None:
    """With the product broken in this way, the named test fails, and by an assertion."""
    assert prove(sabotage, tmp_path)
