"""What the owners of a state ask of it: who may read it, how long its logs are kept, what can go, how large it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dbt_segments.errors import SegmentsError
from dbt_segments.membership import view_of
from dbt_segments.project import Project
from dbt_segments.state.grants import grant
from dbt_segments.state.upkeep import Rubbish, Upkeep, kind_of
from dbt_segments.warehouse import Session


@dataclass(frozen=True)
class TableSize:
    """One table of the state; `rows` and `bytes` are the warehouse's estimates, None where it does not say.

    kind  of an immutable table; the table's own name for a log
    """

    name: str
    kind: str
    rows: int | None
    bytes: int | None


@dataclass(frozen=True)
class StateSize:
    """Every table of the state's schema."""

    schema: str
    tables: tuple[TableSize, ...]


def grant_reading(project: Project, lock_timeout_s: float) -> None:
    """Let the roles of `grants` read logs and views, as far as they may not already. Raises SettingsError."""
    roles = project.settings.grants.select
    if not roles:
        return
    views = [view_of(entity) for entity in project.registry.entities]
    with project.state.session(lock_timeout_s=lock_timeout_s) as session:
        grant(session, project.store, roles, views)


def prune_daily(project: Project, lock_timeout_s: float, tell: Callable[[str], None]) -> None:
    """Delete what is older than `retention`, once a day; a failure is told and changes no sync's result."""
    if not project.settings.retention.days:
        return
    try:
        with _upkeep(project, lock_timeout_s) as upkeep:
            upkeep.prune_daily()
    except SegmentsError as error:
        tell(f"warning: the state's logs could not be pruned: {error.message}")


def collect(project: Project, lock_timeout_s: float, *, dry_run: bool) -> Rubbish:
    """Throw away what nothing refers to and what is older than `retention`; with `dry_run` only find it."""
    with _upkeep(project, lock_timeout_s) as upkeep:
        return upkeep.find() if dry_run else upkeep.collect()


def size(project: Project, session: Session) -> StateSize:
    """How large the state's tables are."""
    schema = project.store.schema
    rows = session.sizes(schema)
    return StateSize(schema, tuple(TableSize(name, kind_of(name) or name, count, size) for name, count, size in rows))


@contextlib.contextmanager
def _upkeep(project: Project, lock_timeout_s: float) -> Iterator[Upkeep]:
    with project.sessions(lock_timeout_s) as (models, state):
        builds = None
        if models.has_table(project.builds_schema, "model_builds"):
            builds = models, project.builds_table
        yield Upkeep(state, project.store, project.settings.retention.days, builds)
