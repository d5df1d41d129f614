"""Taking over an existing audience: by its id, or by the mark that a sync of ours left in its description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dbt_segments import project as projects
from dbt_segments.audiences import AudienceHeldError, Resolver, recorded, sync_of
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Audience, Row
from dbt_segments.errors import ConfigError, DestinationError, GoneError, RefusedError, SettingsError
from dbt_segments.send import Sender
from dbt_segments.settings import Options
from dbt_segments.spelling import suggest
from dbt_segments.state import locks
from dbt_segments.state.ledger import read_ledger
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
    name: str | None = None,
    without_history: bool,
    lock_timeout_s: float,
    tell: Callable[[str], None],
) -> Adopted:
    """Write our mark into the audience's description and record it. Its members stay as they are.

    audience_id      None: the only one of that `name`, or, without one, the one that carries this sync's mark
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
        if sync.connection.problems:
            raise ConfigError(problems=sync.connection.problems)
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
            adopter = Adopter(project.state, project.store, lock, destination, sender.play, lock_timeout_s)
            audience, changed = adopter.take_over(sync, audience_id, name, without_history=without_history)
    return Adopted(
        sync_id=sync.id,
        destination=sync.connection.name,
        account=destination.account(),
        audience_id=audience.id,
        audience_name=audience.name,
        mark=audience.mark,
        changed=changed,
    )


class Adopter(Resolver):
    """Finds the audience that the user means, and makes it the sync's."""

    def take_over(
        self, sync: Sync, audience_id: str | None, name: str | None, *, without_history: bool
    ) -> tuple[Audience, bool]:
        """Take over an existing audience for this sync, by its id, name or our mark; and whether that was news.

        without_history  also one that carries the mark of another state, because that state is lost

        Raises AudienceHeldError where it is another's, or where this sync has sent to another audience already.
        """
        with self._session() as session:
            known = recorded(session, self._store, sync)
            if audience_id is not None:
                self._refuse_taken(session, sync, audience_id)
            has_sent = not read_ledger(session, self._store, sync.id).is_new
        audience = self._named(sync, audience_id) if name is None else self._of_name(sync, name)
        if sync.audience_id not in (None, audience.id):
            raise AudienceHeldError(
                f"{sync.id}: its `audience_id` names {sync.audience_id}, not {audience.id}",
                code="audience_changed",
                hint="correct or remove `audience_id`, then adopt",
            )
        if known is not None and known.audience.id == audience.id and known.account == self._destination.account():
            return self._check(sync, known.audience), False
        if known is not None and has_sent:
            raise AudienceHeldError(
                f"{sync.id}: it has sent members to audience {known.audience.id} already",
                code="audience_changed",
                hint="give the sync a new `id:` to begin with the other audience",
            )
        with self._session() as session:
            self._refuse_taken(session, sync, audience.id)
        return self._adopt(sync, audience, without_history=without_history), True

    def _of_name(self, sync: Sync, name: str) -> Audience:
        """The only audience of exactly that name."""
        found = [one for one in self._sought(name) if one.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise DestinationError(
                f"{sync.id}: several audiences are named {name}: {', '.join(sorted(one.id for one in found))}",
                hint="name one with --id",
            )
        raise DestinationError(
            f"{sync.id}: account {self._destination.account()} has no audience named {name}",
            hint="write its name exactly, or name it with --id",
        )

    def _named(self, sync: Sync, audience_id: str | None) -> Audience:
        """The audience of that id, or the only one that carries the mark of this sync."""
        if audience_id is not None:
            try:
                return self._play(self._destination.get(audience_id))
            except GoneError as error:
                raise GoneError(
                    f"{sync.id}: there is no audience {audience_id}, or these credentials cannot see it",
                    code=error.code,
                    hint=f"is it in account {self._destination.account()}?",
                ) from None
        if not self._destination.has_mark:
            raise DestinationError(
                f"{sync.id}: this destination has no place for a mark", hint="name the audience with --id"
            )
        found = [a for a in self._sought(sync.audience_name) if a.mark]
        ids = (sync.id, *sync.former_ids)
        marked = [a for a in found if self._is_ours(a, sync)] or [a for a in found if sync_of(a.mark) in ids]
        if len(marked) == 1:
            return marked[0]
        if marked:
            raise DestinationError(
                f"{sync.id}: several audiences carry its mark: {', '.join(sorted(a.id for a in marked))}",
                hint="name one with --id",
            )
        raise DestinationError(
            f"{sync.id}: no audience of account {self._destination.account()} carries its mark",
            hint="name one with --id, or let the next sync make one",
        )


def _sync(project: projects.Project, sync_id: str) -> Sync:
    found = [sync for sync in project.registry.syncs if sync.id == sync_id]
    if not found:
        ids = [sync.id for sync in project.registry.syncs]
        raise ConfigError(f"there is no sync `{sync_id}`", hint=suggest(sync_id, ids) or "dbt-segments list")
    return found[0]
