"""Taking over an existing audience: by its id, or by the mark that a sync of ours left in its description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dbt_segments import project as projects
from dbt_segments.audiences import Resolver
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Row
from dbt_segments.errors import ConfigError, RefusedError, SettingsError
from dbt_segments.send import Sender
from dbt_segments.settings import Options
from dbt_segments.spelling import suggest
from dbt_segments.state import locks
from dbt_segments.values import Sync


@dataclass(frozen=True)
class Adopted:
    """The audience that the sync manages from now on; not `changed`: it did so already."""

    sync_id: str
    destination: str
    account: str
    audience_id: str
    audience_name: str
    mark: str
    changed: bool


def adopt(
    options: Options,
    sync_id: str,
    audience_id: str | None,
    *,
    without_history: bool,
    lock_timeout_s: float,
    tell: Callable[[str], None],
) -> Adopted:
    """Write our mark into the audience's description and record it. Its members stay as they are.

    audience_id      None: the one that carries this sync's mark
    without_history  also where the mark is that of another state, which is lost

    Raises ConfigError for an unknown sync and for a dbt target that may not send, LockedError, DestinationError.
    """
    with projects.open_project(options, lock_timeout_s, tell, anew=without_history) as project:
        if not project.may_send:
            allowed = ", ".join(project.settings.targets) or "none"
            raise SettingsError(
                f"dbt target {project.profile.target} may not send; vars.dbt_segments.targets: {allowed}",
                hint="name a target that may: --target",
            )
        sync = _sync(project, sync_id)
        destination = destinations.get(sync.connection.type)(sync.connection.settings)
        if destination.row is Row.RECORD:
            raise ConfigError(f"{sync.id}: {destination.type} holds records, there is no audience to adopt")
        held = destination.held()
        if held:
            raise RefusedError(f"{sync.id}: {held}")
        gate = locks.Gate()
        with (
            Sender(destination, may_start=gate) as sender,
            locks.hold(
                project.state,
                project.store,
                sync.id,
                timeout_s=lock_timeout_s,
                longest_request_s=sender.longest_request_s,
                tell=tell,
            ) as lock,
        ):
            gate.lock = lock
            resolver = Resolver(project.state, project.store, lock, destination, sender.play, lock_timeout_s)
            audience, changed = resolver.take_over(sync, audience_id, without_history=without_history)
    return Adopted(
        sync_id=sync.id,
        destination=sync.connection.name,
        account=destination.account(),
        audience_id=audience.id,
        audience_name=audience.name,
        mark=audience.mark,
        changed=changed,
    )


def _sync(project: projects.Project, sync_id: str) -> Sync:
    found = [sync for sync in project.registry.syncs if sync.id == sync_id]
    if not found:
        ids = [sync.id for sync in project.registry.syncs]
        raise ConfigError(f"there is no sync `{sync_id}`", hint=suggest(sync_id, ids) or "dbt-segments list")
    return found[0]
