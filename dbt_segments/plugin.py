"""The plugin that dbt Core starts in every command: when the command has ended, it syncs what the command built.

Light on purpose, because every dbt command pays for it: what syncs is imported only where there is something to sync.
A command ends when its click context closes, after all of dbt's own work and whatever became of dbt's events. Nothing
here raises into dbt, except that a sync which needs reading makes the exit code of the `dbt` program 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from dbt.plugins.contracts import PluginArtifacts
from dbt.plugins.manager import dbt_hook, dbtPlugin
from dbt_common.invocation import get_invocation_id

from dbt_segments.events import tell

HOOK = "macro.dbt_segments.on_run_end"
COMMANDS = ("run", "build", "seed")  # and `retry`, which takes the name of the command that it tries again


@dataclass
class Wrapper:
    """`dbt-segments build|run`: its dbt command syncs without the hook line too, and leaves the exit code here."""

    exit_code: int = 0


@dataclass(frozen=True)
class Command:
    """A dbt command that has ended and may sync.

    flags     as the command ran; of `retry` those of the command that it tried again
    project   dbt's RuntimeConfig
    manifest  dbt's own, in memory
    profiles  the folder that was named; None where dbt searched
    program   the `dbt` program, whose exit code is ours to set, and no `dbtRunner`
    wrapper   where `dbt-segments` runs dbt
    ids       dbt's invocation ids under which it may have written its results
    built     what it built, where that was already looked up
    """

    flags: Any
    project: Any
    manifest: Any
    profiles: Path | None
    program: bool
    wrapper: Wrapper | None
    ids: frozenset[str]
    built: frozenset[str] | None


_outermost: SegmentsPlugin | None = None
"""Of the command that this process is in. A dbt command that starts before it ends is nested, whatever its thread."""
_wrapper: Wrapper | None = None


@contextmanager
def wrapped() -> Iterator[Wrapper]:
    """While the block lasts, the process's dbt command is one of `dbt-segments`."""
    global _wrapper
    _wrapper = Wrapper()
    try:
        yield _wrapper
    finally:
        _wrapper = None


class SegmentsPlugin(dbtPlugin):
    """dbt makes one of these per command, before it parses the project."""

    _context: click.Context
    _id: str
    _handled: BaseException | None = None
    _manifest: Any = None
    _has_nested = False
    _built: frozenset[str] | None = None

    def initialize(self) -> None:
        """Wait for the end of the process's outermost command."""
        global _outermost
        try:
            if _outermost is not None:
                _outermost._nest()
                return
            self._context, self._id, self._handled = click.get_current_context(), get_invocation_id(), sys.exc_info()[1]
            self._context.call_on_close(self._finish)
            _outermost = self
        except Exception as error:
            tell(f"not started, so nothing is synced inside dbt: {type(error).__name__}: {error}", "warn")

    def _nest(self) -> None:
        """A dbt command starts inside this one. It may write over the results, and dbt forgets this one's id for it."""
        self._has_nested = True
        project = self._context.obj.get("runtime_config")
        if project is not None and self._built is None:
            from dbt_segments.inside import read_built

            self._built = read_built(Path(project.project_target_path), {self._id}) or None

    @dbt_hook  # type: ignore[untyped-decorator]
    def get_manifest_artifacts(self, manifest: Any) -> PluginArtifacts:
        """Adds no artifact; keeps the manifest, which `retry` shows to nobody else."""
        self._manifest = manifest
        return {}

    def _finish(self) -> None:
        """Sync, and make the exit code of a `dbt` that is well so far 1 where the sync is not."""
        global _outermost
        error = sys.exc_info()[1]
        raised = None if error is self._handled else error
        failed = False
        try:
            command = self._command(raised)
            if command is not None:
                failed = _sync(command) and command.program
        except Exception as trouble:
            tell(f"nothing is synced: {type(trouble).__name__}: {trouble}", "warn")
        finally:
            _outermost = None
        if failed and raised is None:
            raise click.exceptions.Exit(1)

    def _command(self, raised: BaseException | None) -> Command | None:
        """The command, where it built something that may be sent and the hook line or `dbt-segments` asks for it.

        raised  how dbt ends: with results that are bad (ResultExit), or in an exception, Ctrl-C among them
        """
        from dbt.cli.exceptions import ResultExit
        from dbt.flags import get_flags

        context = self._context
        flags = context.obj["flags"]
        if flags.WHICH == "retry":
            flags = get_flags()
        if flags.WHICH not in COMMANDS or getattr(flags, "EMPTY", False) or not isinstance(raised, ResultExit | None):
            return None
        manifest = context.obj.get("manifest") or self._manifest
        if manifest is None or not (_wrapper or _has_hook(manifest)):
            return None
        return Command(
            flags=flags,
            project=context.obj["runtime_config"],
            manifest=manifest,
            profiles=Path(flags.PROFILES_DIR).absolute() if _names_profiles(context) else None,
            program=_wrapper is None and "callbacks" not in context.obj,
            wrapper=_wrapper,
            ids=frozenset({self._id, get_invocation_id()} if self._has_nested else {self._id}),
            built=self._built,
        )


def _sync(command: Command) -> bool:
    """Whether the sync needs reading. That it cannot even be imported is an error here: the user counts on it."""
    try:
        from dbt_segments.inside import sync_built

        code = sync_built(command)
    except KeyboardInterrupt:
        tell("interrupted; the next run finishes what was under way", "error")
        raise
    except Exception as error:
        tell(f"nothing is synced: {type(error).__name__}: {error}", "error")
        code = 2
    if command.wrapper is not None:
        command.wrapper.exit_code = code
    return code != 0


def _names_profiles(context: click.Context) -> bool:
    """Whether the folder of profiles.yml was named, by option, environment or keyword."""
    searched = (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return any(one.get_parameter_source("profiles_dir") not in searched for one in (context, context.find_root()))


def _has_hook(manifest: Any) -> bool:
    """Whether an on-run-end line calls our macro, itself or through other macros."""
    hooks = [node for node in manifest.nodes.values() if node.unique_id.startswith("operation.")]
    waiting = [name for hook in hooks if "on-run-end" in hook.tags for name in hook.depends_on.macros]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += manifest.macros[name].depends_on.macros if name in manifest.macros else []
    return HOOK in seen
