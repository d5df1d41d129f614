"""Destination types by name: built in, registered by an embedding program, or installed as an entry point.

A built-in type is the module of that name beside this one, imported when it is asked for.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeGuard

from dbt_segments import destinations
from dbt_segments.destinations.base import Destination
from dbt_segments.errors import ConfigError

GROUP = "dbt_segments.destinations"
_NO_TYPES = frozenset({"auth", "base", "registry", "tokens"})
_registered: dict[str, type[Destination]] = {}


def register(cls: type[Destination]) -> type[Destination]:
    """Make a type known in this process, before built-in ones of the same name; works as a class decorator."""
    _registered[cls.type] = cls
    return cls


def unregister(cls: type[Destination]) -> None:
    """Forget a type that `register` made known."""
    _registered.pop(cls.type, None)


def names() -> tuple[str, ...]:
    """Every type that can be named in destinations.yml, sorted, without aliases. Imports none of them."""
    return tuple(sorted({*_registered, *_built_in(), *_installed()}))


def get(type_name: str) -> type[Destination]:
    """The destination class of a type or of one of its aliases.

    Raises ConfigError with the nearest spelling where there is none, and where an entry point cannot be loaded.
    """
    if type_name in _registered:
        return _registered[type_name]
    if type_name in _built_in():
        return _load_built_in(type_name)
    installed = _installed()
    if type_name in installed:
        return _load_installed(installed[type_name])
    return _by_alias(type_name)


def _by_alias(name: str) -> type[Destination]:
    # Only a name that is no type's own costs the import of all built-in ones.
    known = [*_registered.values(), *(_load_built_in(built_in) for built_in in _built_in())]
    for cls in known:
        if name in cls.aliases:
            return cls
    spellings = [*names(), *(alias for cls in known for alias in cls.aliases)]
    close = difflib.get_close_matches(name.lower(), spellings, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(names())}"
    raise ConfigError(f"`{name}` is no destination type", hint=hint)


@functools.cache
def _built_in() -> frozenset[str]:
    modules = (module.name for module in pkgutil.iter_modules(destinations.__path__))
    return frozenset(name for name in modules if name not in _NO_TYPES and not name.startswith("_"))


def _load_built_in(name: str) -> type[Destination]:
    module = importlib.import_module(f"{destinations.__name__}.{name}")
    classes = [value for value in vars(module).values() if _is_destination(value)]
    return next(cls for cls in classes if cls.__dict__.get("type") == name)


@functools.cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load_installed(point: EntryPoint) -> type[Destination]:
    try:
        cls = point.load()
    except (ImportError, AttributeError) as error:
        message = f"destination type `{point.name}` of {point.value} cannot be loaded ({type(error).__name__})"
        raise ConfigError(message, hint="install it again, or remove it") from error
    if not _is_destination(cls):
        raise ConfigError(f"destination type `{point.name}`: {point.value} is no Destination")
    return cls


def _is_destination(value: Any) -> TypeGuard[type[Destination]]:
    return isinstance(value, type) and issubclass(value, Destination) and value is not Destination
