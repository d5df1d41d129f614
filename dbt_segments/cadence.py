"""When a sync is due: its schedule's newest slot began after its last success.

Slots, not distances: "24 hours after the last success" lets a job that drifts by minutes skip days or sync twice. A
slot is an instant; the first run at or after it syncs, the others of that slot do not, and a slot that saw no run is
not made up for twice. A job that may start a little *before* its slot begins is at times in one slot twice: give it a
cron line whose slots lie hours away ("0 12 * * *" for a job around midnight). Schedulers that only start late are fine.

Clock changes: a wall-clock time that is skipped begins at the instant of the change; one that comes twice counts once,
the first time. "hourly" means whole hours of UTC and so knows no clock changes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from croniter import croniter

EVERY_RUN, MANUAL = "every run", "manual"
WORDS = (EVERY_RUN, "hourly", "daily", MANUAL)

_MINUTE = timedelta(minutes=1)
_HOURLY, _DAILY = "0 * * * *", "0 0 * * *"
# croniter's H and R draw a time by hash or at random; a slot must be the same whoever asks
_DRAWN = re.compile(r"(^|[\s,])[hr]([\s,/(]|$)", re.IGNORECASE)
_START = datetime(2000, 1, 1)
# So many tell how close the slots of a cron line come: a week and more of those that are hours apart.
_SLOTS = 200
_UTC = timezone.utc


def check(schedule: str) -> str | None:
    """What is wrong with a schedule, or None: one of the words, or a cron line of five fields that ever occurs."""
    if schedule in WORDS:
        return None
    if len(schedule.split()) != 5 or _DRAWN.search(schedule) or not croniter.is_valid(schedule):
        return f"not a schedule: use {', '.join(WORDS)}, or a cron line of five fields such as '30 6 * * 1-5'"
    try:
        croniter(schedule, _START).get_next(datetime)
    except ValueError:  # croniter's errors are ValueErrors
        return "this cron line names a date that never comes"
    return None


def too_often(schedule: str, window_h: int) -> str | None:
    """What is to be said of a schedule with slots closer than `window_h` hours; None: nothing.

    How often somebody runs dbt is not known, so `every run` is never too often.
    """
    if schedule in (EVERY_RUN, MANUAL):
        return None
    expression, _ = _expand(schedule, "UTC")
    walls = list(islice(_walls(expression, _START, back=False), _SLOTS))
    closest = min(after - before for before, after in pairwise(walls))
    if closest >= timedelta(hours=window_h):
        return None
    hours = f"{closest / timedelta(hours=1):.2g}"
    return (
        f"the schedule `{schedule}` has slots {hours} hour{'' if hours == '1' else 's'} apart, and the platform asks "
        f"for no more than one update in {window_h} hours: syncing more often gains nothing"
    )


def is_due(schedule: str, last_success: datetime | None, now: datetime, timezone: str) -> bool:
    """True where a slot has begun since the slot of the last success.

    last_success  when the last successful run *started*, with its zone; one in the future counts as `now`
    now           with its zone
    timezone      IANA name of the project's time zone

    Raises ValueError for a schedule that `check` refuses, ZoneInfoNotFoundError for an unknown zone.
    """
    if schedule == MANUAL:
        return False
    if schedule == EVERY_RUN or last_success is None:
        return True
    return _slot(schedule, now, timezone) > min(last_success, now)


def next_due(schedule: str, last_success: datetime | None, now: datetime, timezone: str) -> datetime | None:
    """The instant, in UTC, from which a run would sync: `now` where it is due already, None where it never is."""
    if schedule == MANUAL:
        return None
    if is_due(schedule, last_success, now, timezone):
        return now.astimezone(_UTC)
    expression, zone = _expand(schedule, timezone)
    # in the second pass of a repeated hour the next walls have begun already
    walls = _walls(expression, _wall(now, zone), back=False)
    return next(instant for wall in walls if (instant := _instant(wall, zone)) > now)


def _slot(schedule: str, now: datetime, timezone: str) -> datetime:
    """The instant at which the newest slot began, not after `now`; it never moves back while `now` moves on."""
    expression, zone = _expand(schedule, timezone)
    wall = _wall(now, zone)
    # in the second pass of a repeated hour the whole hour has been seen, so look that much further ahead first
    seen = max(_offset(wall, zone, fold=0) - _offset(wall, zone, fold=1), timedelta(0))
    walls = _walls(expression, wall + seen + _MINUTE, back=True)
    return next(instant for each in walls if (instant := _instant(each, zone)) <= now)


def _expand(schedule: str, timezone: str) -> tuple[str, ZoneInfo]:
    """A schedule as a cron line and the zone of its clock."""
    if schedule == "hourly":
        return _HOURLY, ZoneInfo("UTC")
    return _DAILY if schedule == "daily" else schedule, ZoneInfo(timezone)


def _walls(expression: str, start: datetime, *, back: bool) -> Iterator[datetime]:
    """Times on the wall clock that the cron line names, before `start` (newest first) or after it."""
    clock = croniter(expression, start)
    while True:
        yield clock.get_prev(datetime) if back else clock.get_next(datetime)


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the clock on the wall reads, to the minute and without a zone."""
    return moment.astimezone(zone).replace(second=0, microsecond=0, tzinfo=None, fold=0)


def _offset(wall: datetime, zone: ZoneInfo, *, fold: int) -> timedelta:
    offset = wall.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None  # a ZoneInfo always knows
    return offset


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which the clock first reads `wall`, or jumps over it."""
    early, late = _offset(wall, zone, fold=0), _offset(wall, zone, fold=1)
    instant = wall.replace(tzinfo=_UTC) - early
    if late <= early:
        return instant
    # skipped: the change lies in the length of the gap before `instant`
    first = instant - (late - early)
    gap = range(int((late - early).total_seconds()) + 1)
    after = bisect_left(gap, True, key=lambda s: (first + timedelta(seconds=s)).astimezone(zone).utcoffset() == late)
    return first + timedelta(seconds=after)
