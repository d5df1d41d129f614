"""Switching a segment's sync on and off, and adding one: edits of the YAML file that declares the segment.

Off is written as `enabled: false` and the item stays, with its overrides; the audience stays as it is. On takes that
away again, or adds the connection to `destinations`. Where the file cannot be edited safely, nothing is written and
the error holds the lines to write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dbt_segments import yamledit
from dbt_segments.connections import Connections
from dbt_segments.errors import ConfigError, Problem
from dbt_segments.manifest import read_registry
from dbt_segments.meta import Meta
from dbt_segments.nodes import Declared, load_manifest, read_nodes
from dbt_segments.project import read_configuration
from dbt_segments.settings import Options, ProjectSettings
from dbt_segments.spelling import suggest
from dbt_segments.syncs import SyncReader
from dbt_segments.values import Segment
from dbt_segments.yamledit import NotEditableError

_KINDS = ("destinations", "syncs")
_SECTIONS = ("models", "seeds", "snapshots")
_PATHS = (("config", "meta", "dbt_segments", "segment"), ("meta", "dbt_segments", "segment"))


@dataclass(frozen=True)
class Opened:
    """A segment of the project, and what is needed to judge a change of its syncs."""

    options: Options
    segment: Segment
    declared: Declared
    connections: Connections
    settings: ProjectSettings

    @property
    def path(self) -> Path:
        return self.options.project_dir / self.declared.file


@dataclass(frozen=True)
class Change:
    """What was done, or would be.

    file     as the user knows it
    changed  False: it was so already
    lines    the change as YAML, below `segment`
    """

    file: str
    segment: str
    destination: str
    changed: bool
    lines: tuple[str, ...] = ()


def open_segment(options: Options, name: str, connection: str) -> Opened:
    """The segment of that name, or of the model of that name. Raises ConfigError where it or the connection is none."""
    _, settings, connections = read_configuration(options)
    manifest = load_manifest(options.target_path / "manifest.json")
    registry, _ = read_registry(manifest, settings, connections)
    found = [segment for segment in registry.segments if name in (segment.name, segment.model.name)]
    if not found:
        names = [segment.name for segment in registry.segments]
        hint = suggest(name, names) or "dbt-segments validate tells what is wrong with the others"
        for entity in registry.entities:
            if name in (entity.name, entity.model.name):
                hint = f"`{name}` is an entity: edit its syncs by hand, under `entity: syncs:` of {entity.model.name}"
        raise ConfigError(f"there is no segment `{name}`", hint=hint)
    if connection not in connections.names:
        where = connections.file or "destinations.yml, which was not found"
        raise ConfigError(
            f"there is no connection `{connection}` in {where}", hint=suggest(connection, connections.names) or None
        )
    (declared,) = (one for one in read_nodes(manifest).declared if one.model.unique_id == found[0].model.unique_id)
    return Opened(options, found[0], declared, connections, settings)


def enable(options: Options, name: str, connection: str) -> Change:
    """Switch the sync on, or add a one-click sync."""
    opened = open_segment(options, name, connection)

    def change(text: str, segment: yaml.Node, values: dict[str, Any]) -> str | None:
        place = _find(opened, values, connection)
        if place is None:
            refuse(opened, {"to": connection})
            return _with_item(text, segment, values, "destinations", connection)
        kind, index, item = place
        if isinstance(item, str) or item.get("enabled", True):
            return None
        node = _item_node(segment, kind, index)
        short = isinstance(node, yaml.MappingNode) and node.flow_style and set(item) == {"to", "enabled"}
        if short and kind == "destinations":
            values[kind][index] = connection
            written = yamledit.value_of(node, "to")
            assert written is not None, "it was found by this key"
            return yamledit.replaced(text, node, yamledit.text_of(text, written))
        without = yamledit.without_last_key(text, node, "enabled")
        if without is not None:
            del item["enabled"]
            return without
        item["enabled"] = True
        return _set_enabled(text, node, True)

    return _edit(opened, connection, {"destinations": [connection]}, change)


def disable(options: Options, name: str, connection: str) -> Change:
    """Switch the sync off; its item and its audience stay."""
    opened = open_segment(options, name, connection)
    off = {"to": connection, "enabled": False}

    def change(text: str, segment: yaml.Node, values: dict[str, Any]) -> str | None:
        place = _find(opened, values, connection)
        if place is None:
            message = f"{opened.segment.name} has no sync to {connection}"
            raise ConfigError(message, hint="dbt-segments list shows all syncs")
        kind, index, item = place
        node = _item_node(segment, kind, index)
        if isinstance(item, str):
            values[kind][index] = off
            return yamledit.replaced(text, node, f"{{to: {yamledit.text_of(text, node)}, enabled: false}}")
        if item.get("enabled") is False:
            return None
        item["enabled"] = False
        return _set_enabled(text, node, False)

    return _edit(opened, connection, {"destinations": [off]}, change)


def add_item(opened: Opened, kind: str, item: Any) -> Change:
    """Add an item to the segment's `destinations` or `syncs`."""
    return _edit(
        opened,
        item["to"] if isinstance(item, dict) else item,
        {kind: [item]},
        lambda text, segment, values: _with_item(text, segment, values, kind, item),
    )


def _with_item(text: str, segment: yaml.Node, values: dict[str, Any], kind: str, item: Any) -> str:
    items = yamledit.value_of(segment, kind)
    values[kind] = [*(values.get(kind) or ()), item]
    if items is None:
        return yamledit.with_key(text, segment, kind, [item])
    if isinstance(items, yaml.SequenceNode):
        return yamledit.with_item(
            text, items, yamledit.block(item) if isinstance(item, dict) else [yamledit.flow(item)]
        )
    raise NotEditableError(f"line {items.start_mark.line + 1}: `{kind}` holds no list")


def refuse(opened: Opened, item: Mapping[str, Any], kind: str = "destinations") -> None:
    """Raise ConfigError where this sync would be a mistake: wrong kind of entity, nothing to match on, no such mode."""
    block = {"entity": opened.segment.entity.name, kind: [dict(item)]}
    declared = Declared(opened.segment.model, opened.declared.file, Meta.model_validate({"segment": block}))
    reader = SyncReader(opened.connections, opened.settings)
    list(reader.read(opened.segment, declared))
    problems = [*opened.connections.problems.get(item["to"], ()), *reader.problems]
    if problems:
        raise ConfigError(
            problems=tuple(
                Problem(one.file, one.model, one.key.replace(f"segment.{kind}[0]", "segment"), one.message, one.hint)
                for one in problems
            )
        )


def _find(opened: Opened, values: dict[str, Any], connection: str) -> tuple[str, int, Any] | None:
    """Where the segment's only item for a connection stands in the file, and the item."""
    found = [
        (kind, index, item)
        for kind in _KINDS
        for index, item in enumerate(values.get(kind) or ())
        if _to(item) == connection
    ]
    if len(found) > 1:
        raise ConfigError(
            f"{opened.segment.name} has {len(found)} syncs to {connection}",
            hint=f"switch the one that you mean in {opened.declared.file}, with `enabled:`",
        )
    return found[0] if found else None


def _item_node(segment: yaml.Node, kind: str, index: int) -> yaml.Node:
    items = yamledit.value_of(segment, kind)
    assert isinstance(items, yaml.SequenceNode), "its values are a list"
    item: yaml.Node = items.value[index]
    return item


def _set_enabled(text: str, node: yaml.Node, value: bool) -> str:
    written = yamledit.value_of(node, "enabled")
    if written is not None:
        return yamledit.replaced(text, written, yamledit.flow(value))
    return yamledit.with_key(text, node, "enabled", value)


def _edit(
    opened: Opened,
    connection: str,
    wanted: Mapping[str, Any],
    change: Callable[[str, yaml.Node, dict[str, Any]], str | None],
) -> Change:
    """Write the file with a change made, provided that it then says what is expected and that nothing else differs.

    change  (text, the segment's node, the segment's values) -> text, making the same change on the values; None where
            nothing is to be done
    wanted  what the user is to write where the file cannot be edited
    """
    try:
        if opened.declared.file.startswith("dbt_packages/"):
            raise NotEditableError("it belongs to a package")
        if opened.path.suffix not in (".yml", ".yaml"):
            raise NotEditableError("the block stands in no YAML file; is it in config() of the SQL?")
        text = yamledit.read(opened.path)
        expected = yamledit.load(text)
        values = _segment_values(expected, opened)
        after = change(text, _segment_node(text, opened), values)
        if after is None:
            return Change(opened.declared.file, opened.segment.name, connection, False)
        if yamledit.load(after) != expected:
            raise NotEditableError("its form cannot be edited safely")
        yamledit.write(opened.path, after)
    except (NotEditableError, OSError) as error:
        reason = str(error) if isinstance(error, NotEditableError) else type(error).__name__
        lines = "\n".join(f"  {line}" for line in yamledit.block({"segment": dict(wanted)}))
        raise ConfigError(
            f"{opened.declared.file}: {opened.declared.model.name}: not edited: {reason}",
            hint=f"write it yourself, below `dbt_segments`:\n{lines}",
        ) from None
    shown = {kind: [item for item in values.get(kind) or () if _to(item) == connection] for kind in _KINDS}
    said = yamledit.block({kind: items for kind, items in shown.items() if items})
    return Change(opened.declared.file, opened.segment.name, connection, True, tuple(said))


def _to(item: Any) -> Any:
    return item.get("to") if isinstance(item, dict) else item


def _segment_node(text: str, opened: Opened) -> yaml.Node:
    """The node of the segment's block, in a part of the file without anchors and aliases."""
    for section in _SECTIONS:
        items = yamledit.value_of(yamledit.root(text), section)
        for item in items.value if isinstance(items, yaml.SequenceNode) else ():
            name = yamledit.value_of(item, "name")
            if name is None or name.value != opened.segment.model.name:
                continue
            for path in _PATHS:
                found = yamledit.at(item, *path)
                if isinstance(found, yaml.MappingNode):
                    yamledit.require_plain(text, item)
                    return found
    raise NotEditableError("the block does not stand there with the model; is it inherited, or that of a version?")


def _segment_values(data: Any, opened: Opened) -> dict[str, Any]:
    """The segment's block in loaded values, where `_segment_node` finds it."""
    for section in _SECTIONS:
        for item in data.get(section) or ():
            if item.get("name") == opened.segment.model.name:
                for path in _PATHS:
                    found: Any = item
                    for key in path:
                        found = found.get(key) if isinstance(found, dict) else None
                    if isinstance(found, dict):
                        return found
    raise NotEditableError("the block does not stand there with the model")
