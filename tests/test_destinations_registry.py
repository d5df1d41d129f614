"""Destination types by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from dbt_segments.destinations import registry
from dbt_segments.destinations.base import Destination
from dbt_segments.errors import ConfigError


class Acme(Destination):
    type = "acme"
    aliases = ("acme_ads",)


@pytest.fixture
def acme() -> Iterator[type[Destination]]:
    yield registry.register(Acme)
    registry.unregister(Acme)


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name=name, value=value, group=registry.GROUP)
    monkeypatch.setattr(registry, "_installed", lambda: {point.name: point})


@pytest.mark.parametrize("name", ["meta", "facebook"])
def test_meta_is_found_by_name_and_alias(name: str) -> None:
    """Both spellings give the same class."""
    assert registry.get(name).type == "meta"


def test_names_are_types_only() -> None:
    """Helper modules and aliases are no types."""
    assert "meta" in registry.names()
    assert not {"auth", "base", "registry", "facebook"} & set(registry.names())
    assert not [name for name in registry.names() if name.startswith("_")]


def test_names_imports_no_destination() -> None:
    """Listing types, as help does, stays cheap."""
    code = (
        "import sys; from dbt_segments.destinations import registry; registry.names();"
        "sys.exit('dbt_segments.destinations.meta' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_registered_type_is_found(acme: type[Destination]) -> None:
    """By its type, by its alias, and among the names."""
    assert registry.get("acme") is acme
    assert registry.get("acme_ads") is acme
    assert "acme" in registry.names()


@pytest.mark.parametrize(("name", "hint"), [("metta", "`meta`"), ("Facebok", "`facebook`"), ("zzz", "known: ")])
def test_an_unknown_type_names_the_nearest(name: str, hint: str) -> None:
    """A misspelled type or alias is a ConfigError that says what was meant, or what there is."""
    with pytest.raises(ConfigError) as caught:
        registry.get(name)
    assert hint in (caught.value.hint or "")


def test_an_entry_point_is_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package adds a type under its entry point's name."""
    install(monkeypatch, "elsewhere", "dbt_segments.destinations.meta:Meta")
    assert registry.get("elsewhere").type == "meta"
    assert "elsewhere" in registry.names()


@pytest.mark.parametrize("value", ["no_such_package:Thing", "dbt_segments.destinations.meta:Nothing", "json:loads"])
def test_a_broken_entry_point_is_a_config_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What cannot be loaded, or is no Destination, is named with its entry point."""
    install(monkeypatch, "elsewhere", value)
    with pytest.raises(ConfigError, match="elsewhere"):
        registry.get("elsewhere")
