"""Folding: outcomes of batches -> a new ledger, in one statement per table, committed by one pointer.

The same fold ends a run, mends what a killed run left, and takes in jobs that finished later.

    accepted            the units are there, or no longer there
    sending, unknown    adds are perhaps there, removes are perhaps still there
    rejected            nothing happened; a removal stays owed
    planned             nothing happened, but what was removed before it must be asserted again
    submitted           left open, until the job ends
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dbt_segments.state import ledger as ledgers
from dbt_segments.state import pending as pendings
from dbt_segments.state.ledger import Ledger, read_ledger
from dbt_segments.state.locks import Lock
from dbt_segments.state.pending import Generation
from dbt_segments.state.store import Pointer, Store
from dbt_segments.warehouse import Session, literal

# A delta larger than this share of its base is merged into a new base.
_MERGE_AT = 0.25


@dataclass(frozen=True)
class _Step:
    """Names of one fold: the generation's tables, the batches to fold, the tables to make."""

    generation: Generation
    batches: tuple[int, ...]
    last: bool


def fold(session: Session, store: Store, owner: str, lock: Lock) -> Ledger:
    """Take every finished batch of every open generation into the ledger; returns the newest ledger.

    Runs under the audience's lock. Does nothing, and commits nothing, where there is nothing to fold.
    """
    ledger = read_ledger(session, store, owner)
    for generation in pendings.read_generations(session, store, owner, ledger):
        step = _step(generation)
        if step.batches or step.last:
            _apply(session, store, owner, lock, ledger, step)
            ledger = read_ledger(session, store, owner)
    return ledger


def _step(generation: Generation) -> _Step:
    running = set(generation.open_batches)
    batches = tuple(b for b in generation.phases if b not in generation.folded and b not in running)
    return _Step(generation, batches, last=not running)


def _apply(session: Session, store: Store, owner: str, lock: Lock, ledger: Ledger, step: _Step) -> Pointer:
    token = lock.token
    seq = _next_seq(ledger, token)
    names = {role: store.name(role, owner, token, seq) for role in ("delta_members", "delta_units", "members", "units")}
    scratch = {role: store.table(store.name(role, owner, token, seq)) for role in ("fate", "rows", "change")}
    first = step.generation.folded == frozenset()
    with session.transaction():
        lock.fence(session)
        _fates(session, store, step, scratch, first)
        session.execute(f"create table {scratch['change']} as {_changed_units(store, ledger, step, scratch['rows'])}")
        tables = _write_ledger(session, store, ledger, scratch, names)
        for table in scratch.values():
            session.execute(f"drop table {table}")
        detail = _detail(owner, ledger, step, tables)
        pointer = store.point(
            session, owner, ledgers.KIND, token, seq, detail, parent=ledger.pointer.id if ledger.pointer else ""
        )
    return pointer


def _next_seq(ledger: Ledger, token: int) -> int:
    same = ledger.pointer is not None and ledger.pointer.token == token
    return ledger.pointer.seq + 1 if same and ledger.pointer else 1


def _fates(session: Session, store: Store, step: _Step, scratch: Mapping[str, str], first: bool) -> None:
    """Table `rows`: the generation's rows that are folded now, each with its fate.

    With them what an earlier fold left undone of the same members: accepted now, they would else be taken for whole.
    """
    states, folded = step.generation.states, step.generation.folded
    batches = (*step.batches, *sorted(folded))
    values = [(batch, states[batch].state if batch in states else "planned") for batch in batches]
    session.execute(f"create table {scratch['fate']} (batch bigint, state varchar(20), earlier boolean)")
    for start in range(0, len(values), 500):
        some = values[start : start + 500]
        session.execute(
            f"insert into {scratch['fate']} values "
            + ", ".join(f"({batch}, {literal(state)}, {_word(batch in folded)})" for batch, state in some)
        )
    whole = all(states[b].state == "accepted" for b in step.generation.phases if b in states) and all(
        b in states for b in step.generation.phases
    )
    # Half a set was never swapped in: its accepted parts are perhaps there.
    broken = any(b not in states or states[b].state not in ("accepted", "submitted") for b in step.generation.phases)
    half = "when p.phase = 'replace' and f.state = 'accepted' then 'unknown' " if broken else ""
    unsent = (
        f"when p.batch is null and p.phase = 'leave' then {literal('accepted' if whole else 'rejected')} "
        "when p.phase = 'owed' then 'planned' when p.batch is null then 'accepted'"
    )
    pending = store.table(step.generation.pointer.tables["pending"])
    rows = (
        f"select p.seq, p.phase, p.key, p.wanted, p.row_hash, p.sent_hash, "
        f"case {unsent} when r.row_seq is not null then 'rejected' {half}else f.state end as fate, "
        f"r.class as class, coalesce(f.earlier, {_word(not first)}) as earlier "
        f"from {pending} p "
        f"left join {scratch['fate']} f on f.batch = p.batch "
        f"left join (select row_seq, min(class) as class from {store.table('rejects')} "
        f"where generation = {literal(step.generation.pointer.id)} and row_seq is not null group by row_seq) r "
        f"on r.row_seq = p.seq "
        f"where f.batch is not null or p.batch is null"
    )
    undone = ""
    if not first:
        # A join, no `exists` under an `or`: without memory for its keys PostgreSQL would look them up row by row.
        keys = f"select distinct q.key from {pending} q join {scratch['fate']} g on g.batch = q.batch and not g.earlier"
        undone = f"left join ({keys}) n on n.key = x.key where not x.earlier or "
        undone += "(n.key is not null and (x.fate <> 'accepted' or x.phase = 'covered'))"
    session.execute(
        f"create table {scratch['rows']} as "
        f"select x.seq, x.phase, x.key, x.wanted, x.row_hash, x.sent_hash, x.fate, x.class from ({rows}) x {undone}"
    )


def _word(value: bool) -> str:
    """SQL's word for a truth value."""
    return "true" if value else "false"


def _changed_units(store: Store, ledger: Ledger, step: _Step, rows: str) -> str:
    """The units of every touched key after the fold; `owed` marks those that should be gone but are not yet.

    A covered unit stays on record as a link: whoever is removed under it later may take along, at the platform, the
    member who once had it. It is owed only while nobody who stays is acknowledged to have it. All of it is joins: a
    correlated `exists` outside of a plain condition would make PostgreSQL read everything once per unit.
    """
    units = store.table(step.generation.pointer.tables["units"])
    pending = store.table(step.generation.pointer.tables["pending"])
    return f"""
    with touched as (select distinct key from {rows}),
    row_units as (
        select r.key, r.phase, r.fate, u.kind, u.value from {rows} r join {units} u on u.seq = r.seq
    ),
    added as (
        select distinct key, kind, value from row_units
        where phase in ('assert', 'replace') and fate in ('accepted', 'sending', 'unknown')
    ),
    dropped as (
        select distinct key, kind, value from row_units
        where (phase in ('remove', 'leave') and fate = 'accepted') or phase = 'forgotten'
    ),
    covered as (select distinct kind, value from row_units where phase = 'covered'),
    acknowledged as (
        select o.key, o.kind, o.value from ({ledger.units}) o
        join covered c on c.kind = o.kind and c.value = o.value
        join ({ledger.members}) m on m.key = o.key and m.status = 'present'
        where not exists (select 1 from {pending} q where q.key = o.key and not q.wanted)
        and not exists (select 1 from dropped d where d.key = o.key and d.kind = o.kind and d.value = o.value)
        union all
        select a.key, a.kind, a.value from row_units a join covered c on c.kind = a.kind and c.value = a.value
        where a.phase in ('assert', 'replace') and a.fate = 'accepted'
    ),
    owners as (select kind, value, min(key) as one, max(key) as other from acknowledged group by kind, value),
    owing as (
        select r.key, r.kind, r.value from row_units r
        left join owners o on r.phase = 'covered' and o.kind = r.kind and o.value = r.value
            and (o.one <> r.key or o.other <> r.key)
        where r.phase in ('remove', 'leave') or (r.phase = 'covered' and o.kind is null)
    ),
    held as (
        select key, kind, value from added
        union
        select o.key, o.kind, o.value from ({ledger.units}) o join touched t on t.key = o.key
        where not exists (select 1 from dropped d where d.key = o.key and d.kind = o.kind and d.value = o.value)
    )
    select h.key, h.kind, h.value, case when w.key is null then 0 else 1 end as owed
    from held h left join (select distinct key, kind, value from owing) w
    on w.key = h.key and w.kind = h.kind and w.value = h.value
    """


def _write_ledger(
    session: Session, store: Store, ledger: Ledger, scratch: Mapping[str, str], names: Mapping[str, str]
) -> dict[str, str]:
    """The new ledger's tables: a delta over the old base, or a new base where the delta would be large."""
    old = ledger.pointer.tables if ledger.pointer else {}
    touched_members = _touched_members(session, ledger, scratch)
    touched_units = f"select key, kind, value from {scratch['change']}"
    untouched = f"not exists (select 1 from {scratch['rows']} r where r.key = o.key)"
    members, units = ", ".join(ledgers.MEMBERS), ", ".join(ledgers.UNITS)
    if _fits_delta(session, store, old, scratch["rows"]):
        kept, tables = ("delta_members", "delta_units"), {"members": old["members"], "units": old["units"]}
        parts = {
            "delta_members": [touched_members],
            "delta_units": [touched_units],
        }
        if "delta_members" in old:
            parts["delta_members"].append(
                f"select {members} from {store.table(old['delta_members'])} o where {untouched}"
            )
            parts["delta_units"].append(f"select {units} from {store.table(old['delta_units'])} o where {untouched}")
    else:
        kept, tables = ("members", "units"), {}
        parts = {
            "members": [
                f"select {members} from ({touched_members}) t where status <> 'gone'",
                f"select {members} from ({ledger.members}) o where {untouched}",
            ],
            "units": [touched_units, f"select {units} from ({ledger.units}) o where {untouched}"],
        }
    for role in kept:
        session.execute(f"create table {store.table(names[role])} as {' union all '.join(parts[role])}")
        tables[role] = names[role]
    return tables


def _fits_delta(session: Session, store: Store, old: Mapping[str, str], rows: str) -> bool:
    """Whether what changed since the base was written is small enough to stay beside it."""
    if "members" not in old:
        return False
    base = int(session.value(f"select count(*) from {store.table(old['members'])}") or 0)
    changed = int(session.value(f"select count(*) from {rows}") or 0)
    if "delta_members" in old:
        changed += int(session.value(f"select count(*) from {store.table(old['delta_members'])}") or 0)
    return changed <= base * _MERGE_AT


def _touched_members(session: Session, ledger: Ledger, scratch: Mapping[str, str]) -> str:
    """One row per touched key: status, hashes and time by what became of its rows.

    `owed`: a unit that should be gone is still on record, so the member is looked at again in the next run.
    """
    return f"""
    select cast(n.key as varchar) as key,
        cast(case when n.owed = 1 or n.outcome in ('perhaps', 'covered', 'gone') then null
            when n.kept = 1 then n.old_row_hash else n.row_hash end as varchar) as row_hash,
        cast(case when n.outcome <> 'present' then null
            when n.kept = 1 then n.old_sent_hash else n.sent_hash end as varchar) as sent_hash,
        cast(n.outcome as varchar) as status,
        cast(case when n.asserted = 1 and n.outcome = 'present' then {session.now} else n.asserted_at end as timestamp)
            as asserted_at
    from (
        select g.*, o.asserted_at, o.row_hash as old_row_hash, o.sent_hash as old_sent_hash,
            case
                when g.wanted = 1 and g.acts = 0 and o.status is not null then o.status
                when g.wanted = 1 and g.asserts > 0 and g.asserts = g.accepted then 'present'
                when g.wanted = 1 and g.asserts > 0 and g.refused > 0 and g.unsure = 0 and g.unsent = 0 then 'rejected'
                when g.wanted = 1 and g.settled > 0 then coalesce(o.status, 'present')
                when g.wanted = 1 and g.unusable > 0 and coalesce(u.owed, 0) = 0 then 'unusable'
                when g.wanted = 0 and coalesce(u.units, 0) > 0 and u.owed = 0 then 'covered'
                when coalesce(u.units, 0) > 0 then 'perhaps'
                else 'gone'
            end as outcome,
            case when g.asserts > 0 and g.asserts = g.accepted then 1 else 0 end as asserted,
            case when g.wanted = 1 and g.acts = 0 then 1 else 0 end as kept,
            coalesce(u.owed, 0) as owed
        from (
            select key, max(case when wanted then 1 else 0 end) as wanted,
                max(case when phase in ('assert', 'replace', 'settle', 'unusable') then row_hash end) as row_hash,
                max(case when phase in ('assert', 'replace', 'settle') then sent_hash end) as sent_hash,
                sum(case when phase in ('covered', 'forgotten') then 0 else 1 end) as acts,
                sum(case when phase in ('assert', 'replace') then 1 else 0 end) as asserts,
                sum(case when phase in ('assert', 'replace') and fate = 'accepted' then 1 else 0 end) as accepted,
                sum(case when phase in ('assert', 'replace') and fate = 'rejected' and class = 'data' then 1 else 0 end)
                    as refused,
                sum(case when phase in ('assert', 'replace') and fate in ('sending', 'unknown') then 1 else 0 end)
                    as unsure,
                sum(case when phase in ('assert', 'replace', 'owed') and (fate = 'planned'
                    or (fate = 'rejected' and (class is null or class <> 'data'))) then 1 else 0 end) as unsent,
                sum(case when phase = 'settle' then 1 else 0 end) as settled,
                sum(case when phase = 'unusable' then 1 else 0 end) as unusable
            from {scratch["rows"]} group by key
        ) g
        left join ({ledger.members}) o on o.key = g.key
        left join (
            select c.key, count(*) as units, max(c.owed) as owed from {scratch["change"]} c group by c.key
        ) u on u.key = g.key
    ) n
    """


def _detail(owner: str, ledger: Ledger, step: _Step, tables: Mapping[str, str]) -> dict[str, object]:
    """What the new ledger accounts for: all generations up to `through`, save the unfolded batches of `open` ones."""
    generation = step.generation.pointer
    still_open = dict(ledger.open)
    if step.last:
        still_open.pop(generation.id, None)
    else:
        still_open[generation.id] = sorted({*still_open.get(generation.id, ()), *step.batches})
    # Tokens are counted by owner: that of a generation which was begun under a former sync id says nothing here.
    own = generation.owner == owner
    through = max(ledger.through, (generation.token, generation.seq)) if own else ledger.through
    return {"tables": dict(tables), "through": list(through), "open": still_open}


def start_over(session: Session, store: Store, owner: str, lock: Lock) -> None:
    """Forget what is on record: the audience is gone, and with it everybody who was in it.

    Part of the transaction that records so; what was sent for members who refuse stays remembered.
    """
    before = store.newest(session, owner, ledgers.KIND)
    last = store.newest(session, owner, pendings.KIND)
    through = max((lock.token, 0), (last.token, last.seq) if last else (0, 0))
    seq = before.seq + 1 if before is not None and before.token == lock.token else 1
    detail = {"tables": {}, "through": list(through), "open": {}}
    store.point(session, owner, ledgers.KIND, lock.token, seq, detail, parent=before.id if before else "")


def seal(session: Session, store: Store, owner: str, lock: Lock) -> Ledger:
    """Close whatever an overtaken run may still write: its generations are from now on older than the ledger.

    A run that takes a lock over folds first and seals then; rows that the overtaken run logs later are ignored. What
    has become of running jobs is not known yet: their generations stay open, also those of which nothing is folded.
    """
    ledger = fold(session, store, owner, lock)
    token = lock.token
    generations = pendings.read_generations(session, store, owner, ledger)
    detail = {
        "tables": dict(ledger.pointer.tables) if ledger.pointer else {},
        "through": [token, 0],
        "open": {one.pointer.id: sorted(one.folded) for one in generations if one.open_batches},
    }
    with session.transaction():
        lock.fence(session)
        store.point(
            session,
            owner,
            ledgers.KIND,
            token,
            _next_seq(ledger, token),
            detail,
            parent=ledger.pointer.id if ledger.pointer else "",
        )
    return read_ledger(session, store, owner)
