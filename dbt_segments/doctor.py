"""What is right and wrong with the connections in use, without changing anything at a platform.

A connection's settings and its type's declarations are looked at first; then the platform is asked, as far as it says
anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Literal

from dbt_segments import project as projects
from dbt_segments.connections import Connections
from dbt_segments.destinations.base import Destination, Finding
from dbt_segments.errors import AuthError, ConfigError, DestinationError, ManifestError, Problem
from dbt_segments.manifest import load_registry
from dbt_segments.report import count_of
from dbt_segments.send import Sender
from dbt_segments.settings import Options
from dbt_segments.spelling import suggest

Level = Literal["ok", "warning", "unknown", "wrong"]
SUNSET_DAYS = 60
TOKEN_DAYS = 14


@dataclass(frozen=True)
class Checkup:
    """One connection.

    type     empty where it is not known
    version  the API version in use; empty where the type has none
    sunset   the day (ISO) on which the program's own version ends, where that is known
    """

    connection: str
    type: str
    version: str
    overridden: bool
    sunset: str | None
    findings: tuple[Finding, ...]


def level(finding: Finding) -> Level:
    """How grave a finding is: what is not known and has a remedy all the same is a warning."""
    if finding.good is None:
        return "warning" if finding.hint else "unknown"
    return "ok" if finding.good else "wrong"


def exit_code(found: Iterable[Checkup]) -> int:
    """1 where anything is wrong; a warning is none."""
    return int(any(level(finding) == "wrong" for one in found for finding in one.findings))


def examine(options: Options, names: tuple[str, ...] = ()) -> tuple[Checkup, ...]:
    """Every connection that is named, or else that a selected sync uses.

    Raises ConfigError for a name that is no connection, and where the project cannot be read.
    """
    profile, settings, connections = projects.read_configuration(options)
    if "" in connections.problems:
        raise ConfigError(problems=connections.problems[""])
    unknown = next((name for name in names if name not in connections.names), None)
    if unknown is not None:
        where = connections.file or "destinations.yml, which was not found"
        hint = suggest(unknown, connections.names)
        raise ConfigError(f"there is no connection `{unknown}` in {where}", hint=hint)
    try:
        registry, _ = load_registry(options.target_path, settings, connections)
    except ManifestError:
        if not names:
            raise
        registry = None  # a connection that is named can be asked without the project
    if not names and registry is not None:
        syncs = projects.selected(options, profile, registry)
        used = {sync.connection.name for sync in syncs if sync.enabled}
        names = tuple(name for name in connections.names if name in used)
    # What only the project's models can tell to be wrong, as the names under `suppress`.
    told = {sync.connection.name: sync.connection.problems for sync in (registry.syncs if registry else ())}
    return tuple(checkup(name, connections, told.get(name, ())) for name in dict.fromkeys(names))


def checkup(name: str, connections: Connections, told: tuple[Problem, ...] = ()) -> Checkup:
    """One connection, and what its platform says; `told`: mistakes that are known of it beside those of its file."""
    cls, connection = connections.types.get(name), connections.ok.get(name)
    if connection is None or cls is None:
        wrong = tuple(_of_problem(problem) for problem in connections.problems.get(name, ()))
        return Checkup(name, cls.type if cls else "", cls.version if cls else "", False, None, wrong)
    destination = cls(connection.settings)
    override = connection.settings.api_version if cls.version else None
    overridden = override is not None and override != cls.version
    version = override if override is not None else cls.version
    settings = [_of_problem(problem) for problem in told] or [Finding("settings", True, "complete")]
    findings = [*settings, *_version(cls, version, overridden=overridden)]
    held = destination.held()
    if held:
        findings.append(Finding("held", False, held))
    findings += _ask(destination)
    return Checkup(name, cls.type, version, overridden, cls.sunset, tuple(findings))


def _of_problem(problem: Problem) -> Finding:
    where = f"{problem.key}: " if problem.key else ""
    return Finding("settings", False, f"{where}{problem.message}", problem.hint)


def _version(cls: type[Destination], version: str, *, overridden: bool) -> Iterator[Finding]:
    if not version:
        return
    if overridden:
        said = f"{version}, set by `api_version`; this program was written for {cls.version}"
        yield Finding("version", None, said)
    elif cls.sunset is None:
        yield Finding("version", True, f"{version}; its last day is not announced")
    else:
        yield _sunset(version, date.fromisoformat(cls.sunset), datetime.now(timezone.utc).date())


def _sunset(version: str, last: date, today: date) -> Finding:
    """Good until 60 days before the end, then a warning, then wrong."""
    days = (last - today).days
    hint = "pip install --upgrade dbt-segments, or set `api_version`"
    if days < 0:
        return Finding("version", False, f"{version} ended on {last}", hint)
    good = True if days > SUNSET_DAYS else None
    return Finding("version", good, f"{version} ends on {last}, in {count_of(days, 'day')}", "" if good else hint)


def _ask(destination: Destination) -> list[Finding]:
    """What the platform says; what keeps it from saying anything is a finding too."""
    try:
        with Sender(destination) as sender:
            found = sender.play(destination.check())
            left_s = sender.auth.left_s()
    except NotImplementedError:
        return [Finding("platform", None, f"{destination.type} has nothing that can be asked without sending")]
    except DestinationError as error:
        what = "credentials" if isinstance(error, AuthError) else "platform"
        return [Finding(what, False, error.message, error.hint or "")]
    if left_s is not None and all(one.good is not False for one in found):
        # The platform's word in place of what is known of all tokens alike.
        found = [*(one for one in found if one.what != "token"), _token(int(left_s // 86_400))]
    return [dataclasses.replace(one, said=" ".join(one.said.split())) for one in found]


def _token(days: int) -> Finding:
    """A warning from 14 days before somebody has to consent again."""
    soon = days < TOKEN_DAYS
    hint = "connect the account again, and set the new `refresh_token`" if soon else ""
    return Finding("token", None if soon else True, f"the refresh token ends in {count_of(days, 'day')}", hint)
