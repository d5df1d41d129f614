"""The destinations and syncs of one segment or entity, as written -> `values.Sync`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from dbt_segments.choose import choose, lasting_units, matches_alone
from dbt_segments.connections import Connections
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Destination
from dbt_segments.errors import ConfigError, Problem
from dbt_segments.meta import DestinationItem, SyncItem
from dbt_segments.nodes import Declared
from dbt_segments.records import record_coding
from dbt_segments.settings import ProjectSettings
from dbt_segments.spelling import suggest
from dbt_segments.values import MEMBERSHIP, Connection, Entity, Identifier, Mapped, Model, Segment, Sync


@dataclass(frozen=True)
class Placed:
    """A sync, and where it was written."""

    sync: Sync
    declared: Declared
    key: str

    def problem(self, message: str, hint: str = "") -> Problem:
        return self.declared.problem(self.key, message, hint)


# Names of models, and where they are written -> those that can be read; it tells of the others.
Find = Callable[[Iterable[str], Declared, str], tuple[Model, ...]]


def _none_of(names: Iterable[str], declared: Declared, key: str) -> tuple[Model, ...]:
    """Where the project's models are not known."""
    return ()


@dataclass
class SyncReader:
    """Reads the items of many segments; `problems` and `used` (connection names) are filled on the way.

    find  finds the models that an item suppresses
    """

    connections: Connections
    settings: ProjectSettings
    find: Find = _none_of
    problems: list[Problem] = field(default_factory=list)
    used: dict[str, None] = field(default_factory=dict)

    def read(self, segment: Segment, declared: Declared) -> Iterator[Placed]:
        """The segment's syncs, in the order of the file; one with a mistake is left out and told of."""
        block = declared.meta.segment
        assert block is not None, "only called with segments"
        yield from self._read_items(block.destinations, segment, declared, "segment.destinations")
        yield from self._read_items(block.syncs, segment, declared, "segment.syncs")

    def read_entity(self, entity: Entity, declared: Declared) -> Iterator[Placed]:
        """The syncs of a whole entity."""
        block = declared.meta.entity
        assert block is not None, "only called with entities"
        everybody = Segment(entity.name, entity.name, entity.model, entity, whole=True)
        yield from self._read_items(block.syncs, everybody, declared, "entity.syncs")

    def _read_items(
        self, items: Iterable[DestinationItem], segment: Segment, declared: Declared, key: str
    ) -> Iterator[Placed]:
        for index, item in enumerate(items):
            sync = self._read_item(item, segment, declared, f"{key}[{index}]")
            if sync is not None:
                suppress = self.find(item.suppress, declared, f"{key}[{index}].suppress")
                yield Placed(replace(sync, suppress=suppress), declared, f"{key}[{index}]")

    def _read_item(self, item: DestinationItem, segment: Segment, declared: Declared, key: str) -> Sync | None:
        connection = self._connection(item, declared, key)
        if connection is None:
            return None
        platform = self.connections.types.get(item.to)
        if platform is None:  # the type is its connection's mistake
            return self._sync(item, None, connection, segment, ())
        wrong = _wrong_kind(item, platform, segment)
        if wrong is not None:
            self.problems.append(declared.problem(key, *wrong))
            return None
        if platform.records:
            return self._read_records(item, platform, connection, segment, declared, key)
        offered = None if connection.problems else platform.offers(connection.settings)
        identifiers, refused = choose(segment.entity.identifiers, platform, item.identifiers, offered)
        self.problems += [declared.problem(f"{key}.identifiers", message) for message in refused]
        if not refused and not matches_alone(identifiers, platform):
            self.problems.append(declared.problem(key, *_no_unit(segment, platform, identifiers, offered)))
            return None
        traits = () if connection.problems else platform.traits(connection.settings)
        return None if refused else self._sync(item, platform, connection, segment, (*identifiers, *traits))

    def _read_records(
        self,
        item: DestinationItem,
        platform: type[Destination],
        connection: Connection,
        segment: Segment,
        declared: Declared,
        key: str,
    ) -> Sync | None:
        assert isinstance(item, SyncItem), "one-click is for ad platforms"
        sync = self._sync(item, platform, connection, segment, ())
        if connection.problems:
            return sync
        wrong = platform.refuses(record_coding(sync, platform(sync.connection.settings)).target)
        if wrong is not None:
            self.problems.append(declared.problem(key, wrong))
            return None
        return sync

    def _connection(self, item: DestinationItem, declared: Declared, key: str) -> Connection | None:
        """The item's connection, which may have mistakes of its own; None with a problem where there is none."""
        if item.enabled and item.to in self.connections.names:
            self.used[item.to] = None
        if item.to not in self.connections.names and "" not in self.connections.problems:
            where = self.connections.file or "destinations.yml, which was not found"
            hint = suggest(item.to, self.connections.names)
            self.problems.append(declared.problem(key, f"there is no connection `{item.to}` in {where}", hint))
        return self.connections.get(item.to)

    def _sync(
        self,
        item: DestinationItem,
        platform: type[Destination] | None,
        connection: Connection,
        segment: Segment,
        identifiers: tuple[Identifier, ...],
    ) -> Sync:
        classic = item if isinstance(item, SyncItem) else None
        object_ = classic.object if classic else None
        records = platform is not None and platform.records
        mode = classic.mode if classic else "mirror"
        return Sync(
            id=item.id or _sync_id(segment.model.package, segment.model.name, item.to, object_),
            segment=segment,
            connection=connection,
            one_click=not isinstance(item, SyncItem),
            identifiers=identifiers,
            audience_name="" if records else item.audience_name or segment.label,
            mode=mode,
            keys=_keys(classic, segment) if records and classic else (),
            mapped=_mapped(classic) if records and classic else (),
            audience_id=item.audience_id,
            object=object_,
            schedule=item.schedule,
            removals=item.removals and (mode in ("mirror", "replace") or not records),
            channel=_channel(item, platform, segment.entity),
            enabled=item.enabled,
            gone=item.gone or self.settings.gone,
            orphan=item.orphan or self.settings.orphans,
            import_sizes=self.settings.import_sizes if item.import_sizes is None else item.import_sizes,
            hold=item.hold.over(self.settings.hold),
            # An id that is written down outlives a rename by itself; a new one begins anew.
            former_ids=()
            if item.id
            else tuple(_sync_id(segment.model.package, old, item.to, object_) for old in segment.renamed_from),
        )


def _channel(item: DestinationItem, platform: type[Destination] | None, entity: Entity) -> str | None:
    """The key of the entity's consent that governs a sync: what names its destination wins over its channel."""
    if platform is None:
        return item.channel
    named = (item.to, platform.type, *platform.aliases)
    return next((key for key in named if key in entity.consent), item.channel or platform.channel)


def _sync_id(package: str, model: str, connection: str, object_: str | None) -> str:
    return ".".join(part for part in (package, model, connection, object_) if part)


def _keys(item: SyncItem, segment: Segment) -> tuple[Mapped, ...]:
    """What records are found by: the entity's key under its own name, unless the item says otherwise."""
    key = segment.entity.key
    return tuple(Mapped(name, column) for name, column in (item.key or {key: key}).items())


def _mapped(item: SyncItem) -> tuple[Mapped, ...]:
    return tuple(Mapped(name, block.column, block.value) for name, block in item.fields_.items())


def _wrong_kind(item: DestinationItem, platform: type[Destination], segment: Segment) -> tuple[str, str] | None:
    """Message and hint where this destination, or this version, does not do what the item asks for."""
    if isinstance(item, SyncItem):
        return _wrong_classic(item, platform, segment)
    if not platform.one_click:
        message = f"{platform.type} takes no one-click syncs, so it cannot stand under `destinations`"
        return message, "write it under `syncs`"
    if segment.entity.kind != "person":
        entity = segment.entity
        message = f"one-click needs an entity of kind person; `{entity.name}` is of kind {entity.kind}"
        return message, f"{_classic_hint(platform)}; or make a segment of persons"
    return None


def _classic_hint(platform: type[Destination]) -> str:
    """How to send what are no persons: a platform may take them with a type of its own."""
    for name in destinations.names():
        with contextlib.suppress(ConfigError):
            other = destinations.get(name)
            if issubclass(other, platform) and other is not platform and not other.one_click:
                return f"write it under `syncs`, as `{{to: {other.type}, mode: mirror}}` with a connection of that type"
    return "write it under `syncs` with `mode: mirror`"


def _wrong_classic(item: SyncItem, platform: type[Destination], segment: Segment) -> tuple[str, str] | None:
    if item.mode not in platform.modes:
        return f"{platform.type} has no mode `{item.mode}`", f"its modes: {', '.join(platform.modes)}"
    if item.mode == "replace" and not item.removals:
        return "a `replace` cannot keep who has left", "use another mode, or leave `removals` out"
    if not platform.records:
        if item.object or item.key or item.fields_:
            return (
                f"{platform.type} takes identifiers: `object`, `key` and `fields` have no place here",
                "leave them out",
            )
        return None
    if item.identifiers or item.audience_name or item.audience_id:
        message = f"{platform.type} takes records: `identifiers`, `audience_name` and `audience_id` have no place here"
        return message, "map columns with `key` and `fields`"
    twice = sorted({*item.key} & {*item.fields_})
    if twice:
        return f"`{twice[0]}` is in `key` and in `fields`", "write it once: the key is always sent"
    reads = {block.column for block in item.fields_.values()} | set(item.key.values())
    relations = {one.name for one in segment.entity.related}
    for column in sorted(filter(None, reads)):
        relation = column.partition(".")[0]
        if "." in column and relation not in relations:
            hint = suggest(relation, relations) or f"declare it under `related` of {segment.entity.model.name}"
            return f"`{column}`: entity `{segment.entity.name}` has no relation `{relation}`", hint
    if MEMBERSHIP in reads and not segment.whole:
        message = f"`{MEMBERSHIP}` is a value of the whole entity, not of one segment"
        return message, f"write this sync under `entity: syncs:` of {segment.entity.model.name}"
    return None


def _no_unit(
    segment: Segment, platform: type[Destination], chosen: tuple[Identifier, ...], offered: Collection[str] | None
) -> tuple[str, str]:
    units = ", ".join(" with ".join(unit) for unit in lasting_units(platform, offered))
    sent = ", ".join(identifier.name for identifier in chosen) or "none that it takes"
    message = f"{platform.type} could match nobody by the identifiers of entity `{segment.entity.name}` ({sent})"
    return message, f"it needs one of: {units}"
