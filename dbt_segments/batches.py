"""Sends the batches of one audience, a bounded number at a time, and stops when going on is pointless."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from dbt_segments.destinations.base import Audience, Batch, Destination, Op
from dbt_segments.errors import DestinationError, RefusedError, UnknownError
from dbt_segments.parts import Sent, is_divisible

if TYPE_CHECKING:
    from dbt_segments.send import Sender

# Batches in a row that ended without an answer: then the platform is down, and it is not one poisonous batch.
SILENT_BATCHES = 2


def send_batches(
    sender: Sender, destination: Destination, audience: Audience, batches: Iterable[Batch], *, concurrency: int
) -> Iterator[tuple[Batch, Sent]]:
    """Each batch with what became of it, as it completes; every batch exactly once.

    batches      read once, one at a time; at most `concurrency` + 1 are held, the one last yielded included
    concurrency  requests in flight; a replace is sent one by one, since its first batch must arrive first and its
                 last one closes the session

    After refused credentials, a vanished audience, an exhausted throttle, two batches in a row without an answer, or
    any failure of a replace, the rest comes back as "unsent" with that error, and no request is made for it.
    """
    course = _Course()

    def send(batch: Batch) -> Sent:
        if course.stopped is not None:
            return Sent(error=course.stopped, fate="unsent")
        sent = sender.send(audience, batch, may_divide=course.may_divide)
        course.note(batch, sent)
        return sent

    pool = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="send")
    flying: dict[Future[Sent], Batch] = {}
    allowed = concurrency
    try:
        for batch in batches:
            allowed = 1 if batch.op is Op.REPLACE else concurrency
            flying[pool.submit(send, batch)] = batch
            while len(flying) >= allowed:
                yield _landed(flying)
        while flying:
            yield _landed(flying)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _landed(flying: dict[Future[Sent], Batch]) -> tuple[Batch, Sent]:
    done = next(iter(wait(flying, return_when=FIRST_COMPLETED).done))
    return flying.pop(done), done.result()


class _Course:
    """What the results so far say about the batches still to come. Thread-safe.

    stopped     why none of them should be sent
    may_divide  False after a batch of which no part was accepted: the requests are wrong, not single rows
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent = 0
        self.stopped: DestinationError | None = None
        self.may_divide = True

    def note(self, batch: Batch, sent: Sent) -> None:
        """Learn from one result. The first reason to stop is kept."""
        with self._lock:
            self._silent = self._silent + 1 if isinstance(sent.error, UnknownError) else 0
            final = sent.error is not None and not isinstance(sent.error, (RefusedError, UnknownError))
            broken = batch.op is Op.REPLACE and sent.error is not None
            if self.stopped is None and (final or broken or self._silent >= SILENT_BATCHES):
                self.stopped = sent.error
            if is_divisible(batch, sent):
                self.may_divide = False
            elif sent.error is None:
                self.may_divide = True
