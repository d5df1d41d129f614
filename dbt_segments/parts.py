"""What became of a batch, and of a refused one in halves until the bad rows are alone. Values only; no network.

Why halves: many platforms refuse a whole request for one bad row and do not say which. With b bad rows among n it
takes about 2 b log2(n) requests to find them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from dbt_segments.destinations.base import Batch, Op, Outcome
from dbt_segments.errors import DestinationError, RefusedError, UnknownError

Fate = Literal["accepted", "submitted", "rejected", "unknown", "unsent"]

# After so many refusals without one acceptance the rows are not at fault: the request as such is.
HOPELESS_AFTER = 63
# More requests for one batch would eat the account's hourly allowance; the next run goes on with what is left.
MAX_PARTS = 512


@dataclass(frozen=True)
class Sent:
    """What became of one batch.

    fate     accepted   applied, but for `refused`
             submitted  a job was accepted that has not finished
             rejected   nothing was applied: the platform refuses these members
             unsent     nothing was applied: the sends of this run ended, or the platform was not willing now
             unknown    some or all may have been applied
    outcome  the platform's own, for accepted and submitted batches; of a divided batch the sum of its parts
    error    why it is not accepted
    refused  row index within the batch -> reason code; these rows were surely not applied when the fate is accepted,
             nor will they be when it is submitted
    """

    outcome: Outcome | None = None
    error: DestinationError | None = None
    fate: Fate = "accepted"
    refused: Mapping[int, str] = field(default_factory=dict)


def fate_of(error: DestinationError, doubtful: bool) -> Fate:
    """The fate of a batch that ended in an error; `doubtful`: an earlier try may have been applied."""
    if doubtful or isinstance(error, UnknownError):
        return "unknown"
    return "rejected" if isinstance(error, RefusedError) else "unsent"


def sent_from(outcome: Outcome, count: int) -> Sent:
    """Judge a platform's outcome for a batch of `count` rows: refusals that cannot be placed prove nothing."""
    if any(index not in range(count) for index in outcome.refused):
        return Sent(error=UnknownError("the answer refuses a row that was not sent", code="index"), fate="unknown")
    fate: Fate = "accepted" if outcome.job is None else "submitted"
    return Sent(outcome=outcome, fate=fate, refused=outcome.refused)


def is_divisible(batch: Batch, sent: Sent) -> bool:
    """Whether the batch is worth sending again in halves. A replace is one session and cannot be cut up."""
    blames_a_row = isinstance(sent.error, RefusedError) and sent.error.divisible
    return blames_a_row and batch.count > 1 and batch.op is not Op.REPLACE


def halve(batch: Batch) -> tuple[Batch, Batch]:
    """Two batches that together hold the same rows in the same order.

    Each half is a session of its own with one batch, because the batch numbers of the run's session are given out
    and its last batch may have closed it already. Ids and sessions follow from the batch's, so a repeat is the same.
    """
    rows = json.loads(f"[{batch.rows}]")
    middle = len(rows) // 2
    return _half(batch, rows[:middle], "a"), _half(batch, rows[middle:], "b")


def _half(batch: Batch, rows: list[object], suffix: str) -> Batch:
    name = f"{batch.session}:{batch.id}{suffix}"
    session = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1 or 1
    text = ",".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return replace(
        batch,
        rows=text,
        count=len(rows),
        number=1,
        last=True,
        total=len(rows),
        id=batch.id + suffix,
        session=session,
    )


def divide(batch: Batch, first: Sent, send: Callable[[Batch], Sent]) -> Sent:
    """What became of a batch whose first try was refused, once its halves, quarters .. have been sent.

    send    sends one part and never raises a DestinationError

    Where no part is accepted the first refusal is given back unchanged: it may be the request that is wrong, so no
    row is blamed for it.
    """
    tally = _Tally(first)
    # Depth first: single rows are reached soon, and one that is accepted tells bad rows from a bad request.
    parts = _placed(0, batch)
    while parts and not tally.ended:
        start, part = parts.pop()
        sent = send(part)
        tally.add(start, part, sent)
        if is_divisible(part, sent):
            parts.extend(_placed(start, part))
    return tally.result(complete=not parts)


def _placed(start: int, batch: Batch) -> list[tuple[int, Batch]]:
    """Both halves with the index of their first row; the left one, which comes first, is last: a stack."""
    left, right = halve(batch)
    return [(start + left.count, right), (start, left)]


class _Tally:
    """Running sum over the parts of one batch."""

    def __init__(self, first: Sent) -> None:
        self.first = first
        self.stopped: Sent | None = None
        self.doubtful = False
        self.accepted_parts = 0
        self.tries = 1
        self.unattributed = 0
        self.refused: dict[int, str] = {}
        self.passing: set[int] = set()
        self.warnings: dict[str, None] = {}

    @property
    def hopeless(self) -> bool:
        return self.accepted_parts == 0 and self.tries >= HOPELESS_AFTER

    @property
    def ended(self) -> bool:
        return self.stopped is not None or self.hopeless or self.tries >= MAX_PARTS

    def add(self, start: int, part: Batch, sent: Sent) -> None:
        self.tries += 1
        # One batch has one job handle: members of several jobs count as perhaps there until the next run.
        self.doubtful |= sent.fate in ("unknown", "submitted")
        if sent.outcome is not None:
            self.accepted_parts += 1
            self.refused.update({start + index: code for index, code in sent.refused.items()})
            self.passing |= {start + index for index in sent.outcome.passing}
            self.unattributed += sent.outcome.unattributed
            self.warnings.update(dict.fromkeys(sent.outcome.warnings))
        elif not isinstance(sent.error, RefusedError):
            self.stopped = sent
        elif not is_divisible(part, sent):
            self.refused.update(dict.fromkeys(range(start, start + part.count), sent.error.code))

    def result(self, *, complete: bool) -> Sent:
        # The first try may have been applied. Where every row was accepted since, that no longer matters.
        doubtful = self.doubtful or (self.first.fate == "unknown" and not (complete and not self.refused))
        settled = self.stopped is None and not doubtful
        if settled and self.accepted_parts == 0:
            return self.first
        if settled and complete:
            outcome = Outcome(
                refused=self.refused,
                passing=frozenset(self.passing),
                unattributed=self.unattributed,
                warnings=tuple(self.warnings),
            )
            return Sent(outcome=outcome, refused=self.refused)
        error = (self.stopped or self.first).error
        untouched = self.accepted_parts == 0 and not doubtful
        return Sent(error=error, fate="unsent" if untouched else "unknown", refused=self.refused)
