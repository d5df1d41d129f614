from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import pytest

from dbt_segments import report, sizes
from dbt_segments.destinations.base import Destination, Outcome
from dbt_segments.errors import Problem
from dbt_segments.owners import StateSize, TableSize
from dbt_segments.recovery import Ended, _complete
from dbt_segments.state.upkeep import Rubbish
from dbt_segments.syncing import _with_jobs
from dbt_segments.values import Counts, Registry, RunResult, SyncResult

SENT = SyncResult(
    sync_id="shop.lapsed_buyers.meta",
    segment="lapsed_buyers",
    entity="customer",
    destination="meta",
    type="meta",
    status="success",
    audience_id="23850",
    audience_name="Lapsed buyers",
    counts=Counts(members=5_000, added=1_204, removed=87, unchanged=3_796, rejected=3),
    requests=2,
    retries=1,
    bytes_sent=123_456,
    elapsed_s=1.8412,
    notes=("rejected: phone too short (2), email empty (1)",),
)
NOOP = replace(
    SENT,
    sync_id="shop.vip.meta",
    segment="vip",
    status="noop",
    counts=Counts(members=1_210, unchanged=1_204, refused=6),
    elapsed_s=0.2,
    notes=(),
)
HELD = replace(
    NOOP,
    sync_id="shop.big.meta",
    segment="big",
    status="held",
    reason="too_many_removals",
    counts=Counts(members=104, removed=1_100, changed=2),
    notes=("1,100 of 1,204 members would leave",),
)
FAILED = replace(
    NOOP,
    sync_id="shop.new.meta",
    segment="new",
    status="failed",
    reason="meta: code 190: the token has expired",
    counts=Counts(),
    exit_code=1,
)
SKIPPED = replace(
    NOOP,
    sync_id="shop.old.meta",
    segment="old",
    status="skipped",
    reason="not_due",
    notes=("its schedule is daily",),
    counts=Counts(),
)


STATE = StateSize(
    "shop_dbt_segments",
    (
        TableSize("rejects", "rejects", None, 500_000),
        TableSize("units_x_0a1b2c3d_1_1", "units", 1204, 2_000_000),
    ),
)


def run(*syncs: SyncResult) -> RunResult:
    return RunResult(run_id="0193", started_at="2025-05-01T06:00:00+00:00", elapsed_s=2.5, syncs=syncs)


@dataclass(frozen=True)
class Line:
    sync_id: str = "shop.lapsed_buyers.meta"
    destination: str = "meta"
    audience_id: str | None = "23850"
    audience_name: str | None = "Lapsed buyers"
    members: int = 1_204
    pending: int = 0
    unconfirmed: int = 0
    last_status: str | None = "success"
    last_finished_at: datetime | str | None = datetime(2025, 5, 1, 6, 0, 2, tzinfo=timezone.utc)
    next_due: datetime | str | None = "2025-05-02T02:00:00+02:00"
    notes: tuple[str, ...] = ()
    size_lower: int | None = None
    size_upper: int | None = None
    match_rate: float | None = None
    sized_at: datetime | str | None = None


# -- exit codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syncs", "code"),
    [
        ((), 0),
        ((SENT, NOOP, SKIPPED), 0),
        ((SENT, HELD), 1),
        ((SENT, FAILED), 1),
        ((replace(SENT, status="partial", exit_code=1), NOOP), 1),
        ((replace(SENT, status="partial"), NOOP), 0),
        ((SENT, replace(FAILED, exit_code=3)), 3),
        ((replace(FAILED, exit_code=3), HELD), 1),
        ((replace(FAILED, exit_code=3), FAILED), 1),
        ((replace(FAILED, exit_code=0), SENT), 1),
        ((replace(FAILED, exit_code=2), FAILED, replace(FAILED, exit_code=3)), 2),
    ],
)
def test_the_gravest_sync_decides_the_exit_code(syncs: tuple[SyncResult, ...], code: int) -> None:
    """3 only where every failure may pass; a hold or a lasting failure makes 1, a bug 2."""
    assert report.exit_code(run(*syncs)) == code


def test_one_of_anything_is_said_in_the_singular() -> None:
    """Wherever a count is printed, also by a stage of its own."""
    small = type("Small", (Destination,), {"type": "small", "minimum": 5})
    assert "below_minimum: 1 member would be in it" in str(sizes.too_few(small, 1))
    assert _complete(Outcome(counted=0), 1).lost == "missing: 1 of 1 member"
    jobs = _with_jobs(SENT, Ended(refused=1, unattributed=1))
    assert jobs.reason == "rejects: a job of an earlier run refused 1 member without naming them"
    assert "1 member of an earlier run refused when its job ended" in jobs.notes


# -- JSON -----------------------------------------------------------------------------------------------------


def test_results_have_the_documented_shape() -> None:
    """Every key of the documented JSON is there with its value, and no other."""
    assert json.loads(report.results_json(run(SENT))) == {
        "run_id": "0193",
        "started_at": "2025-05-01T06:00:00+00:00",
        "elapsed_s": 2.5,
        "syncs": [
            {
                "sync_id": "shop.lapsed_buyers.meta",
                "segment": "lapsed_buyers",
                "entity": "customer",
                "destination": "meta",
                "type": "meta",
                "status": "success",
                "reason": "",
                "audience_id": "23850",
                "audience_name": "Lapsed buyers",
                "members": 5000,
                "added": 1204,
                "changed": 0,
                "removed": 87,
                "unchanged": 3796,
                "rejected": 3,
                "unusable": 0,
                "refused": 0,
                "pending": 0,
                "unconfirmed": 0,
                "requests": 2,
                "retries": 1,
                "bytes_sent": 123456,
                "elapsed_s": 1.841,
                "notes": ["rejected: phone too short (2), email empty (1)"],
            }
        ],
    }


def test_a_plan_has_the_rows_of_a_sync() -> None:
    """Without `--show-requests` a plan's JSON is that of a sync, key by key."""
    assert json.loads(report.plan_json(run(SENT, HELD), {})) == json.loads(report.results_json(run(SENT, HELD)))


def test_a_plan_shows_requests_that_were_asked_for() -> None:
    """With `--show-requests` the example requests stand beside the rows, by sync id."""
    plan = json.loads(report.plan_json(run(SENT), {SENT.sync_id: ("POST /23850/users",)}))
    assert plan["requests"] == {"shop.lapsed_buyers.meta": ["POST /23850/users"]}


def test_status_as_json_says_null_where_nothing_is_known() -> None:
    """Times are ISO 8601 in UTC; a sync that never ran has nulls."""
    never = replace(
        Line(), last_status=None, last_finished_at=None, next_due=None, audience_id=None, audience_name=None
    )
    first, second = json.loads(report.status_json([Line(), never], STATE))["syncs"]
    assert first == {
        "sync_id": "shop.lapsed_buyers.meta",
        "destination": "meta",
        "audience_id": "23850",
        "audience_name": "Lapsed buyers",
        "members": 1204,
        "pending": 0,
        "unconfirmed": 0,
        "last_status": "success",
        "last_finished_at": "2025-05-01T06:00:02+00:00",
        "next_due": "2025-05-02T00:00:00+00:00",
        "notes": [],
        **dict.fromkeys(("size_lower", "size_upper", "match_rate", "sized_at")),
    }
    assert [key for key, value in second.items() if value is None] == [
        "audience_id",
        "audience_name",
        "last_status",
        "last_finished_at",
        "next_due",
        *("size_lower", "size_upper", "match_rate", "sized_at"),
    ]


def test_problems_as_json_keep_their_parts() -> None:
    """Each problem is an object, so that an editor can place it."""
    problem = Problem("models/a.yml", "vip", "segment.entity", "no such entity: custmer", "did you mean customer?")
    assert json.loads(report.problems_json(Registry("shop", (), (), ()), [problem])) == {
        "problems": [
            {
                "file": "models/a.yml",
                "model": "vip",
                "key": "segment.entity",
                "message": "no such entity: custmer",
                "hint": "did you mean customer?",
            }
        ],
        "warnings": [],
        "segments": 0,
        "entities": 0,
        "syncs": 0,
    }


# -- text -----------------------------------------------------------------------------------------------------


def test_one_sync_is_one_row_and_its_notes() -> None:
    """A single sync needs no sum."""
    assert report.run_text(run(SENT)).splitlines() == [
        "lapsed_buyers -> meta   +1,204  -87   3 rejected   1.8 s",
        "  rejected: phone too short (2), email empty (1)",
    ]


def test_several_syncs_are_aligned_and_summed() -> None:
    """Columns line up, reasons and notes stand below their row, the last line counts statuses."""
    assert report.run_text(run(SENT, NOOP, HELD, FAILED, SKIPPED)).splitlines() == [
        "lapsed_buyers -> meta   +1,204     -87       3 rejected                             1.8 s",
        "  rejected: phone too short (2), email empty (1)",
        "vip -> meta                                  up to date, 1,204 members, 6 refused   0.2 s",
        "big -> meta                 +0  -1,100  ~2   held                                   0.2 s",
        "  too many removals",
        "  1,100 of 1,204 members would leave",
        "new -> meta                                  failed                                 0.2 s",
        "  meta: code 190: the token has expired",
        "old -> meta                                  not due: its schedule is daily",
        "5 syncs: 1 sent, 1 up to date, 1 skipped, 1 held, 1 failed; 2.5 s",
    ]


def test_what_several_syncs_share_is_said_once() -> None:
    """Members whose identifier somebody refused are named in one line, with each platform's number."""
    said = "suppressed_shared: {} members share an identifier with someone who refused it"
    first, second = replace(SENT, notes=(said.format(3),)), replace(NOOP, notes=("mine", said.format(2)))
    lines = report.run_text(run(first, second)).splitlines()
    assert [line for line in lines if "suppressed" in line] == [
        "suppressed_shared: members share an identifier with someone who refused it: lapsed_buyers -> meta 3, "
        "vip -> meta 2"
    ]
    assert "  mine" in lines
    assert "  " + said.format(3) in report.run_text(run(first)).splitlines()


def test_a_plan_says_what_would_be_and_that_nothing_was_sent() -> None:
    """Plans tell of the unchanged too, show requests below their sync, and have no times."""
    assert report.plan_text(run(SENT), {SENT.sync_id: ("POST /23850/users\n{...}",)}).splitlines() == [
        "lapsed_buyers -> meta   +1,204  -87   3,796 unchanged, 3 rejected",
        "  rejected: phone too short (2), email empty (1)",
        "    POST /23850/users",
        "    {...}",
        "1 sync: 1 to send; nothing was sent",
    ]


def test_a_skipped_sync_shows_what_it_would_have_sent() -> None:
    """Where the dbt target may not send, the counts are still there."""
    skipped = replace(SKIPPED, reason="target_not_allowed", notes=(), counts=Counts(members=7, added=7))
    assert report.run_text(run(skipped)).splitlines() == ["old -> meta   +7  -0   skipped", "  target not allowed"]


def test_no_sync_is_said_so() -> None:
    """A selection that matches nothing is not an empty screen."""
    assert report.run_text(run()) == "0 syncs; 2.5 s"


def test_status_is_a_table_with_a_heading() -> None:
    """One row per sync, numbers to the right, notes below; what never was is a dash."""
    never = replace(Line(), sync_id="shop.vip.meta", members=0, last_status=None, last_finished_at=None, next_due=None)
    assert report.status_text([replace(Line(), notes=("2 removals are owed",)), never], STATE).splitlines() == [
        "sync                      audience              members  pending   last      finished               next due",
        "shop.lapsed_buyers.meta   meta: Lapsed buyers     1,204        0   success   2025-05-01 06:00 UTC   "
        "2025-05-02 00:00 UTC",
        "  2 removals are owed",
        "shop.vip.meta             meta: Lapsed buyers         0        0   never     -                      -",
        "state shop_dbt_segments: 2 tables, about 1,204 rows, 2.5 MB",
    ]
    sized = replace(Line(), size_lower=900, size_upper=1_000, match_rate=0.625)
    assert report.status_text([sized, replace(never, size_lower=70, size_upper=70)], STATE).splitlines()[:3] == [
        "sync                      audience              members          size  matched  pending   last      "
        "finished               next due",
        "shop.lapsed_buyers.meta   meta: Lapsed buyers     1,204  900 to 1,000      62%        0   success   "
        "2025-05-01 06:00 UTC   2025-05-02 00:00 UTC",
        "shop.vip.meta             meta: Lapsed buyers         0            70                 0   never     "
        "-                      -",
    ]
    assert report.status_text([], replace(STATE, tables=())) == "no syncs\nstate shop_dbt_segments: 0 tables"


def test_sizes_are_null_where_the_warehouse_does_not_say() -> None:
    """The JSON of `status` has each table of the state."""
    assert json.loads(report.status_json([], STATE))["state"] == {
        "schema": "shop_dbt_segments",
        "tables": [
            {"name": "rejects", "kind": "rejects", "rows": None, "bytes": 500_000},
            {"name": "units_x_0a1b2c3d_1_1", "kind": "units", "rows": 1204, "bytes": 2_000_000},
        ],
    }


def test_rubbish_is_listed_and_summed() -> None:
    """What goes is named one a line; a table that the warehouse keeps is named with its reason."""
    found = Rubbish(("units_x_0a1b2c3d_1_1",), {"rejects": 2}, {"units_y_0a1b2c3d_1_1": "a view reads it"})
    listed = ["table units_x_0a1b2c3d_1_1", "2 rows of rejects", "kept table units_y_0a1b2c3d_1_1: a view reads it"]
    assert report.rubbish_text(found, dry_run=True).splitlines() == [*listed, "1 table and 2 rows would go"]
    assert report.rubbish_text(found, dry_run=False).splitlines() == [*listed, "1 table and 2 rows are gone"]
    assert report.rubbish_text(Rubbish(), dry_run=False) == "nothing to collect"
    assert json.loads(report.rubbish_json(found, dry_run=True)) == {
        "dry_run": True,
        "tables": ["units_x_0a1b2c3d_1_1"],
        "rows": {"rejects": 2},
        "kept": {"units_y_0a1b2c3d_1_1": "a view reads it"},
    }


def test_problems_are_listed_one_a_line() -> None:
    """Each problem says where, what and what instead; the last line counts them."""
    problems = [Problem("models/a.yml", "vip", "segment.entity", "no such entity: custmer", "did you mean customer?")]
    problems.append(Problem("destinations.yml", "meta", "ad_account", "unknown setting"))
    assert report.problems_text(Registry("shop", (), (), ()), problems).splitlines() == [
        "models/a.yml: vip: segment.entity: no such entity: custmer (did you mean customer?)",
        "destinations.yml: meta: ad_account: unknown setting",
        "2 problems",
    ]


def test_a_project_without_problems_is_all_right() -> None:
    """What was checked is counted, with the right plurals."""
    three: Any = (None, None, None)
    assert report.problems_text(Registry("shop", three[:1], three, three), []) == (
        "3 segments, 1 entity, 3 syncs: all right"
    )


def test_a_warning_that_several_have_is_one_line() -> None:
    """Small audiences are told of once for the whole run; a single one under its own row."""
    small = "warning: below_minimum: 7 members would be in it; meta uses an audience from about 100 matched people on"
    one, other = replace(SENT, notes=(small, "a word")), replace(NOOP, notes=(small,))
    assert f"  {small}" in report.run_text(run(one, NOOP)).splitlines()
    lines = report.run_text(run(one, other)).splitlines()
    assert [line for line in lines if "below_minimum" in line] == [
        "warning: below_minimum: 2 audiences have fewer members than their platform uses, of lapsed_buyers, vip"
    ]
    assert "  a word" in lines
    known = "warning: builds_unknown: no record of any dbt run"
    lines = report.plan_text(run(*(replace(sync, notes=(known,)) for sync in (SENT, NOOP))), {}).splitlines()
    assert [line for line in lines if "builds" in line] == [f"{known} (2 syncs, of lapsed_buyers, vip)"]
