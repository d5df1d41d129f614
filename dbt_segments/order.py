"""What goes out, and in which order, so that no current member is lost (invariant 4).

    plan        seq, phase, stage, batch, key, wanted, row_hash, sent_hash, effect, payload
    plan_units  seq, kind, value

Platforms resolve identifiers to people, and some delete a person on any key ever given. So a removal carries only units
that no wanted member has, it goes first, and every wanted member of its neighbourhood (linked by shared units, record
and plan taken together) is asserted again after it. Phases are described in `state.pending`.

`effect` says what the row means for its member, for counts: add, change, remove, reassert, unusable, none.
"""

from __future__ import annotations

import duckdb

from dbt_segments.destinations.base import Destination, Op, Row, Support
from dbt_segments.encode import Encoding, kind_of, lasting_sql, payload_sql, single_payload_sql
from dbt_segments.warehouse import literal, quote


def replaces(destination: Destination) -> bool:
    """Whether the destination can only take the whole audience at once."""
    return (
        destination.operations.get(Op.ADD) is not Support.FULL
        and destination.operations.get(Op.REPLACE) is Support.FULL
    )


def plan_rows(bench: duckdb.DuckDBPyConnection, coding: Encoding, *, replace: bool, held: bool) -> None:
    """`changes`, `record`, `want`, `coded`, `open_units` -> `plan`, `plan_units`.

    replace  the destination takes the whole audience at once
    held     only refusals go out; members whose row has changed since keep what they have
    """
    if held:
        _freeze_changed(bench)
    _what_goes(bench, coding)
    _neighbourhood(bench)
    _defer(bench)
    _rows(bench, coding, replace=replace, held=held)
    _number(bench, coding)


def _freeze_changed(bench: duckdb.DuckDBPyConnection) -> None:
    """While a sync is held its new rows are not trusted: who changed keeps the units on record, refused ones aside."""
    bench.execute("create table stale as select key from changes where wanted and row_hash is distinct from old_row_hash")
    bench.execute("delete from want where key in (select key from stale)")
    bench.execute("delete from coded where key in (select key from stale)")
    bench.execute(
        "insert into want select key, kind, value from record r where key in (select key from stale) "
        "and not exists (select 1 from refused_units x where x.kind = r.kind and x.value = r.value)"
    )


def _what_goes(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """`going`: units on record that their member should no longer have, and whether they may be removed.

    A unit that any wanted member has stays (covered). One that only the platform's memory gave a meaning, and nothing
    lasting beside it, is left to be forgotten.
    """
    lasting = lasting_sql(coding.destination)
    bench.execute(
        """
        create table keeping as
        select distinct kind, value from (
            select kind, value from want
            union all
            -- members on record that this run does not look at (kept although they left the segment)
            select r.kind, r.value from record r where r.key not in (select key from changes)
        )
        """
    )
    bench.execute(
        f"""
        create table going as
        with gone as (
            select r.key, r.kind, r.value from record r join changes c on c.key = r.key
            where not exists (select 1 from want w where w.key = r.key and w.kind = r.kind and w.value = r.value)
        ),
        judged as (
            select g.*, (k.value is not null) as covered
            from gone g left join keeping k on k.kind = g.kind and k.value = g.value
        ),
        able as (select distinct key from judged where not covered and {lasting})
        select j.key, j.kind, j.value,
            case when j.covered then 'covered' when a.key is not null then 'remove' else 'forgotten' end as phase
        from judged j left join able a on a.key = j.key
        """
    )


def _neighbourhood(bench: duckdb.DuckDBPyConnection) -> None:
    """`touched`: keys linked to somebody from whom a unit is removed, themselves included."""
    bench.execute("create table touched as select distinct key from going where phase = 'remove'")
    bench.execute(
        "create table link as select distinct key, kind, value from "
        "(select key, kind, value from record union all select key, kind, value from want)"
    )
    count = -1
    while count != (now := _count(bench, "touched")):
        count = now
        if count == 0:
            break
        bench.execute(
            "insert into touched select distinct b.key from link a join touched t on t.key = a.key "
            "join link b on b.kind = a.kind and b.value = a.value "
            "where b.key not in (select key from touched)"
        )


def _defer(bench: duckdb.DuckDBPyConnection) -> None:
    """`deferred`: keys linked to units of a running job; they wait, so that no add and no remove cross."""
    bench.execute(
        "create table deferred as select distinct l.key from link l "
        "join open_units o on o.kind = l.kind and o.value = l.value"
    )
    count = -1
    while count != (now := _count(bench, "deferred")):
        count = now
        if count == 0:
            break
        bench.execute(
            "insert into deferred select distinct b.key from link a join deferred t on t.key = a.key "
            "join link b on b.kind = a.kind and b.value = a.value "
            "where b.key not in (select key from deferred)"
        )


def _rows(bench: duckdb.DuckDBPyConnection, coding: Encoding, *, replace: bool, held: bool) -> None:
    """`draft`: one row per request row, not numbered yet; `draft_units` its units (`n` is the row's number per key)."""
    bench.execute(
        "create table draft (phase varchar, key varchar, n bigint, kind varchar, wanted boolean, row_hash varchar, "
        "sent_hash varchar, effect varchar, payload varchar, stage varchar)"
    )
    bench.execute("create table draft_units (phase varchar, key varchar, n bigint, kind varchar, value varchar)")
    if replace:
        _replace_rows(bench)
    else:
        _removal_rows(bench, coding)
        _assert_rows(bench, coding)
    _unsent_rows(bench, replace=replace, held=held)


def _removal_rows(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """Units to remove, one value of a kind a row: a member who is owed two old e-mails gets two rows.

    Platforms that take one identifier at a time get one row a unit.
    """
    single = coding.destination.row is Row.SINGLE
    within = "key" if single else "key, kind"
    bench.execute(
        f"insert into draft_units select 'remove', key, row_number() over (partition by {within} order by kind, value), "
        f"kind, value from going where phase = 'remove' and key not in (select key from deferred)"
    )
    if single:
        bench.execute(
            f"insert into draft select 'remove', u.key, u.n, u.kind, c.wanted, null, null, "
            f"case when c.wanted then 'change' else 'remove' end, {single_payload_sql(coding)}, 'remove' "
            f"from draft_units u join changes c on c.key = u.key where u.phase = 'remove'"
        )
        return
    cells = []
    for name in coding.identifiers:
        values = [f"max(case when kind = {literal(name)} then value end)"]
        for unit in (unit for unit in coding.kinds if len(unit) > 1 and name in unit):
            place = list(unit).index(name) + 1
            values.append(f"max(case when kind = {literal(kind_of(unit))} then split_part(value, chr(31), {place}) end)")
        cells.append(f"coalesce({', '.join(values)}) as {quote(name)}")
    lone = f"having bool_or({lasting_sql(coding.destination)})"
    bench.execute(
        f"create table removal as select key, n, {', '.join(cells)} from draft_units where phase = 'remove' "
        f"group by key, n {lone}"
    )
    # A second row of a member that would hold nothing but a fading id is not sent; the id goes with the first row.
    bench.execute(
        "insert into going select key, kind, value, 'forgotten' from draft_units u where phase = 'remove' "
        "and not exists (select 1 from removal r where r.key = u.key and r.n = u.n)"
    )
    bench.execute(
        "delete from draft_units u where phase = 'remove' "
        "and not exists (select 1 from removal r where r.key = u.key and r.n = u.n)"
    )
    bench.execute(
        f"insert into draft select 'remove', r.key, r.n, null, c.wanted, null, null, "
        f"case when c.wanted then 'change' else 'remove' end, r.payload, 'remove' "
        f"from (select key, n, {payload_sql(coding)} as payload from removal) r join changes c on c.key = r.key"
    )
    bench.execute("drop table removal")


def _assert_rows(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """Wanted members who are new, changed, in doubt, forced, or near a removal."""
    bench.execute(
        """
        create table asserted as
        select c.key, c.row_hash, d.sent_hash, d.payload,
            case when c.key in (select key from touched) then 'after' else 'assert' end as stage,
            case when c.sharer or (c.old_status = 'present' and c.old_sent_hash = d.sent_hash) then 'reassert'
                 when c.old_status in ('present', 'perhaps') and c.key in (select key from record) then 'change'
                 else 'add' end as effect
        from changes c join coded d on d.key = c.key
        where c.wanted and d.usable and c.key not in (select key from deferred)
            and (c.forced or c.key in (select key from touched) or (not c.sharer and (
                c.old_status is null or c.old_status <> 'present' or c.old_sent_hash is distinct from d.sent_hash)))
        """
    )
    if coding.destination.row is Row.SINGLE:
        bench.execute(
            f"insert into draft select 'assert', a.key, row_number() over (partition by a.key order by u.kind, u.value), "
            f"u.kind, true, a.row_hash, a.sent_hash, a.effect, {single_payload_sql(coding)}, a.stage "
            f"from asserted a join want u on u.key = a.key"
        )
        bench.execute(
            "insert into draft_units select 'assert', u.key, row_number() over (partition by u.key order by u.kind, u.value), "
            "u.kind, u.value from want u join asserted a on a.key = u.key"
        )
        return
    bench.execute(
        "insert into draft select 'assert', key, 1, null, true, row_hash, sent_hash, effect, payload, stage from asserted"
    )
    bench.execute(
        "insert into draft_units select 'assert', w.key, 1, w.kind, w.value from want w join asserted a on a.key = w.key"
    )


def _replace_rows(bench: duckdb.DuckDBPyConnection) -> None:
    """Everybody who is wanted, in one session; everybody else leaves with it."""
    bench.execute(
        """
        create table asserted as
        select c.key, c.row_hash, d.sent_hash, d.payload,
            case when c.old_status = 'present' and c.old_sent_hash = d.sent_hash then 'reassert'
                 when c.key in (select key from record) then 'change' else 'add' end as effect
        from changes c join coded d on d.key = c.key where c.wanted and d.usable
        """
    )
    bench.execute(
        "insert into draft select 'replace', key, 1, null, true, row_hash, sent_hash, effect, payload, 'replace' "
        "from asserted"
    )
    bench.execute(
        "insert into draft_units select 'replace', w.key, 1, w.kind, w.value from want w "
        "join asserted a on a.key = w.key"
    )
    bench.execute(
        "insert into draft_units select 'leave', key, 1, kind, value from going where phase in ('remove', 'forgotten')"
    )
    bench.execute(
        "insert into draft select distinct 'leave', g.key, 1, null, c.wanted, null, null, "
        "case when c.wanted then 'change' else 'remove' end, null, null from going g join changes c on c.key = g.key "
        "where g.phase in ('remove', 'forgotten')"
    )


def _unsent_rows(bench: duckdb.DuckDBPyConnection, *, replace: bool, held: bool) -> None:
    """Rows that change the ledger only."""
    phases = ["covered"] if replace else ["covered", "forgotten"]
    for phase in phases:
        bench.execute(
            f"insert into draft_units select '{phase}', key, 1, kind, value from going where phase = '{phase}' "
            "and key not in (select key from deferred)"
        )
        bench.execute(
            f"insert into draft select distinct '{phase}', g.key, 1, null, c.wanted, null, null, "
            f"case when c.wanted then 'none' else 'remove' end, null, null from going g join changes c on c.key = g.key "
            f"where g.phase = '{phase}' and g.key not in (select key from deferred)"
        )
    if held:
        # Someone near a removal whose row has changed cannot be asserted now: the ledger must not call them present.
        bench.execute(
            "insert into draft select 'owed', c.key, 1, null, true, null, null, 'none', null, null from changes c "
            "join stale s on s.key = c.key where c.key in (select key from touched)"
        )
        return
    bench.execute(
        """
        insert into draft
        select case when c.wanted and d.usable then 'settle' when c.wanted then 'unusable' else 'gone' end,
            c.key, 1, null, c.wanted, c.row_hash, case when d.usable then d.sent_hash end,
            case when c.wanted and not d.usable then 'unusable' else 'none' end, null, null
        from changes c left join coded d on d.key = c.key
        where not c.sharer and c.key not in (select key from deferred)
            and c.key not in (select key from asserted)
            and (c.wanted or c.key not in (select key from going))
        """
    )


def _number(bench: duckdb.DuckDBPyConnection, coding: Encoding) -> None:
    """Give rows their sequence and batches, stage by stage, at most `limits.members` rows and `body_bytes` a batch.

    Stages: `remove`, then `assert` (members far from every removal), then `after` (members near one).
    """
    limits = coding.destination.limits
    size = limits.members
    if limits.body_bytes is not None:
        longest = bench.execute("select coalesce(max(strlen(payload)), 1) from draft").fetchone()
        room = max(1, (limits.body_bytes - 1024) // (int(longest[0]) + 1)) if longest else size
        size = min(size, room)
    bench.execute(
        f"""
        create table plan as
        with placed as (
            select *, (row_number() over (partition by stage, kind order by key, n) - 1) // {size} as slice from draft
        ),
        ranked as (
            select *, case when stage is not null then dense_rank() over (order by
                case stage when 'remove' then 1 when 'replace' then 1 when 'assert' then 2 when 'after' then 3 else 4 end,
                kind, slice) end as batch
            from placed
        )
        select row_number() over (order by batch nulls last, phase, key, n) as seq,
            phase, stage, batch, key, n, wanted, row_hash, sent_hash, effect, payload
        from ranked
        """
    )
    bench.execute(
        "create table plan_units as select p.seq, u.kind, u.value from draft_units u "
        "join plan p on p.phase = u.phase and p.key = u.key and p.n = u.n"
    )
    bench.execute("create table refused_rows (seq bigint)")
    bench.execute("drop table draft")
    bench.execute("drop table draft_units")


def _count(bench: duckdb.DuckDBPyConnection, table: str) -> int:
    row = bench.execute(f"select count(*) from {table}").fetchone()
    return int(row[0]) if row else 0
