"""manifest.json -> the registry of entities, segments and syncs, with every mistake in one go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbt_segments.choose import NAMES, canonical, expand
from dbt_segments.connections import Connections
from dbt_segments.destinations import registry as destinations
from dbt_segments.destinations.base import Destination
from dbt_segments.errors import ConfigError, ManifestError, Problem
from dbt_segments.meta import EntityBlock
from dbt_segments.nodes import Declared, Nodes, load_manifest, read_nodes
from dbt_segments.settings import ProjectSettings
from dbt_segments.spelling import nearest
from dbt_segments.syncs import Placed, SyncReader
from dbt_segments.validate import (
    check_audiences,
    check_connections,
    check_consent,
    check_entity_columns,
    check_mapping,
    check_names,
    check_segment_columns,
    check_traits,
    check_unique,
)
from dbt_segments.values import Entity, Identifier, Model, Registry, Related, Segment

Entities = list[tuple[Entity, Declared]]
Segments = list[tuple[Segment, Declared]]


def load_registry(
    target_path: Path, settings: ProjectSettings, connections: Connections
) -> tuple[Registry, list[Problem]]:
    """The registry of the manifest in `target_path`. A catalog may be older than the models, so no sync reads it.

    Raises ManifestError where manifest.json is missing, unreadable or too old.
    """
    manifest = load_manifest(target_path / "manifest.json")
    return read_registry(manifest, settings, connections)


def checked_registry(target_path: Path, settings: ProjectSettings, connections: Connections) -> Registry:
    """The registry, or a ManifestError that holds every problem."""
    registry, problems = load_registry(target_path, settings, connections)
    if problems:
        raise ManifestError(problems=tuple(problems))
    return registry


def read_registry(
    manifest: Mapping[str, Any],
    settings: ProjectSettings,
    connections: Connections,
    catalog: Mapping[str, Any] | None = None,
) -> tuple[Registry, list[Problem]]:
    """Everything that is right, and a problem for everything that is not.

    Raises ManifestError only for something that is no manifest, or too old a one.
    """
    nodes = read_nodes(manifest, catalog)
    problems = list(nodes.problems)
    entities = _entities(nodes, problems)
    segments = _segments(nodes, entities, problems)
    placed = _syncs(nodes, entities, segments, settings, connections, problems)
    problems += check_unique(entities, segments)
    problems += check_audiences(placed, connections)
    problems += check_names(placed, connections)
    for entity, declared in entities:
        problems += check_entity_columns(entity, declared, nodes.known)
        problems += check_consent(entity, declared, connections)
    for segment, declared in segments:
        problems += check_segment_columns(segment, declared, nodes.known)
    for item in placed:
        problems += check_mapping(item, nodes.known)
        problems += check_traits(item, connections, nodes.known)
    registry = Registry(
        project=nodes.project,
        entities=tuple(entity for entity, _ in entities),
        segments=tuple(segment for segment, _ in segments),
        syncs=tuple(item.sync for item in placed),
        models=nodes.models,
        invocation_id=nodes.invocation_id,
        tags=nodes.tags,
    )
    return registry, problems


def _entities(nodes: Nodes, problems: list[Problem]) -> Entities:
    entities: Entities = []
    for declared in nodes.declared:
        block = declared.meta.entity
        if block is None or not _is_usable(declared, "entity", problems):
            continue
        entity = Entity(
            name=block.name,
            kind=block.kind,
            model=declared.model,
            key=block.key,
            identifiers=_identifiers(block, declared, problems),
            consent=dict(block.consent),
            suppress=_models(block.suppress, nodes, declared, "entity.suppress", problems),
            related=_related(block, nodes, declared, problems),
        )
        entities.append((entity, declared))
    return entities


def _segments(nodes: Nodes, entities: Entities, problems: list[Problem]) -> Segments:
    by_name = {entity.name: entity for entity, _ in reversed(entities)}
    segments: Segments = []
    for declared in nodes.declared:
        block = declared.meta.segment
        if block is None or not _is_usable(declared, "segment", problems):
            continue
        suppress = _models(block.suppress, nodes, declared, "segment.suppress", problems)
        entity = by_name.get(block.entity)
        if entity is None:
            if block.entity not in nodes.broken:
                message = f"there is no entity `{block.entity}`"
                hint = nearest(block.entity, by_name) or f"entities: {', '.join(by_name) or 'none'}"
                problems.append(declared.problem("segment.entity", message, hint))
            continue
        name = block.name or declared.model.name
        segments.append(
            (Segment(name, block.label or name, declared.model, entity, block.renamed_from, suppress), declared)
        )
    return segments


def _syncs(
    nodes: Nodes,
    entities: Entities,
    segments: Segments,
    settings: ProjectSettings,
    connections: Connections,
    problems: list[Problem],
) -> list[Placed]:
    def find(names: Iterable[str], declared: Declared, key: str) -> tuple[Model, ...]:
        return _models(names, nodes, declared, key, problems)

    reader = SyncReader(connections, settings, find)
    placed = [item for segment, declared in segments for item in reader.read(segment, declared)]
    placed += [item for entity, declared in entities for item in reader.read_entity(entity, declared)]
    problems += reader.problems
    problems += check_connections(connections, reader.used)
    suppressed, wrong = _suppressed_everywhere(nodes, connections, reader.used)
    problems += [problem for found in wrong.values() for problem in found]
    return [_with_suppression(item, suppressed, wrong) for item in placed]


def _suppressed_everywhere(
    nodes: Nodes, connections: Connections, used: Iterable[str]
) -> tuple[dict[str, tuple[Model, ...]], dict[str, tuple[Problem, ...]]]:
    """Connection -> the models whose keys none of its syncs may send, and connection -> names that are none."""
    found: dict[str, tuple[Model, ...]] = {}
    wrong: dict[str, tuple[Problem, ...]] = {}
    for name in used:
        connection = connections.ok.get(name)
        models = [_model(written, nodes) for written in (connection.settings.suppress if connection else ())]
        found[name] = tuple(model for model in models if isinstance(model, Model))
        wrong[name] = tuple(
            Problem(connections.file, name, "suppress", *model) for model in models if not isinstance(model, Model)
        )
    return found, wrong


def _with_suppression(
    item: Placed, models: Mapping[str, tuple[Model, ...]], wrong: Mapping[str, tuple[Problem, ...]]
) -> Placed:
    """The same sync, which sends nobody whom its connection suppresses; nothing at all where that cannot be known."""
    connection = item.sync.connection
    mistakes = (*connection.problems, *wrong.get(connection.name, ()))
    suppress = (*item.sync.suppress, *models.get(connection.name, ()))
    return replace(item, sync=replace(item.sync, suppress=suppress, connection=replace(connection, problems=mistakes)))


def _is_usable(declared: Declared, role: str, problems: list[Problem]) -> bool:
    """True where the model can be read from the warehouse, and as what its block says it is."""
    model = declared.model
    if role == "segment" and model.resource_type == "source":
        problems.append(declared.problem(role, "a source cannot be a segment", "select from it in a model"))
    elif model.materialized == "ephemeral":
        problems.append(declared.problem(role, "an ephemeral model is nowhere in the warehouse", "use view or table"))
    elif not model.relation:
        problems.append(declared.problem(role, "the manifest names no relation for it", "run `dbt parse` again"))
    else:
        return True
    return False


def _identifiers(block: EntityBlock, declared: Declared, problems: list[Problem]) -> tuple[Identifier, ...]:
    """The identifiers under the names of the table; a birth date as the three that it feeds."""
    platforms = list(_platforms())
    found: dict[str, tuple[str, Identifier]] = {}
    for written, item in block.identifiers.items():
        key = f"entity.identifiers.{written}"
        known = canonical(written, platforms)
        if known is None:
            hint = nearest(written, NAMES) or f"known: {', '.join(NAMES)}"
            problems.append(declared.problem(key, "there is no such identifier", hint))
            continue
        for name in expand(known):
            other, _ = found.get(name, ("", None))
            if other in block.identifiers and canonical(other, platforms) == known:
                problems.append(declared.problem(key, f"`{other}` and `{written}` are the same identifier"))
            elif not other or known == name:  # a column of its own wins over the part of a birth date
                found[name] = written, Identifier(name, item.column, item.country, item.os, item.form)
    return tuple(identifier for _, identifier in found.values())


def _platforms() -> Iterator[type[Destination]]:
    """Every destination type that can be loaded; a damaged plugin is told of where a connection uses it."""
    for name in destinations.names():
        with contextlib.suppress(ConfigError):
            yield destinations.get(name)


def _related(block: EntityBlock, nodes: Nodes, declared: Declared, problems: list[Problem]) -> tuple[Related, ...]:
    related = []
    for name, item in block.related.items():
        models = _models([item.model], nodes, declared, f"entity.related.{name}.model", problems)
        related += [Related(name, model, item.on, item.key) for model in models]
    return tuple(related)


def _models(
    names: Iterable[str], nodes: Nodes, declared: Declared, key: str, problems: list[Problem]
) -> tuple[Model, ...]:
    """The models of these names that can be read; a problem for each that cannot."""
    models = []
    for name in names:
        model = _model(name, nodes)
        if isinstance(model, Model):
            models.append(model)
        else:
            problems.append(declared.problem(key, *model))
    return tuple(models)


def _model(name: str, nodes: Nodes) -> Model | tuple[str, str]:
    """The model of that name, or what is wrong with it, and the remedy."""
    model = nodes.find(name)
    if isinstance(model, str):
        return model, ""
    if model.materialized == "ephemeral" or not model.relation:
        return f"`{name}` is nowhere in the warehouse", "use view or table"
    return model
