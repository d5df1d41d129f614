"""How one sync's rows are written: what `encode` (identifiers of people) and `records` (mapped fields) have in common.

Both fill the same workbench tables from `changes`:

    encoded  key, and whatever the rows are written from
    want     key, kind, value: the match units that a member is to have
    coded    key, sent_hash, usable, suppressed, reason
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import duckdb
from typing_extensions import Self

from dbt_segments.destinations.base import Destination, Op, Support, Target

# Stage -> what is asked of the destination, in the order of sending.
OPS = {"remove": Op.REMOVE, "replace": Op.REPLACE, "assert": Op.ADD, "after": Op.ADD}


class Coding(ABC):
    """How the rows of one sync are written.

    sources      columns the sync reads; workbench column `c<n>` is `sources[n]`
    fingerprint  changes when anything but the rows decides what is sent
    unique       sources that no two members may share: the second one is not sent
    """

    destination: Destination
    mode: str
    sources: tuple[str, ...]
    fingerprint: str
    unique: tuple[str, ...]

    @property
    def replaces(self) -> bool:
        """Whether it sends the whole audience at once."""
        operations = self.destination.operations
        return (self.mode == "replace" and not self.sweeps) or operations.get(Op.ADD) is not Support.FULL

    @property
    def sweeps(self) -> bool:
        """Whether it replaces by sending everybody, and by a sweep afterwards."""
        return self.mode == "replace" and self.destination.sweeps

    @property
    def removes(self) -> bool:
        """Whether members can be taken out singly; else their units are merely forgotten."""
        return self.destination.operations.get(Op.REMOVE) is Support.FULL

    @property
    def within(self) -> str | None:
        """Columns of a unit: of those that agree in them each is a row of its own; None: a member is one row."""
        return None

    @property
    def once(self) -> bool:
        """Whether a member is sent once and never again, whatever changes."""
        return False

    @property
    def target(self) -> Target | None:
        """What a destination of records is written to."""
        return None

    @property
    def beside(self) -> str:
        """What may change of a member who keeps every match unit, for people."""
        if self.destination.records:
            return "a column that `fields` maps differs"
        traits = any(accepts.trait for accepts in self.destination.identifiers.values())
        own = "what the connection says of them (`consent`), or " if traits else ""
        return f"{own}a column or setting that is sent with them differs"

    @property
    @abstractmethod
    def lasting(self) -> str:
        """SQL condition on `kind`: a unit that the platform does not forget by itself, so that it can stand alone."""

    def typed(self, types: Mapping[str, str]) -> Self:
        """The same for sources of these types (source -> the warehouse's word)."""
        return self

    def with_former(self, kinds: Iterable[str]) -> Self:
        """The same with the kinds of units that the record has; what is no longer sent may have to be removed."""
        return self

    @abstractmethod
    def fields(self, stage: str, kind: str | None) -> tuple[str, ...]:
        """What the rows of a stage are written with; of `kind` where a batch holds rows of one kind."""

    @abstractmethod
    def encode_changes(self, bench: duckdb.DuckDBPyConnection) -> None:
        """`changes` -> `encoded`, `want`, `coded`. Refused units (`refused_units`) are taken out of every row."""

    @abstractmethod
    def encode_refused(self, bench: duckdb.DuckDBPyConnection, source: str) -> None:
        """Append the units of refused people (table `source`: key, c0..cN) to `refused_units`."""

    @abstractmethod
    def rows_sql(self, stage: str) -> str:
        """Query for the draft rows `d` of one stage with the JSON that is sent for each, as `payload`."""


def mark_same(bench: duckdb.DuckDBPyConnection) -> None:
    """Add `changes.same`: nothing has changed of a member who lost a unit to somebody's refusal.

    Such members are looked at in every run, since the refusal may end.
    """
    # Where a unit is left out the row's hash alone says too little: what is left belongs to it.
    bench.execute(
        "update changes set row_hash = concat(changes.row_hash, ':', d.sent_hash) "
        "from coded d where d.key = changes.key and d.suppressed"
    )
    bench.execute("alter table changes add column same boolean default false")
    bench.execute(
        "update changes set same = true where key in (select key from coded where suppressed) "
        "and row_hash = old_row_hash and old_status in ('present', 'rejected', 'unusable')"
    )
