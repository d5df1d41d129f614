"""Counting a plan, and what became of it, in members: each member counts once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb

from dbt_segments.diff import Standing
from dbt_segments.values import Counts
from dbt_segments.workbench import count

# A member with several rows counts under the strongest of their effects.
_STRENGTH = (
    "case effect when 'add' then 1 when 'unusable' then 2 when 'change' then 3 when 'remove' then 4 "
    "when 'reassert' then 5 else 6 end"
)


@dataclass(frozen=True)
class Forecast:
    """What the plan would do, in members.

    losing    acknowledged members who would lose their last match unit, explicit refusals aside
    changing  acknowledged members who would be sent with other values
    base      acknowledged members
    causes    words for the likely causes of a large loss
    altered   the same of a large change
    stripped  members who are wanted and leave, since nothing is left to match them on: they count as unusable
    refusing  members who refuse and are removed, whatever holds the others
    """

    counts: Counts
    losing: int
    changing: int
    base: int
    causes: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    stripped: int = 0
    refusing: int = 0


def forecast(bench: duckdb.DuckDBPyConnection, standing: Standing, beside: str) -> Forecast:
    """Count the plan by what it means for members; each member counts once.

    beside  what may change of members who keep their match units, for people
    """
    effects = _by_effect(bench)
    refused_losing = count(
        bench,
        "select count(distinct p.key) from plan p join changes c on c.key = p.key "
        "where p.effect = 'remove' and c.class in ('suppressed', 'refused')",
    )
    unusable_losing = count(
        bench,
        "select count(*) from plan p join changes c on c.key = p.key join coded d on d.key = p.key "
        "where p.phase = 'unusable' and c.old_status in ('present', 'perhaps') and not d.suppressed",
    )
    stripped = count(
        bench,
        "select count(distinct p.key) from plan p join changes c on c.key = p.key "
        "where p.phase in ('remove', 'leave') and c.old_status is distinct from 'lapsed' "
        "and p.key in (select key from plan where phase = 'unusable')",
    )
    deferred = count(bench, "select count(*) from deferred d join changes c on c.key = d.key where not c.sharer")
    same = "c.wanted and not c.sharer and c.key not in (select key from deferred)"
    sent = "select key from plan where phase in ('assert', 'replace')"
    unchanged = standing.unchanged + count(
        bench,
        f"select count(*) from changes c join coded d on d.key = c.key "
        f"where {same} and d.usable and c.key not in ({sent}) and not (c.same and c.old_status = 'rejected')",
    )
    unusable = standing.unusable + count(
        bench, f"select count(*) from changes c join coded d on d.key = c.key where {same} and not d.usable"
    )
    rejected = standing.rejected + count(
        bench, f"select count(*) from changes c where c.same and c.old_status = 'rejected' and c.key not in ({sent})"
    )
    reasserted = effects.get("reassert", 0)
    shared = count(
        bench, "select count(*) from plan p join changes c on c.key = p.key where p.phase = 'assert' and c.sharer"
    )
    counts = Counts(
        members=standing.members,
        added=effects.get("add", 0),
        changed=effects.get("change", 0),
        removed=effects.get("remove", 0),
        unchanged=unchanged + reasserted - shared,
        rejected=rejected,
        unusable=unusable,
        refused=standing.refused,
        pending=standing.running + deferred,
    )
    losing = effects.get("remove", 0) - refused_losing + unusable_losing
    base = standing.acknowledged
    changing = effects.get("change", 0)
    altered = _altered(bench, changing, beside) if changing else ()
    causes = _causes(bench, counts, losing, base)
    return Forecast(counts, losing, changing, base, causes, altered, stripped, refused_losing)


def outcome(bench: duckdb.DuckDBPyConnection, fates: Mapping[int, str], found: Forecast) -> Counts:
    """The forecast's counts with what really happened: only acknowledged members count as done.

    Expects the workbench table `refused_rows` (seq) of rows that the destination refused singly.
    """
    bench.execute("create or replace table fate (batch bigint, state varchar)")
    if fates:
        bench.execute("insert into fate select unnest(?), unnest(?)", [list(fates), list(fates.values())])
    batches = count(bench, "select count(*) from plan_batches")
    # Who is left out of a replace has left once every part of it is there.
    whole = len(fates) == batches and all(state == "accepted" for state in fates.values())
    rows = bench.execute(
        f"""
        with fated as (
            select p.key, p.effect, case
                when p.phase = 'leave' or (p.phase = 'replace' and not {whole}) then
                    {"'accepted'" if whole else "'planned'"}
                when p.batch is null then 'accepted'
                when r.seq is not null then 'refused'
                else coalesce(f.state, 'planned') end as state
            from plan p left join fate f on f.batch = p.batch left join refused_rows r on r.seq = p.seq
        ),
        member as (
            select key, arg_min(effect, {_STRENGTH}) as effect,
                bool_and(state = 'accepted') as done, bool_or(state = 'refused') as refused
            from fated group by key
        )
        select effect, case when done then 'done' when refused then 'refused' else 'pending' end as state, count(*)
        from member group by all
        """
    ).fetchall()
    number = {(str(effect), str(state)): int(members) for effect, state, members in rows}
    loud = ("add", "change", "remove", "reassert")
    return replace(
        found.counts,
        added=number.get(("add", "done"), 0),
        changed=number.get(("change", "done"), 0),
        removed=number.get(("remove", "done"), 0),
        rejected=found.counts.rejected + sum(number.get((effect, "refused"), 0) for effect in loud),
        pending=found.counts.pending + sum(number.get((effect, "pending"), 0) for effect in loud),
    )


def submitted(bench: duckdb.DuckDBPyConnection, fates: Mapping[int, str]) -> int:
    """Members of the plan's batches whose jobs still run."""
    batches = ", ".join(str(batch) for batch, state in fates.items() if state == "submitted")
    return count(bench, f"select count(distinct key) from plan where batch in ({batches})") if batches else 0


def _by_effect(bench: duckdb.DuckDBPyConnection) -> Mapping[str, int]:
    """Members by effect; a member with several rows counts under the strongest."""
    rows = bench.execute(
        f"""
        select effect, count(*) from (
            select key, arg_min(effect, {_STRENGTH}) as effect from plan group by key
        ) group by effect
        """
    ).fetchall()
    return {str(effect): int(members) for effect, members in rows}


def _causes(bench: duckdb.DuckDBPyConnection, counts: Counts, losing: int, base: int) -> tuple[str, ...]:
    """Guesses that point an analytics engineer to the model that broke."""
    causes = []
    if base and losing > base // 2 and counts.added > base // 2:
        causes.append("the entity's keys were re-typed or re-made (as many enter as leave)")
    null_consent = count(bench, "select count(*) from changes where class = 'unknown' and old_status is not null")
    if losing and null_consent > losing // 2:
        causes.append("consent has become null (a broken join?)")
    unusable = count(bench, "select count(*) from plan where phase = 'unusable'")
    if losing and unusable > losing // 2:
        causes.append("an identifier column has become null or unusable")
    if losing and not causes:
        causes.append("the segment or its entity has shrunk")
    return tuple(causes)


def _altered(bench: duckdb.DuckDBPyConnection, changing: int, beside: str) -> tuple[str, ...]:
    """What most of those who change have in common: match units of a kind that came, went or differ; else none did."""
    rows = bench.execute(
        f"""
        with changing as (
            select key from plan group by key having arg_min(effect, {_STRENGTH}) = 'change'
        ),
        came as (
            select distinct w.key, w.kind from want w join changing using (key)
            where not exists (select 1 from record r where r.key = w.key and r.kind = w.kind and r.value = w.value)
        ),
        went as (
            select distinct r.key, r.kind from record r join changing using (key)
            where not exists (select 1 from want w where w.key = r.key and w.kind = r.kind and w.value = r.value)
        )
        select kind, case when c.key is null then 'went' when w.key is null then 'came' else 'differs' end, count(*)
        from came c full join went w using (key, kind) group by all having count(*) * 2 > {changing} order by all
        """
    ).fetchall()
    said = {"came": "is there now and was not", "went": "has become null or is no longer sent", "differs": "differs"}
    kinds = tuple(f"{kind} {said[what]} for {members:,}" for kind, what, members in rows)
    return kinds or (f"the same identifiers, but {beside}",)
