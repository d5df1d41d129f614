"""What comes of a history: figures, or a mismatch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


class Mismatch(AssertionError):
    """The engine and the reference differ; the message says what and when."""


@dataclass
class Played:
    """What happened in a history.

    mends  syncs without faults until the destination was right
    """

    steps: int = 0
    syncs: int = 0
    mends: int = 0
    met: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
