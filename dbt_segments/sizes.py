"""What platforms say of their audiences: sizes and match rates, asked for once a day and kept in the state.

A figure means something only once the platform has processed what was sent. So an audience is asked for from
`settles_h` hours after it was made or adopted on, and a figure that was read sooner than that after the last change is
kept as not `settled`. What a run asks for here is on no sync's account: a sync that sends nothing makes no request.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from dbt_segments import cadence
from dbt_segments.audiences import gone, is_attended, recorded, untargeted
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Audience, Destination, Size
from dbt_segments.errors import DestinationError, GoneError
from dbt_segments.project import Project
from dbt_segments.report import count_of
from dbt_segments.retry import Budget
from dbt_segments.send import Sender
from dbt_segments.state.ledger import by_status, read_ledger
from dbt_segments.state.store import Store, in_list
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session

SETTLES_H = 24
# A daily job begins its next run a little less than a day after the last change of the one before.
_TOLERANCE = timedelta(hours=1)
# What `status` of a row says where ads cannot use the audience, whatever the platform calls it.
_GONE, _ENDED, _UNATTENDED, _WRONG = "gone", "ended: ", "unattended", "wrong: "
_BUDGET = Budget(tries=2, wait_s=10.0)


@dataclass(frozen=True)
class Measure:
    """The newest figures of one audience; times are aware, UTC.

    lower, upper  people, as the platform estimates them
    status        its state in plain words
    settled       whether everything sent had been processed by then
    """

    lower: int | None
    upper: int | None
    match_rate: float | None
    status: str
    settled: bool
    at: datetime


@dataclass(frozen=True)
class _Due:
    sync: Sync
    audience: Audience
    members: int
    settled: bool
    attended: bool


def settles_after(cls: type[Destination]) -> timedelta:
    """How long a platform takes to process what was sent."""
    return timedelta(hours=SETTLES_H if cls.settles_h is None else cls.settles_h)


def newest(session: Session, store: Store, sync: Sync) -> Measure | None:
    """The newest figures on record."""
    ids = in_list((sync.id, *sync.former_ids))
    rows = session.rows(
        f"select size_lower, size_upper, status, settled, recorded_at from {store.table('audience_sizes')} "
        f"where sync_id in {ids} order by recorded_at desc limit 1"
    )
    if not rows:
        return None
    lower, upper, status, settled, at = rows[0]
    rate = session.rows(
        f"select match_rate from {store.table('match_rates')} where sync_id in {ids} order by recorded_at desc limit 1"
    )
    return Measure(
        lower, upper, float(rate[0][0]) if rate else None, status or "", bool(settled), at.replace(tzinfo=timezone.utc)
    )


def last_change(session: Session, store: Store, sync: Sync) -> datetime | None:
    """When members were last sent or taken out; aware, UTC."""
    found = session.value(
        f"select max(recorded_at) from {store.table('sync_batches')} where sync_id in "
        f"{in_list((sync.id, *sync.former_ids))} and state in ('accepted', 'submitted', 'unknown') "
        "and batch is not null"
    )
    return found.replace(tzinfo=timezone.utc) if found is not None else None


def refresh(project: Project, syncs: Iterable[Sync], lock_timeout_s: float, tell: Callable[[str], None]) -> None:
    """Ask for the figures of every audience that was not asked today, and keep them; a failure is told."""
    with project.state.session(lock_timeout_s=lock_timeout_s) as session:
        now = session.value(f"select {session.now}").replace(tzinfo=timezone.utc)
        due = [one for sync in syncs if (one := _due(session, project, sync, now)) is not None]
    found: list[tuple[_Due, Size]] = []
    by_connection = sorted(due, key=lambda one: one.sync.connection.name)
    for _, group in itertools.groupby(by_connection, key=lambda one: one.sync.connection.name):
        found += _ask(project, list(group), tell)
    if not found:
        return
    with project.state.session(lock_timeout_s=lock_timeout_s) as session, session.transaction():
        project.store.log(session, "audience_sizes", [_size_row(one, size) for one, size in found])
        rated = [(one, size.match_rate) for one, size in found if size.match_rate is not None]
        rows = [{**_row(one), "match_rate": rate, "settled": one.settled} for one, rate in rated]
        project.store.log(session, "match_rates", rows)


def _due(session: Session, project: Project, sync: Sync, now: datetime) -> _Due | None:
    """What to ask of this sync's audience; None where there is none, or where it is too soon."""
    if sync.connection.problems:
        return None
    cls, store = destinations.get(sync.connection.type), project.store
    known = None if cls.records or not sync.import_sizes else recorded(session, store, sync)
    if known is None or known.account != cls(sync.connection.settings).account():
        return None
    made = session.value(
        f"select max(recorded_at) from {store.table('audiences')} where sync_id = ? and audience_id = ? "
        f"and event in ('created', 'adopted')",
        [known.sync_id, known.audience.id],
    )
    if made is None or now - made.replace(tzinfo=timezone.utc) < settles_after(cls):
        return None
    last = newest(session, store, sync)
    if not cadence.is_due("daily", last.at if last else None, now, project.settings.timezone):
        return None
    changed = last_change(session, store, sync)
    settled = changed is None or now - changed >= settles_after(cls) - _TOLERANCE
    present = by_status(session, read_ledger(session, store, sync.id)).get("present", 0)
    attended = cls.attends and is_attended(session, store, sync, known.audience)
    return _Due(sync, known.audience, present, settled, attended)


def _ask(project: Project, due: list[_Due], tell: Callable[[str], None]) -> list[tuple[_Due, Size]]:
    """What one connection's platform says; it is asked no more after it failed."""
    connection = due[0].sync.connection
    destination = destinations.get(connection.type)(connection.settings)
    found: list[tuple[_Due, Size]] = []
    with Sender(destination, around=project.away, budget=_BUDGET) as sender:
        for one in due:
            try:
                size = sender.play(destination.size(one.audience))
                if size.ended:
                    size = replace(size, status=_ENDED + size.ended)
                elif one.attended and not sender.play(destination.is_attended(one.audience)):
                    size = replace(size, status=_UNATTENDED)
                elif size.wrong:
                    size = replace(size, status=_WRONG + size.wrong)
            except NotImplementedError:
                return []
            except GoneError:
                size = Size(status=_GONE)
            except DestinationError as error:
                tell(f"warning: {one.sync.id}: its size could not be read: {error.message}")
                break
            found.append((one, size))
    return found


def _row(one: _Due) -> dict[str, object]:
    connection = one.sync.connection
    return {
        "sync_id": one.sync.id,
        "connection": connection.name,
        "account": destinations.get(connection.type)(connection.settings).account(),
        "audience_id": one.audience.id,
        "members": one.members,
    }


def _size_row(one: _Due, size: Size) -> dict[str, object]:
    figures = {"size_lower": size.lower, "size_upper": size.upper, "status": size.status or None}
    return {**_row(one), **figures, "settled": one.settled}


# -- what is said of them -------------------------------------------------------------------------------------


def amiss(session: Session, store: Store, sync: Sync) -> tuple[str, ...]:
    """The warning and its remedy where ads cannot use the sync's audience, as it was when last asked for.

    Said in every run until the platform says otherwise, or members are sent again, which asks itself.
    """
    known = None if sync.connection.problems else recorded(session, store, sync)
    if known is None or not known.audience.id:
        return ()
    rows = session.rows(
        f"select status, recorded_at from {store.table('audience_sizes')} "
        f"where sync_id in {in_list((sync.id, *sync.former_ids))} and audience_id = ? "
        "order by recorded_at desc limit 1",
        [known.audience.id],
    )
    status = str(rows[0][0] or "") if rows else ""
    error: DestinationError
    if status.startswith(_WRONG):
        said = status.removeprefix(_WRONG)
        error = DestinationError(f"{sync.id}: audience {known.audience.id} ({known.audience.name}): {said}")
    elif status == _UNATTENDED:
        error = untargeted(sync, known.audience)
    elif status == _GONE or status.startswith(_ENDED):
        ended = status.removeprefix(_ENDED) if status.startswith(_ENDED) else ""
        error = gone(GoneError("", ended=ended), sync, known.audience)
    else:
        return ()
    changed = last_change(session, store, sync)
    if changed is not None and changed > rows[0][1].replace(tzinfo=timezone.utc):
        return ()
    return (f"warning: {error.message}", *([error.hint] if error.hint else []))


def too_few(cls: type[Destination], members: int) -> str | None:
    """The warning of a plan that leaves fewer members than the platform can use; None where that is no question."""
    if cls.minimum is None or members >= cls.minimum:
        return None
    return (
        f"warning: below_minimum: {count_of(members, 'member')} would be in it; {cls.type} uses an audience from about "
        f"{cls.minimum:,} matched people on"
    )


def said(cls: type[Destination], measure: Measure | None, changed: datetime | None, now: datetime) -> list[str]:
    """What `status` says of an audience. While a change is being processed, a small figure is no warning."""
    until = changed + settles_after(cls) if changed is not None else now
    if until > now:
        return [f"processing until about {until:%Y-%m-%d %H:%M} UTC"]
    people = measure.upper if measure is not None and measure.settled else None
    if people is None and measure is not None and measure.settled and measure.status == "processing":
        hours = settles_after(cls) // timedelta(hours=1)
        few = f"; it uses an audience from about {cls.minimum:,} matched people on" if cls.minimum else ""
        return [f"warning: no_size: {cls.type} names no size, {hours} hours after the last change{few}"]
    if people is None or cls.minimum is None or people >= cls.minimum:
        return []
    matched = f"{people:,} people matched; {cls.type} uses an audience from about {cls.minimum:,} on"
    return [f"warning: below_minimum: {matched}"]
