"""The steps of a history, driven by hypothesis: where something diverges it finds the shortest history that does.

Volume comes from seeds (`make torture`): a seed costs no bookkeeping and replays with one command. What hypothesis adds
is that a failure shrinks, to few steps and few changes. Both play the same `History`.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.projects import DuckDBWarehouse
from tests.properties.history import SHAPES, SMALL, History, quickly, surroundings
from tests.properties.outcome import Mismatch
from tests.world import make_world

LUCK = st.randoms(use_true_random=False)


class Machine(RuleBasedStateMachine):
    """One history; every rule draws its own luck, so that hypothesis can leave out and simplify single rules."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._history: History | None = None
        self._steps = 0

    @initialize(shape=st.sampled_from(SHAPES), luck=LUCK)
    def begin(self, shape: str, luck: random.Random) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        warehouse = DuckDBWarehouse(folder / "w.duckdb")
        self._stack.enter_context(quickly(warehouse))
        serving = self._stack.enter_context(surroundings(shape, SMALL))
        world = make_world(folder / "shop", warehouse, serving)
        self._history = History(world, shape, luck, SMALL, lambda text: None)

    def _with(self, luck: random.Random) -> History:
        assert self._history is not None
        self._history.use(luck)
        return self._history

    @rule(luck=LUCK)
    def change(self, luck: random.Random) -> None:
        self._with(luck).shop.change()

    @rule(luck=LUCK)
    def break_something(self, luck: random.Random) -> None:
        self._with(luck).faults.arm()

    @rule(luck=LUCK)
    def sync(self, luck: random.Random) -> None:
        self._with(luck).sync_and_judge(f"sync {self._steps}")
        self._steps += 1

    @rule(luck=LUCK)
    def mend(self, luck: random.Random) -> None:
        history = self._with(luck)
        history.faults.mend()
        history.faults.recover_gone()

    def teardown(self) -> None:
        try:
            if self._history is not None and self._steps:
                self._with(random.Random(0)).finish()
        finally:
            self._stack.close()


@pytest.mark.slow
def test_histories_of_hypothesis_end_right() -> None:
    """Whatever order of changes, faults and syncs hypothesis thinks of."""
    run_state_machine_as_test(Machine, settings=_settings(examples=10, steps=15))  # type: ignore[no-untyped-call]


def test_a_divergence_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that must fail at its second sync is shrunk to that, and told as code that replays it."""

    def sync(when: str) -> None:
        if when == "sync 1":
            raise Mismatch("on purpose")

    history = mock.MagicMock(sync_and_judge=sync)
    monkeypatch.setattr(Machine, "_with", lambda machine, luck: history)
    for name in ("quickly", "surroundings"):
        monkeypatch.setitem(globals(), name, lambda *arguments: contextlib.nullcontext(mock.MagicMock()))
    for name in ("make_world", "History"):
        monkeypatch.setitem(globals(), name, mock.MagicMock())
    with pytest.raises(Mismatch) as caught:
        run_state_machine_as_test(Machine, settings=_settings(examples=50, steps=10))  # type: ignore[no-untyped-call]
    told = "\n".join(getattr(caught.value, "__notes__", []))
    assert told.count("state.sync(") == 2 and "state.break_something(" not in told, told


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
