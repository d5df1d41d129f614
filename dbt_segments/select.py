"""`--select`, `--exclude` and `--selector`: dbt's language, with dbt's meaning, for syncs.

    lapsed_buyers            a segment, a model or a sync id; `*`, `?` and `[ab]` are wildcards
    tag:x  path:models/marts source:s  config.materialized:view  package:p  state:modified  ...  dbt's methods
    +name  name+  2+name+1   with ancestors, with descendants, with so many generations of them
    @name                    with descendants and all their ancestors
    a,tag:b                  both; a space, or a second --select, means either

Known names and plain tags are found here at once; everything else is asked of dbt (`dbtgraph`). Beyond dbt's own, a
name may be that of a segment or of a sync.

Source: https://docs.getdbt.com/reference/node-selection/syntax
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Protocol

from dbt_segments.errors import ConfigError
from dbt_segments.values import Model, Registry, Sync

_TERM = re.compile(
    r"^(?P<prefix>@|(?P<up>\d*)\+)?(?:(?P<method>[\w.]+):)?(?P<value>.*?)(?P<suffix>\+(?P<down>\d*))?$", re.DOTALL
)
_WILD = re.compile(r"[*?\[\]]")
# What these find depends on the day: that they find nothing is no mistake.
_MAY_BE_EMPTY = re.compile(r"(^|,)[@+\d]*(state|result|source_status)[.\w]*:")


class Dbt(Protocol):
    """Answers for dbt: `dbtgraph.DbtGraph`."""

    def term(self, text: str) -> set[str]:
        """unique_ids of the nodes that one selector without a comma means."""

    def named(self, name: str) -> set[str]:
        """unique_ids of the nodes of a selector of selectors.yml."""


@dataclass(frozen=True)
class Selection:
    """The syncs that were selected, in the registry's order, and every selector that matched none by mistake."""

    syncs: tuple[Sync, ...]
    unmatched: tuple[str, ...] = ()


def select_syncs(
    registry: Registry, dbt: Dbt, select: Sequence[str] = (), exclude: Sequence[str] = (), selector: str | None = None
) -> Selection:
    """The syncs to run; all of them where nothing is selected.

    selector  a name of selectors.yml, instead of the other two, as in dbt

    Raises ConfigError for a selector that is not understood.
    """
    finder = _Finder(registry, dbt)
    if selector is not None:
        if select or exclude:
            raise ConfigError("--selector stands alone", hint="leave out --select and --exclude")
        return Selection(finder.ordered(finder.of_nodes(dbt.named(selector))))
    matches = {text: finder.find(text) for text in _split(select)}
    refused = {text: finder.find(text) for text in _split(exclude)}
    chosen = set[str]().union(*matches.values()) if matches else {sync.id for sync in registry.syncs}
    return Selection(
        syncs=finder.ordered(chosen.difference(*refused.values())),
        unmatched=tuple(
            text for text, found in {**matches, **refused}.items() if not found and not _MAY_BE_EMPTY.search(text)
        ),
    )


def _split(selectors: Iterable[str]) -> list[str]:
    return [part for selector in selectors for part in selector.split()]


class _Finder:
    """Finds the syncs that a selector means."""

    def __init__(self, registry: Registry, dbt: Dbt) -> None:
        self._registry = registry
        self._dbt = dbt
        self._parents = {uid: model.depends_on for uid, model in registry.models.items()}
        self._children: dict[str, list[str]] = {}
        for uid, parents in self._parents.items():
            for parent in parents:
                self._children.setdefault(parent, []).append(uid)
        self._names = self._known_names()
        # What dbt takes as the beginning of a path of names: a name that is one of them may mean more than one model.
        self._folders = {part for model in registry.models.values() for part in _folders(model)}

    def find(self, selector: str) -> set[str]:
        """Ids of the syncs that match every comma-separated term."""
        found = [self._term(term, selector) for term in selector.split(",")]
        return set.intersection(*found)

    def of_nodes(self, nodes: set[str]) -> set[str]:
        """Ids of the syncs whose segments are among the nodes."""
        return {sync.id for sync in self._registry.syncs if sync.segment.model.unique_id in nodes}

    def ordered(self, ids: set[str]) -> tuple[Sync, ...]:
        return tuple(sync for sync in self._registry.syncs if sync.id in ids)

    def _term(self, term: str, selector: str) -> set[str]:
        parsed = _TERM.match(term)
        if parsed is None or not parsed["value"]:
            raise ConfigError(
                f"selector `{selector}` is not understood", hint="a comma and a colon stand between words"
            )
        if parsed["method"] is None:
            return self._by_name(parsed, term)
        if parsed["method"] == "tag" and not parsed["prefix"] and not parsed["suffix"]:
            tagged = {uid for uid, tags in self._registry.tags.items() if _any_matches(tags, parsed["value"])}
            return self.of_nodes(tagged)
        return self.of_nodes(self._dbt.term(term))

    def _by_name(self, parsed: re.Match[str], term: str) -> set[str]:
        """A term without a method: what this program calls so, and what dbt does."""
        value, alone = parsed["value"], not parsed["prefix"] and not parsed["suffix"]
        syncs = {sync.id for sync in self._registry.syncs if alone and fnmatchcase(sync.id, value)}
        named = {uid for name, uids in self._names.items() if fnmatchcase(name, value) for uid in uids}
        if named and not _WILD.search(value) and value not in self._folders and parsed["prefix"] != "@":
            return syncs | self.of_nodes(self._spread(named, parsed))
        if syncs and not _WILD.search(value):
            return syncs
        nodes = self._dbt.term(term)
        for uid in self._segments_called(value):
            model = self._registry.models[uid]
            nodes |= self._dbt.term(f"{parsed['prefix'] or ''}fqn:{model.name}{parsed['suffix'] or ''}")
        return syncs | self.of_nodes(nodes)

    def _spread(self, nodes: set[str], parsed: re.Match[str]) -> set[str]:
        """The nodes with the ancestors and descendants that `+` asks for."""
        found = set(nodes)
        if parsed["prefix"]:
            found |= _reach(nodes, self._parents, parsed["up"])
        if parsed["suffix"]:
            found |= _reach(nodes, self._children, parsed["down"])
        return found

    def _known_names(self) -> Mapping[str, set[str]]:
        """Name -> nodes: a model's own, as `name.v2` too, and those of its segments. A source has no bare name."""
        names: dict[str, set[str]] = {}
        for uid, model in self._registry.models.items():
            if model.resource_type != "source":
                for name in {model.name, re.sub(r"_(v\d+)$", r".\1", model.name)}:
                    names.setdefault(name, set()).add(uid)
        for segment in self._registry.segments:
            names.setdefault(segment.name, set()).add(segment.model.unique_id)
        for entity in self._registry.entities:
            names.setdefault(entity.name, set()).add(entity.model.unique_id)
        return names

    def _segments_called(self, value: str) -> set[str]:
        """Models of the segments of that name, where the segment has another name than its model."""
        return {
            segment.model.unique_id
            for segment in self._registry.segments
            if segment.name != segment.model.name and fnmatchcase(segment.name, value)
        }


def _folders(model: Model) -> tuple[str, ...]:
    return (model.package, *PurePosixPath(model.file).parent.parts)


def _any_matches(tags: Iterable[str], value: str) -> bool:
    return any(fnmatchcase(tag, value) for tag in tags)


def _reach(start: set[str], edges: Mapping[str, Iterable[str]], generations: str) -> set[str]:
    """Everything reachable over `edges` in so many steps; an empty text means any number."""
    reached, frontier = set[str](), set(start)
    left = int(generations) if generations else -1
    while frontier and left:
        frontier = {near for uid in frontier for near in edges.get(uid, ())} - reached
        reached |= frontier
        left -= 1
    return reached
