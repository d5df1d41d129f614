"""Finding, making and checking the audience of a sync (invariants 2, 6 and 12).

An audience that we made carries our mark in its description: `dbt-segments:<state id>:<sync id>:<nonce>`. The intention
to make one is committed with its nonce before the first call, so that a run which died in between finds it again
instead of making a second one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote

from dbt_segments.destinations.base import Audience, Destination, Flow
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, SegmentsError
from dbt_segments.report import count_of
from dbt_segments.state import fold as folds
from dbt_segments.state import left
from dbt_segments.state.ledger import read_ledger
from dbt_segments.state.left import Left
from dbt_segments.state.locks import Lock
from dbt_segments.state.store import Store, in_list
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session, Warehouse

T = TypeVar("T")
PREFIX = "dbt-segments:"
# Events that begin an audience, and those after which it is none any more.
MADE = ("created", "adopted")
OVER = ("gone", "deleted")
# An audience that a platform ends is made again once in so many days: what ends again needs a person.
AGAIN_D = 30


class Play(Protocol):
    """Plays a flow over the network: `send.Sender.play`."""

    def __call__(self, flow: Flow[T]) -> T: ...


class AudienceHeldError(DestinationError):
    """The audience is not certainly ours, so nothing is sent to it; `code` is short and stable."""


@dataclass(frozen=True)
class Recorded:
    """What the state knows of a sync's audience."""

    audience: Audience
    account: str
    sync_id: str


def recorded(session: Session, store: Store, sync: Sync) -> Recorded | None:
    """The audience that this sync, under its id or a former one, made or adopted, and that is not gone."""
    return next(_recorded(session, store, sync, (*MADE, "records")), None)


def with_own_past(session: Session, store: Store, sync: Sync) -> Sync:
    """The sync without the former ids that have another audience than its own.

    As where it ran under its new name before `renamed_from` said so, or was given another audience after a rename.
    What was sent to the other one says nothing of its own, and nothing is sent to the other one any more.
    """
    if not sync.former_ids:
        return sync
    found = [(one.sync_id, one.audience.id, one.account) for one in _recorded(session, store, sync, MADE)]
    aside = {sync_id for sync_id, *audience in found if audience != list(found[0][1:])}
    return replace(sync, former_ids=tuple(one for one in sync.former_ids if one not in aside))


def _recorded(session: Session, store: Store, sync: Sync, events: Iterable[str]) -> Iterator[Recorded]:
    """The newest audience under each of the sync's ids, today's first; none that is gone."""
    table, ids = store.table("audiences"), (sync.id, *sync.former_ids)
    for sync_id in ids:
        rows = session.rows(
            f"select audience_id, name, mark, account from {table} a "
            f"where sync_id = ? and event in {in_list(events)} and not {_is_over(table, ids)} "
            f"order by recorded_at desc, token desc limit 1",
            [sync_id],
        )
        if rows:
            found = Audience(rows[0][0], rows[0][1] or "", rows[0][2] or "", rows[0][3] or "")
            yield Recorded(found, found.account, sync_id)


def is_attended(session: Session, store: Store, sync: Sync, audience: Audience) -> bool:
    """Whether what the platform wants besides this audience was there when last looked for."""
    table, ids = store.table("audiences"), (sync.id, *sync.former_ids)
    events = session.rows(
        f"select event from {table} a where event in ('attended', 'unattended') and not {_is_over(table, ids)} "
        f"and sync_id in {in_list(ids)} and audience_id = ? and account = ? "
        "order by recorded_at desc, token desc, event desc limit 1",
        [audience.id, audience.account],
    )
    return events == [("attended",)]


def _is_over(table: str, ids: Iterable[str]) -> str:
    """Condition on a row `a` of `audiences`: what it tells of was found gone, or deleted by us, afterwards."""
    return (
        f"exists (select 1 from {table} g where g.sync_id in {in_list(ids)} and g.event in {in_list(OVER)} "
        f"and (g.audience_id = a.audience_id or a.event = 'intended') and g.recorded_at >= a.recorded_at)"
    )


def sync_of(mark: str) -> str:
    """The sync id in a mark."""
    return unquote(":".join(mark.split(":")[2:-1]))


def mark_of(state_id: str, sync_id: str, nonce: str) -> str:
    """The mark of one audience: one word. What could end the word, or a part of it, is percent-encoded."""
    return f"{PREFIX}{state_id}:{quote(sync_id, safe='')}:{nonce}"


class Resolver:
    """Finds the audience of one sync; network and state in turn, never at the same time."""

    def __init__(
        self,
        warehouse: Warehouse,
        store: Store,
        lock: Lock,
        destination: Destination,
        play: Play,
        lock_timeout_s: float,
    ) -> None:
        self._warehouse = warehouse
        self._store = store
        self._lock = lock
        self._destination = destination
        self._play = play
        self._lock_timeout_s = lock_timeout_s

    def resolve(self, sync: Sync) -> Audience:
        """The audience to send to, made if there is none; without an id where its first members have to make it.

        Raises AudienceHeldError where it is not certain that it is ours, GoneError where it has vanished.
        """
        with self._session() as session:
            known = recorded(session, self._store, sync)
            self._refuse_second_sync(session, sync, known)
            intended = self._intended(session, sync)
        account = self._destination.account()
        if self._destination.records:
            return self._resolve_records(sync, known)
        if known is not None:
            if known.account and known.account != account:
                raise AudienceHeldError(
                    f"{sync.id}: its audience is in account {known.account}, the connection now names {account}",
                    code="account_changed",
                    hint="restore the account, or give the sync a new `id:`",
                )
            if sync.audience_id not in (None, known.audience.id):
                raise AudienceHeldError(
                    f"{sync.id}: it manages audience {known.audience.id}, "
                    f"and `audience_id` now names {sync.audience_id}",
                    code="audience_changed",
                    hint="restore the id, or give the sync a new `id:` to begin with the other audience",
                )
            return self._usable(sync, known.audience)
        if sync.audience_id is not None:
            return self._adopt(sync, self._play(self._destination.get(sync.audience_id)))
        return self._find(sync, intended) or self._create(sync, intended)

    def _resolve_records(self, sync: Sync, known: Recorded | None) -> Audience:
        """What stands for an audience where there is none. What was sent to one account says nothing of another."""
        account = self._destination.account()
        if known is not None and known.account != account:
            raise AudienceHeldError(
                f"{sync.id}: its records are in {known.account}, the connection now names {account}",
                code="account_changed",
                hint="restore the connection, or give the sync a new `id:` to begin there with everybody",
            )
        audience = Audience(known.audience.id if known else sync.id)
        if known is None or known.sync_id != sync.id:
            self._record(sync, audience, "records", "")
        return audience

    def _session(self) -> AbstractContextManager[Session]:
        return self._warehouse.session(lock_timeout_s=self._lock_timeout_s)

    def _usable(self, sync: Sync, known: Audience) -> Audience:
        """The recorded audience, ours and not ended. Raises GoneError where the platform has ended it."""
        now = self._check(sync, known)
        if now.ended:
            raise GoneError("the platform has ended the audience", code=now.ended, ended=now.ended)
        return now

    def _check(self, sync: Sync, known: Audience) -> Audience:
        """The recorded audience as it is now; its mark must still be ours."""
        now = self._play(self._destination.get(known.id))
        if self._destination.has_mark and known.mark and now.mark != known.mark:
            if not now.mark:
                return now if now.ended else self._play(self._destination.adopt(now, known.mark))
            raise AudienceHeldError(
                f"{sync.id}: audience {known.id} carries the mark of another state or sync",
                code="foreign_mark",
                hint="another project or state manages it; give this sync a new `id:` or stop the other",
            )
        return Audience(known.id, known.name or now.name, known.mark, known.account, now.ended)

    def _sought(self, name: str) -> list[Audience]:
        """Audiences with a mark of ours or the name; not those that the platform has ended."""
        return [one for one in self._play(self._destination.find(PREFIX, name)) if not one.ended]

    def _find(self, sync: Sync, intended: tuple[str, str] | None) -> Audience | None:
        """An audience that an earlier, interrupted run of this sync made; holds on one that is somebody else's."""
        # Where there is no place for a mark, what a run made before it died is known by the name that it intended.
        sought = intended[0] if intended is not None and not self._destination.has_mark else None
        if sought is not None:
            mine = [a for a in self._sought(sought) if a.name == sought]
            if len(mine) == 1:
                with self._session() as session:
                    self._refuse_taken(session, sync, mine[0].id)
                self._record(sync, mine[0], "created", "")
                return mine[0]
        found = self._sought(sync.audience_name)
        ours = [a for a in found if self._is_ours(a, sync)]
        if ours:
            audience = min(ours, key=lambda a: (len(a.id), a.id))
            self._record(sync, audience, "created", audience.mark)
            return audience
        others = [a for a in found if a.name == sync.audience_name]
        foreign = [a for a in found if a.mark and (a.name == sync.audience_name or sync_of(a.mark) == sync.id)]
        theirs = next((a for a in foreign if not self._is_of_a_lost_state(a)), None)
        if theirs is not None:
            other = sync_of(theirs.mark)
            raise AudienceHeldError(
                f"{sync.id}: audience {theirs.id} ({theirs.name}) carries the mark of sync {other}",
                code="foreign_mark",
                hint="choose another `audience_name:`; or, where that sync is given up, delete its audience: "
                f"dbt-segments audiences prune --policy delete {other}",
            )
        if foreign:
            raise AudienceHeldError(
                f"{sync.id}: audience {foreign[0].id} ({foreign[0].name}) carries the mark of another state",
                code="foreign_mark",
                hint="was the state lost? Restore it. Or take the audience over without its history: "
                f"dbt-segments audiences adopt {sync.id} --id {foreign[0].id} --without-history",
            )
        if others:
            raise AudienceHeldError(
                f"{sync.id}: account {self._destination.account()} already has an audience of that name "
                f"({others[0].id})",
                code="name_taken",
                hint=f"to use it: dbt-segments audiences adopt {sync.id} --id {others[0].id}; "
                "or choose another `audience_name:`",
            )
        return None

    def _is_ours(self, audience: Audience, sync: Sync) -> bool:
        own = audience.mark.startswith(f"{PREFIX}{self._store.state_id}:")
        return own and sync_of(audience.mark) in (sync.id, *sync.former_ids)

    def _create(self, sync: Sync, intended: tuple[str, str] | None) -> Audience:
        """Make it, the intention first. An answer that never came is mended by the next run, which finds the mark."""
        name = sync.audience_name
        mark = intended[1] if intended else mark_of(self._store.state_id, sync.id, secrets.token_hex(4))
        # The name that was intended may have been refused, and another one written since.
        if intended is None or intended[0] != name:
            self._record(sync, Audience("", name), "intended", mark)
        if self._destination.made_with_members:
            return Audience("", name, mark, self._destination.account())
        try:
            made = self._play(self._destination.create(name, mark))
        except (RefusedError, AuthError):
            # Surely not made: whatever has this name later is somebody else's.
            self._record(sync, Audience("", name), "abandoned", mark)
            raise
        # Where names stay taken a platform's audience may have been given another one.
        audience = Audience(made.id, made.name or name, mark, self._destination.account())
        self.made(sync, audience)
        return audience

    def made(self, sync: Sync, audience: Audience) -> None:
        """Record an audience that is there now. Raises WarehouseError, LockedError."""
        self._record(sync, audience, "created", audience.mark)

    def attend(self, sync: Sync, audience: Audience) -> str | None:
        """Make what the platform wants besides the audience; what is amiss, for people, None where nothing is.

        Asked for until it is there, which is then recorded. Whatever happens here, members are where they should be.
        """
        if not self._destination.attends or audience.account != self._destination.account():
            return None
        try:
            with self._session() as session:
                if is_attended(session, self._store, sync, audience):
                    return None
            missing = self._play(self._destination.attend(audience))
            if missing is None:
                self._record(sync, audience, "attended", audience.mark)
        except SegmentsError as error:
            return error.message
        return missing

    def unattended(self, sync: Sync, audience: Audience) -> GoneError | None:
        """What is wrong where somebody took away at the platform what `attend` made; None where it is there.

        By `gone: recreate` it counts as never made from now on, and `attend` makes it again. Members are not touched.
        Raises DestinationError where the platform does not say.
        """
        if not self._destination.attends or audience.account != self._destination.account():
            return None
        with self._session() as session:
            if not is_attended(session, self._store, sync, audience):
                return None
        if self._play(self._destination.is_attended(audience)):
            return None
        if sync.gone == "recreate":
            self._record(sync, audience, "unattended", audience.mark)
        return untargeted(sync, audience)

    def _adopt(self, sync: Sync, audience: Audience, *, without_history: bool = False) -> Audience:
        """Take over an audience that the user named; one with another state's mark only without its history.

        Raises AudienceHeldError for one that the platform has ended, or that is somebody else's.
        """
        if audience.ended:
            raise AudienceHeldError(
                f"{sync.id}: ads can use audience {audience.id} no more: {self._destination.type} calls it "
                f"{audience.ended}",
                code="audience_ended",
                hint="name another one, or none: then the sync makes its own",
            )
        foreign = bool(audience.mark) and not self._is_ours(audience, sync)
        if foreign and not (without_history and self._is_of_a_lost_state(audience)):
            hint = "stop the other sync, or choose another audience"
            if self._is_of_a_lost_state(audience):
                hint = (
                    f"if that state is lost: dbt-segments audiences adopt {sync.id} --id {audience.id} "
                    "--without-history; its earlier members can then only be removed at the platform"
                )
            raise AudienceHeldError(
                f"{sync.id}: audience {audience.id} carries the mark of another state or sync",
                code="foreign_mark",
                hint=hint,
            )
        keeps = audience.mark and not foreign
        mark = audience.mark if keeps else mark_of(self._store.state_id, sync.id, secrets.token_hex(4))
        if self._destination.has_mark and not keeps:
            self._play(self._destination.adopt(audience, mark))
        self._record(sync, audience, "adopted", mark)
        return Audience(audience.id, audience.name, mark, self._destination.account())

    def _is_of_a_lost_state(self, audience: Audience) -> bool:
        """Whether its mark is that of another state; a sync of this very state is never overruled."""
        return not audience.mark.startswith(f"{PREFIX}{self._store.state_id}:")

    def _intended(self, session: Session, sync: Sync) -> tuple[str, str] | None:
        table = self._store.table("audiences")
        rows = session.rows(
            f"select name, mark from {table} a where sync_id in {in_list((sync.id, *sync.former_ids))} "
            f"and event = 'intended' and not {_is_over(table, (sync.id, *sync.former_ids))} "
            f"and not exists (select 1 from {table} b where b.event = 'abandoned' and b.mark = a.mark) "
            f"order by recorded_at desc limit 1"
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def _refuse_second_sync(self, session: Session, sync: Sync, known: Recorded | None) -> None:
        """One audience has one sync, at run time too."""
        audience_id = known.audience.id if known else sync.audience_id
        if audience_id is not None:
            self._refuse_taken(session, sync, audience_id)

    def _refuse_taken(self, session: Session, sync: Sync, audience_id: str) -> None:
        mine = in_list((sync.id, *sync.former_ids))
        other = session.value(
            f"select min(sync_id) from (select sync_id, audience_id, connection, account, event, "
            f"row_number() over (partition by sync_id order by recorded_at desc, token desc) as age "
            f"from {self._store.table('audiences')} "
            f"where event in ('created', 'adopted', 'gone', 'deleted') and sync_id not in {mine}) a "
            f"where age = 1 and event in ('created', 'adopted') and audience_id = ? and connection = ? and account = ?",
            [audience_id, sync.connection.name, self._destination.account()],
        )
        if other:
            raise AudienceHeldError(
                f"{sync.id}: audience {audience_id} already belongs to {other}",
                code="audience_taken",
                hint="one audience has one sync; two would remove each other's members",
            )

    def gave_up_lately(self, sync: Sync) -> bool:
        """Whether an audience of this sync was given up within `AGAIN_D` days."""
        with self._session() as session:
            ids = in_list((sync.id, *sync.former_ids))
            since = f"{session.now} - interval '{AGAIN_D} days'"
            return bool(
                session.value(
                    f"select count(*) from {self._store.table('audiences')} "
                    f"where sync_id in {ids} and event = 'gone' and recorded_at >= {since}"
                )
            )

    def give_up(self, sync: Sync, event: str, *, stays: bool = False) -> Audience | None:
        """Record that the audience is no more, and forget who was in it: a new one begins with everybody.

        event  gone: found so; deleted: by us
        stays  the platform has ended it and keeps who is in it

        Returns what was given up.
        """
        with self._session() as session, session.transaction():
            self._lock.fence(session)
            known = recorded(session, self._store, sync)
            if known is not None:
                row = self._row(sync, known.audience, event, known.audience.mark)
                self._store.log(session, "audiences", [row])
                if stays:
                    ledger = read_ledger(session, self._store, sync.id)
                    named = (known.audience.id, known.audience.name)
                    left.leave(session, self._store, sync.id, self._lock.token, named, ledger)
            folds.start_over(session, self._store, sync.id, self._lock)
        return known.audience if known is not None else None

    def still_left(self, sync: Sync, found: Iterable[Left]) -> list[Left]:
        """Of the audiences that were left behind those that the platform still has; the others are forgotten.

        One that cannot be asked for is still there, as far as anybody knows.
        """
        there = []
        for one in found:
            try:
                self._play(self._destination.get(one.audience_id))
            except GoneError:
                with self._session() as session, session.transaction():
                    self._lock.fence(session)
                    left.forget(session, self._store, sync.id, self._lock.token, one.audience_id)
                continue
            except DestinationError:
                pass
            there.append(one)
        return there

    def successor(self, sync: Sync) -> Audience | None:
        """The one audience that may take the place of one that is gone: by our mark, or else by the name."""
        with self._session() as session:
            known = recorded(session, self._store, sync)
        names = {sync.audience_name, known.audience.name if known else ""} - {""}
        found = [
            one for name in sorted(names) for one in self._sought(name) if known is None or one.id != known.audience.id
        ]
        ours = {one.id: one for one in found if self._is_ours(one, sync)}
        named = {one.id: one for one in found if one.name in names and not one.mark}
        (one,) = (ours or named).values() if len(ours or named) == 1 else (None,)
        if one is not None:
            with self._session() as session:
                self._refuse_taken(session, sync, one.id)
        return one

    def take(self, sync: Sync, audience: Audience) -> Audience:
        """Make an audience that `successor` found the sync's."""
        return self._adopt(sync, audience)

    def _record(self, sync: Sync, audience: Audience, event: str, mark: str) -> None:
        with self._session() as session, session.transaction():
            self._lock.fence(session)
            self._store.log(session, "audiences", [self._row(sync, audience, event, mark)])

    def _row(self, sync: Sync, audience: Audience, event: str, mark: str) -> dict[str, object]:
        return {
            "id": secrets.token_hex(8),
            "sync_id": sync.id,
            "connection": sync.connection.name,
            "account": self._destination.account(),
            "audience_id": audience.id or None,
            "name": audience.name or sync.audience_name,
            "mark": mark,
            "event": event,
            "token": self._lock.token,
        }


def gone(error: GoneError, sync: Sync, audience: Audience, waiting: int = 0) -> GoneError:
    """The same error with the audience and what to do next; a vanished audience is never made again silently.

    waiting  members who refuse and are in it, as far as is known
    """
    which = f"audience {audience.id} ({audience.name})" if audience.name else f"audience {audience.id}"
    said = f"{which} no longer exists, or these credentials cannot see it"
    if error.ended:
        said = f"ads can use {which} no more: {sync.connection.type} calls it {error.ended}"
        if waiting:
            said += f"; refusals_wait: it still holds {count_of(waiting, 'member')} who refused: delete it there"
    return GoneError(f"{sync.id}: {said}", code=error.code, hint=_remedy(sync), ended=error.ended)


def untargeted(sync: Sync, audience: Audience) -> GoneError:
    """What is wrong where somebody took away what ads target, and left what it was made from."""
    return GoneError(
        f"what ads target was taken away at the platform; {audience.name} ({audience.id}), which it was made from, "
        "is kept right",
        code="unattended",
        hint=f"make another one over it at the platform, or set `gone: recreate`; {_where(sync)}",
    )


def _remedy(sync: Sync) -> str:
    """What to do about a vanished audience, and where that is written."""
    if sync.audience_id is not None:
        return "restore it at the platform, or name another one with `audience_id:` and give the sync a new `id:`"
    where = _where(sync)
    if sync.gone == "recreate":
        often = f"once in {AGAIN_D} days where the platform ends audiences"
        return f"restore it at the platform; `gone: recreate` acts once nothing holds the sync, {often} ({where})"
    if sync.gone == "adopt":
        return (
            "`gone: adopt` wants one audience with our mark, or else one of its name with nobody's: make one, or set "
            f"`gone: recreate`; {where}"
        )
    return (
        "restore it at the platform, or set `gone: recreate` for another one with everybody in it; `gone: adopt` takes "
        f"the one over that has our mark or its name; {where}"
    )


def _where(sync: Sync) -> str:
    return (
        f"`gone:` stands beside `to: {sync.connection.name}` in the meta of {sync.segment.model.name}, or for all "
        "syncs under `vars: dbt_segments:`"
    )
