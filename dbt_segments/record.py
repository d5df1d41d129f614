"""What a run leaves behind: one row per sync in `sync_runs`, and target/dbt_segments_results.json; and reading both."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from dbt_segments import cadence, report, sizes
from dbt_segments.audiences import recorded
from dbt_segments.destinations import registry as destinations
from dbt_segments.errors import SegmentsError
from dbt_segments.project import READ_TIMEOUT_S, Project
from dbt_segments.state import left
from dbt_segments.state.ledger import by_status, current, read_ledger
from dbt_segments.state.left import Left
from dbt_segments.state.pending import open_rows, read_generations
from dbt_segments.state.store import Store
from dbt_segments.values import RunResult, Sync, SyncResult
from dbt_segments.warehouse import Session

# Reason in `sync_runs` of a sync that is switched off, once for each time that it is.
DISABLED = "disabled"


@dataclass(frozen=True)
class StatusRow:
    """What the state knows of one sync; times are ISO text in UTC.

    unconfirmed  members in jobs of the destination that had not ended when last asked; none of the others
    size_lower, size_upper, match_rate  what the platform said last, at `sized_at`
    """

    sync_id: str
    destination: str
    audience_id: str | None
    audience_name: str | None
    members: int
    pending: int
    last_status: str | None
    last_finished_at: str | None
    next_due: str | None
    notes: tuple[str, ...] = ()
    size_lower: int | None = None
    size_upper: int | None = None
    match_rate: float | None = None
    sized_at: str | None = None
    unconfirmed: int = 0


def blank(sync: Sync) -> SyncResult:
    """A result that says nothing yet."""
    return SyncResult(
        sync_id=sync.id,
        segment=sync.segment.name,
        entity=sync.entity.name,
        destination=sync.connection.name,
        type=sync.connection.type,
        status="noop",
        audience_name=sync.audience_name,
    )


def write_run(
    project: Project, result: SyncResult, run_id: str, lock_timeout_s: float, progress: Callable[[str, str], None]
) -> None:
    """Append the sync's row to `sync_runs`. A failure to do so is told and changes no result: batches are logged."""
    row = {
        "run_id": run_id,
        "sync_id": result.sync_id,
        "segment": result.segment,
        "entity": result.entity,
        "destination": result.destination,
        "type": result.type,
        "status": result.status,
        "reason": result.reason[:1000],
        "audience_id": result.audience_id,
        "audience_name": result.audience_name,
        **asdict(result.counts),
        "requests": result.requests,
        "retries": result.retries,
        "bytes_sent": result.bytes_sent,
        "exit_code": result.exit_code,
        "started_at": _before(result.elapsed_s),
    }
    try:
        with project.state.session(lock_timeout_s=lock_timeout_s) as session:
            project.store.log(session, "sync_runs", [row], stamp="finished_at")
    except SegmentsError as error:
        progress(result.sync_id, f"warning: sync_runs could not be written: {error.message}")


def note_disabled(project: Project, run_id: str, lock_timeout_s: float, progress: Callable[[str, str], None]) -> None:
    """Append a row to `sync_runs` for each sync that has run and is switched off since: once on again, it is due."""
    off = [sync for sync in project.registry.syncs if not sync.enabled]
    if not off:
        return
    with project.state.session(lock_timeout_s=lock_timeout_s) as session:
        rows = session.rows(
            f"select sync_id, status, reason from (select r.*, row_number() over (partition by sync_id "
            f"order by finished_at desc) as place from {project.store.table('sync_runs')} r) newest where place = 1"
        )
    known = {sync_id: (status, reason) for sync_id, status, reason in rows}
    for sync in off:
        ids = (sync.id, *sync.former_ids)
        newest = next((known[one] for one in ids if one in known), ("skipped", DISABLED))
        if newest != ("skipped", DISABLED):
            write_run(
                project, replace(blank(sync), status="skipped", reason=DISABLED), run_id, lock_timeout_s, progress
            )


def _before(elapsed_s: float) -> datetime:
    now = datetime.now(timezone.utc).timestamp() - elapsed_s
    return datetime.fromtimestamp(now, timezone.utc).replace(tzinfo=None)


def write_results(target_path: Path, run: RunResult, error: SegmentsError | None = None) -> None:
    """Write the results file at once, so that no reader sees half of it."""
    target_path.mkdir(parents=True, exist_ok=True)
    temporary = target_path / f".{report.RESULTS_FILE}.{os.getpid()}"
    temporary.write_text(report.results_json(run, error) + "\n", encoding="utf-8")
    temporary.replace(target_path / report.RESULTS_FILE)


def with_amiss(project: Project, results: Sequence[SyncResult], lock_timeout_s: float) -> tuple[SyncResult, ...]:
    """The results of a run with what is wrong with audiences that nothing was sent to."""
    syncs = {sync.id: sync for sync in project.syncs}
    with project.state.session(lock_timeout_s=lock_timeout_s) as session:
        found = (
            sizes.amiss(session, project.store, syncs[one.sync_id]) if one.status in ("noop", "skipped") else ()
            for one in results
        )
        return tuple(replace(one, notes=(*one.notes, *notes)) for one, notes in zip(results, found, strict=True))


def write_error(target_path: Path, error: SegmentsError, tell: Callable[[str], None]) -> None:
    """Write why a run did not start, unless its results file is there already. A failure to do so is told."""
    if (target_path / report.RESULTS_FILE).exists():
        return
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        write_results(target_path, RunResult("", now, 0.0, ()), error)
    except OSError as trouble:
        tell(f"warning: {report.RESULTS_FILE} could not be written: {trouble.strerror}")


def last_success(session: Session, store: Store, sync: Sync) -> datetime | None:
    """When the newest run that left nothing to do began; aware, UTC.

    None where a later one failed or was held, where the sync was switched off since, and where its audience is gone or
    was emptied: then it is due.
    """
    names = ", ".join("?" for _ in (sync.id, *sync.former_ids))
    done = "(status in ('success', 'noop') or (status = 'partial' and pending = 0))"
    runs = f"{store.table('sync_runs')} where sync_id in ({names}) and status <> 'skipped'"
    ids = [sync.id, *sync.former_ids]
    newest = session.rows(f"select {done}, finished_at from {runs} order by finished_at desc limit 1", ids)
    if not newest or not newest[0][0]:
        return None
    since = newest[0][1]
    undone = session.value(
        f"select (select count(*) from {store.table('audiences')} where sync_id in ({names}) and recorded_at > ? "
        f"and event in ('emptied', 'deleted', 'gone')) + (select count(*) from {store.table('sync_runs')} "
        f"where sync_id in ({names}) and finished_at > ? and status = 'skipped' and reason = '{DISABLED}')",
        [*ids, since, *ids, since],
    )
    if undone:
        return None
    found = session.value(f"select max(least(started_at, finished_at)) from {runs} and {done}", ids)
    return found.replace(tzinfo=timezone.utc) if found is not None else None


def last_refused(session: Session, store: Store, sync: Sync) -> int:
    """How many members the newest run that was neither held nor failed left out for their refusal."""
    names = ", ".join("?" for _ in (sync.id, *sync.former_ids))
    found = session.value(
        f"select refused from {store.table('sync_runs')} where sync_id in ({names}) "
        f"and status in ('success', 'noop', 'partial') order by finished_at desc limit 1",
        [sync.id, *sync.former_ids],
    )
    return int(found or 0)


def left_behind(one: Left) -> str:
    """What a result and `status` say of an audience that was left behind."""
    members = f"{report.count_of(one.refused, 'member')} who refused {'is' if one.refused == 1 else 'are'}"
    return (
        f"warning: refusals_wait: {members} "
        f"still in audience {one.audience_id} ({one.name}), which the platform has ended: delete it there"
    )


def status(project: Project) -> tuple[StatusRow, ...]:
    """Every selected sync, as the state knows it."""
    with project.state.session(lock_timeout_s=READ_TIMEOUT_S) as session:
        now = session.value(f"select {session.now}").replace(tzinfo=timezone.utc)
        return tuple(_status(session, project, sync, now) for sync in project.syncs)


def _status(session: Session, project: Project, sync: Sync, now: datetime) -> StatusRow:
    store = project.store
    known = recorded(session, store, sync)
    owner = current(session, store, (sync.id, *sync.former_ids))
    ledger = read_ledger(session, store, owner)
    numbers = by_status(session, ledger)
    unfinished = read_generations(session, store, owner, ledger)
    rows = session.rows(
        f"select status, finished_at, reason from {store.table('sync_runs')} where sync_id = ? and status <> 'skipped' "
        f"order by finished_at desc limit 1",
        [sync.id],
    )
    due = cadence.next_due(sync.schedule, last_success(session, store, sync), now, project.settings.timezone)
    notes = []
    jobs, unconfirmed = open_rows(store, unfinished), 0
    if jobs is not None:
        unconfirmed = int(session.value(f"select count(distinct key) from ({jobs}) j") or 0)
        said = f"sent, not confirmed: {report.count_of(unconfirmed, 'member')}"
        notes.append(f"{said}; a job of the destination is running")
    elif unfinished:
        notes.append("a run was interrupted; the next one mends it")
    if rows and rows[0][2]:
        notes.append(rows[0][2])
    notes += map(left_behind, left.noted(session, store, owner))
    notes += [str(problem) for problem in sync.connection.problems]
    measure = sizes.newest(session, store, sync)
    cls = destinations.get(sync.connection.type) if sync.connection.type else None
    notes += sizes.amiss(session, store, sync)
    if known is not None and cls is not None and not cls.records:
        notes += sizes.said(cls, measure, sizes.last_change(session, store, sync), now)
    return StatusRow(
        sync_id=sync.id,
        destination=sync.connection.name,
        audience_id=known.audience.id if known and not sync.keys else None,
        audience_name=known.audience.name if known else sync.audience_name,
        members=numbers.get("present", 0),
        pending=numbers.get("perhaps", 0),
        last_status=rows[0][0] if rows else None,
        last_finished_at=rows[0][1].replace(tzinfo=timezone.utc).isoformat(timespec="seconds") if rows else None,
        next_due=due.isoformat(timespec="seconds") if due else None,
        notes=tuple(notes),
        size_lower=measure.lower if measure else None,
        size_upper=measure.upper if measure else None,
        match_rate=measure.match_rate if measure else None,
        sized_at=measure.at.isoformat(timespec="seconds") if measure else None,
        unconfirmed=unconfirmed,
    )
