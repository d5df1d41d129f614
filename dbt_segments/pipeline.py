"""The one module that knows the order of the stages.

    manifest -> registry -> plan -> freeze -> diff -> guard -> encode -> send -> record -> report

`sync` runs every selected sync, each failure held alone; `plan` stops before anything is sent.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from dbt_segments import cadence, inventory, membership, owners, record, report, sizes
from dbt_segments import project as projects
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Destination
from dbt_segments.errors import ConfigError, Problem, SegmentsError
from dbt_segments.frozens import Frozens
from dbt_segments.hints import Missing
from dbt_segments.project import Project
from dbt_segments.send import Sender
from dbt_segments.settings import Options
from dbt_segments.spelling import suggest
from dbt_segments.state import locks
from dbt_segments.state.upkeep import Rubbish
from dbt_segments.syncing import SyncRun, Wishes
from dbt_segments.values import Registry, RunResult, Sync, SyncResult

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    now             sync whether due or not
    full            assert every member again
    allow_removals  sync ids or segment names whose thresholds are released for this run
    lift_refusals   the same of those whose rules of refusal are fewer than before
    show_requests   how many masked requests a plan shows per sync
    only            unique ids of the models whose syncs are meant; None: all that are selected
    """

    options: Options
    now: bool = False
    full: bool = False
    lock_timeout_s: float = 300.0
    allow_removals: tuple[str, ...] = ()
    lift_refusals: tuple[str, ...] = ()
    show_requests: int = 0
    only: frozenset[str] | None = None

    def means(self, item: Sync) -> bool:
        return self.only is None or item.segment.model.unique_id in self.only


@dataclass(frozen=True)
class PlanResult:
    """What a sync would do: the same rows with the counts that would be, and example requests by sync."""

    run: RunResult
    requests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """What the state knows. `orphans`: audiences that nothing is sent to; none where syncs were selected."""

    syncs: tuple[record.StatusRow, ...]
    state: owners.StateSize
    orphans: tuple[inventory.ListedAudience, ...] = ()


def validate(request: Request) -> tuple[Registry, list[Problem]]:
    """Every mistake of the project, without a warehouse."""
    return projects.check(request.options)


def fix(request: Request) -> tuple[Registry, list[Problem], list[Missing]]:
    """As `validate`, after writing the lines `-- depends_on` that models lack."""
    return projects.check_and_fix(request.options)


def sync(request: Request, progress: Progress) -> RunResult:
    """Bring every selected and due audience up to date; the results are written to `target/` too.

    A run that could not start leaves why in that file, and never the results of an earlier one.
    """
    target = request.options.target_path
    (target / report.RESULTS_FILE).unlink(missing_ok=True)
    try:
        return _run(request, progress, sends=True)[0]
    except SegmentsError as error:
        record.write_error(target, error, functools.partial(progress, ""))
        raise


def plan(request: Request, progress: Progress) -> PlanResult:
    """What `sync` would do, sending nothing."""
    run, requests = _run(request, progress, sends=False)
    return PlanResult(run, requests)


def _quiet(sync_id: str, text: str) -> None:
    """Progress that nobody reads."""


def status(request: Request, progress: Progress = _quiet, *, refresh: bool = False) -> Status:
    """What the state knows of every selected sync, and how large it is; `refresh` asks platforms for sizes first."""
    tell = functools.partial(progress, "")
    with projects.open_project(request.options, request.lock_timeout_s, tell, alone=refresh) as project:
        if refresh:
            sizes.refresh(project, project.syncs, request.lock_timeout_s, tell)
        syncs = record.status(project)
        with project.state.session(lock_timeout_s=request.lock_timeout_s) as session:
            narrowed = request.options.select or request.options.exclude or request.options.selector
            orphans = () if narrowed else inventory.orphans(session, project.store, project.registry)
            return Status(syncs, owners.size(project, session), orphans)


def collect(request: Request, progress: Progress, *, dry_run: bool) -> Rubbish:
    """Throw away what the state no longer needs, or only say what that is."""
    with projects.open_project(request.options, request.lock_timeout_s, lambda text: progress("", text)) as project:
        return owners.collect(project, request.lock_timeout_s, dry_run=dry_run)


def _run(request: Request, progress: Progress, *, sends: bool) -> tuple[RunResult, dict[str, tuple[str, ...]]]:
    started, clock = datetime.now(timezone.utc), time.monotonic()
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    results: list[SyncResult] = []
    requests: dict[str, tuple[str, ...]] = {}
    bug: BaseException | None = None
    opened = projects.open_project(request.options, request.lock_timeout_s, lambda text: progress("", text))
    with _interruptible(), opened as project, project.resting():
        sending = sends and project.may_send
        told = functools.partial(progress, "")
        _check_released("--allow-removals", request.allow_removals, project.registry.syncs)
        _check_released("--lift-refusals", request.lift_refusals, project.registry.syncs)
        if not project.registry.syncs:
            _tell_kept(project, request.lock_timeout_s, told)
        chosen = [item for item in project.syncs if request.means(item)]
        unusable = _unusable(chosen)
        if unusable is not None and not sending:
            raise unusable
        if sending:
            owners.grant_reading(project, request.lock_timeout_s)
        with Frozens(project, request.lock_timeout_s) as frozens, _Senders(project) as senders:
            for item in chosen:
                began = time.monotonic()
                try:
                    one = _Turn(project, request, frozens, senders, run_id, sending, progress)
                    result, shown = one.take(item)
                except SegmentsError as error:
                    result, shown = _failed(item, error), ()
                except Exception as error:  # one bug must not keep the other audiences from being updated
                    _end_if_interrupted(error)
                    bug = error
                    result, shown = _bug(item, error), ()
                if sends and not project.may_send and result.status != "failed":
                    result = _not_allowed(project, result)
                result = replace(result, elapsed_s=time.monotonic() - began)
                results.append(result)
                if shown:
                    requests[item.id] = shown
                if sending:
                    record.write_run(project, result, run_id, request.lock_timeout_s, progress)
            if sending:
                try:
                    membership.refresh_all(project, frozens, run_id, request.lock_timeout_s, told)
                    owners.grant_reading(project, request.lock_timeout_s)  # the views may be new
                    done = {one.sync_id for one in results if one.status in ("success", "noop", "partial")}
                    asked = [item for item in project.syncs if item.id in done]
                    sizes.refresh(project, asked, request.lock_timeout_s, told)
                    results[:] = record.with_amiss(project, results, request.lock_timeout_s)
                    record.note_disabled(project, run_id, request.lock_timeout_s, progress)
                    owners.prune_daily(project, request.lock_timeout_s, told)
                except SegmentsError as error:
                    told(f"warning: {error.message}")
                except Exception as error:  # what was sent must still be reported
                    _end_if_interrupted(error)
                    bug = bug or error
        run = RunResult(run_id, started.isoformat(timespec="seconds"), time.monotonic() - clock, tuple(results))
        if sends:
            record.write_results(project.options.target_path, run, unusable)
    if bug is not None:
        raise bug
    if unusable is not None:
        raise unusable
    return run, requests


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the block with KeyboardInterrupt, also in the midst of a statement."""
    try:
        yield
    except RuntimeError as error:
        _end_if_interrupted(error)
        raise


def _end_if_interrupted(error: Exception) -> None:
    """Raise the KeyboardInterrupt that DuckDB swallows where Ctrl-C meets one of its statements."""
    if isinstance(error, RuntimeError) and str(error) == "Query interrupted":
        raise KeyboardInterrupt from None


def _check_released(option: str, names: tuple[str, ...], syncs: Iterable[Sync]) -> None:
    """Raises ConfigError for an option that releases nothing."""
    known = {name for item in syncs for name in (item.id, item.segment.name)}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{option} {name}: there is no such sync or segment",
                hint=suggest(name, known) or "give a sync id, or a segment's name for all its syncs",
            )


def _tell_kept(project: Project, lock_timeout_s: float, tell: Callable[[str], None]) -> None:
    """Warn where the project has no sync, and had some: their audiences keep whom they hold."""
    with project.state.session(lock_timeout_s=lock_timeout_s) as session:
        kept = inventory.orphans(session, project.store, project.registry)
    if kept:
        audiences = report.count_of(len(kept), "audience")
        tell(f"warning: no model declares a sync, and nothing is sent to {audiences} of the state: dbt-segments list")


def _unusable(chosen: list[Sync]) -> ConfigError | None:
    """What is wrong where not one of the chosen syncs has a connection that can be used: nothing is sent."""
    if chosen and all(item.connection.problems for item in chosen):
        return ConfigError(problems=tuple(dict.fromkeys(one for item in chosen for one in item.connection.problems)))
    return None


class _Turn:
    """One sync's turn in a run."""

    def __init__(
        self,
        project: Project,
        request: Request,
        frozens: Frozens,
        senders: _Senders,
        run_id: str,
        sending: bool,
        progress: Progress,
    ) -> None:
        self._project = project
        self._request = request
        self._frozens = frozens
        self._senders = senders
        self._run_id = run_id
        self._sending = sending
        self._progress = progress

    def take(self, item: Sync) -> tuple[SyncResult, tuple[str, ...]]:
        """The sync's result, and masked example requests where a plan asked for them."""

        def tell(text: str) -> None:
            self._progress(item.id, text)

        if item.connection.problems:
            return _unconnected(item), ()
        destination = destinations.get(item.connection.type)(item.connection.settings)
        released = bool({item.id, item.segment.name} & set(self._request.allow_removals))
        lifted = bool({item.id, item.segment.name} & set(self._request.lift_refusals))
        with ExitStack() as stack:
            run = SyncRun(
                self._project,
                item,
                destination,
                self._frozens,
                Wishes(self._request.full, released, lifted, self._request.show_requests),
                run_id=self._run_id,
                lock_timeout_s=self._request.lock_timeout_s,
                tell=tell,
            )
            if not self._sending:
                return run.plan(self._due)
            sender, gate = self._senders.get(item, destination)
            lock = stack.enter_context(
                locks.hold(
                    self._project.state,
                    self._project.store,
                    item.id,
                    timeout_s=self._request.lock_timeout_s,
                    longest_request_s=sender.longest_request_s,
                    tell=tell,
                )
            )
            gate.lock = lock
            return run.sync(lock, sender, self._due), ()

    def _due(self, item: Sync, last_success: datetime | None, now: datetime) -> bool:
        forced = self._request.now or self._request.full
        return forced or cadence.is_due(item.schedule, last_success, now, self._project.settings.timezone)


class _Senders:
    """One sender per connection, so that pace and tokens are shared by all its syncs."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._stack = ExitStack()
        self._senders: dict[str, tuple[Sender, locks.Gate]] = {}

    def __enter__(self) -> _Senders:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def get(self, item: Sync, destination: Destination) -> tuple[Sender, locks.Gate]:
        name = item.connection.name
        if name not in self._senders:
            gate = locks.Gate()
            sender = Sender(destination, may_start=gate, around=self._project.away)
            self._senders[name] = (self._stack.enter_context(sender), gate)
        return self._senders[name]


def _failed(item: Sync, error: SegmentsError) -> SyncResult:
    code = getattr(error, "code", "") or type(error).__name__
    notes = (error.hint,) if error.hint else ()
    return replace(
        record.blank(item),
        status="failed",
        reason=f"{code}: {error.message}",
        exit_code=error.exit_code,
        notes=notes,
    )


def _unconnected(item: Sync) -> SyncResult:
    """The result of a sync whose connection has mistakes; the others go on."""
    said = "; ".join(map(str, item.connection.problems))
    return replace(record.blank(item), status="failed", reason=f"connection_unusable: {said}", exit_code=1)


def _bug(item: Sync, error: Exception) -> SyncResult:
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"bug: {type(error).__name__} in {where.name}, line {where.lineno}"
    return replace(record.blank(item), status="failed", reason=reason, exit_code=2)


def _not_allowed(project: Project, result: SyncResult) -> SyncResult:
    """The plan of a sync whose dbt target may not send."""
    allowed = ", ".join(project.settings.targets) or "none"
    text = f"dbt target {project.profile.target} may not send; vars.dbt_segments.targets: {allowed}"
    notes = (text, *((f"would be held: {result.reason}",) if result.status == "held" else ()), *result.notes)
    return replace(result, status="skipped", reason="target_not_allowed", exit_code=0, notes=notes)
