"""Which segments every record of an entity is in: `<entity>_segment_membership` in the state schema.

Counted are the last good frozen sets, unfiltered: a model that failed today makes nobody leave, and consent does not
matter. Everything is one join in the warehouse; what differs from the membership before goes to `membership_changes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb

from dbt_segments import builds
from dbt_segments.errors import SegmentsError, StatementError, WarehouseError
from dbt_segments.freeze import HeldError, entity_keys_sql, last_good, materialize, reading
from dbt_segments.frozens import Frozens, read_by
from dbt_segments.lists import lists_of
from dbt_segments.project import Project
from dbt_segments.state.store import Pointer
from dbt_segments.values import Entity, Hold, Model, Segment
from dbt_segments.warehouse import TEXT, Session, literal, moment, quote
from dbt_segments.workbench import open_workbench

KIND = "membership"
KEYS = "keys"
COLUMNS = ("key", "segments", "since")
_DAY_S = 86_400
# What holds the same rows until dbt builds it again.
_STORED = ("table", "incremental", "seed", "snapshot")
# dbt stamps builds by its machine's clock, frozen sets are stamped by the warehouse's.
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class MembershipTable:
    """The newest membership of an entity.

    table  quoted; columns `key` (text), `segments` (a list in the warehouse's own type, sorted) and `since`
    rows   query for `key`, `segments` as JSON text, and `since`
    doubt  why this is an earlier membership: the entity itself cannot be trusted now
    """

    entity: str
    name: str
    table: str
    rows: str
    doubt: HeldError | None = None


@dataclass(frozen=True)
class _Set:
    """What counts of one segment: a frozen set, None where there never was a good one; `reason`: why it is no newer."""

    segment: Segment
    table: str | None
    frozen_at: datetime | None
    reason: str | None


def owner_of(entity: Entity) -> str:
    """Whose the pointers and tables of an entity's membership are."""
    return f"entity.{entity.name}"


def view_of(entity: Entity) -> str:
    """The stable name under which the newest membership is found."""
    return f"{entity.name}_segment_membership"


def refresh_all(
    project: Project, frozens: Frozens, run_id: str, lock_timeout_s: float, tell: Callable[[str], None]
) -> None:
    """Bring the membership of every entity up to date; a failure is told and changes no sync's result."""
    with open_workbench(project.settings.memory_limit) as bench:
        for entity in project.registry.entities:
            try:
                with project.sessions(lock_timeout_s) as (models, state):
                    found = refresh(project, frozens, models, state, bench, entity, run_id=run_id, tell=tell)
            except SegmentsError as error:
                tell(f"warning: {view_of(entity)} could not be brought up to date: {error.message}")
                continue
            if found.doubt is not None:
                tell(f"warning: {view_of(entity)} stays as it was: {found.doubt.code}: {found.doubt.message}")


def refresh(
    project: Project,
    frozens: Frozens,
    models: Session,
    state: Session,
    bench: duckdb.DuckDBPyConnection,
    entity: Entity,
    *,
    run_id: str,
    tell: Callable[[str], None],
) -> MembershipTable:
    """The entity's membership now, made once a run.

    Raises HeldError where the entity cannot be trusted and there is no earlier membership.
    """
    known = frozens.memberships.get(entity.name)
    if known is None:
        known = _Refresh(project, frozens, models, state, bench, entity, run_id, tell).run()
        frozens.memberships[entity.name] = known
    return known


def newest(project: Project, state: Session, entity: Entity) -> MembershipTable:
    """The membership as the last sync left it, for a plan; nobody's where there was none."""
    pointer = project.store.head(state, owner_of(entity), KIND)
    if pointer is None:
        nobody = f"select cast(null as {TEXT}) as key, cast(null as {TEXT}) as segments where 1 = 0"
        return MembershipTable(entity.name, "", "", nobody)
    return _found(project, state, entity, pointer)


def _found(project: Project, state: Session, entity: Entity, pointer: Pointer) -> MembershipTable:
    name = pointer.tables[KIND]
    table = project.store.table(name)
    segments = state.text("segments", lists_of(state.kind).type)
    return MembershipTable(entity.name, name, table, f"select key, {segments} as segments, since from {table}")


@dataclass(frozen=True)
class _Refresh:
    """One entity in one run."""

    project: Project
    frozens: Frozens
    models: Session
    state: Session
    bench: duckdb.DuckDBPyConnection
    entity: Entity
    run_id: str
    tell: Callable[[str], None]

    def run(self) -> MembershipTable:
        store, owner = self.project.store, owner_of(self.entity)
        before = store.head(self.state, owner, KIND)
        try:
            keys = self._keys()
        except HeldError as error:
            if before is None:
                raise
            return replace(self._found(before), doubt=error)
        made = store.scratch(KIND, owner)
        try:
            sets = [self._set(segment) for segment in self._segments()]
            now: datetime = self.state.value(f"select {self.state.now}")
            self._make(made, keys, sets, before, now)
            try:
                head = self._commit(made, sets, before, now)
            except WarehouseError:
                other = store.head(self.state, owner, KIND)
                if other is None or (before is not None and other.id == before.id):
                    raise
                head = other  # another run was faster, with the rows of this same moment
        finally:
            for table in (made, keys):
                with suppress(WarehouseError):
                    self.state.execute(f"drop table if exists {table}")
        self._publish(head)
        return self._found(head)

    # -- what counts ------------------------------------------------------------------------------------------

    def _segments(self) -> list[Segment]:
        found = (s for s in self.project.registry.segments if s.entity.name == self.entity.name)
        return sorted(found, key=lambda segment: segment.name)

    def _keys(self) -> str:
        """A table of every key that the entity has now. Raises HeldError where its rows cannot be trusted."""
        reasons = self._doubts([self.entity.model], self.project.settings.hold)
        if reasons:
            code, _, text = reasons[0].partition(": ")
            raise HeldError(code, text)
        owner, store = owner_of(self.entity), self.project.store
        name = store.scratch_name(KEYS, owner)
        with reading(f"entity {self.entity.name}", self.entity.model):
            query = entity_keys_sql(self.models, self.entity)
            materialize(self.models, self.state, store, self.bench, name, query, {"key": TEXT})
        table = store.table(name)
        if self.project.settings.hold.empty == "hold" and not self.state.value(f"select count(*) from {table}"):
            self.state.execute(f"drop table {table}")
            raise HeldError("entity_empty", f"{self.entity.model.name} has no rows")
        return table

    def _doubts(self, models: list[Model], hold: Hold) -> list[str]:
        project = self.project
        return builds.weigh(models, hold, project.registry, project.builds, project.freshness)[0]

    def _set(self, segment: Segment) -> _Set:
        """The segment's last good set, frozen now where it can be and may have changed."""
        reason = None
        if not self.frozens.is_frozen(segment) and not self._is_current(segment):
            reason = self._freeze(segment)
        found = last_good(self.state, self.project.store, segment)
        if self.frozens.is_frozen(segment) and reason is None:
            frozen = self.frozens.segment(self.models, self.state, self.bench, segment, keep=True)
            if found is None or found.name != frozen.name:
                reason = f"segment_empty: {segment.model.name} has no members"
        has_sync = any(sync.segment.owner == segment.owner for sync in self.project.syncs)
        if reason is not None and not has_sync:  # else the sync's own result says why
            counts = "its last good set counts" if found else "it has no members yet"
            self.tell(f"{view_of(self.entity)}: {segment.name}: {counts}: {reason}")
        at = self._frozen_at(segment) if found else None
        return _Set(segment, found.table if found else None, at, reason)

    def _freeze(self, segment: Segment) -> str | None:
        """Freeze the segment; why that is not possible, or None."""
        mine = [sync.hold for sync in self.project.registry.syncs if sync.segment.owner == segment.owner]
        reasons = self._doubts(list(read_by(segment)), (mine or [self.project.settings.hold])[0])
        if reasons:
            return reasons[0]
        try:
            self.frozens.segment(self.models, self.state, self.bench, segment, keep=True)
        except HeldError as error:
            return f"{error.code}: {error.message}"
        except StatementError as error:  # a view whose rows cannot be computed: its segment only
            return f"not_readable: {error.message}"
        except WarehouseError as error:
            return f"not_readable: {segment.model.name}: {error.message}"
        return None

    def _is_current(self, segment: Segment) -> bool:
        """Whether nothing that the segment is made of was built since its last good set.

        Known only of tables that dbt built: a view or a source may hold other rows at any time.
        """
        at = self._frozen_at(segment)
        if at is None:
            return False
        for model in (segment.model, segment.entity.model):
            built = self.project.builds.get(model.unique_id)
            if built is None or model.materialized not in _STORED:
                return False
            if built.built_at.replace(tzinfo=None) + _CLOCKS_DIFFER > at:
                return False
        return True

    def _frozen_at(self, segment: Segment) -> datetime | None:
        found: datetime | None = self.state.value(
            f"select max(committed_at) from {self.project.store.table('pointers')} where owner = ? and kind = 'frozen'",
            [segment.owner],
        )
        return found

    # -- the table --------------------------------------------------------------------------------------------

    def _make(self, made: str, keys: str, sets: list[_Set], before: Pointer | None, now: datetime) -> None:
        """Fill table `made`: every key, its segments, and since when they are these."""
        lists = lists_of(self.state.kind)
        members = " union all ".join(
            f"select key, cast({literal(item.segment.name)} as {TEXT}) as segment from {item.table}"
            for item in sets
            if item.table
        )
        members = members or f"select cast(null as {TEXT}) as key, cast(null as {TEXT}) as segment where 1 = 0"
        stamp = moment(now)
        since, join = stamp, ""
        if before is not None:
            since = f"case when p.segments = {_or_empty(lists.empty)} then p.since else {stamp} end"
            join = f"left join {self.project.store.table(before.tables[KIND])} p on p.key = k.key"
        self.state.execute(
            f"create table {made} as "
            f"with members as ({members}), "
            f"lists as (select key, {lists.collected.format('segment')} as segments from members group by key) "
            f"select cast(k.key as {TEXT}) as key, cast({_or_empty(lists.empty)} as {lists.type}) as segments, "
            f"cast({since} as timestamp) as since "
            f"from {keys} k left join lists l on l.key = k.key {join}"
        )

    def _commit(self, made: str, sets: list[_Set], before: Pointer | None, now: datetime) -> Pointer:
        """Make table `made` the membership, and log what differs, all at once. An equal one is not kept.

        Renaming it is the mutex: of two runs that start from the same membership, one wins and the other one stops.
        """
        store, owner, state = self.project.store, owner_of(self.entity), self.state
        differs = self._differs(made, before)
        token = before.token + 1 if before else 1
        name = store.name(KIND, owner, token, 1)
        sizes = self._sizes(made, sets, now)
        with state.transaction():
            if differs:
                state.execute(f"alter table {made} rename to {quote(name)}")
                self._log_changes(store.table(name), before, now)
            state.insert(store.table("segment_sizes"), sizes)
            if not differs:
                assert before is not None
                return before
            return store.point(state, owner, KIND, token, 1, {"tables": {KIND: name}}, before.id if before else "")

    def _differs(self, made: str, before: Pointer | None) -> bool:
        if before is None:
            return True
        table = self.project.store.table(before.tables[KIND])
        return bool(
            self.state.value(
                f"select count(*) from {made} n full join {table} p on p.key = n.key "
                f"where n.key is null or p.key is null or n.segments <> p.segments"
            )
        )

    def _log_changes(self, table: str, before: Pointer | None, now: datetime) -> None:
        """Append who entered and who left which segment; of the first membership everybody enters."""
        items = lists_of(self.state.kind).items.format("segments")
        new = f"select key, {items} as segment from {table}"
        if before is None:
            query = f"select n.key, n.segment, 'enter' as change from ({new}) n"
        else:
            old = f"select key, {items} as segment from {self.project.store.table(before.tables[KIND])}"
            query = (
                f"select coalesce(n.key, p.key) as key, coalesce(n.segment, p.segment) as segment, "
                f"case when p.key is null then 'enter' else 'exit' end as change "
                f"from ({new}) n full join ({old}) p on p.key = n.key and p.segment = n.segment "
                f"where n.key is null or p.key is null"
            )
        self.state.execute(
            f"insert into {self.project.store.table('membership_changes')} "
            f"(run_id, entity, key, segment, change, recorded_at) "
            f"select {literal(self.run_id)}, {literal(self.entity.name)}, c.key, c.segment, c.change, {moment(now)} "
            f"from ({query}) c"
        )

    def _sizes(self, made: str, sets: list[_Set], now: datetime) -> list[dict[str, Any]]:
        """Rows of `segment_sizes`, one per declared segment."""
        items = lists_of(self.state.kind).items.format("segments")
        counts = dict(
            self.state.rows(f"select segment, count(*) from (select {items} as segment from {made}) i group by segment")
        )
        return [
            {
                "run_id": self.run_id,
                "entity": self.entity.name,
                "segment": item.segment.name,
                "members": int(counts.get(item.segment.name, 0)),
                "frozen_at": item.frozen_at,
                "reason": item.reason,
                "recorded_at": now,
            }
            for item in sets
        ]

    # -- readers ----------------------------------------------------------------------------------------------

    def _publish(self, head: Pointer) -> None:
        """Point the view at the newest table, then drop old ones.

        A reader of the view can make PostgreSQL wait, and others behind it; so this gives up soon, and the next run
        does it. The view then shows the membership before, whose table stays.
        """
        store, state, view = self.project.store, self.state, view_of(self.entity)
        name = head.tables[KIND]
        shown = state.value(
            "select view_definition from information_schema.views where table_schema = ? and table_name = ?",
            [store.schema, view],
        )
        if shown is None or name not in shown:
            try:
                state.replace_view(store.table(view), f"select {', '.join(COLUMNS)} from {store.table(name)}")
            except WarehouseError as error:
                self.tell(f"warning: {view} still shows the membership before: {error.message}")
                return
        self._collect(head)

    def _collect(self, head: Pointer) -> None:
        """Drop memberships of before yesterday, and what killed runs left; readers may still be at younger ones."""
        store, owner = self.project.store, owner_of(self.entity)
        rows = self.state.rows(
            f"select id from {store.table('pointers')} where owner = ? and kind = ? "
            f"and committed_at > {self.state.now} - interval '1 day'",
            [owner, KIND],
        )
        young = {row[0] for row in rows} | {head.id}
        kept = {pointer.tables[KIND] for pointer in store.pointers(self.state, owner, KIND) if pointer.id in young}
        store.collect(self.state, owner, [KIND, KEYS], kept, before=int(time.time()) - _DAY_S)

    def _found(self, pointer: Pointer) -> MembershipTable:
        return _found(self.project, self.state, self.entity, pointer)


def _or_empty(empty: str) -> str:
    return f"coalesce(l.segments, {empty})"
