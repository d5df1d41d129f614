"""One sync, from its segment to its audience: the stages in order, each in the module of its name.

Network and warehouse take turns: no connection to the warehouse is open while a request is in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import duckdb

from dbt_segments import builds, cadence, cycles, guard, inventory, membership, record, sizes, tally
from dbt_segments.audiences import AudienceHeldError, Recorded, Resolver, gone, recorded
from dbt_segments.coding import Coding
from dbt_segments.cycles import Cycle
from dbt_segments.deliver import Courier, Delivery, write_ahead
from dbt_segments.destinations.base import Audience, Destination
from dbt_segments.encode import encoding
from dbt_segments.errors import DestinationError, GoneError
from dbt_segments.freeze import Frozen, HeldError, Refusals, last_good, reading
from dbt_segments.frozens import Frozens
from dbt_segments.planning import Plan, Planner, examples
from dbt_segments.project import Project
from dbt_segments.records import record_coding
from dbt_segments.recovery import Ended, Recovery
from dbt_segments.report import SMALL, count_of
from dbt_segments.send import Sender
from dbt_segments.state import fold as folds
from dbt_segments.state import left, locks, memory, rules
from dbt_segments.state.ledger import by_status, current, read_ledger
from dbt_segments.state.left import Left
from dbt_segments.state.locks import Lock
from dbt_segments.state.logs import Logbook
from dbt_segments.state.tables import in_use
from dbt_segments.sweeps import Sweeper
from dbt_segments.values import MEMBERSHIP, Counts, Status, Sync, SyncResult
from dbt_segments.warehouse import Session
from dbt_segments.workbench import open_workbench, resting

# Above this share of refused members a run needs reading (exit code 1); below, refusals are counted and listed.
ALLOWED_REJECTS = 0.05
_TABLES = (
    "members",
    "units",
    "delta_members",
    "delta_units",
    "pending",
    "pending_units",
    "fate",
    "rows",
    "change",
    memory.KIND,
    left.KIND,
)

Due = Callable[[Sync, datetime | None, datetime], bool]


@dataclass(frozen=True)
class Wishes:
    """What the user asked of this run, as far as one sync is concerned.

    full      assert every member again
    released  the guard's thresholds do not hold this sync now
    lifted    nor does it that rules of refusal are gone
    show      masked example requests of a plan
    """

    full: bool = False
    released: bool = False
    lifted: bool = False
    show: int = 0


class SyncRun:
    """One sync in one run."""

    def __init__(
        self,
        project: Project,
        sync: Sync,
        destination: Destination,
        frozens: Frozens,
        wishes: Wishes,
        *,
        run_id: str,
        lock_timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._project = project
        self._sync = sync
        self._destination = destination
        self._frozens = frozens
        self._wishes = wishes
        self._run_id = run_id
        self._lock_timeout_s = lock_timeout_s
        self._tell = tell
        self._store = project.store
        self._coding = _coding_of(sync, destination, project.settings.default_country)
        self._planner = Planner(project.store, sync, self._coding, wishes.full)
        self._holds: list[str] = []
        self._notes: list[str] = []
        # Those of them that speak of the newest plan: a second one has its own.
        self._of_plan: list[str] = []
        self._ended = Ended()
        # What a sync that a threshold holds would have done.
        self._forecast: Counts | None = None
        self._started_over = False
        # Of a sync that deletes whom the segment names: how many records the entity has.
        self._records: int | None = None
        # Rules of refusal: those it last sent under, and today's; neither where refusals do not matter.
        self._rules_then: frozenset[str] | None = None
        self._rules: frozenset[str] | None = None
        self._refused_before = 0
        # Members who refuse: in audiences that were left behind, and in the sync's own before this run.
        self._left: list[Left] = []
        self._has_left = False
        self._waiting = 0

    # -- plan -------------------------------------------------------------------------------------------------

    def plan(self, due: Due) -> tuple[SyncResult, tuple[str, ...]]:
        """What a sync would do once it is due, and masked requests where they were asked for."""
        self._gate()
        with open_workbench(self._project.settings.memory_limit) as bench:
            with self._project.sessions(self._lock_timeout_s) as (models, state):
                made = self._plan(models, state, bench, keep=False)
                known = recorded(state, self._store, self._sync)
                sweep = cycles.outlook(state, self._store, self._sync) if self._coding.sweeps else None
                waits = self._project.may_send and not self._is_due(state, due)
            if made is None:
                return self._held(_audience_of(known), self._forecast or Counts()), ()
            if not self._is_held_by(made) and sweep is not None and not self._holds:
                self._note(sweep)
            new = "" if self._destination.made_with_members else "(new audience)"
            audience = known.audience if known else Audience(new, self._sync.audience_name)
            if self._destination.records and known is None:
                audience = Audience(self._sync.id)
            result = self._result(made, _audience_of(known))
            if result.status == "held" and made.found.refusing and made.coding.removes:
                said = _gone_all_the_same(made.found.refusing, "is", "are", "it")
                result = replace(result, notes=(*result.notes, said))
            if waits and result.status in ("success", "partial"):
                schedule = self._sync.schedule
                when = "only with --now" if schedule == cadence.MANUAL else "once it is due, or with --now"
                waiting = f"not due: its schedule is {schedule}; sync sends this {when}"
                result = replace(result, notes=(*result.notes, waiting))
            return result, tuple(examples(bench, made.coding, audience, self._wishes.show))

    # -- sync -------------------------------------------------------------------------------------------------

    def sync(self, lock: Lock, sender: Sender, due: Due) -> SyncResult:
        """Mend what was left, then send what changed. Runs under the audience's lock."""
        stats = sender.stats
        before = (stats.requests, stats.retries, stats.bytes_sent)
        result = _with_jobs(self._sync_once(lock, sender, due), self._ended)
        requests, retries, bytes_sent = (
            now - then for now, then in zip((stats.requests, stats.retries, stats.bytes_sent), before, strict=True)
        )
        return replace(result, requests=requests, retries=retries, bytes_sent=bytes_sent)

    def _sync_once(self, lock: Lock, sender: Sender, due: Due) -> SyncResult:
        self._recover(lock, sender)
        skipped = self._not_due(due)
        if skipped is not None:
            return skipped
        self._gate()
        sweeper = self._sweeper(lock)
        if sweeper is not None and not self._holds:
            self._say(sweeper.ask(sender))
        # A threshold that holds the sync was found in a plan of everything: make one of the refusals alone. One whose
        # audience has gone begins anew, by policy. Each happens once.
        for _ in range(3):
            result = self._attempt(lock, sender, sweeper)
            if result is not None:
                return result
        return self._held(None, Counts())

    def _recover(self, lock: Lock, sender: Sender) -> None:
        recovery = Recovery(
            self._project.state,
            self._store,
            lock,
            self._sync,
            self._destination,
            logbook=Logbook(self._run_id, self._sync.id, lock.token),
            lock_timeout_s=self._lock_timeout_s,
            hold=lambda owner: locks.hold(
                self._project.state,
                self._store,
                owner,
                timeout_s=self._lock_timeout_s,
                longest_request_s=sender.longest_request_s,
                tell=self._tell,
            ),
        )
        generations = recovery.recover()
        if any(generation.open_batches for generation in generations):
            self._ended = recovery.poll(sender, generations)

    def _sweeper(self, lock: Lock) -> Sweeper | None:
        """What ends a replace, where the platform takes no list whole."""
        if not self._coding.sweeps:
            return None
        logbook = Logbook(self._run_id, self._sync.id, lock.token)
        return Sweeper(self._session, self._store, lock, self._sync, self._destination, logbook)

    def _not_due(self, due: Due) -> SyncResult | None:
        with self._session() as session:
            if self._is_due(session, due):
                return None
            known = recorded(session, self._store, self._sync)
        return replace(
            record.blank(self._sync),
            status="skipped",
            reason="not_due",
            notes=(f"its schedule is {self._sync.schedule}; --now syncs at once",),
            audience_id=known.audience.id if known and not self._destination.records else None,
        )

    def _is_due(self, session: Session, due: Due) -> bool:
        """Whether its schedule says so, or somebody is in doubt."""
        now = session.value(f"select {session.now}").replace(tzinfo=timezone.utc)
        unsure = by_status(session, read_ledger(session, self._store, self._sync.id)).get("perhaps", 0)
        return bool(unsure) or due(self._sync, record.last_success(session, self._store, self._sync), now)

    def _attempt(self, lock: Lock, sender: Sender, sweeper: Sweeper | None) -> SyncResult | None:
        """One try; None when the plan must be made again: a threshold now holds it, or it starts over."""
        with open_workbench(self._project.settings.memory_limit) as bench:
            with self._project.sessions(self._lock_timeout_s) as (models, state):
                made = self._plan(models, state, bench, keep=True)
                known = recorded(state, self._store, self._sync)
                if made is None:
                    return self._held(_audience_of(known), self._forecast or Counts())
                if self._is_held_by(made):
                    return None
                result = self._result(made, _audience_of(known))
                if self._forecast is not None and made.requests == 0:
                    result = replace(result, counts=self._forecast)
                if made.requests == 0:
                    self._settle(state, bench, lock, made)
                    self._record_rules(state, lock)
                cycle = self._due_cycle(state, sweeper)
                result = replace(result, notes=tuple(self._notes))
            resolver = Resolver(
                self._project.state, self._store, lock, self._destination, sender.play, self._lock_timeout_s
            )
            if made.requests == 0 and cycle is None:
                result = self._attended(resolver, known.audience, result) if known else result
                return self._with_left(resolver, lock, result)
            try:
                audience = resolver.resolve(self._sync)
            except GoneError as error:
                if self._start_over(resolver, error.ended):
                    return None
                named = Audience(self._sync.audience_id or "", self._sync.audience_name)
                raise gone(error, self._sync, known.audience if known else named, self._waiting) from None
            except AudienceHeldError as error:
                self._hold(error.code, error.message, error.hint)
                return self._held(None, made.found.counts)
            if sweeper is not None and cycle is not None:
                with resting(bench):
                    self._say(sweeper.sweep(sender, audience, cycle))
                result = replace(result, notes=tuple(self._notes))
            if made.requests == 0:
                return self._with_left(resolver, lock, self._attended(resolver, audience, result))
            result = self._send(lock, sender, bench, resolver, audience, made, result)
            return self._with_left(resolver, lock, result)

    def _due_cycle(self, state: Session, sweeper: Sweeper | None) -> Cycle | None:
        """The cycle whose sweep goes out now; a held sync sweeps nobody."""
        if sweeper is None or self._holds:
            return None
        cycle, said = cycles.due(state, self._store, self._sync)
        self._say(said)
        return cycle

    def _settle(self, state: Session, bench: duckdb.DuckDBPyConnection, lock: Lock, made: Plan) -> None:
        """Take what needs no request into the ledger: rows that changed without changing what is sent."""
        if made.rows:
            write_ahead(state, self._store, bench, self._sync.id, lock, self._run_id)
            folds.fold(state, self._store, self._sync.id, lock)
            self._collect(state, lock)

    def _send(
        self,
        lock: Lock,
        sender: Sender,
        bench: duckdb.DuckDBPyConnection,
        resolver: Resolver,
        audience: Audience,
        made: Plan,
        base: SyncResult,
    ) -> SyncResult:
        with resting(bench):
            whole = sender.play(self._destination.clock(audience)) if made.whole else None
        with resting(bench), self._session() as session:
            args = (session, self._store, bench, self._sync.id, lock, self._run_id)
            generation = write_ahead(*args, whole=whole)
            self._record_rules(session, lock)
        courier = Courier(
            self._project.state,
            self._store,
            bench,
            made.coding,
            lock,
            sender,
            logbook=Logbook(self._run_id, self._sync.id, lock.token),
            lock_timeout_s=self._lock_timeout_s,
            tell=self._tell,
            made=lambda audience: resolver.made(self._sync, audience),
        )
        delivery = courier.deliver(generation, audience)
        with resting(bench), self._session() as session:
            folds.fold(session, self._store, self._sync.id, lock)
            self._collect(session, lock)
        counts = tally.outcome(bench, delivery.fates, made.found)
        unconfirmed = tally.submitted(bench, delivery.fates)
        result = self._judge(_with(delivery.audience, replace(base, counts=counts)), delivery, unconfirmed)
        if delivery.is_over:
            return result
        return self._attended(resolver, delivery.audience, self._found(resolver, delivery.audience, result))

    def _attended(self, resolver: Resolver, audience: Audience, result: SyncResult) -> SyncResult:
        """The result with what is amiss beside the audience; a held sync asks for nothing."""
        if result.status == "held" or not audience.id:
            return result
        missing = resolver.attend(self._sync, audience)
        return replace(result, notes=(*result.notes, missing)) if missing else result

    def _with_left(self, resolver: Resolver, lock: Lock, result: SyncResult) -> SyncResult:
        """The result with who refuses and is in audiences that were left behind, until those are deleted."""
        if not self._has_left:
            return result
        found = resolver.still_left(self._sync, self._left)
        with self._session() as session, session.transaction():
            lock.fence(session)
            numbers = {one.audience_id: one.refused for one in found}
            left.note(session, self._store, self._sync.id, lock.token, numbers)
        return replace(result, notes=(*result.notes, *map(record.left_behind, found)))

    def _found(self, resolver: Resolver, audience: Audience, result: SyncResult) -> SyncResult:
        """The result where what was made from the audience has been taken away: members are right, and ads are not."""
        if result.status == "held" or not audience.id:
            return result
        try:
            lost = resolver.unattended(self._sync, audience)
        except DestinationError as error:
            return replace(result, notes=(*result.notes, error.message))
        if lost is None:
            return result
        if self._sync.gone == "recreate":
            return replace(result, notes=(*result.notes, f"{lost.message}: it is made again"))
        return _to_be_read(result, [_said(lost)], lost.hint)

    def _judge(self, result: SyncResult, delivery: Delivery, unconfirmed: int) -> SyncResult:
        """Status and exit code of a run that sent something; a held sync stays held, whatever its refusals did."""
        counts = result.counts
        done = counts.added + counts.changed + counts.removed
        rejected = delivery.refused + delivery.unattributed
        running = any(fate == "submitted" for fate in delivery.fates.values())
        error = delivery.error
        if isinstance(error, GoneError):
            error = gone(error, self._sync, delivery.audience, self._waiting)
        notes = (*result.notes, *_delivery_notes(delivery, error, unconfirmed))
        result = replace(result, unconfirmed=unconfirmed, notes=notes)
        if result.status == "held":
            if counts.removed:
                said = _gone_all_the_same(counts.removed, "was", "were", "the sync")
                result = replace(result, notes=(*notes, said))
            failed = f"; refusals were not all sent: {_said(error)}" if error else ""
            return replace(result, reason=result.reason + failed)
        if error is not None:
            status: Status = "partial" if done else "failed"
            return replace(result, status=status, reason=_said(error), exit_code=error.exit_code)
        if delivery.unattributed or rejected > ALLOWED_REJECTS * max(1, done + rejected):
            reason = f"rejects: the destination refused {count_of(rejected, 'member')}"
            return replace(result, status="partial", reason=reason, exit_code=1)
        if counts.pending and not running:
            return replace(result, status="partial", reason="pending: some members wait for the next run", exit_code=3)
        return replace(result, status="success")

    def _record_rules(self, session: Session, lock: Lock) -> None:
        """Keep the rules that this run sends under; a held one sends refusals alone, and lets no rule go."""
        if self._rules is None:
            return
        then = self._rules_then or frozenset()
        now = self._rules | then if self._holds else self._rules
        if self._rules_then is None or now != then:
            rules.record_rules(session, self._store, self._sync.id, lock, now)

    # -- stages -----------------------------------------------------------------------------------------------

    def _gate(self) -> None:
        """What dbt and the connection say against sending."""
        reasons, warnings = builds.gate(
            self._sync, self._project.registry, self._project.builds, self._project.freshness
        )
        held = self._destination.held()
        self._holds = [*([held] if held else []), *reasons]
        window_h = self._destination.window_h
        often = cadence.too_often(self._sync.schedule, window_h) if window_h else None
        said = (*warnings, *self._destination.warnings(), *([f"cadence: {often}"] if often else []))
        self._notes = [f"warning: {text}" for text in said]

    def _plan(self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, *, keep: bool) -> Plan | None:
        """The plan; of a held sync that of its refusals, None where even they cannot be known. Adds to the holds."""
        self._notes = [text for text in self._notes if text not in self._of_plan]
        self._of_plan = []
        try:
            frozen = self._frozen(models, state, bench, keep=keep)
            if frozen is None:
                return None
            # Deleting somebody is what a refusal asks for.
            deletes = self._destination.records and self._sync.mode == "delete"
            refusals = None if deletes else self._frozens.refusals(models, state, bench, self._sync)
            if deletes:
                entity = self._sync.entity.model
                with reading(f"entity {self._sync.entity.name}", entity):
                    self._records = int(models.value(f"select count(*) from {entity.relation}") or 0)
            if not deletes:
                self._rules = rules.rules_of(self._sync)
                self._rules_then = rules.recorded_rules(state, self._store, (self._sync.id, *self._sync.former_ids))
                self._refused_before = record.last_refused(state, self._store, self._sync)
            if refusals is not None and refusals.doubt is not None and not self._holds:
                self._hold(refusals.doubt.code, refusals.doubt.message, refusals.doubt.hint)
        except HeldError as error:
            self._hold(error.code, error.message, error.hint)
            return None
        if self._holds and self._coding.replaces and not self._coding.removes:
            # A replace would send what is held, and there is no other call: even refusals must wait.
            self._note(f"refusals_wait: {self._destination.type} takes nothing but the whole audience, which is held")
            return None
        self._count_refused(state, refusals)
        self._check_name(state)
        made = self._planner.plan(state, bench, frozen, refusals, held=bool(self._holds))
        if self._holds and (self._rules_then or frozenset()) - (self._rules or frozenset()):
            memory.keep(state, self._store, self._sync.id, bench)
        if made.suppressed_shared:
            self._note_plan(
                f"suppressed_shared: {count_of(made.suppressed_shared, 'member')} "
                f"{'shares' if made.suppressed_shared == 1 else 'share'} an identifier with someone who refused it"
            )
        if made.interrupted:
            self._note_plan("a run was interrupted: the next sync mends it first, so its counts may differ")
        return made

    def _check_name(self, state: Session) -> None:
        """Say that the model may be one that was renamed, before it gets an audience beside the former one's."""
        if self._destination.records or recorded(state, self._store, self._sync) is not None:
            return
        left_behind = inventory.left_behind(state, self._store, self._project.registry, self._sync)
        if left_behind:
            model, former = self._sync.segment.model.name, ", ".join(left_behind)
            self._note(
                f"warning: left_behind: {model} gets a new audience, and that of {former} stays as it is, since the "
                f"project has no such model any more; if it was renamed to {model}, `renamed_from` has to say so first"
            )

    def _count_refused(self, state: Session, refusals: Refusals | None) -> None:
        """How many refuse whom an audience holds that nothing can be sent to."""
        table = refusals.table if refusals is not None else None
        owner = current(state, self._store, (self._sync.id, *self._sync.former_ids))
        self._has_left = self._store.newest(state, owner, left.KIND) is not None
        self._left = left.count(state, self._store, owner, table)
        self._waiting = left.waiting(state, read_ledger(state, self._store, owner), table)

    def _say(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._note(text)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _note_plan(self, text: str) -> None:
        """A note that goes with the plan that it speaks of, where another one is made."""
        self._note(text)
        self._of_plan.append(text)

    def _frozen(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, *, keep: bool
    ) -> Frozen | None:
        """The members as they are now; of a held sync the last good set, None where there is none."""
        if not self._holds:
            try:
                self._provide_membership(models, state, bench, keep=keep)
                frozen = self._frozens.segment(models, state, bench, self._sync.segment, keep=keep)
                self._check_rows(frozen)
                return frozen
            except HeldError as error:
                self._hold(error.code, error.message, error.hint)
        return last_good(state, self._store, self._sync.segment)

    def _provide_membership(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, *, keep: bool
    ) -> None:
        """What a sync of a whole entity may send of every record's segments; a plan makes no membership."""
        entity = self._sync.entity
        if not self._sync.segment.whole or MEMBERSHIP not in self._coding.sources:
            return
        if keep:
            args = (self._project, self._frozens, models, state, bench, entity)
            membership.refresh(*args, run_id=self._run_id, tell=self._tell)
        else:
            self._frozens.memberships.setdefault(entity.name, membership.newest(self._project, state, entity))
            self._note(f"{MEMBERSHIP} is that of the last sync; the next one brings it up to date first")

    def _check_rows(self, frozen: Frozen) -> None:
        """Say which rows are no members. Raises HeldError for a segment without any, unless the policy allows it."""
        if frozen.rejects:
            said = ", ".join(f"{count} {reason}" for reason, count in sorted(frozen.rejects.items()))
            self._note(f"rejected rows of the segment: {said}")
        if frozen.members or self._sync.hold.empty == "ignore":
            return
        message = f"{self._sync.segment.model.name} has no members"
        if self._sync.hold.empty == "hold":
            hint = "if that is right, set vars.dbt_segments.hold.empty to ignore for this run"
            raise HeldError("segment_empty", message, hint)
        self._note(f"warning: segment_empty: {message}")

    def _is_held_by(self, made: Plan) -> bool:
        """Whether the plan itself holds a sync that nothing else holds."""
        return self._check_lifted(made) or self._check_thresholds(made) or self._check_session(made)

    def _check_lifted(self, made: Plan) -> bool:
        """Whether people might be sent who refused under a rule that is gone."""
        if self._holds or self._wishes.lifted or self._rules is None:
            return False
        if self._rules_then is None:
            reason = guard.unrecorded(self._rules, self._refused_before, made.found.counts.refused)
        else:
            reason = guard.lifted(self._rules_then, self._rules, self._refused_before)
        reason = reason or guard.fewer(made.found, self._refused_before, self._sync.hold)
        if reason is None:
            return False
        self._holds.append(reason)
        self._forecast = made.found.counts
        self._notes.insert(0, f"restore it, or let its refusals go once: --lift-refusals {self._sync.segment.name}")
        return True

    def _check_thresholds(self, made: Plan) -> bool:
        if self._holds or self._wishes.released:
            return False
        reason = guard.thresholds(made.found, self._sync.hold)
        if self._records is not None:
            reason = guard.deletions(made.found.counts.added, self._records, self._sync.hold)
        if reason is None:
            return False
        self._holds.append(reason)
        self._forecast = made.found.counts
        self._notes.insert(0, f"look at the models; to let it go once: --allow-removals {self._sync.segment.name}")
        return True

    def _check_session(self, made: Plan) -> bool:
        """Whether a replace, which the platform takes whole or not at all, would outlast its session."""
        if self._holds or not self._coding.replaces:
            return False
        per_s = self._destination.settings.requests_per_s or self._destination.limits.requests_per_s
        reason = guard.session(made.requests, per_s, self._destination.session_s)
        if reason is None:
            return False
        self._holds.append(reason)
        self._forecast = made.found.counts
        return True

    def _hold(self, code: str, message: str, hint: str | None) -> None:
        self._holds.append(f"{code}: {message}")
        if hint:
            self._notes.insert(0, hint)

    def _start_over(self, resolver: Resolver, ended: str) -> bool:
        """Whether the sync goes on although its audience is gone, or ended: with a new one, or with one that is there.

        Not while it is held, since nothing but refusals goes out then, and not where the user names the audience.
        """
        if self._sync.gone == "fail" or self._holds or self._sync.audience_id is not None or self._started_over:
            return False
        if ended and resolver.gave_up_lately(self._sync):
            return False
        successor = resolver.successor(self._sync) if self._sync.gone == "adopt" else None
        if self._sync.gone == "adopt" and successor is None:
            return False
        before = resolver.give_up(self._sync, "gone", stays=bool(ended))
        if successor is not None:
            resolver.take(self._sync, successor)
        self._started_over = True
        what = "another one is made" if successor is None else f"audience {successor.id} takes its place"
        why = f"the platform has ended the audience ({ended})" if ended else "the audience was deleted at the platform"
        self._note(f"{why}: {what}, with everybody in it")
        if ended and before is not None:
            self._note(
                f"warning: audience {before.id} keeps who is in it, later refusals too: delete it at the platform"
            )
        return True

    def _collect(self, session: Session, lock: Lock) -> None:
        """Drop tables that nothing under this id, or under one that it went on as, refers to."""
        keep = in_use(session, self._store, self._sync.id)
        self._store.collect(session, self._sync.id, _TABLES, keep, before=lock.token + 1)
        self._store.collect_scratch(session, self._sync.id)

    # -- results ----------------------------------------------------------------------------------------------

    def _result(self, made: Plan, audience: Audience | None) -> SyncResult:
        """The result if nothing has to be sent; what a plan before this one said of its size is over."""
        self._notes = [note for note in self._notes if not note.startswith(SMALL)]
        if self._holds:
            return self._held(audience, made.found.counts)
        counts = made.found.counts
        stripped = made.found.stripped
        status: Status = "success" if counts.added + counts.changed + counts.removed + stripped else "noop"
        if stripped:
            self._note_plan(_stripped(stripped, records=self._destination.records))
        if made.whole and made.requests:
            said = "everybody is sent; once that is confirmed, a later run removes whom others put in"
            self._note_plan(f"replace: {said}")
        if status == "success":
            few = sizes.too_few(type(self._destination), counts.unchanged + counts.added + counts.changed)
            if few:
                self._note_plan(few)
        blank = record.blank(self._sync)
        return _with(audience, replace(blank, status=status, counts=counts, notes=tuple(self._notes)))

    def _held(self, audience: Audience | None, counts: Counts) -> SyncResult:
        held = replace(
            record.blank(self._sync),
            status="held",
            reason="; ".join(self._holds),
            counts=counts,
            exit_code=1,
            notes=tuple(self._notes),
        )
        return _with(audience, held)

    def _session(self) -> AbstractContextManager[Session]:
        return self._project.state.session(lock_timeout_s=self._lock_timeout_s)


def _coding_of(sync: Sync, destination: Destination, default_country: str | None) -> Coding:
    if destination.records:
        return record_coding(sync, destination)
    return encoding(sync, destination, default_country)


def _audience_of(known: Recorded | None) -> Audience | None:
    return known.audience if known else None


def _with(audience: Audience | None, result: SyncResult) -> SyncResult:
    """The result with its audience; records have none, and carry no name."""
    if audience is None or not audience.name:
        return result
    return replace(result, audience_id=audience.id or None, audience_name=audience.name)


def _with_jobs(result: SyncResult, ended: Ended) -> SyncResult:
    """The result of a run that also asked how jobs of earlier runs ended: what they refused needs reading, too."""
    said = []
    if ended.lost:
        said.append(f"job_failed: a job of an earlier run ended without an outcome ({', '.join(ended.lost)})")
    if ended.unattributed:
        refused = count_of(ended.unattributed, "member")
        said.append(f"rejects: a job of an earlier run refused {refused} without naming them")
    notes = (
        [f"{count_of(ended.refused, 'member')} of an earlier run refused when its job ended"] if ended.refused else []
    )
    for members, did in ((ended.confirmed, "sent"), (ended.removed, "removed")):
        notes += [f"confirmed: {count_of(members, 'member')} that an earlier run {did}"] if members else []
    notes += [f"warning: {text}" for text in ended.warnings]
    result = replace(result, notes=(*result.notes, *notes))
    return _to_be_read(result, said) if said else result


def _stripped(members: int, *, records: bool) -> str:
    """Who leaves although they are wanted: no count says so, since each member counts once, and they as unusable."""
    said = {
        (True, True): "loses its record: it has no key of its own",
        (True, False): "lose their records: they have no key of their own",
        (False, True): "leaves the audience: nothing is left to match it on",
        (False, False): "leave the audience: nothing is left to match them on",
    }
    return f"{count_of(members, 'member')} {said[records, members == 1]}; counted as unusable"


def _gone_all_the_same(members: int, was: str, were: str, what: str) -> str:
    """Who is removed from a held audience: of the counts of a held plan, and of the others, this says who they are."""
    who = f"who refuses {was}" if members == 1 else f"who refuse {were}"
    return f"{count_of(members, 'member')} {who} removed although {what} is held"


def _to_be_read(result: SyncResult, said: list[str], hint: str | None = None) -> SyncResult:
    """The result of a run that learned of something that will not pass by itself, whatever else has become of it.

    What may pass (exit code 3) is said after it; what needs reading as well keeps its reason.
    """
    notes = (*result.notes, *([hint] if hint else []))
    if result.exit_code in (0, 3):
        status: Status = "failed" if result.status == "failed" else "partial"
        reason = "; ".join([*said, *([result.reason] if result.reason else [])])
        return replace(result, status=status, reason=reason, exit_code=1, notes=notes)
    return replace(result, notes=(*notes, *said))


def _said(error: DestinationError) -> str:
    return f"{error.code or type(error).__name__}: {error.message}"


def _delivery_notes(delivery: Delivery, error: DestinationError | None, unconfirmed: int) -> list[str]:
    notes = [f"warning: {text}" for text in delivery.warnings]
    if delivery.unattributed:
        notes.append(f"refused without being named: {count_of(delivery.unattributed, 'member')}")
    if unconfirmed:
        said = f"sent, not confirmed: {count_of(unconfirmed, 'member')}"
        notes.append(f"{said}; a job of the destination is running, and the next run asks for its result")
    if error is not None and error.hint:
        notes.append(error.hint)
    return notes
