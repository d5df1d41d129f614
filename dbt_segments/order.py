"""What goes out, and in which order, so that no current member is lost (invariant 4).

    plan        seq, phase, stage, batch, key, n, wanted, row_hash, sent_hash, effect, payload, kind
    plan_units  seq, kind, value
    plan_batches  batch, stage, kind, members

Platforms resolve identifiers to people, and some delete a person on any key ever given. So a removal carries only units
that no wanted member has, it goes first, and every wanted member of its neighbourhood (linked by shared units, record
and plan taken together) is asserted again after it. Phases are described in `state.pending`.

Stages are sent one after the other: `remove`, then `assert` (members far from every removal), then `after` (members
near one, who wait until the removals have ended). `n` numbers the rows of one member within a phase.

`effect` says what the row means for its member, for counts: add, change, remove, reassert, unusable, none.
"""

from __future__ import annotations

import duckdb

from dbt_segments.coding import OPS, Coding
from dbt_segments.destinations.base import Row
from dbt_segments.warehouse import literal
from dbt_segments.workbench import count

# Effect of a unit's removal. Who left while somebody else had all their units was counted then, and whom the platform
# has forgotten since is not lost now.
_LEAVING = "case when c.wanted then 'change' when c.old_status in ('covered', 'lapsed') then 'none' else 'remove' end"
# Room for what surrounds the rows in a body: field names, session, audience.
_ENVELOPE_BYTES = 1024


def plan_rows(bench: duckdb.DuckDBPyConnection, coding: Coding, *, replace: bool, held: bool) -> None:
    """`changes`, `record`, `encoded`, `want`, `coded`, `open_units` -> `plan`, `plan_units`.

    replace  the destination takes the whole audience at once
    held     only refusals go out; members whose row has changed since keep what they have
    """
    if held:
        _keep_changed(bench)
    _what_goes(bench, coding)
    _neighbourhoods(bench)
    bench.execute(
        "create table draft (phase varchar, stage varchar, key varchar, n bigint, kind varchar, wanted boolean, "
        "row_hash varchar, sent_hash varchar, effect varchar)"
    )
    for table in ("removal_units", "assert_units"):
        bench.execute(f"create table {table} (key varchar, kind varchar, value varchar, n bigint)")
    # A platform that can remove refuses to be left with nobody by a replace.
    replace = replace and not (coding.removes and _nobody(bench))
    if replace:
        _replace_rows(bench, coding)
    else:
        _removal_rows(bench, coding)
        _assert_rows(bench, coding)
    _ledger_rows(bench, replace=replace, held=held)
    _number(bench, coding)


def _nobody(bench: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is no member to send."""
    return count(bench, "select count(*) from changes c join coded d on d.key = c.key where c.wanted and d.usable") == 0


def _keep_changed(bench: duckdb.DuckDBPyConnection) -> None:
    """While a sync is held its new rows are not trusted, and only refused units go.

    Who changed, left, or whose consent has become null keeps everything else that is on record.
    """
    left = "not wanted and coalesce(class, 'unknown') = 'unknown'"
    bench.execute(
        f"create table stale as select key from changes "
        f"where (wanted and split_part(row_hash, ':', 1) is distinct from split_part(old_row_hash, ':', 1)) or ({left})"
    )
    bench.execute(f"update changes set wanted = true where {left}")
    bench.execute("delete from want where key in (select key from stale)")
    bench.execute("delete from coded where key in (select key from stale)")
    bench.execute(
        "insert into want select key, kind, value from record r where key in (select key from stale) "
        "and not exists (select 1 from refused_units x where x.kind = r.kind and x.value = r.value)"
    )


def _what_goes(bench: duckdb.DuckDBPyConnection, coding: Coding) -> None:
    """`going`: units on record that their member should no longer have, and whether they may be removed.

    A unit that any wanted member has stays (`covered`). Where members cannot be taken out, the others are `forgotten`.
    One that only the platform's memory gave a meaning, with
    nothing lasting beside it, is left to be forgotten. Members on record that this run does not look at (those who
    left a segment that keeps them) count as wanted here.
    """
    bench.execute(
        f"""
        create table going as
        with gone as (
            select r.key, r.kind, r.value from record r join changes c on c.key = r.key
            where not exists (select 1 from want w where w.key = r.key and w.kind = r.kind and w.value = r.value)
        ),
        judged as (
            select g.*, (
                exists (select 1 from want w where w.kind = g.kind and w.value = g.value)
                or exists (select 1 from record r where r.kind = g.kind and r.value = g.value
                    and not exists (select 1 from changes c where c.key = r.key))
            ) as covered
            from gone g
        ),
        able as (select distinct key from judged where not covered and {coding.lasting})
        select j.key, j.kind, j.value,
            case when j.covered then 'covered' when a.key is not null and {coding.removes} then 'remove'
                else 'forgotten' end as phase
        from judged j left join able a on a.key = j.key
        """
    )


def _neighbourhoods(bench: duckdb.DuckDBPyConnection) -> None:
    """`touched`: keys linked to somebody from whom a unit is removed. `deferred`: keys linked to a running job.

    Both include the keys they start from. Deferred members wait, so that no add and no remove cross.
    """
    bench.execute("create table touched as select distinct key from going where phase = 'remove'")
    bench.execute("create table deferred (key varchar)")
    jobs = count(bench, "select count(*) from open_units") > 0
    if not jobs and count(bench, "select count(*) from touched") == 0:
        return
    bench.execute(
        "create table link as select distinct key, kind, value from "
        "(select key, kind, value from record union all select key, kind, value from want)"
    )
    if jobs:
        bench.execute(
            "insert into deferred select distinct l.key from link l "
            "join open_units o on o.kind = l.kind and o.value = l.value"
        )
        _spread(bench, "deferred")
    _spread(bench, "touched")


def _spread(bench: duckdb.DuckDBPyConnection, table: str) -> None:
    """Grow a table of keys along shared units until nobody is new."""
    before = 0
    while before != (now := count(bench, f"select count(*) from {table}")):
        before = now
        bench.execute(
            f"insert into {table} select distinct b.key from link a join {table} t on t.key = a.key "
            f"join link b on b.kind = a.kind and b.value = a.value where b.key not in (select key from {table})"
        )


def _removal_rows(bench: duckdb.DuckDBPyConnection, coding: Coding) -> None:
    """Units to remove, one value of a kind a row: a member who is owed two old e-mails gets two rows.

    Platforms that take one identifier at a time get one row a unit. A further row that would hold nothing but an id
    that the platform forgets is not sent.
    """
    single = coding.destination.row is Row.SINGLE
    within = "key" if single else "key, kind"
    bench.execute(
        f"insert into removal_units select key, kind, value, "
        f"row_number() over (partition by {within} order by kind, value) as n "
        f"from going where phase = 'remove' and key not in (select key from deferred)"
    )
    if not single:
        bench.execute(
            f"create table lone as select key, n from removal_units group by key, n "
            f"having not bool_or({coding.lasting})"
        )
        bench.execute(
            "update going set phase = 'forgotten' where phase = 'remove' and (key, kind, value) in "
            "(select (u.key, u.kind, u.value) from removal_units u join lone l on l.key = u.key and l.n = u.n)"
        )
        bench.execute("delete from removal_units where (key, n) in (select (key, n) from lone)")
    bench.execute(
        f"insert into draft select distinct 'remove', 'remove', u.key, u.n, {'u.kind' if single else 'null'}, "
        f"c.wanted, null, null, {_LEAVING} "
        f"from removal_units u join changes c on c.key = u.key"
    )


def _assert_rows(bench: duckdb.DuckDBPyConnection, coding: Coding) -> None:
    """Wanted members who are new, changed, in doubt, forced, or near a removal."""
    bench.execute(
        """
        create table asserted as
        select c.key, c.row_hash, d.sent_hash,
            case when t.key is not null then 'after' else 'assert' end as stage,
            case when c.sharer or (c.old_status = 'present' and c.old_sent_hash = d.sent_hash) then 'reassert'
                 when c.old_status in ('present', 'perhaps') then 'change'
                 else 'add' end as effect
        from changes c join coded d on d.key = c.key left join touched t on t.key = c.key
        where c.wanted and d.usable and c.key not in (select key from deferred)
            and (c.forced or t.key is not null or (not c.sharer and not c.same and (
                c.old_status is null or c.old_status <> 'present' or c.old_sent_hash is distinct from d.sent_hash)))
        """
    )
    _draft_asserted(bench, coding, "assert")


def _draft_asserted(bench: duckdb.DuckDBPyConnection, coding: Coding, phase: str) -> None:
    """The rows of `asserted` members: one, or as many as the platform wants for their units."""
    if coding.within is None:
        bench.execute(
            f"insert into draft select {literal(phase)}, stage, key, 1, null, true, row_hash, sent_hash, effect "
            "from asserted"
        )
        return
    bench.execute(
        f"insert into assert_units select key, w.kind, w.value, "
        f"row_number() over (partition by {coding.within} order by w.kind, w.value) as n "
        f"from want w join asserted using (key)"
    )
    kind = "u.kind" if coding.destination.row is Row.SINGLE else "null"
    bench.execute(
        f"insert into draft select distinct {literal(phase)}, a.stage, a.key, u.n, {kind}, true, a.row_hash, "
        f"a.sent_hash, a.effect from asserted a join assert_units u on u.key = a.key"
    )


def _replace_rows(bench: duckdb.DuckDBPyConnection, coding: Coding) -> None:
    """Everybody who is wanted, in one session; everybody else leaves with it."""
    bench.execute(
        """
        create table asserted as
        select c.key, c.row_hash, d.sent_hash, 'replace' as stage,
            case when c.old_status = 'present' and c.old_sent_hash = d.sent_hash then 'reassert'
                 when c.old_status in ('present', 'perhaps') then 'change' else 'add' end as effect
        from changes c join coded d on d.key = c.key where c.wanted and d.usable
            and exists (select 1 from changes where (forced or not same) and not sharer)
        """
    )
    _draft_asserted(bench, coding, "replace")
    bench.execute("update going set phase = 'leave' where phase in ('remove', 'forgotten')")


def _ledger_rows(bench: duckdb.DuckDBPyConnection, *, replace: bool, held: bool) -> None:
    """Rows that are not sent and change the ledger only."""
    quiet = "'covered', 'leave'" if replace else "'covered', 'forgotten'"
    bench.execute(
        f"insert into draft select distinct g.phase, null, g.key, 1, null, c.wanted, null, null, "
        f"case when c.wanted then 'none' else {_LEAVING} end from going g join changes c on c.key = g.key "
        f"where g.phase in ({quiet}) and g.key not in (select key from deferred) and not c.sharer and not c.same"
    )
    if held:
        # Someone near a removal whose row has changed cannot be asserted now: the ledger must not call them present.
        bench.execute(
            "insert into draft select 'owed', null, c.key, 1, null, true, null, null, 'none' from changes c "
            "join stale s on s.key = c.key where c.key in (select key from touched)"
        )
        return
    bench.execute(
        """
        insert into draft
        select case when c.wanted and d.usable then 'settle' when c.wanted then 'unusable' else 'gone' end, null,
            c.key, 1, null, c.wanted, c.row_hash, case when d.usable then d.sent_hash end,
            case when c.wanted and not d.usable then 'unusable' else 'none' end
        from changes c left join coded d on d.key = c.key
        where not c.sharer and not c.same and c.key not in (select key from deferred)
            and c.key not in (select key from asserted)
            and (c.wanted or c.key not in (select key from going))
        """
    )


def _number(bench: duckdb.DuckDBPyConnection, coding: Coding) -> None:
    """`draft` -> `plan`, stage by stage: sequence, batches of at most `limits.members` rows, and payloads."""
    bench.execute(
        "create table plan (seq bigint, phase varchar, stage varchar, batch bigint, key varchar, n bigint, "
        "wanted boolean, row_hash varchar, sent_hash varchar, effect varchar, payload varchar, kind varchar)"
    )
    groups = bench.execute("select stage, kind from draft where stage is not null group by all order by all").fetchall()
    order = {stage: number for number, stage in enumerate(OPS)}
    # A batch is read by a range of rows, so they must lie together.
    bench.execute("set preserve_insertion_order = true")
    for stage, kind in sorted(groups, key=lambda group: (order[group[0]], group[1] or "")):
        rows = coding.rows_sql(stage)
        size = _batch_size(bench, coding, rows)
        where = f"d.stage = {literal(stage)} and d.kind is not distinct from {literal(kind)}"
        seq, batch = bench.execute("select coalesce(max(seq), 0), coalesce(max(batch), 0) from plan").fetchone() or (
            0,
            0,
        )
        bench.execute(
            f"insert into plan select {seq} + row_number() over (), phase, stage, "
            f"{batch} + 1 + (row_number() over () - 1) // {size}, key, n, wanted, row_hash, sent_hash, effect, "
            f"payload, kind from ({rows} where {where})"
        )
    seq = count(bench, "select coalesce(max(seq), 0) from plan")
    bench.execute(
        f"insert into plan select {seq} + row_number() over (), phase, null, null, key, n, wanted, row_hash, "
        f"sent_hash, effect, null, null from draft where stage is null"
    )
    bench.execute("set preserve_insertion_order = false")
    _plan_units(bench, coding)
    _plan_batches(bench)
    bench.execute("create table refused_rows (seq bigint)")
    bench.execute("drop table draft")


def _batch_size(bench: duckdb.DuckDBPyConnection, coding: Coding, rows: str) -> int:
    """Rows a batch, so that even the longest rows fit the platform's body limit."""
    limits = coding.destination.limits
    if limits.body_bytes is None:
        return limits.members
    # One row that is too long for any body must not make every batch one row; it is refused by itself.
    longest = count(bench, f"select max(strlen(payload)) from ({rows}) where strlen(payload) <= {limits.body_bytes}")
    return max(1, min(limits.members, (limits.body_bytes - _ENVELOPE_BYTES) // (max(longest, 1) + 1)))


def _plan_batches(bench: duckdb.DuckDBPyConnection) -> None:
    """Every request of the plan. A replace that leaves nobody is one request without members."""
    bench.execute(
        "create table plan_batches as select batch, min(stage) as stage, min(kind) as kind, count(*) as members "
        "from plan where batch is not null group by batch"
    )
    bench.execute(
        "insert into plan_batches select 1, 'replace', null, 0 where exists (select 1 from plan where phase = 'leave') "
        "and not exists (select 1 from plan_batches)"
    )


def _plan_units(bench: duckdb.DuckDBPyConnection, coding: Coding) -> None:
    """The units that each planned row carries or gives up."""
    whole = coding.within is None
    asserts = "want u on u.key = p.key" if whole else "assert_units u on u.key = p.key and u.n = p.n"
    bench.execute(
        f"""
        create table plan_units as
        select p.seq, u.kind, u.value from plan p join {asserts} where p.phase in ('assert', 'replace')
        union all
        select p.seq, u.kind, u.value from plan p join removal_units u on u.key = p.key and u.n = p.n
        where p.phase = 'remove'
        union all
        select p.seq, g.kind, g.value from plan p join going g on g.key = p.key and g.phase = p.phase
        where p.phase in ('covered', 'forgotten', 'leave')
        """
    )
