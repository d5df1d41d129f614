"""What a new sync of a segment may look like: one-click for an ad platform, else a key and a mapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dbt_segments.errors import ConfigError, Problem
from dbt_segments.meta import SyncItem
from dbt_segments.settings import Options
from dbt_segments.spelling import mistakes
from dbt_segments.toggle import Change, Opened, add_item, open_segment, refuse
from dbt_segments.values import Segment
from dbt_segments.yamledit import block


@dataclass(frozen=True)
class Proposal:
    """A sync that could be added.

    kind   `destinations` (one-click) or `syncs`
    item   as it will stand in the YAML: a connection's name, or a mapping
    left   columns, also `relation.column`, that could be mapped too
    """

    opened: Opened
    kind: str
    item: Any
    left: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The item as YAML, below `segment`."""
        return block({self.kind: [self.item]})

    def write(self) -> Change:
        """Put it into the YAML file that declares the segment."""
        return add_item(self.opened, self.kind, self.item)


def propose(
    options: Options, name: str, connection: str, *, mode: str | None = None, object_: str | None = None
) -> Proposal:
    """A sync of the segment to the connection.

    mode, object_  of a classic sync; naming one asks for a classic sync where the destination is an ad platform

    Raises ConfigError where there is such a sync already, or where it could not work.
    """
    opened = open_segment(options, name, connection)
    declared = opened.declared.meta.segment
    assert declared is not None, "only opened for segments"
    items = (*declared.destinations, *declared.syncs)
    present = [getattr(item, "object", None) for item in items if item.to == connection]
    if object_ in present:
        raise ConfigError(
            f"{opened.segment.name} has a sync to {connection} already",
            hint=f"dbt-segments enable {opened.segment.name} {connection} switches it on",
        )
    platform = opened.connections.types.get(connection)
    if platform is None:
        raise ConfigError(problems=opened.connections.problems[connection])
    if platform.one_click and mode is None and object_ is None:
        refuse(opened, {"to": connection})
        return Proposal(opened, "destinations", connection)
    if platform.one_click:  # an ad platform takes no mapping
        return _checked(opened, {"to": connection, **_object(object_), "mode": mode or "mirror"})
    key, fields, left = _mapping(opened.segment)
    usual = "upsert" if "upsert" in platform.modes else platform.modes[0]
    item = {"to": connection, **_object(object_), "mode": mode or usual, "key": {key: key}, "fields": fields}
    return _checked(opened, item, left)


def _object(name: str | None) -> dict[str, str]:
    return {"object": name} if name else {}


def _mapping(segment: Segment) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Key, fields and what is left: the entity's identifiers and the segment's own columns, each under its own name."""
    entity = segment.entity
    mapped = dict.fromkeys(item.column for item in entity.identifiers if item.column != entity.key)
    mapped |= dict.fromkeys(column for column in segment.model.columns or () if column != entity.key)
    unsaid = {entity.key, *mapped, *entity.consent.values()}
    left = [column for column in entity.model.columns or () if column not in unsaid]
    left += [
        f"{one.name}.{column}" for one in entity.related for column in one.model.columns or () if column != one.key
    ]
    return entity.key, {column: column for column in mapped}, tuple(left)


def _checked(opened: Opened, item: dict[str, Any], left: tuple[str, ...] = ()) -> Proposal:
    if not item.get("fields", True):
        del item["fields"]
    try:
        SyncItem.model_validate(item)
    except ValidationError as error:
        raise ConfigError(
            problems=tuple(
                Problem(
                    opened.declared.file, opened.segment.model.name, f"segment.syncs.{one.key}", one.message, one.hint
                )
                for one in mistakes(error, SyncItem)
            )
        ) from None
    refuse(opened, item, "syncs")
    return Proposal(opened, "syncs", item, left)
