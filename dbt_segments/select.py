"""`--select` and `--exclude`, in the part of dbt's language that makes sense for syncs.

    lapsed_buyers            a segment, a model or a sync id; `*`, `?` and `[ab]` are wildcards
    tag:marketing            models with the tag
    path:models/marts        models in the folder or file
    +name  name+  2+name+1   with ancestors, with descendants, with so many generations of them
    a,tag:b                  both; a space, or a second --select, means either

Source: https://docs.getdbt.com/reference/node-selection/syntax
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dbt_segments.errors import ConfigError
from dbt_segments.values import Model, Registry, Sync

_TERM = re.compile(r"^(?P<up>\d*\+)?(?:(?P<method>[a-z_.]+):)?(?P<value>[^+@:]+)(?P<down>\+\d*)?$")
_SUPPORTED = "supported: names of segments, models or syncs, tag:, path:, wildcards, `+` before or after, `,` for both"


@dataclass(frozen=True)
class Selection:
    """The syncs that were selected, in the registry's order, and every selector that matched none."""

    syncs: tuple[Sync, ...]
    unmatched: tuple[str, ...] = ()


def select_syncs(registry: Registry, select: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """The syncs to run; all of them where nothing is selected.

    Raises ConfigError for a selector that is not understood.
    """
    finder = _Finder(registry)
    matches = {selector: finder.find(selector) for selector in _split(select)}
    refused = {selector: finder.find(selector) for selector in _split(exclude)}
    chosen = set[str]().union(*matches.values()) if matches else {sync.id for sync in registry.syncs}
    chosen = chosen.difference(*refused.values())
    return Selection(
        syncs=tuple(sync for sync in registry.syncs if sync.id in chosen),
        unmatched=tuple(selector for selector, found in {**matches, **refused}.items() if not found),
    )


def _split(selectors: Iterable[str]) -> list[str]:
    return [part for selector in selectors for part in selector.split()]


class _Finder:
    """Finds the syncs that a selector means."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.parents = {uid: model.depends_on for uid, model in registry.models.items()}
        self.children: dict[str, list[str]] = {}
        for uid, parents in self.parents.items():
            for parent in parents:
                self.children.setdefault(parent, []).append(uid)

    def find(self, selector: str) -> set[str]:
        """Ids of the syncs that match every comma-separated term."""
        found = [self._term(term, selector) for term in selector.split(",")]
        return set.intersection(*found)

    def _term(self, term: str, selector: str) -> set[str]:
        parsed = _TERM.match(term)
        if parsed is None or parsed["method"] not in (None, "tag", "path"):
            raise ConfigError(f"selector `{selector}` is not understood", hint=_SUPPORTED)
        nodes = {uid for uid, model in self.registry.models.items() if self._matches(model, parsed)}
        if parsed["up"]:
            nodes |= _reach(nodes, self.parents, parsed["up"].strip("+"))
        if parsed["down"]:
            nodes |= _reach(nodes, self.children, parsed["down"].strip("+"))
        return {
            sync.id
            for sync in self.registry.syncs
            if sync.segment.model.unique_id in nodes
            or (parsed["method"] is None and fnmatchcase(sync.id, parsed["value"]))
        }

    def _matches(self, model: Model, parsed: re.Match[str]) -> bool:
        value = parsed["value"]
        if parsed["method"] == "tag":
            return any(fnmatchcase(tag, value) for tag in self.registry.tags.get(model.unique_id, ()))
        if parsed["method"] == "path":
            folder = value.rstrip("/")
            return model.file == folder or model.file.startswith(f"{folder}/") or fnmatchcase(model.file, value)
        return any(fnmatchcase(name, value) for name in self._names(model))

    def _names(self, model: Model) -> tuple[str, ...]:
        """A model's own name, as `name.v2` too, and those of its segments."""
        dotted = re.sub(r"_(v\d+)$", r".\1", model.name)
        segments = (item.name for item in self.registry.segments if item.model.unique_id == model.unique_id)
        return (model.name, dotted, *segments)


def _reach(start: set[str], edges: Mapping[str, Iterable[str]], generations: str) -> set[str]:
    """Everything reachable over `edges` in so many steps; an empty text means any number."""
    reached, frontier = set[str](), set(start)
    left = int(generations) if generations else -1
    while frontier and left:
        frontier = {near for uid in frontier for near in edges.get(uid, ())} - reached
        reached |= frontier
        left -= 1
    return reached
