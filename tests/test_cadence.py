from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_segments.cadence import check, is_due, next_due, too_often

UTC = timezone.utc
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Havana", "Australia/Lord_Howe"]
CRONS = ["hourly", "daily", "30 2 * * *", "*/15 * * * *", "0 6 * * 1-5", "0 0 1 * *", "15 1,13 * * sun"]

moments = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))
spans = st.timedeltas(timedelta(0), timedelta(days=60))
zones = st.sampled_from(ZONES)
slotted = st.sampled_from(CRONS)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def syncs(schedule: str, runs: list[datetime], zone: str) -> list[datetime]:
    """The runs that sync, each of them a success."""
    done: list[datetime] = []
    for run in runs:
        if is_due(schedule, done[-1] if done else None, run, zone):
            done.append(run)
    return done


def daily_jobs(hour: int, seed: int, zone_offset: timedelta = timedelta(0)) -> list[datetime]:
    """Thirty jobs, one a day, each up to 20 minutes before or after the hour, in March with its clock change."""
    draw = random.Random(seed)
    start = datetime(2025, 3, 10, tzinfo=timezone(zone_offset)) + timedelta(hours=hour)
    return [start + timedelta(days=day, seconds=draw.randint(-1200, 1200)) for day in range(30)]


@pytest.mark.parametrize("hour", range(1, 23))
@pytest.mark.parametrize("seed", range(5))
def test_thirty_daily_jobs_with_jitter_sync_thirty_times(hour: int, seed: int) -> None:
    """A job that drifts by 20 minutes either way syncs on each of 30 days, whatever its hour."""
    assert len(syncs("daily", daily_jobs(hour, seed), "UTC")) == 30


@pytest.mark.parametrize("seed", range(20))
def test_a_job_at_midnight_syncs_every_time_under_slots_at_noon(seed: int) -> None:
    """Around 00:00 "daily" may skip a run but never syncs one slot twice; slots at noon make it exact."""
    jobs = daily_jobs(0, seed, timedelta(hours=1))
    assert len(syncs("0 12 * * *", jobs, "Etc/GMT-1")) == 30
    done = syncs("daily", jobs, "Etc/GMT-1")
    dates = [run.date() for run in done]
    assert len(set(dates)) == len(dates)
    assert max(later - earlier for earlier, later in pairwise(done)) <= timedelta(days=2, minutes=40)


def test_a_failed_sync_stays_due() -> None:
    """Without a new success every later run of the same slot is due."""
    last = at("2025-05-01T06:00:00+00:00")
    assert [is_due("daily", last, at(f"2025-05-02T{hour:02}:00:00+00:00"), "UTC") for hour in (0, 6, 23)] == [True] * 3


def test_a_first_sync_is_due_unless_manual() -> None:
    """With no success on record every schedule but manual is due."""
    now = at("2025-05-01T06:00:00+00:00")
    due = {schedule: is_due(schedule, None, now, "UTC") for schedule in ["every run", "manual", *CRONS]}
    assert due.pop("manual") is False
    assert set(due.values()) == {True}


def test_every_run_is_due_and_manual_never() -> None:
    """The two schedules without slots do not look at the clock."""
    now = at("2025-05-01T06:00:00+00:00")
    assert is_due("every run", now, now, "UTC")
    assert not is_due("manual", now - timedelta(days=900), now, "UTC")
    assert next_due("every run", now, now, "UTC") == now
    assert next_due("manual", None, now, "UTC") is None


def test_a_success_in_the_future_counts_as_now() -> None:
    """A clock that was wrong delays a sync to the next slot, not for ever."""
    now, future = at("2025-05-01T06:00:00+00:00"), at("2031-01-01T00:00:00+00:00")
    assert not is_due("daily", future, now, "UTC")
    assert next_due("daily", future, now, "UTC") == at("2025-05-02T00:00:00+00:00")


@pytest.mark.parametrize(
    ("schedule", "zone", "last", "now", "due"),
    [
        # daily begins at the project's midnight, not at that of UTC
        ("daily", "America/New_York", "2025-01-10T23:30-05:00", "2025-01-10T23:59-05:00", False),
        ("daily", "America/New_York", "2025-01-10T23:30-05:00", "2025-01-11T00:00-05:00", True),
        # Berlin springs from 02:00 to 03:00 on 30 March 2025: the slot of 02:30 begins at 03:00, once
        ("30 2 * * *", "Europe/Berlin", "2025-03-29T02:40+01:00", "2025-03-30T01:59+01:00", False),
        ("30 2 * * *", "Europe/Berlin", "2025-03-29T02:40+01:00", "2025-03-30T03:00+02:00", True),
        ("30 2 * * *", "Europe/Berlin", "2025-03-30T03:10+02:00", "2025-03-30T03:40+02:00", False),
        # Berlin falls back from 03:00 to 02:00 on 26 October 2025: 02:30 comes twice and counts once
        ("30 2 * * *", "Europe/Berlin", "2025-10-26T02:35+02:00", "2025-10-26T02:10+01:00", False),
        ("30 2 * * *", "Europe/Berlin", "2025-10-26T02:35+02:00", "2025-10-26T02:40+01:00", False),
        ("30 2 * * *", "Europe/Berlin", "2025-10-25T02:35+02:00", "2025-10-26T02:10+01:00", True),
        # Havana skips its midnight: 00:00 to 01:00 on 9 March 2025
        ("daily", "America/Havana", "2025-03-08T12:00-05:00", "2025-03-09T01:00-04:00", True),
        ("daily", "America/Havana", "2025-03-09T01:10-04:00", "2025-03-09T01:50-04:00", False),
        # hourly goes on through a repeated hour
        ("hourly", "Europe/Berlin", "2025-10-26T02:05+02:00", "2025-10-26T02:05+01:00", True),
        ("0 6 * * 1-5", "UTC", "2025-05-02T06:05+00:00", "2025-05-04T20:00+00:00", False),
        ("0 6 * * 1-5", "UTC", "2025-05-02T06:05+00:00", "2025-05-05T06:00+00:00", True),
    ],
)
def test_slots_begin_on_the_projects_clock(schedule: str, zone: str, last: str, now: str, due: bool) -> None:
    """A slot begins by the wall clock of the project, clock changes included."""
    assert is_due(schedule, at(last), at(now), zone) is due


@given(slotted, zones, moments, spans)
def test_a_success_ends_its_slot_until_the_next_one(schedule: str, zone: str, last: datetime, span: timedelta) -> None:
    """After a success a sync is due exactly from `next_due` on, and stays so."""
    due_from = next_due(schedule, last, last, zone)
    assert due_from is not None and due_from > last
    assert not is_due(schedule, last, last, zone)
    assert not is_due(schedule, last, due_from - timedelta(seconds=1), zone)
    assert is_due(schedule, last, due_from, zone)
    assert is_due(schedule, last, last + span, zone) is (last + span >= due_from)


@given(slotted, zones, moments, st.lists(spans, min_size=1, max_size=8))
def test_more_runs_never_lose_a_slot(schedule: str, zone: str, last: datetime, gaps: list[timedelta]) -> None:
    """If a slot has begun since the last success, any run after its begin finds the sync due."""
    now = last
    for gap in gaps:
        now += gap
        expected = next_due(schedule, last, last, zone)
        assert expected is not None
        assert is_due(schedule, last, now, zone) is (now >= expected)
        if now >= expected:
            last = now


@pytest.mark.parametrize("schedule", ["every run", "hourly", "daily", "manual", "30 6 * * 1-5", "0 0 29 2 *"])
def test_schedules_that_can_be_met_are_accepted(schedule: str) -> None:
    """The words and cron lines that occur have nothing wrong with them."""
    assert check(schedule) is None


@pytest.mark.parametrize(
    "schedule",
    ["", "weekly", "@daily", "0 25 * * *", "* * * *", "0 0 * * * 30", "H * * * *", "R R * * *", "0 0 30 2 *", "Daily"],
)
def test_other_schedules_are_refused_with_a_reason(schedule: str) -> None:
    """Unknown words, malformed or drawn cron lines and dates that never come are refused."""
    assert check(schedule)


def test_an_unknown_word_names_those_that_exist() -> None:
    """The refusal says what to write instead."""
    assert "every run, hourly, daily, manual" in (check("weekly") or "")


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ("hourly", "1 hour"),
        ("*/15 * * * *", "0.25 hours"),
        ("0 6,9 * * 1-5", "3 hours"),
        ("0 0 1,2 * *", None),
        ("0 */6 * * *", None),
        ("30 6 29 2 *", None),
        ("daily", None),
        ("every run", None),
        ("manual", None),
    ],
)
def test_slots_that_are_closer_than_a_platform_wants_are_told(schedule: str, hours: str | None) -> None:
    """The closest two count; of runs nobody knows how far they are apart."""
    said = too_often(schedule, 6)
    assert (said is None) == (hours is None)
    assert said is None or f"{hours} apart" in said
