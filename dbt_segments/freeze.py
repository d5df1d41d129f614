"""Freezing: a segment model -> an immutable table of its members, as they are now, with all that may be sent of them.

The frozen set is unfiltered; who may not be sent is frozen beside it (`Refusals`), per entity and consent channel.
Every column is text, cast the same way in every session, so that hashes and comparisons mean the same everywhere.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import duckdb

from dbt_segments.errors import ConfigError, StatementError, WarehouseError
from dbt_segments.report import count_of
from dbt_segments.spelling import nearest
from dbt_segments.state.store import Pointer, Store
from dbt_segments.values import MEMBERSHIP, Entity, Model, Segment, Sync
from dbt_segments.warehouse import TEXT, Session, literal, quote

FROZEN = "frozen"
REJECTED = "rejected"
REFUSALS = "refusals"


_NULL_KEY = "null_key"


# What a consent column may say, in lower case; null is "not known".
_YES = "('true', 't', '1', 'yes', 'y')"
_NO = "('false', 'f', '0', 'no', 'n')"


class HeldError(ConfigError):
    """The data cannot be frozen as they are; the segment's syncs are held. `code` is short and stable."""

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True)
class Frozen:
    """A segment's members at one time.

    table     quoted name; columns `key` and one per source in `sources`, all text
    rejects   reason -> rows that are no members: null_key, unknown_key, conflicting
    rejected  name of the table of their keys: key, reason; None where there are none with a key
    types     source -> type in the warehouse's words
    """

    table: str
    name: str
    sources: tuple[str, ...]
    members: int
    rejects: Mapping[str, int]
    rejected: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Its tables in the state."""
        return (self.name, self.rejected) if self.rejected else (self.name,)


@dataclass(frozen=True)
class Refusals:
    """Who must not be sent, for one entity and channel.

    table  quoted name; columns `key`, `class` (suppressed, refused, unknown) and the sources, all text.
           `unknown` is consent that is null: not sent either, but its removals count as losses.
    doubt  why these may not be all: the sync is held, and they go out
    """

    table: str
    name: str
    doubt: HeldError | None = None


def sources(syncs: Iterable[Sync]) -> tuple[str, ...]:
    """Every column that these syncs read, sorted: `column` of the segment or entity, or `relation.column`."""
    found: set[str] = set()
    for sync in syncs:
        for identifier in sync.identifiers:
            found.update(name for name in (identifier.column, identifier.country) if name)
        found.update(mapped.source for mapped in (*sync.keys, *sync.mapped) if mapped.source)
    return tuple(sorted(found))


def freeze(
    session: Session,
    store: Store,
    bench: duckdb.DuckDBPyConnection,
    segment: Segment,
    wanted: tuple[str, ...],
    state_session: Session,
    membership: str | None = None,
    remedies: Mapping[str, str] | None = None,
) -> Frozen:
    """Write a segment's members into a table of the state; it counts only once `commit_frozen` points to it.

    membership  query on the state for `key` and `segments` as JSON text, for the source `segment_membership`
    remedies    source -> what to do where nobody has that column

    Raises HeldError where keys are not unique, columns are missing or a relation is not many-to-one.
    """
    entity = segment.entity
    joined = membership is not None and MEMBERSHIP in wanted
    own = tuple(w for w in wanted if not (joined and w == MEMBERSHIP))
    shape = _Shape.read(session, segment, own, remedies or {})
    _check_unique(session, entity, shape)
    name = _fresh(store, FROZEN, segment.owner)
    query = shape.members_sql(session)
    types = {"key": TEXT, **dict.fromkeys(shape.wanted, TEXT)}
    materialize(session, state_session, store, bench, name, query, types)
    if joined:
        name = _with_membership(state_session, store, segment, name, membership or "")
    members = int(state_session.value(f"select count(*) from {store.table(name)}") or 0)
    rejects = _rejects(session, shape)
    rejected = None
    if set(rejects) - {_NULL_KEY}:
        rejected = _fresh(store, REJECTED, segment.owner)
        types = {"key": TEXT, "reason": TEXT}
        materialize(session, state_session, store, bench, rejected, shape.rejected_sql(session), types)
    return Frozen(store.table(name), name, wanted, members, rejects, rejected, shape.types(joined=joined))


def _with_membership(session: Session, store: Store, segment: Segment, name: str, membership: str) -> str:
    """The same table with the segments of every member; the state may lie in another warehouse than the models."""
    fresh = _fresh(store, FROZEN, segment.owner)
    session.execute(
        f"create table {store.table(fresh)} as select f.*, cast(coalesce(m.segments, '[]') as {TEXT}) "
        f"as {quote(MEMBERSHIP)} from {store.table(name)} f left join ({membership}) m on m.key = f.key"
    )
    session.execute(f"drop table {store.table(name)}")
    return fresh


def commit_frozen(session: Session, store: Store, segment: Segment, frozen: Frozen) -> None:
    """Make this the segment's last good set, and collect the ones before it."""
    owner = segment.owner
    before = store.newest(session, owner, FROZEN)
    token = before.token + 1 if before else 1
    tables = {FROZEN: frozen.name, **({REJECTED: frozen.rejected} if frozen.rejected else {})}
    detail = {
        "tables": tables,
        "sources": list(frozen.sources),
        "members": frozen.members,
        "rejects": dict(frozen.rejects),
        "types": dict(frozen.types),
    }
    with session.transaction():
        if frozen.rejected:
            _log_rejected(session, store, owner, frozen, before.tables.get(REJECTED) if before else None)
        store.point(session, owner, FROZEN, token, 1, detail)


def _log_rejected(session: Session, store: Store, owner: str, frozen: Frozen, earlier: str | None) -> None:
    """Append to `rejects` every key that is no member and was not rejected for the same reason last time."""
    known = ""
    if earlier and session.has_table(store.schema, earlier):
        known = f"where not exists (select 1 from {store.table(earlier)} o where o.key = n.key and o.reason = n.reason)"
    session.execute(
        f"insert into {store.table('rejects')} (id, sync_id, key, reason, class, recorded_at) "
        f"select concat({literal(frozen.name)}, '-', n.key), {literal(owner)}, n.key, n.reason, 'data', {session.now} "
        f"from {store.table(str(frozen.rejected))} n {known}"
    )


def last_good(session: Session, store: Store, segment: Segment) -> Frozen | None:
    """The newest committed set of a segment, under this model's id or one it had before."""
    owners = [segment.owner]
    stem = segment.model.unique_id.rsplit(".", 1)[0]
    owners += [f"{stem}.{old}" for old in segment.renamed_from]
    for owner in owners:
        pointer: Pointer | None = store.head(session, owner, FROZEN)
        if pointer is not None:
            name = pointer.tables[FROZEN]
            detail = pointer.detail
            return Frozen(
                store.table(name),
                name,
                tuple(detail["sources"]),
                int(detail["members"]),
                dict(detail["rejects"]),
                pointer.tables.get(REJECTED),
                detail.get("types", {}),
            )
    return None


def freeze_refusals(
    session: Session,
    store: Store,
    bench: duckdb.DuckDBPyConnection,
    entity: Entity,
    suppress: tuple[Model, ...],
    channel: str | None,
    wanted: tuple[str, ...],
    state_session: Session,
) -> Refusals | None:
    """Everybody whom this entity's consent and suppression models exclude now; None where it has neither."""
    models = (*entity.suppress, *suppress)
    columns = _columns(session, entity.model)
    if entity.key not in columns:
        raise _key_missing(entity.model, entity)
    parts = [_suppressed_sql(session, model, entity.key) for model in models]
    key = session.key(f"e.{quote(entity.key)}", columns.get(entity.key, TEXT))
    doubts = [_doubt(session, entity, model, part, key) for model, part in zip(models, parts, strict=True)]
    consent = entity.consent.get(channel) if channel else None
    if consent is not None:
        if consent not in columns:
            raise HeldError(
                "consent_missing",
                f"{entity.model.name}: no consent column {consent}",
                hint=f"correct `consent` in the meta of {entity.model.name}",
            )
        said = f"lower({session.text(f'e.{quote(consent)}', columns[consent])})"
        doubts.append(_unclear(session, entity, consent, said))
        parts.append(
            f"select {key} as key, case when {said} in {_NO} then 2 else 3 end as rank "
            f"from {entity.model.relation} e where {said} is null or {said} not in {_YES}"
        )
    if not parts:
        return None
    known = [source for source in wanted if source in columns]
    selected = [f"cast({session.text(f'e.{quote(s)}', columns[s])} as {TEXT}) as {quote(s)}" for s in known]
    selected += [f"cast(null as {TEXT}) as {quote(s)}" for s in wanted if s not in columns]
    query = (
        f"select cast(x.key as {TEXT}) as key, "
        f"case min(x.rank) when 1 then 'suppressed' when 2 then 'refused' else 'unknown' end as class "
        f"from ({' union all '.join(parts)}) x where x.key is not null group by x.key"
    )
    query = (
        f"select x.key, x.class{''.join(', ' + column for column in selected)} from ({query}) x "
        f"left join {entity.model.relation} e on {key} = x.key"
    )
    name = _fresh(store, REFUSALS, refusals_owner(entity, channel))
    materialize(
        session, state_session, store, bench, name, query, {"key": TEXT, "class": TEXT, **dict.fromkeys(wanted, TEXT)}
    )
    return Refusals(store.table(name), name, next((doubt for doubt in doubts if doubt), None))


def _unclear(session: Session, entity: Entity, column: str, said: str) -> HeldError | None:
    """Words that are neither a yes nor a no: whoever they belong to is not sent, and may have refused."""
    unclear = f"{said} is not null and {said} not in {_YES} and {said} not in {_NO}"
    count = int(session.value(f"select count(*) from {entity.model.relation} e where {unclear}") or 0)
    if not count:
        return None
    return HeldError(
        "consent_unclear",
        f"{entity.model.name}: the consent column {column} has {count_of(count, 'value')} beyond yes and no",
        hint=f"make {column} a boolean in {entity.model.name}",
    )


def refusals_owner(entity: Entity, channel: str | None) -> str:
    """Whose the refusal tables of an entity and a consent channel are."""
    return f"{entity.name}.{channel}" if channel else entity.name


def _fresh(store: Store, kind: str, owner: str) -> str:
    """A name with the time in it, so that what dead runs left can be told from what live ones use."""
    return f"{store.name(kind, owner, int(time.time()), 0)}_{secrets.token_hex(4)}"


def _key_missing(model: Model, entity: Entity) -> HeldError:
    return HeldError(
        "key_missing",
        f"{model.name}: no column {entity.key}, the key of {entity.name}",
        hint=f"rename the column, or correct `key` in the meta of {entity.model.name}",
    )


def _doubt(session: Session, entity: Entity, model: Model, keys: str, entity_key: str) -> HeldError | None:
    """A suppression model of which not one key is a key of the entity most likely speaks of something else."""
    rows, known = session.rows(
        f"select count(*), count(e.{quote(entity.key)}) from ({keys}) k "
        f"left join {entity.model.relation} e on {entity_key} = k.key where k.key is not null"
    )[0]
    if not rows or known:
        return None
    return HeldError(
        "suppression_keys_unknown",
        f"{model.name}: none of its {count_of(rows, 'key')} is a key of {entity.name}",
        hint=f"it must yield {entity.key} of {entity.model.name}, in the same form; if all of them were deleted, "
        f"take the model out of `suppress`",
    )


def _suppressed_sql(session: Session, model: Model, key: str) -> str:
    columns = _columns(session, model)
    column = key if key in columns else next(iter(columns))
    if key not in columns and len(columns) > 1:
        raise HeldError("key_missing", f"{model.name}: no column {key}, whose values are the suppressed keys")
    return f"select {session.key(quote(column), columns[column])} as key, 1 as rank from {model.relation}"


def materialize(
    session: Session,
    state_session: Session,
    store: Store,
    bench: duckdb.DuckDBPyConnection,
    name: str,
    query: str,
    types: Mapping[str, str],
) -> None:
    """Create a state table from a query, across warehouses where the state lies in another one."""
    if session is state_session:
        session.execute(f"create table {store.table(name)} as {query}")
        return
    passing = f"passing_{secrets.token_hex(4)}"
    session.fetch(query, bench, passing, types)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: bench.execute(f"drop table {passing}"))
        state_session.store(store.table(name), bench, f"select * from {passing}", types)


@dataclass(frozen=True)
class _Shape:
    """Where each source of a segment comes from: the segment itself first, then the entity, then a relation."""

    segment: Segment
    wanted: tuple[str, ...]
    segment_columns: Mapping[str, str]
    entity_columns: Mapping[str, str]
    related_columns: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, session: Session, segment: Segment, wanted: tuple[str, ...], remedies: Mapping[str, str]) -> _Shape:
        entity = segment.entity
        related = {r.name: _columns(session, r.model) for r in entity.related}
        own = _columns(session, segment.model)
        if segment.whole:  # its rows are the entity's: only the key says who is meant
            own = {name: kind for name, kind in own.items() if name == entity.key}
        shape = cls(segment, wanted, own, _columns(session, entity.model), related)
        for columns, model in ((shape.segment_columns, segment.model), (shape.entity_columns, entity.model)):
            if entity.key not in columns:
                raise _key_missing(model, entity)
        for source in wanted:
            if shape.origin(source) is None:
                raise HeldError(
                    "column_missing",
                    f"{segment.model.name}: neither it nor {entity.model.name} has a column {source}",
                    hint="; ".join(filter(None, (nearest(source, shape.columns()), remedies.get(source)))),
                )
        return shape

    def columns(self) -> tuple[str, ...]:
        """Everything that could be a source."""
        related = (f"{name}.{column}" for name, columns in self.related_columns.items() for column in columns)
        return (*self.segment_columns, *self.entity_columns, *related)

    def origin(self, source: str) -> tuple[str, str, str] | None:
        """(alias, column, type) of a source; None where nobody has it."""
        if source in self.segment_columns and source != self.segment.entity.key:
            return "s", source, TEXT
        if source in self.entity_columns:
            return "e", source, self.entity_columns[source]
        relation, _, column = source.partition(".")
        kind = self.related_columns.get(relation, {}).get(column)
        return (f"r_{relation}", column, kind) if kind else None

    def types(self, *, joined: bool) -> dict[str, str]:
        """The type of every source; `joined`: with the segments of every member."""
        found = ((source, self.origin(source)) for source in self.wanted)
        own = self.segment_columns
        types = {source: own[source] if origin[0] == "s" else origin[2] for source, origin in found if origin}
        return {**types, MEMBERSHIP: "json"} if joined else types

    def overrides(self) -> list[str]:
        found = ((source, self.origin(source)) for source in self.wanted)
        return [source for source, origin in found if origin and origin[0] == "s"]

    def rows_sql(self, session: Session) -> str:
        """The segment's distinct rows: key and the columns that it yields itself."""
        key = session.key(quote(self.segment.entity.key), self.segment_columns[self.segment.entity.key])
        own = "".join(
            f", {session.text(quote(column), self.segment_columns[column])} as {quote(column)}"
            for column in self.overrides()
        )
        return f"select distinct {key} as key{own} from {self.segment.model.relation}"

    def rejected_sql(self, session: Session) -> str:
        """key, reason of the keys that are no members: the entity does not have them, or their rows differ."""
        entity = self.segment.entity
        return (
            f"with s_rows as ({self.rows_sql(session)}), "
            f"s_keys as (select key, count(*) as n from s_rows where key is not null group by key) "
            f"select cast(k.key as {TEXT}) as key, "
            f"cast(case when e.{quote(entity.key)} is null then 'unknown_key' else 'conflicting' end as {TEXT}) "
            f"as reason from s_keys k left join {entity.model.relation} e on {self.entity_key(session)} = k.key "
            f"where e.{quote(entity.key)} is null or k.n > 1"
        )

    def entity_key(self, session: Session) -> str:
        return session.key(f"e.{quote(self.segment.entity.key)}", self.entity_columns[self.segment.entity.key])

    def members_sql(self, session: Session) -> str:
        """Each key once, with everything that may be sent."""
        entity = self.segment.entity
        columns = []
        joins = []
        for source in self.wanted:
            origin = self.origin(source)
            assert origin is not None
            alias, column, kind = origin
            expression = f"{quote(alias)}.{quote(column)}"
            expression = expression if alias == "s" else session.text(expression, kind)
            columns.append(f", cast({expression} as {TEXT}) as {quote(source)}")
        for relation in entity.related:
            if any(source.startswith(f"{relation.name}.") for source in self.wanted):
                alias = quote(f"r_{relation.name}")
                match = f"{alias}.{quote(relation.key)} = e.{quote(relation.on)}"
                joins.append(f"left join {relation.model.relation} {alias} on {match}")
        return (
            f"with s_rows as ({self.rows_sql(session)}), "
            f"s_keys as (select key from s_rows where key is not null group by key having count(*) = 1) "
            f"select cast(s.key as {TEXT}) as key{''.join(columns)} from s_rows s "
            f"join s_keys k on k.key = s.key "
            f"join {entity.model.relation} e on {self.entity_key(session)} = s.key " + " ".join(joins)
        )


@contextlib.contextmanager
def reading(what: str, *models: Model) -> Iterator[None]:
    """Errors of SQL and of data in the block say what was being read, and from which models."""
    try:
        yield
    except StatementError as error:
        names = ", ".join(dict.fromkeys(model.name for model in models))
        raise StatementError(
            f"{names}: {what} cannot be read: {error.message}", hint=f"mend the SQL or the values of {names}"
        ) from None


def _columns(session: Session, model: Model) -> dict[str, str]:
    try:
        return session.columns(model.relation)
    except WarehouseError:
        raise HeldError(
            "not_built", f"{model.name}: {model.relation} cannot be read", hint=f"dbt build --select {model.name}"
        ) from None


def entity_keys_sql(session: Session, entity: Entity) -> str:
    """Query for the text of every key that the entity has.

    Raises HeldError where there is no such column, or a key occurs more than once.
    """
    columns = _columns(session, entity.model)
    if entity.key not in columns:
        raise HeldError("key_missing", f"{entity.model.name}: no column {entity.key}, the key of {entity.name}")
    key = session.key(f"e.{quote(entity.key)}", columns[entity.key])
    _check_keys(session, entity, key)
    return f"select cast({key} as {TEXT}) as key from {entity.model.relation} e where e.{quote(entity.key)} is not null"


def _check_keys(session: Session, entity: Entity, key: str) -> None:
    doubles = session.value(
        f"select count(*) from (select {key} as key from {entity.model.relation} e "
        f"where e.{quote(entity.key)} is not null group by 1 having count(*) > 1) d"
    )
    if doubles:
        raise HeldError(
            "entity_keys_not_unique",
            f"{entity.model.name}: {entity.key} is not unique: {count_of(doubles, 'value')} more than once",
            hint="an entity has one row per key; add a unique test to it",
        )


def _check_unique(session: Session, entity: Entity, shape: _Shape) -> None:
    _check_keys(session, entity, shape.entity_key(session))
    for relation in entity.related:
        if not any(source.startswith(f"{relation.name}.") for source in shape.wanted):
            continue
        doubles = session.value(
            f"select count(*) from (select {quote(relation.key)} from {relation.model.relation} "
            f"where {quote(relation.key)} is not null group by 1 having count(*) > 1) d"
        )
        if doubles:
            raise HeldError(
                "relation_not_many_to_one",
                f"{entity.model.name}: relation {relation.name} finds several rows for {count_of(doubles, 'key')}",
                hint=f"{relation.model.name}.{relation.key} must be unique",
            )


def _rejects(session: Session, shape: _Shape) -> dict[str, int]:
    """Rows of the segment that are no members, by reason; keys are counted once."""
    entity, model = shape.segment.entity, shape.segment.model
    nulls = session.value(f"select count(*) from {model.relation} where {quote(entity.key)} is null")
    by_reason = session.rows(f"select reason, count(*) from ({shape.rejected_sql(session)}) x group by reason")
    found = {_NULL_KEY: nulls, **{str(reason): count for reason, count in by_reason}}
    return {reason: int(count) for reason, count in found.items() if count}
