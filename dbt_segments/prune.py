"""Audiences that nothing is sent to any more: emptied or deleted by policy, once a plan of it was seen.

Emptying takes out the members that are ours, as a sync of a segment without members would: under the lock, written
ahead, in the order that loses nobody. Deleting is for audiences that a sync made; others may be in an adopted one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal

import duckdb

from dbt_segments import inventory, record
from dbt_segments import project as projects
from dbt_segments.audiences import Resolver, recorded
from dbt_segments.connections import Connections
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Audience, Destination, Op, Support
from dbt_segments.errors import ConfigError, DestinationError, GoneError, LockedError, SettingsError
from dbt_segments.freeze import Frozen
from dbt_segments.frozens import Frozens
from dbt_segments.inventory import ListedAudience
from dbt_segments.planning import Plan
from dbt_segments.project import Project
from dbt_segments.report import count_of
from dbt_segments.send import Sender
from dbt_segments.settings import Options
from dbt_segments.spelling import suggest
from dbt_segments.state import locks, memory
from dbt_segments.state.ledger import by_status, current, read_ledger
from dbt_segments.state.store import Store
from dbt_segments.syncing import SyncRun, Wishes
from dbt_segments.values import Connection, Entity, Identifier, Model, Segment, Sync, SyncResult
from dbt_segments.warehouse import TEXT, Session

Action = Literal["keep", "empty", "delete"]


@dataclass(frozen=True)
class Pruned:
    """One audience without a running sync.

    standing  off: the sync is switched off; deleted: the project has it no more
    action    what the policy, or what is possible, makes of it
    members   ours, acknowledged or perhaps there
    done      planned, kept, emptied, deleted, gone (it was deleted at the platform before), waiting (for jobs), failed
    note      why the action is not the policy's, or why it failed
    """

    sync_id: str
    destination: str
    account: str
    audience_id: str
    audience_name: str
    standing: str
    action: Action
    members: int
    done: str
    note: str = ""


def prune(
    options: Options,
    ids: tuple[str, ...],
    policy: Action | None,
    *,
    act: bool,
    lock_timeout_s: float,
    tell: Callable[[str, str], None],
) -> tuple[Pruned, ...]:
    """What becomes of every orphan, or of those of these sync ids; `act` does it.

    policy  instead of the configured ones

    Raises ConfigError for an id without an orphan, SettingsError for a dbt target that may not send.
    """
    _, _, connections = projects.read_configuration(options)
    quiet = lambda text: tell("", text)  # noqa: E731
    with projects.open_project(options, lock_timeout_s, quiet, alone=act) as project:
        if act and not project.may_send:
            allowed = ", ".join(project.settings.targets) or "none"
            raise SettingsError(
                f"dbt target {project.profile.target} may not send; vars.dbt_segments.targets: {allowed}",
                hint="name a target that may: --target",
            )
        with project.state.session(lock_timeout_s=lock_timeout_s) as session:
            found = inventory.orphans(session, project.store, project.registry)
            known = [one.sync_id for one in found]
            wrong = next((name for name in ids if name not in known), None)
            if wrong is not None:
                hint = suggest(wrong, known) or "dbt-segments audiences prune --plan lists them"
                raise ConfigError(f"`{wrong}` is no sync whose audience nothing is sent to", hint=hint)
            chosen = [one for one in found if not ids or one.sync_id in ids]
            orphans = [_Orphan.read(session, project, connections, one, policy) for one in chosen]
        run_id = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        return tuple(
            _Pruner(project, orphan, run_id, lock_timeout_s, tell).prune() if act else orphan.pruned
            for orphan in orphans
        )


@dataclass(frozen=True)
class _Orphan:
    """One audience, and the sync that is to empty it; None where nothing can be done."""

    pruned: Pruned
    sync: Sync | None

    @classmethod
    def read(
        cls,
        session: Session,
        project: Project,
        connections: Connections,
        audience: ListedAudience,
        policy: Action | None,
    ) -> _Orphan:
        sync = next(
            (one for one in project.registry.syncs if audience.sync_id in (one.id, *one.former_ids)),
            None,
        )
        ids = (sync.id, *sync.former_ids) if sync else (audience.sync_id,)
        members = _members(session, project.store, current(session, project.store, ids))
        wanted: str = policy or (sync.orphan if sync else project.settings.orphans)
        connection = connections.ok.get(audience.destination)
        why = ""
        if connection is None:
            wanted, why = "keep", f"connection {audience.destination} is not there or has a mistake"
        else:
            destination = destinations.get(connection.type)(connection.settings)
            if sync is None:
                names = session.rows(
                    f"select segment, entity from {project.store.table('sync_runs')} where sync_id = ? "
                    f"order by finished_at desc limit 1",
                    [audience.sync_id],
                )
                segment, entity = names[0] if names else (audience.sync_id, "")
                sync = _stand_in(audience, destination, connection, segment, entity)
            mirrors = destination.operations.get(Op.REMOVE) is Support.FULL
            mode = "mirror" if mirrors else "replace"
            sync = replace(sync, removals=True, enabled=True, gone="fail", audience_id=None, mode=mode)
            if destination.account() != audience.account:
                wanted, why = "keep", f"connection {connection.name} now names account {destination.account()}"
            elif wanted == "delete" and audience.adopted:
                wanted, why = "empty", "it was adopted, so others may be in it"
            if wanted == "empty" and not members:
                wanted, why = "keep", "nobody of ours is in it"
        action: Action = "keep" if wanted == "keep" else "empty" if wanted == "empty" else "delete"
        pruned = Pruned(
            sync_id=audience.sync_id,
            destination=audience.destination,
            account=audience.account,
            audience_id=audience.audience_id or "",
            audience_name=audience.audience_name or "",
            standing=audience.standing,
            action=action,
            members=members,
            done="planned" if action != "keep" else "kept",
            note=why,
        )
        return cls(pruned, sync if action != "keep" else None)


def _stand_in(
    audience: ListedAudience, destination: Destination, connection: Connection, segment: str, entity: str
) -> Sync:
    """A sync of a segment that the project has no more: enough of it to say what is to be removed.

    Removals are written from the record, so its identifiers are those that the destination knows.
    """
    model = Model(audience.sync_id, segment, "model", "", "", "")
    holder = Entity(name=entity, kind="person", model=model, key="key")
    return Sync(
        id=audience.sync_id,
        segment=Segment(segment, audience.audience_name or segment, model, holder),
        connection=connection,
        one_click=True,
        identifiers=tuple(Identifier(name, name) for name in destination.identifiers),
        audience_name=audience.audience_name or segment,
    )


def _members(session: Session, store: Store, owner: str) -> int:
    """Members of ours that are there, or perhaps."""
    statuses = by_status(session, read_ledger(session, store, owner))
    return statuses.get("present", 0) + statuses.get("perhaps", 0)


class _Pruner:
    """Empties or deletes one audience."""

    def __init__(
        self,
        project: Project,
        orphan: _Orphan,
        run_id: str,
        lock_timeout_s: float,
        tell: Callable[[str, str], None],
    ) -> None:
        self._project = project
        self._orphan = orphan
        self._run_id = run_id
        self._lock_timeout_s = lock_timeout_s
        self._tell = tell

    def prune(self) -> Pruned:
        """What became of it; a failure is no error of the others."""
        pruned, sync = self._orphan.pruned, self._orphan.sync
        if sync is None:
            return pruned
        try:
            return self._act(sync)
        except (DestinationError, LockedError) as error:
            hint = f"; {error.hint}" if error.hint else ""
            return replace(pruned, done="failed", note=f"{error.message}{hint}")
        except NotImplementedError:
            return replace(pruned, done="failed", note=f"{sync.connection.type} cannot delete an audience")

    def _act(self, sync: Sync) -> Pruned:
        pruned = self._orphan.pruned
        project, destination = self._project, destinations.get(sync.connection.type)(sync.connection.settings)
        gate = locks.Gate()
        with ExitStack() as stack:
            sender = stack.enter_context(Sender(destination, may_start=gate))
            gate.lock = lock = stack.enter_context(
                locks.hold(
                    project.state,
                    project.store,
                    sync.id,
                    timeout_s=self._lock_timeout_s,
                    longest_request_s=sender.longest_request_s,
                    tell=lambda text: self._tell(sync.id, text),
                )
            )
            remover = _Remover(project.state, project.store, lock, destination, sender.play, self._lock_timeout_s)
            try:
                held = destination.held() if pruned.action == "delete" else None
                if held:
                    return replace(pruned, done="failed", note=held)
                if pruned.action == "delete" and not destination.undeletable:
                    remover.delete(sync)
                    return replace(pruned, done="deleted")
                result = self._empty(sync, destination, sender, lock)
                left = self._left(sync)
                emptied = result.status in ("success", "noop") and not left
                if emptied and pruned.action == "delete":
                    remover.delete(sync)
                    return replace(pruned, done="deleted", note="the empty list stays: it cannot be deleted")
            except GoneError as error:
                remover.give_up(sync, "gone")
                why = f"the platform has ended it ({error.ended})" if error.ended else "it was deleted at the platform"
                return replace(pruned, done="gone", note=f"{why} before")
            if emptied:
                remover.note(sync, "emptied")
                return replace(pruned, done="emptied")
            if result.status in ("success", "noop"):
                return replace(
                    pruned, done="waiting", note=f"not confirmed yet: {count_of(left, 'member')}; run it again"
                )
            return replace(pruned, done="failed", note=result.reason)

    def _empty(self, sync: Sync, destination: Destination, sender: Sender, lock: locks.Lock) -> SyncResult:
        with Frozens(self._project, self._lock_timeout_s) as frozens:
            run = _Emptying(
                self._project,
                sync,
                destination,
                frozens,
                Wishes(),
                run_id=self._run_id,
                lock_timeout_s=self._lock_timeout_s,
                tell=lambda text: self._tell(sync.id, text),
            )
            result = run.sync(lock, sender, lambda *asked: True)
        record.write_run(self._project, result, self._run_id, self._lock_timeout_s, self._tell)
        return result

    def _left(self, sync: Sync) -> int:
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            return _members(session, self._project.store, sync.id)


class _Remover(Resolver):
    """Deletes an audience of ours at the platform."""

    def delete(self, sync: Sync) -> None:
        """Delete it, if its mark is still ours, and record that. Raises GoneError where it is not there."""
        with self._session() as session:
            known = recorded(session, self._store, sync)
        if known is not None:
            self._play(self._destination.delete(self._check(sync, known.audience)))
        self.give_up(sync, "deleted")

    def note(self, sync: Sync, event: str) -> None:
        """Record what was done to the audience, which stays."""
        with self._session() as session:
            known = recorded(session, self._store, sync)
        if known is not None:
            self._record(sync, known.audience, event, known.audience.mark)


class _Emptying(SyncRun):
    """A sync of nobody. It was asked for by name, so that no threshold holds it, and no model's tests matter."""

    def _gate(self) -> None:
        held = self._destination.held()
        self._holds = [held] if held else []

    def _plan(self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, *, keep: bool) -> Plan | None:
        if self._holds:
            return None
        nobody = self._store.scratch("keys", self._sync.id)
        state.execute(f"create table {nobody} (key {TEXT})")
        try:
            made = self._planner.plan(state, bench, Frozen(nobody, nobody, (), 0, {}), None, held=False)
        finally:
            state.execute(f"drop table {nobody}")
        # What was sent for members who refuse stays remembered, in case the sync is switched on again.
        memory.keep(state, self._store, self._sync.id, bench)
        return made

    def _is_held_by(self, made: Plan) -> bool:
        return False

    def _attended(self, resolver: Resolver, audience: Audience, result: SyncResult) -> SyncResult:
        return result
