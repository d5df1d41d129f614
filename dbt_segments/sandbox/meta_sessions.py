"""Upload sessions of the Meta Marketing API: counting for add and remove, the whole life of a replace.

Source: contract of the Meta Marketing API, section 4. Assumptions, where no source says: a replace is applied when its
last batch and all before it have arrived; a second batch 1 breaks the session (1870148) and nothing is applied; one
session serves one audience and one operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dbt_segments.sandbox import meta_errors as errors
from dbt_segments.sandbox.meta_upload import Upload
from dbt_segments.sandbox.people import Members
from dbt_segments.sandbox.platform import Audience

REPLACE_S = 90 * 60


@dataclass
class Running:
    """One session. `staged` is what a replace will put in; `closed` says why no more batches are taken."""

    id: int
    audience: Audience
    op: str
    schema: tuple[str, ...]
    started: float
    received: int = 0
    invalid: int = 0
    matched: int = 0
    batches: set[int] = field(default_factory=set)
    last: int | None = None
    staged: Members | None = field(default=None, repr=False)
    closed: str = ""
    ended: float | None = None

    @property
    def complete(self) -> bool:
        return self.last is not None and self.batches >= set(range(1, self.last + 1))

    def count(self, upload: Upload) -> None:
        """Add a batch; a batch that is sent again is counted again."""
        self.received += upload.total
        self.invalid += upload.invalid
        self.matched += sum(1 for row in upload.rows if row)
        self.batches.add(upload.session.seq)
        if upload.session.last:
            self.last = upload.session.seq

    def facts(self) -> dict[str, Any]:
        """As GET /{audience_id}/sessions shows it."""
        return {
            "session_id": str(self.id),
            "stage": "finished" if self.closed or (self.complete and self.op != "replace") else "uploading",
            "progress": "1" if self.complete else "0",
            "num_received": str(self.received),
            "num_matched": str(self.matched),
            "num_invalid_entries": str(self.invalid),
            "start_time": str(int(self.started)),
            **({"end_time": str(int(self.ended))} if self.ended is not None else {}),
        }


class Sessions:
    """All sessions of all accounts; ids are unique in an account."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, int], Running] = {}

    def of(self, audience: Audience) -> list[Running]:
        """The sessions of one audience, oldest first."""
        return [session for session in self._sessions.values() if session.audience is audience]

    def replacing(self, audience: Audience, now: float) -> Running | None:
        """The replace that is running; one that ran out of time closes with what it has."""
        for session in self.of(audience):
            if session.op == "replace" and not session.closed:
                if now - session.started <= REPLACE_S:
                    return session
                self._finish(session, "timed out", now)
        return None

    def upload(self, audience: Audience, op: str, upload: Upload, now: float, day: int) -> Running:
        """Apply one batch of an addition or removal."""
        if self.replacing(audience, now):
            raise errors.refuse(*errors.REPLACE_RUNNING)
        session = self._open(audience, op, upload, now)
        change = audience.members.add if op == "add" else audience.members.remove
        for row in upload.rows:
            change(row, day)
        session.count(upload)
        session.ended = now if session.complete else None
        return session

    def replace(self, audience: Audience, upload: Upload, staged: Members, now: float, day: int) -> Running:
        """Take one batch of a replace; `staged` is an empty set of people, used if this is the first."""
        running = self.replacing(audience, now)
        seq = upload.session.seq
        session = self._sessions.get((audience.account, upload.session.id))
        if session is None and running is not None:
            raise errors.refuse(*errors.REPLACE_RUNNING)
        if session is None and seq != 1:
            raise errors.refuse(*errors.REPLACE_FIRST_MISSING)
        session = self._open(audience, "replace", upload, now)
        if session.closed:
            late = session.closed == "timed out"
            raise errors.refuse(*(errors.REPLACE_TIMED_OUT if late else errors.REPLACE_FINISHED))
        if seq == 1 and 1 in session.batches:
            session.closed = "broken"
            raise errors.refuse(*errors.REPLACE_BROKEN)
        if session.schema != upload.schema:
            raise errors.invalid("payload.schema: differs from the first batch of this session")
        session.staged = staged if session.staged is None else session.staged
        for row in upload.rows:
            session.staged.add(row, day)
        session.count(upload)
        if session.complete:
            self._finish(session, "finished", now)
        return session

    def _open(self, audience: Audience, op: str, upload: Upload, now: float) -> Running:
        session = self._sessions.setdefault(
            (audience.account, upload.session.id), Running(upload.session.id, audience, op, upload.schema, now)
        )
        if session.audience is not audience or session.op != op:
            raise errors.invalid("session.session_id: is in use for another upload of this account")
        return session

    def _finish(self, session: Running, why: str, now: float) -> None:
        session.closed, session.ended = why, now
        if session.staged is not None:
            session.audience.members = session.staged
            session.staged = None
