"""manifest.json as dbt wrote it -> models, and the `dbt_segments` blocks that were declared on them.

Source: https://schemas.getdbt.com/dbt/manifest/v12.json, as written by dbt 1.10 to 1.12. Keys are read by name and
unknown ones passed over, so that newer manifests work; catalog.json is read where the caller has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dbt_segments.errors import ManifestError, Problem
from dbt_segments.meta import Meta
from dbt_segments.spelling import is_slip, mistakes, nearest
from dbt_segments.values import Model

OLDEST_VERSION = 12
KINDS = ("model", "seed", "snapshot", "source")

Node = Mapping[str, Any]
_KEY = "dbt_segments"


@dataclass(frozen=True)
class Declared:
    """A `dbt_segments` block, the model that carries it, and the file in which a user would look for it."""

    model: Model
    file: str
    meta: Meta

    def problem(self, key: str, message: str, hint: str = "") -> Problem:
        return Problem(self.file, self.model.name, key, message, hint)


@dataclass(frozen=True)
class Nodes:
    """What the manifest says, as far as it matters here.

    known     unique_id -> all columns, only where the catalog or an enforced contract lists every one of them
    latest    names by which a versioned model is also known -> unique_id of its latest version
    broken    names of entities whose block cannot be read, so that nobody complains about them twice
    """

    project: str
    invocation_id: str
    models: Mapping[str, Model]
    tags: Mapping[str, tuple[str, ...]]
    known: Mapping[str, tuple[str, ...]]
    latest: Mapping[str, str]
    declared: tuple[Declared, ...] = ()
    problems: tuple[Problem, ...] = ()
    broken: frozenset[str] = frozenset()

    def find(self, name: str) -> Model | str:
        """The model of that name or unique_id, `source.table` included; else a text that says what is wrong.

        A name of the project itself wins over the same name in a package.
        """
        if name in self.models:
            return self.models[name]
        found = [model for model in self.models.values() if name in _names(model)]
        found = [model for model in found if model.package == self.project] or found
        if len(found) == 1:
            return found[0]
        if not found and name in self.latest:
            return self.models[self.latest[name]]
        if found:
            return f"`{name}` is in several packages: write its unique_id, as `{found[0].unique_id}`"
        hint = nearest(name, [known for model in self.models.values() for known in _names(model)])
        return f"there is no model, seed, snapshot or source `{name}`" + (f"; {hint}" if hint else "")


@dataclass
class _Blocks:
    """What is gathered while blocks are read."""

    declared: list[Declared] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


def load_manifest(path: Path) -> dict[str, Any]:
    """The manifest as JSON. Raises ManifestError where the file is missing, unreadable or too old."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{path}: not found", hint="run `dbt parse`, `dbt run` or `dbt build` first") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read ({type(error).__name__})", hint="run `dbt parse` again") from None
    check_version(manifest, str(path))
    return dict(manifest)


def load_catalog(path: Path) -> dict[str, Any] | None:
    """catalog.json where there is one; a damaged one counts as none, since it only adds checks."""
    try:
        catalog = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return catalog if isinstance(catalog, dict) else None


def check_version(manifest: object, name: str = "manifest.json") -> None:
    """Raise ManifestError unless this is a manifest of version 12 or newer."""
    metadata = manifest.get("metadata") if isinstance(manifest, dict) else None
    schema = str(metadata.get("dbt_schema_version", "")) if isinstance(metadata, dict) else ""
    match = re.search(r"/manifest/v(\d+)", schema)
    if match is None:
        raise ManifestError(f"{name}: this is no dbt manifest", hint="run `dbt parse` in the project")
    if int(match[1]) < OLDEST_VERSION:
        raise ManifestError(
            f"{name}: manifest version {match[1]} is too old, {OLDEST_VERSION} or newer is needed",
            hint="upgrade dbt to 1.10 or newer and run `dbt parse`",
        )


def read_nodes(manifest: Mapping[str, Any], catalog: Mapping[str, Any] | None = None) -> Nodes:
    """All enabled models, seeds, snapshots and sources, with their blocks and every mistake in those."""
    check_version(manifest)
    nodes = {**manifest.get("nodes", {}), **manifest.get("sources", {})}
    project = str(manifest["metadata"].get("project_name") or "")
    known = {uid: types for uid, node in nodes.items() if (types := _complete_columns(uid, node, catalog))}
    tests = _tests(nodes)
    models, tags, latest, blocks = {}, {}, {}, _Blocks()
    for uid, node in nodes.items():
        if node.get("config", {}).get("enabled") is False:
            continue
        if node.get("resource_type") not in KINDS:
            _refuse_block(node, project, blocks)
            continue
        models[uid] = _model(uid, node, project, known.get(uid), tests.get(uid, ()))
        tags[uid] = tuple(node.get("tags") or ())
        if node.get("version") is not None and node["version"] == node.get("latest_version"):
            latest[str(node["name"])] = uid
        _read_block(models[uid], node, project, blocks)
    return Nodes(
        project=project,
        invocation_id=str(manifest["metadata"].get("invocation_id") or ""),
        models=models,
        tags=tags,
        known={uid: tuple(types) for uid, types in known.items()},
        latest=latest,
        # dbt lists nodes as the file system lists files, which differs from machine to machine
        declared=tuple(sorted(blocks.declared, key=lambda one: one.model.unique_id)),
        problems=tuple(blocks.problems),
        broken=frozenset(blocks.broken),
    )


def _model(uid: str, node: Node, project: str, types: Mapping[str, str] | None, tests: Iterable[str]) -> Model:
    declared = tuple(str(column.get("name", key)) for key, column in (node.get("columns") or {}).items())
    version = node.get("version")
    return Model(
        unique_id=uid,
        name=str(node["name"]) + (f"_v{version}" if version is not None else ""),
        resource_type=str(node["resource_type"]),
        package=str(node.get("package_name", "")),
        relation=str(node.get("relation_name") or ""),
        file=_path(node, str(node.get("original_file_path") or ""), project),
        materialized=str(node.get("config", {}).get("materialized") or ""),
        columns=tuple(types) if types else declared or None,
        types=dict(types or {}),
        tests=tuple(tests),
        depends_on=_parents(node),
    )


def _names(model: Model) -> tuple[str, ...]:
    """How users may call a model: its name, and `source.table` for a source."""
    if model.resource_type == "source":
        return (model.name, ".".join(model.unique_id.split(".")[-2:]))
    return (model.name,)


def _parents(node: Node) -> tuple[str, ...]:
    return tuple((node.get("depends_on") or {}).get("nodes") or ())


def _path(node: Node, path: str, project: str) -> str:
    """A path below the project's folder; dbt links every package, local ones too, into dbt_packages."""
    package = node.get("package_name")
    return path if package == project else f"dbt_packages/{package}/{path}"


def _complete_columns(uid: str, node: Node, catalog: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Column -> type where every column is known: from the catalog, or from a contract that dbt enforces."""
    for part in ("nodes", "sources"):
        entry = ((catalog or {}).get(part) or {}).get(uid)
        if entry:
            return {str(column["name"]): str(column.get("type") or "") for column in entry["columns"].values()}
    if ((node.get("config") or {}).get("contract") or {}).get("enforced"):
        return {str(column["name"]): str(column.get("data_type") or "") for column in node["columns"].values()}
    return None


def _tests(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """unique_id of a model -> unique_ids of the data tests on it whose failure is an error."""
    tests: dict[str, list[str]] = {}
    for uid, node in nodes.items():
        config = node.get("config") or {}
        if node.get("resource_type") != "test" or config.get("enabled") is False:
            continue
        if str(config.get("severity") or "error").lower() != "error":
            continue
        attached = node.get("attached_node")
        for model in dict.fromkeys((*_parents(node), *([attached] if attached else ()))):
            tests.setdefault(model, []).append(uid)
    return tests


def _raw_block(node: Node) -> Any:
    """The block as JSON, from `config.meta` or else from plain `meta`; None where there is none."""
    for meta in _metas(node):
        if _KEY in meta:
            return meta[_KEY]
    return None


def _metas(node: Node) -> list[Mapping[str, Any]]:
    """`config.meta` and plain `meta`, as far as they are there."""
    metas = ((node.get("config") or {}).get("meta"), node.get("meta"))
    return [meta for meta in metas if isinstance(meta, Mapping)]


def _slips(node: Node) -> dict[str, Mapping[str, Any]]:
    """Blocks that were meant to be ours: a mapping under a key of `meta` that is nearly `dbt_segments`."""
    found = [(key, value) for meta in _metas(node) for key, value in meta.items() if isinstance(value, Mapping)]
    return {str(key): value for key, value in found if is_slip(key, _KEY)}


def _block_file(node: Node, project: str) -> str:
    """The YAML file that describes the node, else the file that defines it."""
    path = str(node.get("patch_path") or "").partition("://")[2] or str(node.get("original_file_path") or "")
    return _path(node, path, project)


def _refuse_block(node: Node, project: str, blocks: _Blocks) -> None:
    if _raw_block(node) is not None:
        message = f"a {node.get('resource_type')} can be neither an entity nor a segment"
        blocks.problems.append(Problem(_block_file(node, project), str(node.get("name", "")), "", message))


def _read_block(model: Model, node: Node, project: str, blocks: _Blocks) -> None:
    raw, file = _raw_block(node), _block_file(node, project)
    for key, value in _slips(node).items():
        blocks.problems.append(Problem(file, model.name, key, "unknown key in `meta`", f"did you mean `{_KEY}`?"))
        blocks.broken |= _entity_names(value)
    if raw is None:
        return
    try:
        meta = Meta.model_validate(raw)
    except ValidationError as error:
        found = [Problem(file, model.name, item.key, item.message, item.hint) for item in mistakes(error, Meta)]
        blocks.problems.extend(found)
        blocks.broken |= _entity_names(raw)
    else:
        blocks.declared.append(Declared(model, file, meta))


def _entity_names(raw: Any) -> set[str]:
    entity = raw.get("entity") if isinstance(raw, Mapping) else None
    return {str(entity["name"])} if isinstance(entity, Mapping) and "name" in entity else set()
