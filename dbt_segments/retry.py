"""Which failed tries are worth another, how long to wait first, and how fast requests may follow each other.

No clock, sleep or random source of its own: all three are arguments, so every rule here is tested without waiting.
The retry loop is tenacity's; what is ours is the judgement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, Retrying

from dbt_segments.destinations.base import Fault

FIRST_WAIT_S = 1.0
LONGEST_BLIND_WAIT_S = 60.0


@dataclass(frozen=True)
class Budget:
    """What one call may cost: `tries` in all, and `wait_s` of waiting between them together."""

    tries: int = 6
    wait_s: float = 600.0


class Setback(Exception):
    """One try failed; `fault` says what it was and whether the same call may succeed in this run."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault.error))
        self.fault = fault


def retrying(budget: Budget, *, sleep: Callable[[float], object], jitter: Callable[[], float]) -> Retrying:
    """A tenacity loop that repeats a function while it raises a `Setback` worth repeating, within the budget.

    sleep   receives seconds
    jitter  yields numbers from 0 up to 1

    The last `Setback` is raised again when the budget ends. A wait that would not fit is not begun: a platform that
    asks for an hour ends the call at once.
    """

    def worth_it(state: RetryCallState) -> bool:
        fault = _fault(state)
        return fault is not None and fault.retry

    def wait(state: RetryCallState) -> float:
        fault = _fault(state)
        return wait_s(state.attempt_number, fault.wait_s if fault else None, jitter)

    def stop(state: RetryCallState) -> bool:
        fault = _fault(state)
        tries = fault.max_tries if fault and fault.max_tries is not None else budget.tries
        return state.attempt_number >= tries or state.idle_for + state.upcoming_sleep > budget.wait_s

    def pause(seconds: float) -> None:
        sleep(seconds)

    return Retrying(sleep=pause, retry=worth_it, wait=wait, stop=stop, reraise=True)


def _fault(state: RetryCallState) -> Fault | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.fault if isinstance(error, Setback) else None


def wait_s(tries: int, asked_s: float | None, jitter: Callable[[], float]) -> float:
    """Seconds to wait after the given number of tries.

    What a platform asked for is kept in full, and up to a tenth more so that waiting threads do not start together.
    Without a word from it: 1, 2, 4 .. at most 60 seconds, of which between half and all is waited.
    """
    if asked_s is not None:
        return asked_s * (1 + 0.1 * jitter())
    return min(FIRST_WAIT_S * 2.0 ** (tries - 1), LONGEST_BLIND_WAIT_S) * (0.5 + 0.5 * jitter())


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for; None where there is none, or it cannot be read.

    headers  names in lower case
    now      used for a date only where the answer carries no `Date` of its own, which spares us a wrong local clock

    Source: RFC 9110, 10.2.3 (seconds or an HTTP date).
    """
    asked = headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked)
    until = _http_date(asked)
    if until is None:
        return None
    return max(0.0, (until - (_http_date(headers.get("date", "")) or now)).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)


class Pace:
    """When the next request to one account may start: evenly spaced, and not while the platform asked for quiet.

    requests_per_s  None: no spacing
    clock           monotonic seconds

    Thread-safe. Even spacing instead of bursts: it satisfies a limit per second, minute or hour alike.
    """

    def __init__(self, requests_per_s: float | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spacing_s = 1.0 / requests_per_s if requests_per_s else 0.0
        self._next_slot = 0.0
        self._quiet_until = 0.0
        self._lock = threading.Lock()

    def quiet(self, wait_s: float) -> None:
        """No request may start for that many seconds from now; a shorter wish never shortens a longer one."""
        with self._lock:
            self._quiet_until = max(self._quiet_until, self._clock() + wait_s)

    def slot(self) -> float:
        """Claim the next free moment, in the clock's time."""
        with self._lock:
            moment = max(self._clock(), self._next_slot)
            self._next_slot = moment + self._spacing_s
            return moment

    def until(self, slot: float) -> float:
        """When a request with this slot may start: its slot, or the end of the quiet if that is later."""
        with self._lock:
            return max(slot, self._quiet_until)
