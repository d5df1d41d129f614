"""What happens to the process and the state in the midst of a sync: a death, a commit or a write that fails."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from dbt_segments.errors import WarehouseError
from dbt_segments.send import Sender
from dbt_segments.state.store import Store
from dbt_segments.warehouse import Session

_WRITES = ("create", "insert", "drop", "update", "delete", "alter")
# Where the process may die: a call of this method of this class.
_PLACES: dict[str, tuple[type, str]] = {
    "request": (Sender, "_roundtrip"),
    "log": (Store, "log"),
    "point": (Store, "point"),
    "commit": (Session, "commit"),
}


class Killed(BaseException):
    """The process died here, as far as an exception can play that."""


@dataclass(frozen=True)
class Accident:
    """What happens inside of the next sync, at the `left`-th time that a place is passed.

    kind   killed, commit_failed, commit_unanswered, write_failed
    place  of a death: "before" or "after", and one of request, log, point, commit
    """

    kind: str
    left: int
    place: tuple[str, str] = ("before", "commit")


def draw(rng: random.Random) -> Accident:
    """Any of them, somewhere in the first requests and commits."""
    kind = rng.choice(("killed", "killed", "commit_failed", "commit_unanswered", "write_failed"))
    place = (rng.choice(("before", "after")), rng.choice(sorted(_PLACES)))
    return Accident(kind, rng.randrange(1, 9 if kind != "killed" else 6), place)


@contextlib.contextmanager
def happening(accident: Accident, met: Counter[str]) -> Iterator[None]:
    """The accident happens within the block, if its place is passed so often; `met` counts it."""
    left = accident.left
    owner, name = (Session, "execute") if accident.kind == "write_failed" else _PLACES[accident.place[1]]
    if accident.kind.startswith("commit"):
        owner, name = Session, "commit"
    original = getattr(owner, name)
    early = accident.kind in ("commit_failed", "write_failed") or (
        accident.kind == "killed" and accident.place[0] == "before"
    )

    def strike() -> None:
        met[accident.kind] += 1
        if accident.kind == "killed":
            raise Killed
        raise WarehouseError("the connection was lost")

    def passing(one: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal left
        counts = accident.kind != "write_failed" or arguments[0].split(None, 1)[0].lower() in _WRITES
        left -= counts
        now = counts and left == 0
        if now and early:
            if accident.kind == "commit_failed":
                one.execute("rollback")
            strike()
        found = original(one, *arguments, **named)
        if now:
            strike()
        return found

    with mock.patch.object(owner, name, passing):
        yield
