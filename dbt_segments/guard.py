"""What holds a sync before anything is sent: thresholds on what it would remove or change (invariant 9).

What dbt says of the models (not built, tests failed, stale) is judged in `builds`. Explicit refusals never count here:
they go out even while a sync is held (invariant 13).
"""

from __future__ import annotations

from collections.abc import Collection

from dbt_segments.tally import Forecast
from dbt_segments.values import Hold

# Where hardly anybody refuses any more, fewer than the thresholds' number are enough to doubt it.
_HARDLY = 0.1
_FEW_MEMBERS = 10
_HALF_BUILT = "a suppression model or a consent column without its rows"


def thresholds(found: Forecast, hold: Hold) -> str | None:
    """Why this plan must wait for a release, or None. Both limits must be passed: a share and a number."""
    if found.base == 0:
        return None
    if found.losing > hold.remove_members and found.losing > hold.remove_fraction * found.base:
        cause = f"; likely cause: {', '.join(found.causes)}" if found.causes else ""
        return (
            f"too_many_removals: {found.losing:,} of {found.base:,} members would leave "
            f"(allowed {hold.remove_fraction:.0%}){cause}"
        )
    if found.changing > hold.change_members and found.changing > hold.change_fraction * found.base:
        cause = f"; likely cause: {', '.join(found.altered)}" if found.altered else ""
        return (
            f"too_many_changes: {found.changing:,} of {found.base:,} members would change "
            f"(allowed {hold.change_fraction:.0%}){cause}"
        )
    return None


def lifted(before: Collection[str], now: Collection[str], refused: int) -> str | None:
    """Why a sync must wait whose rules of refusal are fewer than those it last sent under, or None.

    Whom a rule refused that is gone would be sent like anybody else. One that took another's place counts as gone: it
    may refuse others.

    refused  members whom the last run did not send for their refusal
    """
    gone = sorted(set(before) - set(now))
    if not gone:
        return None
    members = f"; {_refused(refused)}" if refused else ""
    return f"refusals_lifted: no longer applied: {', '.join(gone)}{members}"


def unrecorded(rules: Collection[str], before: int, now: int) -> str | None:
    """Why a sync whose earlier rules of refusal are not on record must not send, or None.

    rules   that apply now
    before  members whom the newest run left out for their refusal
    now     members who are left out

    A state that an older version wrote has no rules. Where none apply any more, or where most refusals are gone, a rule
    was taken away along with the upgrade.
    """
    if not before or (rules and now * 2 >= before):
        return None
    return f"refusals_lifted: {_refused(before)}, and now it would be {now:,}"


def fewer(found: Forecast, before: int, hold: Hold) -> str | None:
    """Why a sync whose rules of refusal apply as before must wait since they refuse so few now, or None.

    before  members whom the last run left out for their refusal

    People do not take back their refusals by the dozen: a suppression model that was built from half of its rows, or a
    consent column that lost its values, looks like this. Whoever left the segment with their refusal is not sent, and
    counts for nothing.
    """
    now = found.counts.refused
    lifted = min(before - now, found.counts.added)
    many = lifted > hold.remove_members or (lifted >= _FEW_MEMBERS and now <= _HARDLY * before)
    if now * 2 >= before or lifted * 2 < before - now or not many:
        return None
    return f"refusals_lifted: {_refused(before)}, and now it would be {now:,}; likely cause: {_HALF_BUILT}"


def _refused(members: int) -> str:
    return f"the last run refused {members:,} member{'' if members == 1 else 's'}"


def deletions(count: int, records: int, hold: Hold) -> str | None:
    """Why a sync that deletes whom its segment names must wait, or None: a broken model would name everybody.

    records  of the entity
    """
    if count <= hold.remove_members or count <= hold.remove_fraction * records:
        return None
    return (
        f"too_many_removals: {count:,} of {records:,} records would be deleted (allowed {hold.remove_fraction:.0%}); "
        f"likely cause: the segment has grown"
    )


def session(requests: int, per_s: float | None, session_s: float | None) -> str | None:
    """Why a replace must not begin, or None: the platform would close its session before the last of its requests.

    requests   of the replace
    per_s      requests a second that the account allows; None: not known, one a second is counted on
    session_s  how long the platform keeps a replace open; None: for ever
    """
    lasts_s = requests / (per_s or 1.0)
    if session_s is None or lasts_s <= session_s:
        return None
    return (
        f"replace_too_long: {requests:,} requests would take {lasts_s / 60:,.0f} minutes, "
        f"and the platform closes a replace after {session_s / 60:,.0f}"
    )
