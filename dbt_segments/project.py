"""Opening a dbt project: its profile, settings, connections and registry, and the state beside it.

Everything here ends in an error before the first sync, or in a `Project` that all syncs of the run share.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dbt_segments import builds
from dbt_segments.audiences import with_own_past
from dbt_segments.connections import Connections, read_connections
from dbt_segments.dbtgraph import DbtGraph
from dbt_segments.errors import ConfigError, Problem, SettingsError, StateError, WarehouseError
from dbt_segments.hints import Missing, missing_hints, write_hints
from dbt_segments.manifest import read_registry
from dbt_segments.nodes import load_catalog, load_manifest
from dbt_segments.select import select_syncs
from dbt_segments.settings import Options, ProjectSettings, environment, find_destinations_file, read_project_settings
from dbt_segments.state import locks
from dbt_segments.state import schema as schemas
from dbt_segments.state.store import Store
from dbt_segments.targets import check_target
from dbt_segments.validate import check_acceptances
from dbt_segments.values import Registry, Sync
from dbt_segments.warehouse import Profile, Session, Warehouse, close_dbts_own, load_profile, quote

# A run lets go of a DuckDB file every second or so; dbt may hold it for longer, and then a reader says so.
READ_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Project:
    """What a run needs to know of the project.

    warehouse   where the models are
    state       where the state is: the same one, unless the settings say otherwise
    builds      node -> its newest build
    freshness   source -> status of the last `dbt source freshness`
    may_send    whether the dbt target is one that may send
    """

    options: Options
    settings: ProjectSettings
    profile: Profile
    registry: Registry
    warehouse: Warehouse
    state: Warehouse
    store: Store
    syncs: tuple[Sync, ...]
    builds: Mapping[str, builds.Build]
    freshness: Mapping[str, str]

    @property
    def may_send(self) -> bool:
        return self.profile.target in self.settings.targets

    @property
    def same(self) -> bool:
        """Whether models and state lie in the same warehouse."""
        return self.state is self.warehouse

    @property
    def builds_schema(self) -> str:
        """Where dbt's hook writes `model_builds`: in the models' warehouse."""
        return _schema(self.settings, self.profile)

    @property
    def builds_table(self) -> str:
        """`model_builds`, quoted."""
        return schemas.table(self.builds_schema, "model_builds")

    @contextlib.contextmanager
    def sessions(self, lock_timeout_s: float) -> Iterator[tuple[Session, Session]]:
        """One session on the models and one on the state; the same one where they lie together."""
        with self.state.session(lock_timeout_s=lock_timeout_s) as state:
            if self.same:
                yield state, state
                return
            with self.warehouse.session(lock_timeout_s=lock_timeout_s) as models:
                yield models, state

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """The connection is kept between sessions, but for the time that anything is `away`.

        Not where models and state lie apart: a run that waits for the state's lease would keep the models' file from
        the run that has it.
        """
        with self.state.resting() if self.same else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """For as long as a request lasts: nobody waits for a file that we do not use."""
        with self.state.away():
            yield


@dataclass(frozen=True)
class Reading:
    """A project whose state is only looked at.

    syncs     the selected ones, disabled ones among them
    narrowed  whether the user selected anything
    session   on the state; None where no state was made yet
    """

    registry: Registry
    connections: Connections
    syncs: tuple[Sync, ...]
    narrowed: bool
    session: Session | None = None
    store: Store | None = None


def read_configuration(options: Options) -> tuple[Profile, ProjectSettings, Connections]:
    """Profile, settings and connections; no warehouse is touched. Raises SettingsError."""
    env = environment()
    profile = load_profile(
        options.project_dir, options.profiles_dir, options.target, options.vars, env, options.profile
    )
    settings = read_project_settings(profile.variables, options.vars)
    path = find_destinations_file(options.profiles_dir, env, options.project_dir)
    return profile, settings, read_connections(path, env, options.project_dir)


def check(options: Options) -> tuple[Registry, list[Problem]]:
    """Every mistake of the project, without a warehouse."""
    registry, problems, missing = _check(options)
    return registry, problems + [item.problem() for item in missing]


def check_and_fix(options: Options) -> tuple[Registry, list[Problem], list[Missing]]:
    """As `check`, with the lines `-- depends_on` that models lack written; what was written is no problem any more."""
    registry, problems, missing = _check(options)
    fixed = list(write_hints(options.project_dir, missing))
    return registry, problems + [item.problem() for item in missing if item not in fixed], fixed


def _check(options: Options) -> tuple[Registry, list[Problem], list[Missing]]:
    _, settings, connections = read_configuration(options)
    manifest = load_manifest(options.target_path / "manifest.json")
    catalog = load_catalog(options.target_path / "catalog.json")
    registry, problems = read_registry(manifest, settings, connections, catalog)
    missing, unknown = missing_hints(manifest, registry)
    return registry, [*problems, *check_acceptances(registry, connections), *unknown], missing


def selected(options: Options, profile: Profile, registry: Registry) -> tuple[Sync, ...]:
    """The syncs that the options select, disabled ones among them. Raises ConfigError for a name that is none."""
    dbt = DbtGraph(options, profile.selectors)
    selection = select_syncs(registry, dbt, options.select, options.exclude, options.selector)
    if selection.unmatched:
        raise ConfigError(f"nothing matches {', '.join(selection.unmatched)}", hint="dbt-segments list shows all syncs")
    return selection.syncs


def state_place(options: Options, profile: Profile, settings: ProjectSettings) -> tuple[Profile, str]:
    """Profile and schema of the state; the very same profile where it lies beside the models."""
    found = profile
    if settings.state is not None:
        found = load_profile(
            options.project_dir,
            options.profiles_dir,
            settings.state.target,
            options.vars,
            environment(),
            settings.state.profile,
        )
    return found, _schema(settings, found)


@contextlib.contextmanager
def read_state(options: Options) -> Iterator[Reading]:
    """The project, and its state for reading: nothing is made, and no run is waited for longer than a moment.

    Raises ConfigError with every problem, StateError, LockedError, and WarehouseError with exit code 2 where there is
    no connection. A state that was never made is no error.
    """
    profile, settings, connections = read_configuration(options)
    registry = _registry(options, settings, connections)
    syncs = selected(options, profile, registry)
    narrowed = bool(options.select or options.exclude or options.selector)
    state_profile, schema = state_place(options, profile, settings)
    reading = Reading(registry, connections, syncs, narrowed)
    if state_profile.kind == "duckdb" and (state_profile.path is None or not state_profile.path.exists()):
        yield reading
        return
    with _started(Warehouse(state_profile), READ_TIMEOUT_S) as session:
        if schemas.exists(session, schema):
            store = Store(schema, schemas.check(session, schema))
            registry, syncs = _with_own_past(session, store, registry, syncs)
            reading = Reading(registry, connections, syncs, narrowed, session, store)
        yield reading


def _registry(
    options: Options, settings: ProjectSettings, connections: Connections, of_target: Profile | None = None
) -> Registry:
    """Everything that is right. A mistake of a connection is that of its syncs, which bring it along.

    of_target  the profile's target, where models will be read and must be those of that target

    Raises ConfigError with every other problem, and ManifestError for a manifest of another target.
    """
    manifest = load_manifest(options.target_path / "manifest.json")
    if of_target is not None:
        check_target(manifest, of_target, options.target_path)
    registry, problems = read_registry(manifest, settings, connections)
    borne = {problem for name, found in connections.problems.items() if name for problem in found}
    borne |= {problem for sync in registry.syncs for problem in sync.connection.problems}
    problems = [problem for problem in problems if problem not in borne]
    if problems:
        raise ConfigError(problems=tuple(problems))
    return registry


@contextlib.contextmanager
def open_project(
    options: Options, lock_timeout_s: float, tell: Callable[[str], None], *, alone: bool = True, anew: bool = False
) -> Iterator[Project]:
    """The project, with its state made or checked.

    alone  on DuckDB, hold the run's lock until the block ends; a reader need not
    anew   a missing state is made although the settings require one

    Raises ConfigError with every problem, StateError, LockedError, or WarehouseError with exit code 2 where there is
    no connection at the start.
    """
    profile, settings, connections = read_configuration(options)
    registry = _registry(options, settings, connections, of_target=profile)
    syncs = selected(options, profile, registry)
    warehouse = Warehouse(profile, wait=tell)
    state_profile, schema = state_place(options, profile, settings)
    state = Warehouse(state_profile, wait=tell) if state_profile is not profile else warehouse
    if state_profile.kind == "duckdb" and state_profile.path is None:
        raise SettingsError(
            "the state cannot live in a DuckDB that is gone when dbt ends (:memory:) or lies elsewhere",
            hint="use a file, or name a lasting warehouse in vars: {dbt_segments: {state: {profile: ...}}}",
        )
    with contextlib.ExitStack() as stack:
        if state_profile.path is not None:
            _require_file(state_profile.path)
            if alone:
                if profile.kind == "duckdb":
                    close_dbts_own()  # whoever has the lock may be waiting for that very file
                stack.enter_context(locks.file_lock(state_profile.path, lock_timeout_s, tell))
        with _started(state, lock_timeout_s) as session:
            # Commands that only look make an empty state too: what counts is whether anything was ever sent.
            known = schemas.exists(session, schema) and schemas.has_audiences(session, schema)
            if settings.require_state and not known and not anew:
                raise StateError(
                    f"no state in schema {schema}, and vars.dbt_segments.require_state is true",
                    hint="restore it from a backup, or set require_state to false for the very first run; "
                    "if it is lost for good: dbt-segments audiences adopt --without-history",
                )
            store = Store(schema, schemas.ensure(session, schema))
            registry, syncs = _with_own_past(session, store, registry, syncs)
            if state is warehouse:
                built = _read_builds(session, _schema(settings, profile), options.target_path, profile)
        if state is not warehouse:
            with _started(warehouse, lock_timeout_s) as session:
                built = _read_builds(session, _schema(settings, profile), options.target_path, profile)
        yield Project(
            options=options,
            settings=settings,
            profile=profile,
            registry=registry,
            warehouse=warehouse,
            state=state,
            store=store,
            syncs=tuple(sync for sync in syncs if sync.enabled),
            builds=built,
            freshness=builds.read_freshness(options.target_path / "sources.json"),
        )


def _with_own_past(
    session: Session, store: Store, registry: Registry, syncs: Iterable[Sync]
) -> tuple[Registry, tuple[Sync, ...]]:
    """The registry and the chosen ones of its syncs, without former ids whose audience is another one."""
    known = {sync.id: with_own_past(session, store, sync) for sync in registry.syncs}
    return replace(registry, syncs=tuple(known.values())), tuple(known[sync.id] for sync in syncs)


def _schema(settings: ProjectSettings, profile: Profile) -> str:
    """The schema of our tables in a profile's warehouse; the dbt macro computes the same name."""
    return settings.state_schema or f"{profile.schema}_dbt_segments"


def _require_file(path: Path) -> None:
    if not path.exists():
        raise NoConnectionError(f"there is no DuckDB file {path}", hint="run dbt build first")


class NoConnectionError(WarehouseError):
    """No connection at the start: nothing ran."""

    exit_code = 2


@contextlib.contextmanager
def _started(warehouse: Warehouse, lock_timeout_s: float) -> Iterator[Session]:
    """A session whose failure to connect counts as "did not start"."""
    connected = False
    try:
        with warehouse.session(lock_timeout_s=lock_timeout_s) as session:
            connected = True
            yield session
    except WarehouseError as error:
        if connected:
            raise
        raise NoConnectionError(error.message, hint=error.hint or "check the profile with dbt debug") from None


def _read_builds(session: Session, schema: str, target_path: Path, profile: Profile) -> dict[str, builds.Build]:
    """What the macro recorded in the warehouse of the models, and what run_results.json says."""
    recorded: tuple[builds.Build, ...] = ()
    if session.has_table(schema, "model_builds"):
        relation = f"{quote(schema)}.{quote('model_builds')}"
        recorded = builds.from_rows(session.rows(builds.latest_sql(relation)))
    newest = builds.read_run_results(
        target_path / "run_results.json", target=profile.target, default_target=profile.default_target
    )
    return builds.latest((*recorded, *newest))
