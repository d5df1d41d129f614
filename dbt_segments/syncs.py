"""The destinations and syncs of one segment, as written -> `values.Sync`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dbt_segments.choose import choose, matches_alone
from dbt_segments.connections import Connections
from dbt_segments.destinations.base import Destination
from dbt_segments.errors import Problem
from dbt_segments.meta import DestinationItem, SyncItem
from dbt_segments.nodes import Declared
from dbt_segments.settings import ProjectSettings
from dbt_segments.spelling import suggest
from dbt_segments.values import Identifier, Segment, Sync


@dataclass(frozen=True)
class Placed:
    """A sync, and where it was written."""

    sync: Sync
    declared: Declared
    key: str

    def problem(self, message: str, hint: str = "") -> Problem:
        return self.declared.problem(self.key, message, hint)


@dataclass
class SyncReader:
    """Reads the items of many segments; `problems` and `used` (connection names) are filled on the way."""

    connections: Connections
    settings: ProjectSettings
    problems: list[Problem] = field(default_factory=list)
    used: dict[str, None] = field(default_factory=dict)

    def read(self, segment: Segment, declared: Declared) -> Iterator[Placed]:
        """The segment's syncs, in the order of the file; one with a mistake is left out and told of."""
        block = declared.meta.segment
        assert block is not None, "only called with segments"
        for name, items in (("destinations", block.destinations), ("syncs", block.syncs)):
            for index, item in enumerate(items):
                key = f"segment.{name}[{index}]"
                sync = self._read_item(item, segment, declared, key)
                if sync is not None:
                    yield Placed(sync, declared, key)

    def refuse_entity_syncs(self, declared: Declared) -> None:
        """Syncs of a whole entity are understood, and not run yet."""
        for index, item in enumerate(declared.meta.entity.syncs if declared.meta.entity else ()):
            key = f"entity.syncs[{index}]"
            if self._platform(item, declared, key) is not None:
                message = "syncs of a whole entity are not supported by this version"
                self.problems.append(declared.problem(key, message, "sync a segment that holds every member"))

    def _read_item(self, item: DestinationItem, segment: Segment, declared: Declared, key: str) -> Sync | None:
        platform = self._platform(item, declared, key)
        if platform is None:
            return None
        wrong = _wrong_kind(item, platform, segment)
        if wrong is not None:
            self.problems.append(declared.problem(key, *wrong))
            return None
        identifiers, refused = choose(segment.entity.identifiers, platform, item.identifiers)
        self.problems += [declared.problem(f"{key}.identifiers", message) for message in refused]
        if not refused and not matches_alone(identifiers, platform):
            self.problems.append(declared.problem(key, *_no_unit(segment, platform, identifiers)))
            return None
        return None if refused else self._sync(item, segment, identifiers)

    def _platform(self, item: DestinationItem, declared: Declared, key: str) -> type[Destination] | None:
        """The destination behind the item's connection; None with a problem told here or by the connection."""
        if item.enabled and item.to in self.connections.names:
            self.used[item.to] = None
        if item.to not in self.connections.names and "" not in self.connections.problems:
            where = self.connections.file or "destinations.yml, which was not found"
            hint = suggest(item.to, self.connections.names)
            self.problems.append(declared.problem(key, f"there is no connection `{item.to}` in {where}", hint))
        return self.connections.types.get(item.to)

    def _sync(self, item: DestinationItem, segment: Segment, identifiers: tuple[Identifier, ...]) -> Sync | None:
        connection = self.connections.ok.get(item.to)
        if connection is None:
            return None
        object_ = item.object if isinstance(item, SyncItem) else None
        return Sync(
            id=item.id or _sync_id(segment.model.package, segment.model.name, item.to, object_),
            segment=segment,
            connection=connection,
            one_click=not isinstance(item, SyncItem),
            identifiers=identifiers,
            audience_name=item.audience_name or segment.label,
            audience_id=item.audience_id,
            object=object_,
            schedule=item.schedule,
            removals=item.removals,
            enabled=item.enabled,
            hold=item.hold.over(self.settings.hold),
            former_ids=tuple(_sync_id(segment.model.package, old, item.to, object_) for old in segment.renamed_from),
        )


def _sync_id(package: str, model: str, connection: str, object_: str | None) -> str:
    return ".".join(part for part in (package, model, connection, object_) if part)


def _wrong_kind(item: DestinationItem, platform: type[Destination], segment: Segment) -> tuple[str, str] | None:
    """Message and hint where this destination, or this version, does not do what the item asks for."""
    if isinstance(item, SyncItem):
        if platform.one_click and item.mode == "mirror" and not (item.object or item.key or item.fields_):
            return None
        message = "syncs with an object, a mapping or a mode other than mirror are not supported by this version"
        return message, "an ad platform takes `to` and `mode: mirror` alone"
    if not platform.one_click:
        return f"{platform.type} is no ad platform, so it cannot stand under `destinations`", "write it under `syncs`"
    if segment.entity.kind != "person":
        entity = segment.entity
        message = f"one-click needs an entity of kind person; `{entity.name}` is of kind {entity.kind}"
        return message, "write it under `syncs` with `mode: mirror`, or make a segment of persons"
    return None


def _no_unit(segment: Segment, platform: type[Destination], chosen: tuple[Identifier, ...]) -> tuple[str, str]:
    units = ", ".join(" with ".join(unit) for unit in platform.units)
    sent = ", ".join(identifier.name for identifier in chosen) or "none that it takes"
    message = f"{platform.type} could match nobody by the identifiers of entity `{segment.entity.name}` ({sent})"
    return message, f"it needs one of: {units}"
