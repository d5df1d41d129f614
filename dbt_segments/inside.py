"""The sync inside a dbt command: which segments the command built, with which options, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from dbt_segments import builds, report
from dbt_segments.errors import SegmentsError
from dbt_segments.events import tell
from dbt_segments.plugin import COMMANDS, Command
from dbt_segments.settings import Options, ProjectSettings, read_project_settings
from dbt_segments.values import RunResult, SyncResult


def sync_built(command: Command) -> int:
    """Sync the segments that the command built, and tell it. 0, or the exit code of what needs reading.

    Where the target may not send, or the project says `fail_dbt: false`, what is not well is told as a warning.
    """
    options = _options(command)
    fails = True
    try:
        settings = read_project_settings(command.project.vars.to_dict(), options.vars)
        if not (settings.sync_in_dbt or command.wrapper):
            return 0
        fails = _fails(settings, options, command)
        return _sync(command, options, fails)
    except SegmentsError as error:
        _say(error.message + (f"\nhint: {error.hint}" if error.hint else ""), fails)
        from dbt_segments import record

        record.write_error(options.target_path, error, lambda text: tell(text, "warn"))
        code = error.exit_code
    except Exception as error:
        _say(report.bug_text(error), fails)
        code = 2
    return code if fails else 0


def read_built(target_path: Path, ids: Collection[str]) -> frozenset[str]:
    """What the command with one of these ids built with success. Raises ManifestError for damaged results."""
    results = builds.read_run_results(target_path / "run_results.json")
    return frozenset(
        build.unique_id
        for build in results
        if build.invocation_id in ids and build.command in COMMANDS and build.status == "success"
    )


def _fails(settings: ProjectSettings, options: Options, command: Command) -> bool:
    """Whether what is not well fails the command."""
    return options.target in settings.targets and (settings.fail_dbt or command.wrapper is not None)


def _sync(command: Command, options: Options, fails: bool) -> int:
    """The sync itself. Raises SegmentsError where it cannot start, and whatever is a bug."""
    (options.target_path / report.RESULTS_FILE).unlink(missing_ok=True)  # it would tell of an earlier command
    asked = command.wrapper is not None
    if not command.flags.WRITE_JSON:
        _say("nothing is synced, because --no-write-json leaves no manifest.json; run dbt without it", asked)
        return 2 if asked else 0
    built = read_built(options.target_path, command.ids) if command.built is None else command.built
    if not any(_is_ours(command.manifest.nodes.get(unique_id)) for unique_id in built):
        return 0
    from dbt_segments import pipeline

    request = pipeline.Request(options, only=built)
    with _dbts_own_kept():
        run = pipeline.sync(request, lambda sync_id, text: tell(f"{sync_id}: {text}" if sync_id else text))
    code = report.exit_code(run) if fails else 0
    _tell_run(run, fails)
    if code and command.program:
        tell("dbt ends with exit code 1 because of the above; vars.dbt_segments.fail_dbt: false leaves it as it is")
    return code


def _options(command: Command) -> Options:
    """What the dbt command was told, by option, environment or keyword."""
    flags, project = command.flags, command.project
    return Options(
        project_dir=Path(project.project_root),
        target_path=Path(project.project_target_path),
        profiles_dir=command.profiles,
        profile=flags.PROFILE,
        target=flags.TARGET or project.target_name,
        vars=flags.VARS,
    )


def _is_ours(node: Any) -> bool:
    return node is not None and ("dbt_segments" in node.config.meta or "dbt_segments" in node.meta)


@contextmanager
def _dbts_own_kept() -> Iterator[None]:
    """dbt's global flags as they were; and what is printed meanwhile is no line of dbt's log."""
    from dbt.flags import get_flags, set_flags

    flags = get_flags()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        set_flags(flags)


def _tell_run(run: RunResult, fails: bool) -> None:
    """One event per sync, and one for all of them where there are several."""
    for sync in run.syncs:
        text = report.run_text(RunResult(run.run_id, run.started_at, run.elapsed_s, (sync,)))
        if _needs_reading(sync):
            _say(text, fails)
        else:
            tell(text)
    if len(run.syncs) > 1:
        tell(report.sum_text(run))


def _needs_reading(sync: SyncResult) -> bool:
    return bool(sync.exit_code) or sync.status in ("failed", "held")


def _say(text: str, fails: bool) -> None:
    tell(text, "error" if fails else "warn")
