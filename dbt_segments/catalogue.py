"""What each destination type is and takes, from its own declarations."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from dbt_segments.destinations import registry
from dbt_segments.destinations.base import ConnectionSettings, Destination, Op, Support


def types() -> list[dict[str, Any]]:
    """Every type in one line: its name, title, API version, and whether it is an ad platform."""
    return [
        {
            "type": name,
            "title": cls.title,
            "version": cls.version,
            "one_click": cls.one_click,
            "aliases": list(cls.aliases),
        }
        for name, cls in ((name, registry.get(name)) for name in registry.names())
    ]


def describe(type_name: str) -> dict[str, Any]:
    """All that a destination declares. Raises ConfigError for a type that is none."""
    cls = registry.get(type_name)
    return {
        "type": cls.type,
        "title": cls.title,
        "version": cls.version,
        "one_click": cls.one_click,
        "aliases": list(cls.aliases),
        "base_url": getattr(cls, "base_url", ""),
        "settings": _settings(cls),
        "identifiers": [
            {
                "identifier": name,
                "field": accepts.field,
                "rule": accepts.rule.name,
                "options": list(accepts.rule.options),
                "hashed": accepts.rule.hashed,
                "matches": _matches(name, cls),
                "forgotten_after_days": cls.forgets_after_days.get(name),
            }
            for name, accepts in cls.identifiers.items()
        ],
        "units": [list(unit) for unit in cls.units],
        "limits": {
            "members": cls.limits.members,
            "body_bytes": cls.limits.body_bytes,
            "requests_per_s": cls.limits.requests_per_s,
            "concurrency": cls.limits.concurrency,
        },
        "operations": {op.value: _support(cls, op) for op in cls.operations},
        "retention_days": cls.retention_days,
        "modes": list(cls.modes),
        "consent_channel": cls.channel,
        "has_mark": cls.has_mark,
    }


def _matches(name: str, cls: type[Destination]) -> str:
    """Whether a platform finds somebody by this identifier: alone, only together with others, or never."""
    sizes = [len(unit) for unit in cls.units if name in unit]
    return "never" if not sizes else "alone" if 1 in sizes else "together"


def _support(cls: type[Destination], op: Op) -> str:
    support = cls.operations[op]
    if op is Op.REPLACE and cls.sweeps:
        return "yes: everybody is added, and a later run removes whoever else is in"
    return "yes" if support is Support.FULL else f"no: {support.value}"


def _settings(cls: type[Destination]) -> list[dict[str, Any]]:
    """The type's own settings, then those that all share."""
    shared = ConnectionSettings.model_fields
    fields = cls.settings_model.model_fields
    ordered = sorted(fields.items(), key=lambda item: item[0] in shared)
    return [
        {
            "setting": info.alias or name,
            "required": info.is_required(),
            "secret": _is_secret(info),
            "default": None if info.is_required() or _is_secret(info) else _plain(info.default),
            "shared": name in shared,
            "description": info.description or "",
        }
        for name, info in ordered
    ]


def _is_secret(info: FieldInfo) -> bool:
    return SecretStr in (info.annotation, *get_args(info.annotation))


def _plain(value: Any) -> Any:
    if value == ():
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
