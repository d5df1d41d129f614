"""Rows of the append-only logs `sync_batches` and `rejects`: what a run tells of each batch and of each refused row."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Logbook:
    """Makes the log rows of one sync in one run; `token` is that of its lock."""

    run_id: str
    sync_id: str
    token: int

    def batch(
        self,
        generation: str,
        batch: int | None,
        phase: str,
        state: str,
        *,
        job: str | None = None,
        members: int | None = None,
        refused: int | None = None,
        unattributed: int | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        """One state of one batch, or of what is no batch (a sweep); what is not known (yet) is null."""
        return {
            "id": secrets.token_hex(8),
            "run_id": self.run_id,
            "sync_id": self.sync_id,
            "generation": generation,
            "batch": batch,
            "phase": phase,
            "state": state,
            "job": job,
            "members": members,
            "refused": refused,
            "unattributed": unattributed,
            "reason": reason,
            "token": self.token,
        }

    def reject(self, generation: str, row_seq: int, key: str, reason: str, *, passing: bool = False) -> dict[str, Any]:
        """One row that the destination refused; unless that may pass it is not sent again until row or rules change."""
        return {
            "id": secrets.token_hex(8),
            "run_id": self.run_id,
            "sync_id": self.sync_id,
            "generation": generation,
            "row_seq": row_seq,
            "key": key,
            "reason": reason,
            "class": "passing" if passing else "data",
        }
