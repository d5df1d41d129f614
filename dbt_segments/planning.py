"""Making a sync's plan in the workbench: diff, encode and order, with everybody who is refused taken out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from dbt_segments import cycles, tally
from dbt_segments.coding import OPS, Coding
from dbt_segments.destinations.base import Audience, Batch, Destination, Row
from dbt_segments.diff import Inputs, Standing, fetch_changes, measure
from dbt_segments.freeze import Frozen, Refusals
from dbt_segments.order import plan_rows
from dbt_segments.report import count_of
from dbt_segments.state import memory
from dbt_segments.state.ledger import UNITS, Ledger, current, read_ledger
from dbt_segments.state.left import EXPLICIT
from dbt_segments.state.pending import open_rows, read_generations
from dbt_segments.state.store import Store
from dbt_segments.values import Sync
from dbt_segments.warehouse import TEXT, Session, quote
from dbt_segments.workbench import count

_SHOWN_ROWS = 3


@dataclass(frozen=True)
class Plan:
    """A plan that lies in the workbench: what it would do, and how many rows and requests it has.

    suppressed_shared  wanted members who are sent without an identifier that somebody else's refusal covers
    interrupted        an earlier run left batches that are not folded yet: a sync does so first, a plan does not
    coding             how its rows are written
    whole              everybody is in it, and a sweep follows once they are acknowledged
    """

    found: tally.Forecast
    rows: int
    requests: int
    suppressed_shared: int
    interrupted: bool
    coding: Coding
    whole: bool


@dataclass(frozen=True)
class Planner:
    """Makes the plan of one sync.

    full  assert every member again
    """

    store: Store
    sync: Sync
    coding: Coding
    full: bool

    def plan(
        self, state: Session, bench: duckdb.DuckDBPyConnection, frozen: Frozen, refusals: Refusals | None, *, held: bool
    ) -> Plan:
        """Fill the workbench's `plan`; `held`: with explicit refusals only."""
        ids = (self.sync.id, *self.sync.former_ids)
        owner = current(state, self.store, ids)
        ledger = read_ledger(state, self.store, owner)
        generations = read_generations(state, self.store, owner, ledger)
        coding = self.coding.typed(frozen.types)
        running = open_rows(self.store, generations)
        # While a job runs nobody knows who is in; the run after it asserts everybody.
        sweeping = coding.sweeps and not held and running is None
        full = self.full or (sweeping and cycles.wants_all(state, self.store, ids))
        inputs = Inputs(
            frozen=frozen,
            refusals=refusals,
            ledger=ledger,
            sources=coding.sources,
            unique=coding.unique,
            fingerprint=coding.fingerprint,
            open_rows=running,
            full=full and not held and not coding.once,
            retention_days=coding.destination.retention_days,
            only_refusals=held,
            removals=self.sync.removals,
            removes=coding.removes or coding.replaces,
        )
        replacing = coding.replaces and not held
        flagged = self._flag(state, bench, coding, inputs)
        inputs = replace(inputs, flagged=flagged)
        try:
            standing = measure(state, inputs)
            coding = self._look(state, bench, coding, inputs)
            if (replacing or sweeping) and not inputs.full and _differs(bench, owed=replacing):
                for table in ("changes", "record", "open_units", "encoded", "want", "coded"):
                    bench.execute(f"drop table {table}")
                inputs = replace(inputs, full=True)
                coding = self._look(state, bench, coding, inputs)
        finally:
            if flagged:
                state.execute(f"drop table {flagged}")
        plan_rows(bench, coding, replace=replacing, held=held)
        interrupted = any(not generation.open_batches for generation in generations)
        whole = sweeping and inputs.full
        return self._summary(bench, standing, frozen, coding, interrupted=interrupted, whole=whole)

    def _look(self, state: Session, bench: duckdb.DuckDBPyConnection, coding: Coding, inputs: Inputs) -> Coding:
        """Fetch who may have changed, and encode them."""
        fetch_changes(state, self.store, self.sync.id, bench, inputs)
        kinds = bench.execute("select distinct kind from record").fetchall()
        coding = coding.with_former(str(kind) for (kind,) in kinds)
        coding.encode_changes(bench)
        return coding

    def _summary(
        self,
        bench: duckdb.DuckDBPyConnection,
        standing: Standing,
        frozen: Frozen,
        coding: Coding,
        *,
        interrupted: bool,
        whole: bool,
    ) -> Plan:
        found = tally.forecast(bench, standing, coding.beside)
        counts = replace(found.counts, rejected=found.counts.rejected + sum(frozen.rejects.values()))
        rows, requests = count(bench, "select count(*) from plan"), count(bench, "select count(*) from plan_batches")
        suppressed = count(bench, "select count(*) from coded where suppressed")
        return Plan(replace(found, counts=counts), rows, requests, suppressed, interrupted, coding, whole)

    def _flag(self, state: Session, bench: duckdb.DuckDBPyConnection, coding: Coding, inputs: Inputs) -> str | None:
        """Make the workbench's `refused_units`: what explicit refusals own now or are on record with.

        Returns a state table of the same where the ledger has members who may share them.
        """
        bench.execute(f"create table refused_units (kind {TEXT}, value {TEXT})")
        bench.execute(f"create table {memory.TABLE} (key {TEXT}, kind {TEXT}, value {TEXT}, is_new boolean)")
        if inputs.refusals is None:
            return None
        table = inputs.refusals.table
        _encode_refused(state, bench, coding, inputs.frozen, table)
        self._recall(state, bench, inputs.ledger, table)
        _make_distinct(bench)
        if inputs.ledger.is_new:
            return None
        name = self.store.scratch("flagged", self.sync.id)
        state.store(name, bench, "select kind, value from refused_units", {"kind": TEXT, "value": TEXT})
        return name

    def _recall(self, state: Session, bench: duckdb.DuckDBPyConnection, ledger: Ledger, refusals: str) -> None:
        """Add what was ever sent for those who refuse now: what is on record, and what is remembered."""
        explicit = f"u join {refusals} r on r.key = u.key where {EXPLICIT}"
        parts = [f"select distinct u.key, u.kind, u.value, true as is_new from ({ledger.units}) {explicit}"]
        known = memory.remembered_sql(
            state, self.store, current(state, self.store, (self.sync.id, *self.sync.former_ids))
        )
        if known is not None:
            parts.append(f"select distinct u.key, u.kind, u.value, false as is_new from ({known}) {explicit}")
        columns = {**UNITS, "is_new": "boolean"}
        state.fetch(" union all ".join(parts), bench, "refused_record", columns)
        bench.execute(
            f"insert into {memory.TABLE} select key, kind, value, bool_and(is_new) from refused_record group by all"
        )
        bench.execute(f"insert into refused_units select kind, value from {memory.TABLE}")


def _encode_refused(
    state: Session, bench: duckdb.DuckDBPyConnection, coding: Coding, frozen: Frozen, refusals: str
) -> None:
    """Add what those who refuse have now, as it would be sent."""
    numbered = list(enumerate(coding.sources))
    selected = "".join(f", r.{quote(source)} as c{n}" for n, source in numbered)
    parts = [f"select r.key{selected} from {refusals} r where {EXPLICIT}"]
    # What the segment or a relation yields instead of the entity's own columns is refused as well.
    if set(frozen.sources) & set(coding.sources):
        selected = "".join(
            f", f.{quote(source)}" if source in frozen.sources else f", cast(null as {TEXT})" for _, source in numbered
        )
        members = f"{frozen.table} f join {refusals} r on r.key = f.key"
        parts.append(f"select f.key{selected} from {members} where {EXPLICIT}")
    columns = {"key": TEXT, **{f"c{n}": TEXT for n, _ in numbered}}
    state.fetch(" union all ".join(parts), bench, "refused", columns)
    if count(bench, "select count(*) from refused"):
        coding.encode_refused(bench, "refused")
    bench.execute("drop table refused")


def _make_distinct(bench: duckdb.DuckDBPyConnection) -> None:
    """Each refused unit once: rows are joined with them."""
    bench.execute("create or replace table refused_units as select distinct kind, value from refused_units")


def _differs(bench: duckdb.DuckDBPyConnection, *, owed: bool) -> bool:
    """Whether anybody would be added, changed or removed; unless `owed`, removals that are tried again do not count.

    Otherwise one that always fails would send everybody in every run.
    """
    counts = "" if owed else " and (wanted or old_status is distinct from 'perhaps')"
    found = bench.execute(f"select count(*) from changes where (forced or not same) and not sharer{counts}")
    return found.fetchone() != (0,)


def examples(bench: duckdb.DuckDBPyConnection, coding: Coding, audience: Audience, number: int) -> Iterator[str]:
    """Requests as they would be sent, every value masked. Secrets are added only when a request goes out."""
    batches = bench.execute(
        "select batch, stage, kind, members from plan_batches order by batch limit ?", [number]
    ).fetchall()
    for batch, stage, kind, total in batches:
        rows = bench.execute(
            "select payload from plan where batch = ? order by seq limit ?", [batch, _SHOWN_ROWS]
        ).fetchall()
        masked = ",".join(json.dumps(_masked(json.loads(row[0]), coding, stage), ensure_ascii=False) for row in rows)
        shown = Batch(
            OPS[stage],
            masked,
            len(rows),
            1,
            True,
            total,
            "example",
            1,
            coding.fields(stage, kind),
            coding.target,
            "example",
        )
        yield _text(coding.destination, audience, shown)


def _text(destination: Destination, audience: Audience, batch: Batch) -> str:
    flow = destination.push(audience, batch)
    call = next(flow, None)
    flow.close()
    if call is None:
        return f"({count_of(batch.total, 'member')}; their rows cannot be shown with masked values)"
    body = call.body or "\n  ".join(f"{name}: {value}" for name, value in (call.form or {}).items())
    if isinstance(body, bytes):
        body = f"({len(body):,} bytes)"
    where = destination.root() + ("" if call.private else call.path)
    head = f"{call.method} {where} ({count_of(batch.total, 'member')}, {batch.count} shown)"
    return f"{head}\n  {body}"


def _masked(row: Any, coding: Coding, stage: str) -> Any:
    """A row with its values hidden. Fields of records bear the users' own names: only the row's head is ours."""
    destination = coding.destination
    if coding.target is not None:
        head = destination.head(coding.target, OPS[stage])
        return {name: item if name in head else mask(item) for name, item in row.items()}
    return mask(row, destination.words | ({"type"} if destination.row is Row.SINGLE else set()))


def mask(value: Any, words: Collection[str] = ()) -> Any:
    """The same with its values hidden, hashes too: of a gender or a birth year four digits would be enough.

    words  names whose texts are shown
    """
    if isinstance(value, list):
        return [mask(item, words) for item in value]
    if isinstance(value, dict):
        return {
            name: item if name in words and isinstance(item, str) else mask(item, words) for name, item in value.items()
        }
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return "<sha256>"
    return "***" if value not in ("", None) else value
