"""One sync, from its segment to its audience: the stages in order, each in the module of its name.

Network and warehouse take turns: no connection to the warehouse is open while a request is in flight.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import duckdb

from dbt_segments import builds, guard, record, tally
from dbt_segments.audiences import AudienceHeldError, Resolver, gone, recorded
from dbt_segments.deliver import Courier, Delivery, write_ahead
from dbt_segments.destinations.base import Audience, Batch, Destination, Op
from dbt_segments.diff import Inputs, Standing, fetch_changes, measure
from dbt_segments.encode import encode_changes, encode_refused, encoding
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    SegmentsError,
    TransientError,
)
from dbt_segments.freeze import KIND as FROZEN
from dbt_segments.freeze import (
    Frozen,
    HeldError,
    Refusals,
    commit_frozen,
    freeze,
    freeze_refusals,
    last_good,
    sources,
)
from dbt_segments.order import plan_rows, replaces
from dbt_segments.project import Project
from dbt_segments.send import Sender
from dbt_segments.state import fold as folds
from dbt_segments.state import ledger as ledgers
from dbt_segments.state import pending as pendings
from dbt_segments.state.locks import Lock
from dbt_segments.state.pending import Generation, open_rows, read_generations
from dbt_segments.values import Counts, Segment, Status, Sync, SyncResult
from dbt_segments.warehouse import TEXT, Session
from dbt_segments.workbench import open_workbench

# Above this share of refused members a run needs reading (exit code 1); below, refusals are counted and listed.
ALLOWED_REJECTS = 0.05
_DAY_S = 86_400


class Frozens:
    """Freezes every segment, and everybody who is refused, once a run; drops what was only for this run."""

    def __init__(self, project: Project, lock_timeout_s: float) -> None:
        self._project = project
        self._lock_timeout_s = lock_timeout_s
        self._segments: dict[str, Frozen | HeldError] = {}
        self._refusals: dict[tuple[Any, ...], Refusals | None] = {}
        self._scratch: set[str] = set()

    def __enter__(self) -> Frozens:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._scratch:
            return
        with suppress(SegmentsError), self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            for name in self._scratch:
                session.execute(f"drop table if exists {self._project.store.table(name)}")

    def segment(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, segment: Segment, *, keep: bool
    ) -> Frozen:
        """The segment's members now; `keep` makes them its last good set. Raises HeldError, the same one each time."""
        found = self._segments.get(segment.name)
        if found is None:
            found = self._freeze(models, state, bench, segment, keep=keep)
            self._segments[segment.name] = found
        if isinstance(found, HeldError):
            raise found
        return found

    def _freeze(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, segment: Segment, *, keep: bool
    ) -> Frozen | HeldError:
        store = self._project.store
        mine = [sync for sync in self._project.registry.syncs if sync.segment.name == segment.name]
        try:
            frozen = freeze(models, store, bench, segment, sources(mine), state)
        except HeldError as error:
            return error
        self._scratch.add(frozen.name)
        if frozen.members == 0 and mine and mine[0].hold.empty == "hold":
            return HeldError(
                "segment_empty",
                f"{segment.model.name} has no members",
                "is that right? set vars.dbt_segments.hold.empty to ignore, or fix the model",
            )
        if keep:
            commit_frozen(state, store, segment, frozen)
            self._scratch.discard(frozen.name)
            # Another run may still read the set before this one, so tables of the last day stay.
            yesterday = int(datetime.now(timezone.utc).timestamp()) - _DAY_S
            store.collect(state, segment.model.unique_id, [FROZEN], [frozen.name], before=yesterday)
        return frozen

    def refusals(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, sync: Sync
    ) -> Refusals | None:
        """Everybody whom the sync must not send."""
        entity, suppress_too = sync.entity, sync.segment.suppress
        mine = sources(s for s in self._project.registry.syncs if s.entity.name == entity.name)
        key = (entity.name, sync.channel, tuple(m.unique_id for m in suppress_too))
        if key not in self._refusals:
            found = freeze_refusals(models, self._project.store, bench, entity, suppress_too, sync.channel, mine, state)
            self._refusals[key] = found
            if found is not None:
                self._scratch.add(found.name)
        return self._refusals[key]


@dataclass(frozen=True)
class _Plan:
    """A plan in the workbench, and its counts."""

    found: tally.Forecast
    standing: Standing
    rows: int


class SyncRun:
    """One sync in one run."""

    def __init__(
        self,
        project: Project,
        sync: Sync,
        destination: Destination,
        frozens: Frozens,
        *,
        run_id: str,
        lock_timeout_s: float,
        full: bool,
        released: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._project = project
        self._sync = sync
        self._destination = destination
        self._frozens = frozens
        self._run_id = run_id
        self._lock_timeout_s = lock_timeout_s
        self._full = full
        self._released = released
        self._tell = tell
        self._store = project.store
        self._coding = encoding(sync, destination, project.settings.default_country)
        self._notes: list[str] = []

    # -- plan -------------------------------------------------------------------------------------------------

    def plan(self, *, show: int) -> tuple[SyncResult, tuple[str, ...]]:
        """What a sync would do, and `show` masked requests."""
        with open_workbench(self._project.settings.memory_limit) as bench:
            with self._project.sessions(self._lock_timeout_s) as (models, state):
                holds = self._holds()
                frozen = self._frozen(models, state, bench, holds, keep=False)
                known = recorded(state, self._store, self._sync)
                if frozen is None:
                    return self._held(holds, Counts()), ()
                made = self._prepare(models, state, bench, frozen, held=bool(holds))
            if not holds and not self._released:
                reason = guard.thresholds(made.found, self._sync.hold)
                holds += [reason] if reason else []
            base = self._held(holds, made.found.counts) if holds else self._planned(made)
            audience = known.audience if known else Audience("(new audience)", self._sync.audience_name)
            result = replace(base, audience_id=known.audience.id if known else None, audience_name=audience.name)
            return result, tuple(self._examples(bench, audience, show)) if show else ()

    def _planned(self, made: _Plan) -> SyncResult:
        counts = made.found.counts
        changes = counts.added + counts.changed + counts.removed
        return replace(
            record.blank(self._sync),
            status="success" if changes else "noop",
            counts=counts,
            notes=tuple(self._notes),
        )

    def _examples(self, bench: duckdb.DuckDBPyConnection, audience: Audience, show: int) -> list[str]:
        """Requests as they would be sent, with every value masked; secrets are added later, by `auth`, and not here."""
        texts = []
        ops = {"remove": Op.REMOVE, "assert": Op.ADD, "after": Op.ADD, "replace": Op.REPLACE}
        for batch, stage, total in bench.execute(
            "select batch, min(stage), count(*) from plan where batch is not null group by batch order by 1 limit ?",
            [show],
        ).fetchall():
            rows = bench.execute("select payload from plan where batch = ? order by seq limit 3", [batch]).fetchall()
            masked = ",".join(json.dumps(mask(json.loads(row[0])), ensure_ascii=False) for row in rows)
            flow = self._destination.push(
                audience,
                Batch(ops[stage], masked, len(rows), 1, True, total, "example", 1, self._coding.identifiers),
            )
            call = next(flow)
            flow.close()
            body = call.body or "\n  ".join(f"{name}: {value}" for name, value in (call.form or {}).items())
            texts.append(f"{call.method} {self._destination.root()}{call.path} ({total:,} members, 3 shown)\n  {body}")
        return texts

    # -- sync -------------------------------------------------------------------------------------------------

    def sync(self, lock: Lock, sender: Sender, due: Callable[[Sync, datetime | None, datetime], bool]) -> SyncResult:
        """Mend what was left, then send what changed. Runs under the audience's lock."""
        before = (sender.stats.requests, sender.stats.retries, sender.stats.bytes_sent)
        result = self._sync_once(lock, sender, due)
        after = (sender.stats.requests, sender.stats.retries, sender.stats.bytes_sent)
        requests, retries, bytes_sent = (now - then for now, then in zip(after, before, strict=True))
        return replace(result, requests=requests, retries=retries, bytes_sent=bytes_sent)

    def _sync_once(
        self, lock: Lock, sender: Sender, due: Callable[[Sync, datetime | None, datetime], bool]
    ) -> SyncResult:
        generations = self._recover(lock)
        if any(generation.open_batches for generation in generations):
            self._poll(lock, sender, generations)
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            now = session.value(f"select {session.now}").replace(tzinfo=timezone.utc)
            if not due(self._sync, record.last_success(session, self._store, self._sync), now):
                known = recorded(session, self._store, self._sync)
                return replace(
                    record.blank(self._sync),
                    status="skipped",
                    reason="not_due",
                    notes=(f"its schedule is {self._sync.schedule}; --now syncs at once",),
                    audience_id=known.audience.id if known else None,
                )
        holds = self._holds()
        result = self._attempt(lock, sender, holds)
        if result is None:  # a threshold holds it: only refusals may go out
            result = self._attempt(lock, sender, holds)
        assert result is not None
        return result

    def _attempt(self, lock: Lock, sender: Sender, holds: list[str]) -> SyncResult | None:
        """One try; None when a threshold was added to `holds` and the plan must be made again without changes."""
        with open_workbench(self._project.settings.memory_limit) as bench:
            with self._project.sessions(self._lock_timeout_s) as (models, state):
                frozen = self._frozen(models, state, bench, holds, keep=True)
                if frozen is None:
                    return self._held(holds, Counts())
                made = self._prepare(models, state, bench, frozen, held=bool(holds))
                if not holds and not self._released:
                    reason = guard.thresholds(made.found, self._sync.hold)
                    if reason:
                        holds.append(reason)
                        self._held_counts = made.found.counts
                        return None
                known = recorded(state, self._store, self._sync)
                base = self._base(made, holds, known.audience if known else None)
                if made.rows == 0:
                    return base
                if bench.execute("select count(*) from plan where batch is not null").fetchone() == (0,):
                    self._write(state, bench, lock)
                    folds.fold(state, self._store, self._sync.id, lock.token)
                    return base
            try:
                audience = self._audience(lock, sender)
            except GoneError as error:
                raise gone(error, self._sync) from None
            except AudienceHeldError as error:
                return replace(
                    self._held([*holds, f"{error.code}: {error.message}"], made.found.counts),
                    notes=tuple(note for note in (error.hint,) if note),
                )
            return self._send(lock, sender, bench, audience, made, base)

    _held_counts = Counts()

    def _base(self, made: _Plan, holds: list[str], audience: Audience | None) -> SyncResult:
        """The result if nothing had to be sent."""
        if holds:
            result = self._held(holds, made.found.counts)
        else:
            result = replace(record.blank(self._sync), counts=made.found.counts, notes=tuple(self._notes))
        return replace(result, audience_id=audience.id, audience_name=audience.name) if audience else result

    def _send(
        self,
        lock: Lock,
        sender: Sender,
        bench: duckdb.DuckDBPyConnection,
        audience: Audience,
        made: _Plan,
        base: SyncResult,
    ) -> SyncResult:
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            generation = self._write(session, bench, lock)
        courier = Courier(
            self._project.state,
            self._store,
            bench,
            self._coding,
            lock,
            sender,
            run_id=self._run_id,
            sync_id=self._sync.id,
            lock_timeout_s=self._lock_timeout_s,
            tell=self._tell,
        )
        delivery = courier.deliver(generation, audience)
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            lock.fence(session)
            folds.fold(session, self._store, self._sync.id, lock.token)
            self._collect(session, lock)
        counts = tally.outcome(bench, delivery.fates, made.found)
        result = replace(base, counts=counts, audience_id=audience.id, audience_name=audience.name)
        return result if base.status == "held" else self._judge(result, delivery)

    def _judge(self, result: SyncResult, delivery: Delivery) -> SyncResult:
        """Status and exit code of a run that sent something."""
        counts = result.counts
        done = counts.added + counts.changed + counts.removed
        rejected = delivery.refused + delivery.unattributed
        notes = list(result.notes)
        if delivery.unattributed:
            notes.append(f"{delivery.unattributed} members were refused without being named")
        running = any(fate == "submitted" for fate in delivery.fates.values())
        if running:
            notes.append("sent, not confirmed: a job of the destination is running; the next run asks for its result")
        error = delivery.error
        if isinstance(error, GoneError):
            error = gone(error, self._sync)
        if error is not None:
            if error.hint:
                notes.append(error.hint)
            reason = f"{error.code or type(error).__name__}: {error.message}"
            status: Status = "partial" if done else "failed"
            return replace(result, status=status, reason=reason, exit_code=error.exit_code, notes=tuple(notes))
        if delivery.unattributed or rejected > ALLOWED_REJECTS * max(1, done + rejected):
            reason = f"rejects: the destination refused {rejected:,} members"
            return replace(result, status="partial", reason=reason, exit_code=1, notes=tuple(notes))
        if counts.pending and not running:
            return replace(result, status="partial", reason="pending: some members wait for the next run", exit_code=3)
        return replace(result, status="success", notes=tuple(notes))

    # -- stages -----------------------------------------------------------------------------------------------

    def _holds(self) -> list[str]:
        """Reasons of dbt and of the connection not to send."""
        reasons, warnings = builds.gate(
            self._sync, self._project.registry, self._project.builds, self._project.freshness
        )
        self._notes = [f"warning: {text}" for text in warnings]
        held = self._destination.held()
        return [*([held] if held else []), *reasons]

    def _frozen(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, holds: list[str], *, keep: bool
    ) -> Frozen | None:
        """The members to send; of a held sync the last good set, None where there is none. Adds to `holds`."""
        if not holds:
            try:
                frozen = self._frozens.segment(models, state, bench, self._sync.segment, keep=keep)
                if frozen.rejects:
                    said = ", ".join(f"{count} {reason}" for reason, count in sorted(frozen.rejects.items()))
                    self._notes.append(f"rejected rows of the segment: {said}")
                return frozen
            except HeldError as error:
                holds.append(f"{error.code}: {error.message}")
                self._notes += [error.hint] if error.hint else []
        found = last_good(state, self._store, self._sync.segment)
        usable = found is not None and set(self._coding.sources) <= set(found.sources)
        return found if usable else None

    def _prepare(
        self, models: Session, state: Session, bench: duckdb.DuckDBPyConnection, frozen: Frozen, *, held: bool
    ) -> _Plan:
        """Diff and encode: fills the workbench's `plan`."""
        refusals = self._frozens.refusals(models, state, bench, self._sync)
        ledger = ledgers.read_ledger(state, self._store, self._sync.id)
        generations = read_generations(state, self._store, self._sync.id, ledger)
        inputs = Inputs(
            frozen=frozen,
            refusals=refusals,
            ledger=ledger,
            sources=self._coding.sources,
            fingerprint=self._coding.fingerprint,
            open_rows=open_rows(self._store, generations),
            full=self._full and not held,
            retention_days=self._destination.retention_days,
            only_refusals=held,
            removals=self._sync.removals,
        )
        flagged = self._flag(state, bench, inputs)
        inputs = replace(inputs, flagged=flagged)
        try:
            standing = measure(state, inputs)
            replacing = replaces(self._destination)
            if replacing and not held:
                looked = (
                    standing.members - standing.refused - standing.unchanged - standing.rejected - standing.unusable
                )
                gone_too = standing.acknowledged - standing.unchanged
                if looked or gone_too:
                    inputs = replace(inputs, full=True)
            fetch_changes(state, self._store, bench, inputs)
        finally:
            if flagged:
                state.execute(f"drop table {flagged}")
        encode_changes(bench, self._coding)
        plan_rows(bench, self._coding, replace=replacing and not held, held=held)
        found = tally.forecast(bench, standing)
        counts = replace(found.counts, rejected=found.counts.rejected + sum(frozen.rejects.values()))
        rows = bench.execute("select count(*) from plan").fetchone()
        return _Plan(replace(found, counts=counts), standing, int(rows[0]) if rows else 0)

    def _flag(self, state: Session, bench: duckdb.DuckDBPyConnection, inputs: Inputs) -> str | None:
        """Make the workbench's `refused_units`: what explicit refusals own now or are on record with.

        Returns a state table of the same where the ledger has members who may share them.
        """
        bench.execute(f"create table refused_units (kind {TEXT}, value {TEXT})")
        if inputs.refusals is None:
            return None
        explicit = "r.class in ('suppressed', 'refused')"
        columns = {"key": TEXT, **{f"c{n}": TEXT for n in range(len(self._coding.sources))}}
        selected = "".join(f', r."{source}" as c{n}' for n, source in enumerate(self._coding.sources))
        state.fetch(
            f"select r.key{selected} from {inputs.refusals.table} r where {explicit}", bench, "refused", columns
        )
        encode_refused(bench, self._coding, "refused")
        bench.execute("drop table refused")
        if inputs.ledger.is_new:
            return None
        state.fetch(
            f"select distinct u.kind, u.value from ({inputs.ledger.units}) u "
            f"join {inputs.refusals.table} r on r.key = u.key where {explicit}",
            bench,
            "refused_record",
            {"kind": TEXT, "value": TEXT},
        )
        bench.execute("insert into refused_units from refused_record")
        name = self._store.table(f"flagged_{secrets.token_hex(6)}")
        state.store(name, bench, "select distinct kind, value from refused_units", {"kind": TEXT, "value": TEXT})
        return name

    def _audience(self, lock: Lock, sender: Sender) -> Audience:
        resolver = Resolver(
            self._project.state, self._store, lock, self._destination, sender.play, self._lock_timeout_s
        )
        return resolver.resolve(self._sync)

    def _write(self, session: Session, bench: duckdb.DuckDBPyConnection, lock: Lock) -> Any:
        last = self._store.pointers(session, self._sync.id, pendings.KIND)
        seq = last[-1].seq + 1 if last and last[-1].token == lock.token else 1
        return write_ahead(session, self._store, bench, self._sync.id, lock, seq)

    # -- recovery ---------------------------------------------------------------------------------------------

    def _recover(self, lock: Lock) -> list[Generation]:
        """Take in what an earlier run left; returns the generations whose jobs still run."""
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            if lock.overtaken:
                folds.seal(session, self._store, self._sync.id, lock.token)
            self._inherit(session, lock)
            ledger = folds.fold(session, self._store, self._sync.id, lock.token)
            return read_generations(session, self._store, self._sync.id, ledger)

    def _inherit(self, session: Session, lock: Lock) -> None:
        """A renamed model goes on with the ledger of its former sync id."""
        if self._store.head(session, self._sync.id, ledgers.KIND) is not None:
            return
        for former in self._sync.former_ids:
            folds.fold(session, self._store, former, lock.token)
            pointer = self._store.head(session, former, ledgers.KIND)
            if pointer is not None and pointer.tables:
                detail = {"tables": dict(pointer.tables), "through": [0, 0], "open": {}}
                with session.transaction():
                    lock.fence(session)
                    self._store.point(session, self._sync.id, ledgers.KIND, lock.token, 0, detail, pointer.id)
                return

    def _poll(self, lock: Lock, sender: Sender, generations: list[Generation]) -> None:
        """Ask for the outcome of every running job, and fold those that ended."""
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            known = recorded(session, self._store, self._sync)
        if known is None:
            return
        rows: list[dict[str, Any]] = []
        for generation in generations:
            for batch in generation.open_batches:
                event = self._ask(sender, known.audience, generation, batch, lock)
                rows += [event] if event else []
        if not rows:
            return
        with self._project.state.session(lock_timeout_s=self._lock_timeout_s) as session:
            with session.transaction():
                lock.fence(session)
                self._store.log(session, "sync_batches", [row["event"] for row in rows])
                for row in rows:
                    self._log_refused(session, row)
            folds.fold(session, self._store, self._sync.id, lock.token)

    def _ask(
        self, sender: Sender, audience: Audience, generation: Generation, batch: int, lock: Lock
    ) -> dict[str, Any] | None:
        job = generation.states[batch].job or ""
        refused: dict[int, str] = {}
        try:
            outcome = sender.play(self._destination.poll(audience, job))
            if not outcome.done:
                return None
            state, reason, refused = "accepted", None, dict(outcome.refused)
        except (AuthError, GoneError, TransientError):
            raise
        except DestinationError as error:  # the job failed, or nobody knows of it any more
            state, reason = "unknown", error.code or type(error).__name__
        return {
            "refused": refused,
            "generation": generation,
            "batch": batch,
            "event": {
                "id": secrets.token_hex(8),
                "run_id": self._run_id,
                "sync_id": self._sync.id,
                "generation": generation.pointer.id,
                "batch": batch,
                "phase": generation.phases[batch],
                "state": state,
                "job": job,
                "members": None,
                "refused": len(refused),
                "unattributed": None,
                "reason": reason,
                "token": lock.token,
            },
        }

    def _log_refused(self, session: Session, row: dict[str, Any]) -> None:
        """Refusals of a finished job, by the row's place in its batch."""
        if not row["refused"]:
            return
        pending = self._store.table(row["generation"].pointer.tables["pending"])
        first = int(session.value(f"select min(seq) from {pending} where batch = ?", [row["batch"]]))
        rejects = []
        for index, code in row["refused"].items():
            key = session.value(f"select key from {pending} where seq = ?", [first + index])
            rejects.append(
                {
                    "id": secrets.token_hex(8),
                    "run_id": self._run_id,
                    "sync_id": self._sync.id,
                    "generation": row["generation"].pointer.id,
                    "row_seq": first + index,
                    "key": key,
                    "reason": code,
                    "class": "data",
                }
            )
        self._store.log(session, "rejects", rejects)

    def _collect(self, session: Session, lock: Lock) -> None:
        """Drop tables that neither the newest ledger nor an open generation names."""
        ledger = ledgers.read_ledger(session, self._store, self._sync.id)
        keep = set(ledger.pointer.tables.values()) if ledger.pointer else set()
        for generation in read_generations(session, self._store, self._sync.id, ledger):
            keep |= set(generation.pointer.tables.values())
        kinds = [
            "members",
            "units",
            "delta_members",
            "delta_units",
            "pending",
            "pending_units",
            "fate",
            "rows",
            "change",
        ]
        self._store.collect(session, self._sync.id, kinds, keep, before=lock.token + 1)

    def _held(self, holds: list[str], counts: Counts) -> SyncResult:
        shown = self._held_counts if self._held_counts != Counts() else counts
        return replace(
            record.blank(self._sync),
            status="held",
            reason="; ".join(holds),
            counts=shown,
            exit_code=1,
            notes=tuple(self._notes),
        )


def mask(value: Any) -> Any:
    """A row with its values hidden: of a hash the first four digits, of anything else nothing."""
    if isinstance(value, list):
        return [mask(item) for item in value]
    if isinstance(value, dict):
        return {name: mask(item) if name != "type" else item for name, item in value.items()}
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return f"{value[:4]}..."
    return "***" if value not in ("", None) else value
