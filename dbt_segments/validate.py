"""Checks that need more than one model: names that must be unique, columns, audiences with two syncs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, get_args

from dbt_segments import cadence
from dbt_segments.connections import Connections
from dbt_segments.destinations import registry as destinations
from dbt_segments.errors import Problem
from dbt_segments.meta import Channel
from dbt_segments.nodes import Declared
from dbt_segments.spelling import nearest, suggest
from dbt_segments.syncs import Placed
from dbt_segments.values import MEMBERSHIP, Entity, Registry, Segment

T = TypeVar("T")
Known = Mapping[str, tuple[str, ...]]


def check_unique(
    entities: Sequence[tuple[Entity, Declared]], segments: Sequence[tuple[Segment, Declared]]
) -> Iterator[Problem]:
    """Each entity and each segment has a name of its own, and no segment claims a living model's old name."""
    for (entity, declared), (_, first) in _repeats(entities, lambda pair: pair[0].name):
        message = f"entity `{entity.name}` is also declared by `{first.model.name}`"
        yield declared.problem("entity.name", message, "is the block inherited from a folder or a source?")
    for (segment, declared), (_, first) in _repeats(segments, lambda pair: pair[0].name):
        message = f"segment `{segment.name}` is also declared by `{first.model.name}`"
        yield declared.problem("segment.name", message, "give each its own name")
    living = {segment.model.name for segment, _ in segments}
    for segment, declared in segments:
        for old in segment.renamed_from:
            if old in living:
                message = f"`{old}` is still a segment of its own"
                yield declared.problem("segment.renamed_from", message, "remove one of the two")


def check_audiences(placed: Sequence[Placed], connections: Connections) -> Iterator[Problem]:
    """Each sync has its own id, and each audience one sync, across connections to one account too."""
    for item, first in _repeats(placed, lambda item: item.sync.id):
        message = f"sync id `{item.sync.id}` is also that of {_where(first)}"
        yield item.problem(message, "give one of them an `id` of its own")
    placed = [
        item
        for item in placed
        if not item.sync.connection.problems and not connections.types[item.sync.connection.name].records
    ]
    accounts = {item.sync.connection.name: _account(item, connections) for item in placed}

    def audience(item: Placed) -> Hashable:
        sync = item.sync
        named = ("id", sync.audience_id) if sync.audience_id else ("name", sync.audience_name)
        return accounts[sync.connection.name], sync.object, named

    for item, first in _repeats(placed, audience):
        if item.sync.id != first.sync.id:
            message = f"{_where(first)} sends to the same audience; an audience has one sync"
            yield item.problem(message, "give one of them another `audience_name` or `audience_id`")


def check_names(placed: Sequence[Placed], connections: Connections) -> Iterator[Problem]:
    """No audience would be made under a name that the platform refuses or cuts."""
    for item in placed:
        sync, cls = item.sync, connections.types.get(item.sync.connection.name)
        if (
            cls is None
            or cls.longest_name is None
            or sync.audience_id is not None
            or len(sync.audience_name) <= cls.longest_name
        ):
            continue
        message = f"the audience's name has {len(sync.audience_name)} characters, {cls.type} takes {cls.longest_name}"
        yield item.problem(message, "shorten the segment's `label`, or set `audience_name` here")


def check_connections(connections: Connections, used: Iterable[str]) -> Iterator[Problem]:
    """Mistakes of the file and of the connections in use; of the others, only a type that does not exist."""
    used = set(used)
    for name, problems in connections.problems.items():
        yield from (problem for problem in problems if not name or name in used or problem.key == "type")


def check_acceptances(registry: Registry, connections: Connections) -> Iterator[Problem]:
    """What would hold every sync of a connection in use; a run goes on without those, so only `validate` asks."""
    used = {sync.connection.name: sync.connection for sync in registry.syncs if sync.enabled}
    for name, connection in used.items():
        held = None if connection.problems else connections.types[name](connection.settings).held()
        if held:
            yield Problem(connections.file, name, "", held)


def warnings(registry: Registry) -> Iterator[Problem]:
    """What `plan` and `sync` warn of and needs no warehouse: of connections in use, and of schedules."""
    syncs = [sync for sync in registry.syncs if sync.enabled and not sync.connection.problems]
    for name, connection in {sync.connection.name: sync.connection for sync in syncs}.items():
        for said in destinations.get(connection.type)(connection.settings).warnings():
            yield Problem("", name, "", said)
    for sync in syncs:
        window_h = destinations.get(sync.connection.type).window_h
        often = cadence.too_often(sync.schedule, window_h) if window_h else None
        if often:
            yield Problem("", sync.id, "schedule", often)


def check_entity_columns(entity: Entity, declared: Declared, known: Known) -> Iterator[Problem]:
    """The columns that an entity names exist, where every column of the model is known."""
    block = declared.meta.entity
    assert block is not None, "only called with entities"
    own = known.get(entity.model.unique_id)
    wanted = {"key": block.key}
    for name, item in block.identifiers.items():
        wanted[f"identifiers.{name}.column"] = item.column
        if item.country:
            wanted[f"identifiers.{name}.country"] = item.country
    wanted |= {f"consent.{channel}": column for channel, column in block.consent.items()}
    wanted |= {f"related.{name}.on": item.on for name, item in block.related.items()}
    for key, column in wanted.items():
        yield from _check_column(column, own, declared, f"entity.{key}", entity.model.name)
    for related in entity.related:
        theirs = known.get(related.model.unique_id)
        key = f"entity.related.{related.name}.key"
        yield from _check_column(related.key, theirs, declared, key, related.model.name)


def check_consent(entity: Entity, declared: Declared, connections: Connections) -> Iterator[Problem]:
    """Each key of `consent` is a channel, a connection or a type of destination: a misspelt one would let all pass."""
    types = {name for cls in connections.types.values() for name in (cls.type, *cls.aliases)}
    known = {*get_args(Channel), *connections.names, *types, *destinations.names()}
    for key in entity.consent:
        if key not in known:
            hint = suggest(key, known) or "write a channel, a connection or a type of destination"
            yield declared.problem(f"entity.consent.{key}", "there is no such channel or destination", hint)


def check_segment_columns(segment: Segment, declared: Declared, known: Known) -> Iterator[Problem]:
    """The segment's model yields its entity's key, where every column of the model is known."""
    own = known.get(segment.model.unique_id)
    yield from _check_column(segment.entity.key, own, declared, "segment.entity", segment.model.name)


def check_mapping(item: Placed, known: Known) -> Iterator[Problem]:
    """What fills a destination's fields is a column of the segment, of its entity or of a relation."""
    entity = item.sync.entity
    related = {one.name: one.model for one in entity.related}
    own = (known.get(item.sync.segment.model.unique_id), known.get(entity.model.unique_id))
    for part, mapped in [("key", one) for one in item.sync.keys] + [("fields", one) for one in item.sync.mapped]:
        key, source = f"{item.key}.{part}.{mapped.field}", mapped.source
        relation, _, column = (source or "").partition(".")
        if source is None or source == MEMBERSHIP:
            continue
        if column and relation in related:
            model = related[relation]
            yield from _check_column(column, known.get(model.unique_id), item.declared, key, model.name)
        elif column and own[0] is not None and source not in own[0]:
            hint = suggest(relation, related)
            yield item.declared.problem(key, f"entity `{entity.name}` has no relation `{relation}`", hint)
        elif None not in own:
            both = [name for columns in own for name in columns or ()]
            yield from _check_column(source, both, item.declared, key, entity.model.name)


def check_traits(item: Placed, connections: Connections, known: Known) -> Iterator[Problem]:
    """What a connection wants said of each member is a column of the segment or its entity."""
    sync, cls = item.sync, connections.types.get(item.sync.connection.name)
    models = (sync.segment.model, sync.entity.model)
    if cls is None or any(model.unique_id not in known for model in models):
        return
    both = {column.lower(): column for model in models for column in known[model.unique_id]}
    for one in sync.identifiers:
        accepts = cls.identifiers[one.name]
        if accepts.trait and one.column.lower() not in both:
            names = " nor ".join(dict.fromkeys(f"`{model.name}`" for model in models))
            message = (
                f"`{one.name}` of connection `{sync.connection.name}`: neither {names} has a column `{one.column}`"
            )
            hint = "; ".join(filter(None, (nearest(one.column, both.values()), f"or write {accepts.instead}")))
            yield item.problem(message, hint)


def _check_column(
    column: str, known: Collection[str] | None, declared: Declared, key: str, model: str
) -> Iterator[Problem]:
    # Warehouses fold the case of names, each in its own way, so case is not this check's business.
    if known is not None and column.lower() not in {name.lower() for name in known}:
        hint = suggest(column, known) + "; if the catalog is old, run `dbt docs generate`"
        yield declared.problem(key, f"`{model}` has no column `{column}`", hint)


def _account(item: Placed, connections: Connections) -> Hashable:
    """What tells audiences apart: type and account, so that two names for one account count as one."""
    connection = item.sync.connection
    return connection.type, connections.types[connection.name](connection.settings).account()


def _where(item: Placed) -> str:
    return f"`{item.declared.model.name}` {item.key}"


def _repeats(items: Iterable[T], key: Callable[[T], Hashable]) -> Iterator[tuple[T, T]]:
    """Each item whose key was seen before, with the first one of that key."""
    seen: dict[Hashable, T] = {}
    for item in items:
        first = seen.setdefault(key(item), item)
        if first is not item:
            yield item, first
