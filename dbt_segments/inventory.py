"""What there is, and what was done: segments, connections, audiences, past runs, rejects. Makes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from dbt_segments import project as projects
from dbt_segments.audiences import OVER
from dbt_segments.project import Reading
from dbt_segments.settings import Options
from dbt_segments.state.schema import TABLES
from dbt_segments.state.store import Store, in_list
from dbt_segments.values import Registry, Sync
from dbt_segments.warehouse import Session

Standing = Literal["on", "off", "deleted", "over"]
# Connection, account and id at the platform.
_Identity = tuple[str, str, str | None]
REJECT_COLUMNS = ("recorded_at", "sync_id", "key", "reason", "class", "run_id")


@dataclass(frozen=True)
class ListedSync:
    """One segment at one connection. The last run is the newest that was not skipped; times are UTC.

    usable  the connection has no mistakes
    """

    sync_id: str
    segment: str
    entity: str
    destination: str
    type: str
    one_click: bool
    mode: str
    enabled: bool
    audience_id: str | None = None
    audience_name: str | None = None
    last_status: str | None = None
    last_finished_at: datetime | None = None
    usable: bool = True


@dataclass(frozen=True)
class ListedAudience:
    """An audience that the state knows, and whether the project still has its sync switched on.

    sync_id  today's, where the model was renamed and goes on with the audience
    event    created, adopted, emptied, gone (deleted at the platform), deleted (by us), or intended: a run meant to
             make it and was interrupted
    standing of its sync; over: the audience is gone or deleted
    adopted  it was not made by us
    """

    sync_id: str
    destination: str
    account: str
    audience_id: str | None
    audience_name: str | None
    mark: str
    event: str
    standing: Standing
    recorded_at: datetime
    last_status: str | None = None
    last_finished_at: datetime | None = None
    adopted: bool = False


@dataclass(frozen=True)
class Overview:
    """The matrix: segments by connections.

    segments  name -> entity
    kept      audiences whose sync is switched off or gone; nothing is sent to them, and nothing is removed
    """

    segments: Mapping[str, str]
    connections: tuple[str, ...]
    syncs: tuple[ListedSync, ...]
    kept: tuple[ListedAudience, ...] = ()


@dataclass(frozen=True)
class Log:
    """Newest rows of a log of the state, newest first, and how many there are in all."""

    rows: tuple[dict[str, Any], ...] = ()
    total: int = 0


@dataclass(frozen=True)
class _Known:
    """What the state knows, by sync id."""

    audiences: tuple[ListedAudience, ...] = ()
    last: Mapping[str, tuple[str, datetime]] = field(default_factory=dict)


def overview(options: Options) -> Overview:
    """Every selected segment at every connection; audiences of deleted segments only where nothing is selected."""
    with projects.read_state(options) as reading:
        known = _known(reading)
    kept = _selected(reading, tuple(_orphans(known)))
    segments = {segment.name: segment.entity.name for segment in reading.registry.segments}
    segments |= {sync.segment.name: sync.entity.name for sync in reading.registry.syncs if sync.segment.whole}
    if reading.narrowed:
        chosen = {sync.segment.name for sync in reading.syncs}
        segments = {name: entity for name, entity in segments.items() if name in chosen}
    standings = ("off",) if reading.narrowed else ("off", "deleted")
    return Overview(
        segments=segments,
        connections=reading.connections.names,
        syncs=tuple(_listed(sync, known) for sync in reading.syncs),
        kept=tuple(one for one in kept if one.standing in standings),
    )


def audiences(options: Options) -> tuple[ListedAudience, ...]:
    """Every audience that the state knows, those of deleted segments too unless something is selected."""
    with projects.read_state(options) as reading:
        return _selected(reading, _known(reading).audiences)


def history(options: Options, limit: int) -> Log:
    """Rows of `sync_runs`, newest first."""
    return _log(options, "sync_runs", tuple(TABLES["sync_runs"]), "finished_at desc, sync_id", limit)


def rejects(options: Options, limit: int) -> Log:
    """Rows of `rejects`, newest first. A key is the entity's own; identifiers are in no log."""
    return _log(options, "rejects", REJECT_COLUMNS, "recorded_at desc, generation, row_seq", limit)


def _log(options: Options, table: str, columns: tuple[str, ...], order: str, limit: int) -> Log:
    with projects.read_state(options) as reading:
        if reading.session is None or reading.store is None:
            return Log()
        where = f"where sync_id in {in_list(_ids(reading))}" if reading.narrowed else ""
        source = f"from {reading.store.table(table)} {where}"
        rows = reading.session.rows(f"select {', '.join(columns)} {source} order by {order} limit {int(limit)}")
        total = int(reading.session.value(f"select count(*) {source}"))
    return Log(tuple(dict(zip(columns, row, strict=True)) for row in rows), total)


def _ids(reading: Reading) -> list[str]:
    return [sync_id for sync in reading.syncs for sync_id in (sync.id, *sync.former_ids)]


def _selected(reading: Reading, found: tuple[ListedAudience, ...]) -> tuple[ListedAudience, ...]:
    if not reading.narrowed:
        return found
    ids = set(_ids(reading))
    return tuple(one for one in found if one.sync_id in ids)


def _listed(sync: Sync, known: _Known) -> ListedSync:
    ids = (sync.id, *sync.former_ids)
    there = [one for one in known.audiences if one.audience_id and one.standing != "over"]
    audience = next((one for id_ in ids for one in there if one.sync_id == id_), None)
    return ListedSync(
        sync_id=sync.id,
        segment=sync.segment.name,
        entity=sync.entity.name,
        destination=sync.connection.name,
        type=sync.connection.type,
        one_click=sync.one_click,
        mode=sync.mode,
        enabled=sync.enabled,
        audience_id=audience.audience_id if audience else None,
        audience_name=audience.audience_name if audience else None,
        usable=not sync.connection.problems,
        **_last(sync, known),
    )


def _last(sync: Sync, known: _Known) -> dict[str, Any]:
    """How the newest run under today's id ended, else under a former one."""
    ids = (sync.id, *sync.former_ids)
    status, finished = next((known.last[id_] for id_ in ids if id_ in known.last), (None, None))
    return {"last_status": status, "last_finished_at": finished}


def orphans(session: Session, store: Store, registry: Registry) -> tuple[ListedAudience, ...]:
    """Audiences that exist, as far as we know, and whose sync is switched off or gone."""
    return tuple(_orphans(_read(session, store, registry)))


def left_behind(session: Session, store: Store, registry: Registry, sync: Sync) -> tuple[str, ...]:
    """Models that the project has no more, and that have an audience at this sync's connection.

    Where a sync is about to make its first audience, it may be one of them under a new name.
    """
    start, end = f"{sync.segment.model.package}.", f".{sync.connection.name}"
    found = (one.sync_id for one in orphans(session, store, registry) if one.standing == "deleted")
    return tuple(one[len(start) : -len(end)] for one in found if one.startswith(start) and one.endswith(end))


def _orphans(known: _Known) -> Iterator[ListedAudience]:
    for one in known.audiences:
        if one.standing != "on" and one.audience_id and one.event not in OVER:
            yield one


def _known(reading: Reading) -> _Known:
    if reading.session is None or reading.store is None:
        return _Known()
    return _one_each(_read(reading.session, reading.store, reading.registry), reading.registry.syncs)


def _read(session: Session, store: Store, registry: Registry) -> _Known:
    last = _last_runs(session, store)
    syncs = {sync_id: sync for sync in registry.syncs for sync_id in (sync.id, *sync.former_ids)}
    over = _over(session, store)
    rows = session.rows(
        # An audience that was made or taken over wins over the intention to make one.
        "select sync_id, connection, account, audience_id, name, mark, event, recorded_at, "
        f"(select min(o.event) from {store.table('audiences')} o where o.sync_id = newest.sync_id "
        f"and o.audience_id = newest.audience_id and o.event in ('created', 'adopted')) from ("
        "select a.*, row_number() over (partition by sync_id "
        "order by case when event = 'intended' then 1 else 0 end, recorded_at desc, token desc) as place "
        f"from {store.table('audiences')} a "
        "where event not in ('records', 'attended', 'unattended', 'abandoned')) newest "
        "where place = 1 order by sync_id"
    )
    found = (
        ListedAudience(
            sync_id=row[0],
            destination=row[1],
            account=row[2] or "",
            audience_id=row[3],
            audience_name=row[4],
            mark=row[5] or "",
            event=row[6],
            standing=("on" if syncs[row[0]].enabled else "off") if row[0] in syncs else "deleted",
            recorded_at=row[7],
            last_status=last[row[0]][0] if row[0] in last else None,
            last_finished_at=last[row[0]][1] if row[0] in last else None,
            adopted=row[8] == "adopted",
        )
        for row in rows
    )
    return _Known(tuple(_ended(one, over) for one in found), last)


def _over(session: Session, store: Store) -> dict[_Identity, tuple[datetime, str]]:
    """Audience -> when it was last found gone, or deleted by us, and which of both; under whatever id that was."""
    rows = session.rows(
        f"select connection, account, audience_id, recorded_at, event from {store.table('audiences')} "
        f"where event in {in_list(OVER)} order by recorded_at, token"
    )
    return {(row[0], row[1] or "", row[2]): (row[3], row[4]) for row in rows}


def _ended(one: ListedAudience, over: Mapping[_Identity, tuple[datetime, str]]) -> ListedAudience:
    at, event = over.get((one.destination, one.account, one.audience_id), (None, ""))
    if at is None or at < one.recorded_at:
        return one
    return replace(one, event=event, recorded_at=at, standing="over")


def _one_each(known: _Known, syncs: Iterable[Sync]) -> _Known:
    """One row for each audience, under the id that goes on with it.

    What is over keeps the id that had it: a renamed sync may have another audience by now.
    """
    today = {sync_id: sync for sync in syncs for sync_id in (sync.id, *sync.former_ids)}
    rows: dict[object, ListedAudience] = {}
    # An id of today says more than a former one, and that more than one which the project has no more.
    for one in sorted(known.audiences, key=lambda one: (one.sync_id not in today, one.standing == "over")):
        sync = today.get(one.sync_id)
        if sync is not None and one.standing == "on" and one.audience_id:
            one = replace(one, sync_id=sync.id, **_last(sync, known))
        rows.setdefault((one.destination, one.account, one.audience_id or one.sync_id), one)
    return replace(known, audiences=tuple(sorted(rows.values(), key=lambda one: one.sync_id)))


def _last_runs(session: Session, store: Store) -> dict[str, tuple[str, datetime]]:
    """Sync id -> status and end of its newest run that was not skipped."""
    rows = session.rows(
        "select sync_id, status, finished_at from ("
        "select r.*, row_number() over (partition by sync_id order by finished_at desc) as place "
        f"from {store.table('sync_runs')} r where status <> 'skipped') newest where place = 1"
    )
    return {row[0]: (row[1], row[2]) for row in rows}
