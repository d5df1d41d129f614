"""What a run freezes, once for all its syncs: every segment, and everybody who is refused."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb

from dbt_segments.destinations import registry as destinations
from dbt_segments.errors import SegmentsError
from dbt_segments.freeze import (
    FROZEN,
    REFUSALS,
    REJECTED,
    Frozen,
    HeldError,
    Refusals,
    commit_frozen,
    freeze,
    freeze_refusals,
    reading,
    refusals_owner,
    sources,
)
from dbt_segments.project import Project
from dbt_segments.values import Model, Segment, Sync
from dbt_segments.warehouse import Session

if TYPE_CHECKING:
    from dbt_segments.membership import MembershipTable

_DAY_S = 86_400


class Frozens:
    """Freezes every segment, and everybody who is refused, once a run; drops what was only for this run."""

    def __init__(self, project: Project, lock_timeout_s: float) -> None:
        self._project = project
        self._lock_timeout_s = lock_timeout_s
        self._segments: dict[str, Frozen | HeldError] = {}
        self._refusals: dict[tuple[Any, ...], Refusals | None] = {}
        self._scratch: set[str] = set()
        self.memberships: dict[str, MembershipTable] = {}

    def __enter__(self) -> Frozens:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._scratch:
            return
        with suppress(SegmentsError), self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            for name in self._scratch:
                session.execute(f"drop table if exists {self._project.store.table(name)}")

    def is_frozen(self, segment: Segment) -> bool:
        """Whether this run has frozen the segment already."""
        return isinstance(self._segments.get(segment.owner), Frozen)

    def segment(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, segment: Segment, *, keep: bool
    ) -> Frozen:
        """The segment's members now; `keep` makes them its last good set. Raises HeldError, the same one each time."""
        found = self._segments.get(segment.owner)
        if found is None:
            found = self._freeze(models, state, bench, segment, keep=keep)
            self._segments[segment.owner] = found
        if isinstance(found, HeldError):
            raise found
        return found

    def _freeze(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, segment: Segment, *, keep: bool
    ) -> Frozen | HeldError:
        store = self._project.store
        mine = [sync for sync in self._project.registry.syncs if sync.segment.owner == segment.owner]
        try:
            known = self.memberships.get(segment.entity.name)
            with reading(f"segment {segment.name}", *read_by(segment)):
                frozen = freeze(
                    models, store, bench, segment, sources(mine), state, known.rows if known else None, _remedies(mine)
                )
        except HeldError as error:
            return error
        self._scratch.update(frozen.names)
        policies = [sync.hold.empty for sync in mine] or [self._project.settings.hold.empty]
        may_be_empty = any(policy != "hold" for policy in policies)
        if keep and (frozen.members or may_be_empty):
            commit_frozen(state, store, segment, frozen)
            self._scratch.difference_update(frozen.names)
            store.collect(state, segment.owner, [FROZEN, REJECTED], frozen.names, before=_yesterday())
        return frozen

    def refusals(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, sync: Sync
    ) -> Refusals | None:
        """Everybody whom the sync must not send."""
        store, entity, suppress_too = self._project.store, sync.entity, (*sync.segment.suppress, *sync.suppress)
        mine = sources(s for s in self._project.registry.syncs if s.entity.name == entity.name)
        key = (entity.name, sync.channel, tuple(m.unique_id for m in suppress_too))
        if key not in self._refusals:
            with reading(f"who refuses of entity {entity.name}", entity.model, *entity.suppress, *suppress_too):
                found = freeze_refusals(models, store, bench, entity, suppress_too, sync.channel, mine, state)
            self._refusals[key] = found
            if found is not None:
                self._scratch.add(found.name)
            owner = refusals_owner(entity, sync.channel)
            store.collect(state, owner, [REFUSALS], [found.name] if found else [], before=_yesterday())
        return self._refusals[key]


def read_by(segment: Segment) -> tuple[Model, ...]:
    """The models that a segment's members are read from."""
    return (segment.model, segment.entity.model, *(related.model for related in segment.entity.related))


def _remedies(syncs: Iterable[Sync]) -> dict[str, str]:
    """Source -> where its name is written, for whom it is missing."""
    found: dict[str, str] = {}
    for sync in syncs:
        taken = destinations.get(sync.connection.type).identifiers if sync.identifiers else {}
        for mapped in (*sync.keys, *sync.mapped):
            if mapped.source:
                found[mapped.source] = f"correct `fields` and `key` of the syncs of {sync.segment.model.name}"
        for one in sync.identifiers:
            said = f"correct `identifiers` of entity `{sync.entity.name}` in the meta of {sync.entity.model.name}"
            if taken[one.name].trait:
                said = (
                    f"`{one.name}` of connection `{sync.connection.name}` is {taken[one.name].instead}, "
                    f"or a column of {sync.segment.model.name} or {sync.entity.model.name}"
                )
            found |= {source: said for source in (one.column, one.country) if source}
    return found


def _yesterday() -> int:
    """Tables of the last day stay: another run may still read them. Older ones are what killed runs left."""
    return int(time.time()) - _DAY_S
