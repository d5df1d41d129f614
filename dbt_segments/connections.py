"""destinations.yml -> connections, each validated by its destination's own settings model.

The file is YAML whose texts may call `env_var('NAME')` or `env_var('NAME', 'default')`, as in dbt's profiles.yml.
Problems are kept by connection, so that one that nobody uses does not need its secrets. No message holds a value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import ValidationError

from dbt_segments.destinations import registry
from dbt_segments.destinations.base import ConnectionSettings, Destination
from dbt_segments.errors import ConfigError, Problem
from dbt_segments.spelling import mistakes, nearest
from dbt_segments.values import Connection

_WORD = re.compile(r"(?=.{1,32}$)[A-Za-z]+([_-][A-Za-z]+)*")
_VARIABLE = re.compile(r"(?=.{1,80}$)[A-Za-z_]+[A-Za-z0-9]*(_[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Connections:
    """What destinations.yml says.

    file      path as the user knows it; empty where no file was found
    ok        connections that can be used
    problems  connection name -> its mistakes; under "" those of the file itself
    types     every connection whose type is known, usable or not
    """

    file: str = ""
    ok: Mapping[str, Connection] = field(default_factory=dict)
    problems: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    types: Mapping[str, type[Destination]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.ok, *(name for name in self.problems if name))))

    def get(self, name: str) -> Connection | None:
        """The connection, with its mistakes and without settings where it cannot be used; None where there is none."""
        if name in self.ok or name not in self.names:
            return self.ok.get(name)
        cls = self.types.get(name)
        return Connection(name, cls.type if cls else "", None, tuple(self.problems[name]))


def read_connections(path: Path | None, env: Mapping[str, str], folder: Path | None = None) -> Connections:
    """Every connection of the file; none where there is no file. Nothing is raised: mistakes are problems.

    folder  where relative paths in settings begin; None: the current one
    """
    if path is None:
        return Connections()
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  it is a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        return _unreadable(path, f"cannot be read ({type(error).__name__})")
    except yaml.YAMLError as error:
        return _unreadable(path, _yaml_words(error))
    if not isinstance(entries or {}, dict):
        return _unreadable(path, "must be a mapping of connection names to settings")
    readers = [_Reader(str(path), str(name), env, folder or Path()) for name in entries or {}]
    results = {reader.name: reader.read((entries or {})[reader.name]) for reader in readers}
    return Connections(
        file=str(path),
        ok={name: connection for name, connection in results.items() if connection is not None},
        problems={reader.name: tuple(reader.problems) for reader in readers if reader.problems},
        types={reader.name: reader.type for reader in readers if reader.type is not None},
    )


class _Loader(yaml.SafeLoader):
    """YAML in which numbers and dates stay the text that was written, and a key may stand only once.

    Account ids are numbers with meaningful digits and API versions look like dates; settings models convert the few
    settings that are numbers.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            said = f"`{twice}` stands" if _is_a_word(str(twice)) else "a key stands"
            raise yaml.constructor.ConstructorError(None, None, f"{said} there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_KEPT_TAGS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _MissingVariable(Exception):
    """env_var() was asked for a variable that is not set."""


class _Reader:
    """Reads one connection; `problems` and `type` are filled on the way."""

    def __init__(self, file: str, name: str, env: Mapping[str, str], folder: Path) -> None:
        self.file, self.name, self.env, self.folder = file, name, env, folder
        self.problems: list[Problem] = []
        self.type: type[Destination] | None = None
        self.known: tuple[str, ...] = ()  # settings of its type
        self.unset: set[str] = set()  # top-level keys whose value could not be rendered or is empty

    def read(self, raw: Any) -> Connection | None:
        """The connection, or None with at least one problem."""
        if not isinstance(raw if raw is not None else {}, dict):
            self._problem("", "must be a mapping of settings")
            return None
        self.known = _fields_of(str((raw or {}).get("type") or self.name))
        rendered = {str(key): self._render(value, str(key)) for key, value in (raw or {}).items()}
        settings = {key: value for key, value in rendered.items() if key not in self.unset}
        type_name = str(settings.pop("type", None) or self.name)
        try:
            self.type = registry.get(type_name)
        except ConfigError as error:
            hint = error.hint or ""
            shown = type_name not in error.message or hint.startswith("did you mean")
            self._problem("type", error.message if shown else "is no destination type", hint)
            return None
        validated = self._validate(settings, self.type)
        if validated is None or self.problems:
            return None
        return Connection(self.name, self.type.type, validated.below(self.folder))

    def _problem(self, key: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, self.name, self._shown(key), message, hint))

    def _shown(self, key: str) -> str:
        """The key without what may be a value that stands in the wrong place: a secret may have been pasted there."""
        return ".".join(part if self._is_a_name(part) else "..." for part in key.split("."))

    def _is_a_name(self, part: str) -> bool:
        word = part.partition("[")[0]
        return word in self.known or _is_a_word(word) or bool(nearest(word, self.known))

    def _render(self, value: Any, key: str) -> Any:
        """The value with every text in it rendered; `self.unset` tells of texts that come to nothing."""
        if isinstance(value, dict):
            rendered = {str(inner): self._render(item, f"{key}.{inner}") for inner, item in value.items()}
            return {inner: item for inner, item in rendered.items() if f"{key}.{inner}" not in self.unset}
        if isinstance(value, list):
            return [self._render(item, f"{key}[{index}]") for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        text = self._render_text(value, key)
        if not text:
            self.unset.add(key)
        return text

    def _render_text(self, text: str, key: str) -> str:
        environment = SandboxedEnvironment(undefined=StrictUndefined)
        environment.globals = {"env_var": self._env_var}
        # dbt's own filters; types are the settings model's business here
        environment.filters.update(dict.fromkeys(("as_bool", "as_number", "as_native", "as_text"), str))
        try:
            return environment.from_string(text).render()
        except _MissingVariable as error:
            shown = _VARIABLE.fullmatch(str(error)) is not None
            said = f"environment variable {error} is not set" if shown else "an environment variable is not set"
            self._problem(key, said, f"set {error if shown else 'it'}, or give env_var() a default")
        except UndefinedError as error:
            word = re.search(r"'(.+)' is undefined", error.message or "")
            said = f"'{word[1]}' is undefined" if word and _is_a_word(word[1]) else "holds a name that is not defined"
            self._problem(key, said, "only env_var() is known here")
        except (TemplateError, TypeError, ValueError, ArithmeticError):
            self._problem(key, "is not valid Jinja", "as in \"{{ env_var('NAME') }}\"")
        return ""

    def _env_var(self, name: str, default: str | None = None) -> str:
        if name in self.env:
            return self.env[name]
        if default is None:
            raise _MissingVariable(name)
        return str(default)

    def _validate(self, settings: dict[str, Any], destination: type[Destination]) -> ConnectionSettings | None:
        model = destination.settings_model
        told = {problem.key for problem in self.problems}
        try:
            validated = model.model_validate(settings)
        except ValidationError as error:
            for item in mistakes(error, model):
                if item.kind == "missing" and item.key in self.unset:
                    if item.key not in told:
                        self._problem(item.key, "is empty", "is its environment variable set, but to nothing?")
                    continue
                self._problem(item.key, _without_values(item.message, item.key, settings), item.hint)
            return None
        self._check_urls(validated)
        self._check_token_url(validated, destination)
        return validated

    def _check_urls(self, settings: ConnectionSettings) -> None:
        for key in (name for name in type(settings).model_fields if name == "url" or name.endswith("_url")):
            value = getattr(settings, key)
            wrong = _url_mistake(str(value), settings.allow_private) if value else None
            if wrong:
                self._problem(key, *wrong)

    def _check_token_url(self, settings: ConnectionSettings, destination: type[Destination]) -> None:
        """Nobody's refresh token goes to the platform's own endpoint while all other calls go elsewhere."""
        real = destination.token_endpoint
        fixed = getattr(settings, "access_token", None) is not None
        if not real or fixed or settings.token_url or not settings.base_url:
            return
        if _host(settings.base_url) != _host(destination.base_url):
            said = f"is not set although `base_url` names another host, so that secrets would go to {_host(real)}"
            self._problem("token_url", said, f"name where tokens are fetched; the platform's own is {real}")


def _fields_of(type_name: str) -> tuple[str, ...]:
    """The settings of a type; none where there is no such type."""
    try:
        fields = registry.get(type_name).settings_model.model_fields
    except ConfigError:
        return ()
    return tuple(field.alias or name for name, field in fields.items())


def _is_a_word(text: str) -> bool:
    """Whether this is a name and surely no secret: letters and underscores, of no great length."""
    return _WORD.fullmatch(text) is not None


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _url_mistake(url: str, allow_private: bool) -> tuple[str, str] | None:
    """Message and hint; secrets travel only over TLS, or to a host that is loopback by its very name."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "is no URL", ""
    if not host or parts.scheme not in ("http", "https"):
        return "must be an https:// URL", ""
    if parts.username is not None or parts.password is not None:
        return "must not hold credentials", "use the settings made for them"
    if parts.scheme == "https" or allow_private or _is_loopback(host):
        return None
    return "must start with https://", "http:// is for loopback addresses, or needs `allow_private: true`"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_values(message: str, key: str, settings: Mapping[str, Any]) -> str:
    """The message, unless a destination's own check has put a value into it: that of `key`, or any if it has none."""
    at: Any = settings
    for part in key.split(".") if key else ():
        at = at.get(part, at) if isinstance(at, Mapping) else at
    quoted = (rf"(?<!\w){re.escape(value)}(?!\w)" for value in _texts(at) if len(value) > 3)
    return "is not valid" if any(re.search(value, message) for value in quoted) else message


def _texts(value: Any) -> Iterator[str]:
    """Every text in the values of nested settings."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _yaml_words(error: yaml.YAMLError) -> str:
    """Where and what; never PyYAML's own text, which quotes the line and so perhaps a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        what = error.problem if isinstance(error, yaml.constructor.ConstructorError) else "is not valid YAML"
        return f"line {error.problem_mark.line + 1}: {what}"
    return "is not valid YAML"


def _unreadable(path: Path, message: str) -> Connections:
    return Connections(file=str(path), problems={"": (Problem(str(path), "", "", message),)})
