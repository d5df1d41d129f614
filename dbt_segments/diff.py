"""The difference between what a segment wants and what the destination holds of us, in SQL that both warehouses run.

Only rows that may matter leave the warehouse, into workbench tables:

    changes     one row per member to look at: wanted or not, old and new hash, and its columns c0..cN
    record      the units on record of those members
    open_units  units of running jobs, which must not be touched

`changes` also holds *sharers*: unchanged members who share a unit, directly or through others, with somebody who
changes. When something of that neighbourhood is removed they must be asserted again (invariant 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from dbt_segments.freeze import Frozen, Refusals
from dbt_segments.state.ledger import Ledger
from dbt_segments.state.store import Store
from dbt_segments.warehouse import TEXT, Session, literal, quote

_FIXED = {
    "key": TEXT,
    "wanted": "boolean",
    "class": TEXT,
    "row_hash": TEXT,
    "old_row_hash": TEXT,
    "old_sent_hash": TEXT,
    "old_status": TEXT,
    "forced": "boolean",
    "twin": "boolean",
}


@dataclass(frozen=True)
class Inputs:
    """What one sync's difference is made from.

    sources       the columns this sync reads, in the order of c0..cN
    unique        those of them that no two members may share; of several the first by key is no `twin`
    fingerprint   changes when rules or identifiers change, so that every row is looked at again
    flagged       a state table of refused units (kind, value); None where nobody is refused
    open_rows     SQL for key, kind, value of running jobs; None where no job runs
    full          assert everybody
    retention_days  assert again before the platform forgets; None: it does not
    only_refusals   a held sync: nothing but explicit refusals
    removals      False: members who left stay in the audience
    removes       False: nobody can be taken out, not even who refuses: they stay on record
    """

    frozen: Frozen
    refusals: Refusals | None
    ledger: Ledger
    sources: Sequence[str]
    unique: Sequence[str]
    fingerprint: str
    flagged: str | None = None
    open_rows: str | None = None
    full: bool = False
    retention_days: int | None = None
    only_refusals: bool = False
    removals: bool = True
    removes: bool = True


@dataclass(frozen=True)
class Standing:
    """Members that need no look: counted in the warehouse, never fetched."""

    members: int
    unchanged: int
    rejected: int
    unusable: int
    refused: int
    running: int
    acknowledged: int


def desired_sql(inputs: Inputs) -> str:
    """key, row_hash, twin, c0..cN of the frozen set."""
    # The last good set of a held sync may lack a column that the sync reads since; it is not compared then.
    have = {s: f"f.{quote(s)}" if s in inputs.frozen.sources else f"cast(null as {TEXT})" for s in inputs.sources}
    hashed = ", ".join(f"case when {c} is null then '~' else concat(length({c}), ':', {c}) end" for c in have.values())
    columns = "".join(f", {column} as c{n}" for n, column in enumerate(have.values()))
    frozen, twin, marked = inputs.frozen.table, "false", ""
    if inputs.unique:
        shared = ", ".join(have[source] for source in inputs.unique)
        # One that leaves makes its twin count, so this belongs to the hash.
        refused, join = "0", ""
        if inputs.refusals:  # who is not sent stands in nobody's way
            refused = "case when q.key is null then 0 else 1 end"
            join = f"left join (select distinct key from {inputs.refusals.table}) q on q.key = f.key"
        frozen = (
            f"(select f.*, row_number() over (partition by {shared}, {refused} order by f.key) > 1 as twin "
            f"from {frozen} f {join})"
        )
        twin, marked = "f.twin", ", case when f.twin then '2' else '1' end"
    row_hash = f"md5(concat({literal(inputs.fingerprint)}{marked}{', ' + hashed if hashed else ''}))"
    return f"select f.key, {row_hash} as row_hash, {twin} as twin{columns} from {frozen} f"


def measure(session: Session, inputs: Inputs) -> Standing:
    """Count who stays as they are; the rest is in `changes`."""
    look = _look(session, inputs)
    rows = session.rows(
        f"with x as ({_joined(session, inputs)}) select "
        f"sum(case when x.d_key is not null then 1 else 0 end), "
        f"sum(case when x.wanted and not {look} and x.m_status = 'present' then 1 else 0 end), "
        f"sum(case when x.wanted and not {look} and x.m_status = 'rejected' then 1 else 0 end), "
        f"sum(case when x.wanted and not {look} and x.m_status = 'unusable' then 1 else 0 end), "
        f"sum(case when x.d_key is not null and x.class is not null then 1 else 0 end), "
        f"sum(case when x.running then 1 else 0 end), "
        f"sum(case when x.old_status in ('present', 'perhaps') then 1 else 0 end) from x"
    )
    numbers = [int(value or 0) for value in rows[0]]
    return Standing(*numbers)


def fetch_changes(session: Session, store: Store, owner: str, bench: duckdb.DuckDBPyConnection, inputs: Inputs) -> None:
    """Fill the workbench tables `changes`, `record` and `open_units`."""
    columns = {**_FIXED, **{f"c{n}": TEXT for n in range(len(inputs.sources))}}
    names = ", ".join(columns)
    selected = ", ".join(f"x.{name}" for name in columns)
    session.fetch(
        f"select {selected} from ({_joined(session, inputs)}) x where {_look(session, inputs)}",
        bench,
        "changes",
        columns,
    )
    bench.execute("alter table changes add column sharer boolean default false")
    bench.execute(f"create table record (key {TEXT}, kind {TEXT}, value {TEXT})")
    bench.execute(f"create table open_units (kind {TEXT}, value {TEXT})")
    if inputs.open_rows is not None:
        session.fetch(
            f"select distinct kind, value from ({inputs.open_rows}) o", bench, "o", {"kind": TEXT, "value": TEXT}
        )
        bench.execute("insert into open_units from o")
        bench.execute("drop table o")
    if inputs.ledger.is_new:
        return
    seen = store.scratch("seen", owner)
    session.store(
        seen,
        bench,
        "select key, cast(0 as bigint) as round from changes where old_status is not null",
        {"key": TEXT, "round": "bigint"},
    )
    try:
        _spread(session, inputs.ledger, seen)
        _fetch_neighbours(session, bench, inputs, seen, columns, names)
    finally:
        session.execute(f"drop table {seen}")


def _spread(session: Session, ledger: Ledger, seen: str) -> None:
    """Grow `seen` to everybody who is linked by shared units: neighbours of neighbours, until nobody is new."""
    before = int(session.value(f"select count(*) from {seen}") or 0)
    for round_ in itertools.count(1):
        session.execute(
            f"insert into {seen} with edge as (select distinct u.kind, u.value from ({ledger.units}) u "
            f"join {seen} s on s.key = u.key where s.round = {round_ - 1}) "
            f"select distinct u.key, {round_} from ({ledger.units}) u "
            f"join edge on edge.kind = u.kind and edge.value = u.value "
            f"where not exists (select 1 from {seen} s where s.key = u.key)"
        )
        count = int(session.value(f"select count(*) from {seen}") or 0)
        if count == before:
            return
        before = count


def _fetch_neighbours(
    session: Session,
    bench: duckdb.DuckDBPyConnection,
    inputs: Inputs,
    seen: str,
    columns: Mapping[str, str],
    names: str,
) -> None:
    session.fetch(
        f"select distinct u.key, u.kind, u.value from ({inputs.ledger.units}) u join {seen} s on s.key = u.key",
        bench,
        "r",
        {"key": TEXT, "kind": TEXT, "value": TEXT},
    )
    bench.execute("insert into record from r")
    bench.execute("drop table r")
    selected = ", ".join(f"x.{name}" for name in columns)
    session.fetch(
        f"select {selected} from ({_joined(session, inputs)}) x join {seen} s on s.key = x.key "
        f"where s.round > 0 and (x.wanted or coalesce(x.m_status = 'covered', false)) and not x.running",
        bench,
        "n",
        columns,
    )
    bench.execute(
        f"insert into changes ({names}, sharer) select {names}, true from n where key not in (select key from changes)"
    )
    bench.execute("drop table n")


def _joined(session: Session, inputs: Inputs) -> str:
    """Everybody: desired or on record, with what is known of them."""
    columns = "".join(f", d.c{n}" for n in range(len(inputs.sources)))
    refused = ""
    if inputs.refusals:
        # An entity whose keys are not unique is held, and has several rows here for one key.
        once = f"(select distinct key, class from {inputs.refusals.table})"
        refused = f"left join {once} r on r.key = coalesce(d.key, m.key)"
    label = "r.class" if inputs.refusals else f"cast(null as {TEXT})"
    flagged = running = "false"
    if inputs.flagged:
        flagged = "g.key is not null"
        refused += (
            f" left join (select distinct u.key from ({inputs.ledger.units}) u join {inputs.flagged} q "
            f"on q.kind = u.kind and q.value = u.value) g on g.key = m.key"
        )
    if inputs.open_rows is not None:
        running = "j.key is not null"
        refused += f" left join (select distinct key from ({inputs.open_rows}) o) j on j.key = coalesce(d.key, m.key)"
    return (
        f"select coalesce(d.key, m.key) as key, d.key as d_key, d.row_hash, {label} as class, "
        f"(d.key is not null and {label} is null) as wanted, {flagged} as flagged, {running} as running, "
        f"m.row_hash as old_row_hash, m.sent_hash as old_sent_hash, {_status(session, inputs)} as old_status, "
        f"m.status as m_status, "
        f"{_forced(session, inputs)} as forced, coalesce(d.twin, false) as twin{columns} "
        f"from ({desired_sql(inputs)}) d full outer join ({inputs.ledger.members}) m on m.key = d.key {refused}"
    )


def _look(session: Session, inputs: Inputs) -> str:
    """SQL condition: this member must be looked at. Members of running jobs are left alone."""
    explicit = "coalesce(x.class in ('suppressed', 'refused'), false)"
    if inputs.only_refusals:
        if not inputs.removes:
            return "false"
        return f"(not x.running and x.m_status is not null and ({explicit} or x.flagged))"
    kept = "" if inputs.removals else " and x.class is not null" if inputs.removes else " and false"
    return (
        f"(not x.running and ((x.wanted and (x.m_status is null or x.old_row_hash is null "
        f"or x.old_row_hash <> x.row_hash or x.forced or x.flagged)) "
        f"or (not x.wanted and x.m_status is not null and (x.m_status <> 'covered' or {explicit} or x.flagged){kept})))"
    )


def _status(session: Session, inputs: Inputs) -> str:
    """SQL of a member's status. Who was last asserted longer ago than the platform remembers is `lapsed`: not there.

    Nobody is lost with them, and who is still wanted is new. Their units are removed all the same if they have left.
    """
    if inputs.retention_days is None:
        return "m.status"
    ended = f"{session.now} - interval '1 second' * {inputs.retention_days * 86_400}"
    return f"case when m.status in ('present', 'perhaps') and m.asserted_at < {ended} then 'lapsed' else m.status end"


def _forced(session: Session, inputs: Inputs) -> str:
    """SQL condition: assert this member although nothing changed: a full resync, or soon to be forgotten.

    Members are spread by their key over the time between 50 % and 80 % of the retention, so that an audience that was
    made in one day is never asserted again in one day.
    """
    if inputs.full:
        return "true"
    if inputs.retention_days is None:
        return "false"
    hexadecimal = "'0123456789abcdef'"
    bucket = (
        f"((position(substr(md5(m.key), 1, 1) in {hexadecimal}) - 1) * 16 "
        f"+ position(substr(md5(m.key), 2, 1) in {hexadecimal}) - 1)"
    )
    seconds = inputs.retention_days * 86_400
    return (
        f"(m.asserted_at is not null and m.asserted_at < {session.now} - interval '1 second' "
        f"* cast({seconds} * (0.5 + 0.3 * {bucket} / 256.0) as integer))"
    )
