"""What the suite has to know of one platform; the expected identifiers are computed without the engine."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import one_click

KEY = tuple[str, str]


@dataclass(frozen=True)
class Person:
    """One row of `customers`: an e-mail and a phone as digits with the country code, each perhaps missing."""

    number: int
    email: str | None
    digits: str | None = None

    @property
    def row(self) -> tuple[Any, ...]:
        """As `World.customers` takes it."""
        return (self.number, self.email, f"+{self.digits}" if self.digits else None)


@dataclass(frozen=True)
class Case:
    """One platform.

    name        type of the destination, and name of the platform in the sandbox
    connection  (base URL of the sandbox's platform, a folder for tokens) -> the entry of destinations.yml
    keys        the identifiers that the platform must hold of a person, as the sandbox names them
    identifiers of the entity; those that the platform does not take are not chosen
    add, remove the sandbox's words for those calls
    syncs       how many syncs a change takes until it is there: 1, or more where jobs have to end
    renews      an expired access token is renewed; else a person has to
    label       a list's name at the platform -> the label that it stands for
    deletes     its lists can be deleted; else they are emptied
    twice       the add call may be delivered twice; else that makes a second list, and nothing can be done about it
    """

    name: str
    connection: Callable[[str, Path], dict[str, Any]]
    keys: Callable[[Person], set[KEY]]
    identifiers: dict[str, Any] = field(
        default_factory=lambda: {"email": "email", "phone": {"column": "phone", "country": "country"}}
    )
    add: str = "add"
    remove: str = "remove"
    syncs: int = 1
    renews: bool = True
    label: Callable[[str], str] = str
    deletes: bool = True
    twice: bool = True

    def __str__(self) -> str:
        return self.name


def cases() -> list[Case]:
    """Those of every module `case_<platform>`, by name."""
    names = [m.name for m in pkgutil.iter_modules(one_click.__path__) if m.name.startswith("case_")]
    return [importlib.import_module(f"{one_click.__name__}.{name}").CASE for name in names]
