"""JSON Schemas for editors, made from the models that read the files, so that they cannot say anything else.

Source: JSON Schema 2020-12, which pydantic writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dbt_segments.destinations import registry
from dbt_segments.meta import Meta
from dbt_segments.settings import ProjectSettings

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NODES = ("models", "seeds", "snapshots", "sources")
Schema = dict[str, Any]


def of_meta() -> Schema:
    """A dbt properties file, such as models/schema.yml; only `dbt_segments` blocks are checked."""
    block = Meta.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    definitions = block.pop("$defs", {})
    holder: Schema = {"properties": {"dbt_segments": {"$ref": "#/$defs/DbtSegments"}}}
    node: Schema = {"properties": {"meta": holder, "config": {"properties": {"meta": holder}}}}
    node["properties"]["versions"] = {"items": {"properties": {"config": {"properties": {"meta": holder}}}}}
    node["properties"]["tables"] = {"items": {"properties": dict(node["properties"])}}
    return {
        "$schema": _DRAFT,
        "title": "dbt properties with dbt_segments blocks",
        "type": "object",
        "properties": {name: {"items": {"$ref": "#/$defs/Node"}} for name in _NODES},
        "$defs": {**definitions, "DbtSegments": block, "Node": node},
    }


def of_vars() -> Schema:
    """dbt_project.yml; only `vars: {dbt_segments: ...}` is checked."""
    settings = ProjectSettings.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    definitions = settings.pop("$defs", {})
    return {
        "$schema": _DRAFT,
        "title": "dbt_project.yml with the settings of dbt_segments",
        "type": "object",
        "properties": {"vars": {"properties": {"dbt_segments": {"$ref": "#/$defs/Settings"}}}},
        "$defs": {**definitions, "Settings": settings},
    }


def of_destinations() -> Schema:
    """destinations.yml: a connection is checked as its `type`, or without one as its name says.

    Each value may be text instead, since texts may call env_var().
    """
    definitions: Schema = {}
    aliases: dict[str, str] = {}
    for name in registry.names():
        cls = registry.get(name)
        aliases |= dict.fromkeys((name, *cls.aliases), name)
        schema = cls.settings_model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}_{{model}}")
        definitions |= {f"{name}_{inner}": _lenient(part) for inner, part in schema.pop("$defs", {}).items()}
        definitions[name] = _lenient(schema)
        definitions[name].setdefault("properties", {})["type"] = {"type": "string"}
    definitions["connection"] = {
        "type": "object",
        "properties": {"type": {"enum": sorted(aliases)}},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": alias}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for alias, name in sorted(aliases.items())
        ],
    }
    return {
        "$schema": _DRAFT,
        "title": "destinations.yml",
        "type": ["object", "null"],
        "properties": {
            alias: {"if": {"not": {"required": ["type"]}}, "then": {"$ref": f"#/$defs/{name}"}}
            for alias, name in sorted(aliases.items())
        },
        "additionalProperties": {"required": ["type"]},
        "allOf": [{"additionalProperties": {"$ref": "#/$defs/connection"}}],
        "$defs": definitions,
    }


SCHEMAS: Mapping[str, Callable[[], Schema]] = {"meta": of_meta, "destinations": of_destinations, "vars": of_vars}


def _lenient(schema: Any) -> Any:
    """The schema with every plain value allowed to be text, and every text to be a number without quotes."""
    if isinstance(schema, list):
        return [_lenient(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind in ("number", "integer", "boolean"):
        return {"anyOf": [schema, {"type": "string"}], **{key: schema[key] for key in ("title",) if key in schema}}
    if kind == "string" and "enum" not in schema and "const" not in schema:
        return {**schema, "type": ["string", "number"]}
    return {key: _lenient(value) if key != "default" else value for key, value in schema.items()}
