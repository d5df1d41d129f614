"""Waiting and giving up: tables of numbers, no clock but the test's."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_segments.destinations.base import Fault
from dbt_segments.errors import TransientError
from dbt_segments.retry import Budget, Pace, Setback, retry_after_s, retrying, wait_s

NOW = datetime(2026, 11, 3, 8, 0, 0, tzinfo=timezone.utc)


class Failing:
    """Fails with the given faults in turn, then returns "done"; `waits` are the pauses that were asked for."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)
        self.tries = 0
        self.waits: list[float] = []

    def __call__(self) -> str:
        self.tries += 1
        if self.faults:
            raise Setback(self.faults.pop(0))
        return "done"

    def run(self, budget: Budget) -> str:
        return str(retrying(budget, sleep=self.waits.append, jitter=lambda: 1.0)(self))


def passing(wait_s: float | None = None, max_tries: int | None = None) -> Fault:
    return Fault(TransientError("later"), retry=True, wait_s=wait_s, max_tries=max_tries)


def test_blind_waits_double_up_to_a_minute() -> None:
    """Without a word from the platform the waits are 1, 2, 4 .. 60 seconds at full jitter."""
    assert [wait_s(tries, None, lambda: 1.0) for tries in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_waits_between_half_and_all() -> None:
    """At no jitter half of the blind wait is kept, so that threads spread."""
    assert [wait_s(tries, None, lambda: 0.0) for tries in range(1, 4)] == [0.5, 1, 2]


@given(asked=st.floats(0, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_an_asked_wait_is_never_cut(asked: float, jitter: float) -> None:
    """What the platform asks for is waited in full, and at most a tenth more."""
    assert asked <= wait_s(3, asked, lambda: jitter) <= asked * 1.1 + 1e-9


def test_a_passing_fault_is_tried_again() -> None:
    """Two faults, then success: three tries with two waits between them."""
    failing = Failing(passing(), passing(wait_s=7))
    assert failing.run(Budget()) == "done"
    assert (failing.tries, failing.waits) == (3, [1, pytest.approx(7.7)])


def test_a_final_fault_is_not_tried_again() -> None:
    """A fault that cannot pass ends the call at the first try, without a wait."""
    failing = Failing(Fault(TransientError("final")))
    with pytest.raises(Setback):
        failing.run(Budget())
    assert (failing.tries, failing.waits) == (1, [])


@pytest.mark.parametrize(("own", "tries"), [(None, 4), (2, 2), (6, 6)])
def test_tries_are_bounded(own: int | None, tries: int) -> None:
    """The sender's bound holds, unless the fault brings its own."""
    failing = Failing(*(passing(max_tries=own) for _ in range(9)))
    with pytest.raises(Setback):
        failing.run(Budget(tries=4))
    assert failing.tries == tries


def test_a_wait_beyond_the_budget_is_not_begun() -> None:
    """A platform that asks for an hour ends the call at once instead of after ten minutes."""
    failing = Failing(passing(wait_s=3600))
    with pytest.raises(Setback):
        failing.run(Budget(wait_s=600))
    assert failing.waits == []


def test_waits_add_up_to_the_budget() -> None:
    """Each wait would fit alone; together they may not pass the budget."""
    failing = Failing(*(passing(wait_s=200) for _ in range(9)))
    with pytest.raises(Setback):
        failing.run(Budget(tries=9, wait_s=600))
    assert len(failing.waits) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        # RFC 9110, 10.2.3: delay-seconds or an HTTP-date
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "Tue, 03 Nov 2026 08:01:30 GMT"}, 90),
        ({"retry-after": "Tue, 03 Nov 2026 07:00:00 GMT"}, 0),
        ({"retry-after": "Tue, 03 Nov 2026 09:00:30 GMT", "date": "Tue, 03 Nov 2026 09:00:00 GMT"}, 30),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds and dates are read; a date is measured from the answer's own clock; nonsense counts as nothing."""
    assert retry_after_s(headers, NOW) == seconds


def test_requests_are_spaced_evenly() -> None:
    """Four a second: slots a quarter of a second apart, from now on and not from long ago."""
    now = [100.0]
    pace = Pace(4, lambda: now[0])
    assert [pace.slot() for _ in range(3)] == [100, 100.25, 100.5]
    now[0] = 200.0
    assert pace.slot() == 200


def test_quiet_holds_back_every_slot() -> None:
    """A platform's wish for quiet moves slots that were claimed before it; a shorter wish does not shorten it."""
    pace = Pace(None, lambda: 10.0)
    slot = pace.slot()
    pace.quiet(30)
    pace.quiet(5)
    assert (slot, pace.until(slot)) == (10, 40)
