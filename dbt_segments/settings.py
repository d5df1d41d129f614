"""Project settings, options and where files lie. The only reader of the process's environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dbt_segments.errors import Problem, SettingsError
from dbt_segments.meta import Gone, HoldBlock, Orphan, Text, Texts
from dbt_segments.spelling import mistakes, nearest
from dbt_segments.values import Hold

FILE_NAME = "destinations.yml"
_MEMORY = re.compile(r"^\d+(\.\d+)? ?[KMGT]i?B$", re.IGNORECASE)


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, malformed, or a folder of the time zone database
        hint = nearest(name, available_timezones())
        raise ValueError("is no IANA time zone" + (f"; {hint}" if hint else "")) from None
    return name


def _check_country(value: Any) -> Any:
    if value is False:
        raise ValueError('YAML reads NO as false: put it in quotes, as in "NO"')
    if not isinstance(value, str):
        return value
    import pycountry  # slow to read, and only a project with a default country needs it

    if pycountry.countries.get(alpha_2=value.strip().upper()) is None:
        raise ValueError("is no ISO 3166 country of two letters" + ("; use GB" if value.upper() == "UK" else ""))
    return value.strip().upper()


def _check_memory(text: str) -> str:
    if not _MEMORY.match(text):
        raise ValueError('must be a size such as "512MB" or "1GB"')
    return text


class StateTarget(BaseModel):
    """Where the state lives if not beside the models; no target: the profile's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    profile: Text
    target: Text | None = None


Days = Annotated[int, Field(ge=1)] | None


class GrantsBlock(BaseModel):
    """Database roles by privilege; only reading can be granted."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    select: Texts = ()


class RetentionBlock(BaseModel):
    """Days that rows of a log are kept; None: for ever. What recovery needs stays in any case."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    sync_runs: Days = None
    sync_batches: Days = None
    rejects: Days = None
    segment_sizes: Days = None
    audience_sizes: Days = None
    match_rates: Days = None
    membership_changes: Days = None
    model_builds: Days = None
    pointers: Days = None
    leases: Days = None
    gc_runs: Days = None

    @property
    def days(self) -> dict[str, int]:
        """Log -> days, of those that are limited."""
        return self.model_dump(exclude_none=True)


class ProjectSettings(BaseModel):
    """`vars: {dbt_segments: {...}}` of the project.

    targets        dbt targets that may send; none by default, so that only what is listed ever sends
    state_schema   `schema`: where the state's tables lie; None: `<target schema>_dbt_segments`
    require_state  missing state is an error instead of a first sync
    timezone       IANA name; daily slots and cron lines are read in it
    sync_in_dbt    with the hook line, a dbt command syncs what it built
    fail_dbt       a sync that needs reading makes that dbt command's exit code 1
    import_sizes   ask platforms for the size of audiences, once a day
    gone           what a sync does whose audience was deleted at the platform
    orphans        what `audiences prune` does with audiences whose sync is switched off or gone
    memory_limit   of the embedded engine
    grants         who may read the state's logs and views
    retention      days that rows of the state's logs are kept
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    targets: Texts = ()
    state_schema: Text | None = Field(default=None, alias="schema")
    state: StateTarget | None = None
    require_state: bool = False
    timezone: Annotated[str, AfterValidator(_check_zone)] = "UTC"
    sync_in_dbt: bool = True
    fail_dbt: bool = True
    import_sizes: bool = True
    gone: Gone = "fail"
    orphans: Orphan = "keep"
    default_country: Annotated[str | None, BeforeValidator(_check_country, json_schema_input_type=str)] = None
    hold_block: HoldBlock = Field(default=HoldBlock(), alias="hold")
    grants: GrantsBlock = GrantsBlock()
    retention: RetentionBlock = RetentionBlock()
    memory_limit: Annotated[str, AfterValidator(_check_memory)] = "1GB"

    @property
    def hold(self) -> Hold:
        """The guard's thresholds, with their defaults."""
        return self.hold_block.over(Hold())


def read_project_settings(
    project_vars: Mapping[str, Any], cli_vars: Mapping[str, Any] | None = None
) -> ProjectSettings:
    """The settings; each inner key of the command line's `dbt_segments` block overrides singly, in `hold` too.

    Raises SettingsError with every mistake.
    """
    block, problems = _block(project_vars, "dbt_project.yml")
    override, more = _block(cli_vars or {}, "--vars")
    if problems or more:
        raise SettingsError(problems=(*problems, *more))
    merged = {**block, **override}
    if isinstance(block.get("hold"), Mapping) and isinstance(override.get("hold"), Mapping):
        merged["hold"] = {**block["hold"], **override["hold"]}
    try:
        return ProjectSettings.model_validate(merged)
    except ValidationError as error:
        found = (
            Problem(
                "--vars" if re.split(r"[.\[]", item.key)[0] in override else "dbt_project.yml",
                "",
                f"vars.dbt_segments.{item.key}",
                item.message,
                item.hint,
            )
            for item in mistakes(error, ProjectSettings)
        )
        raise SettingsError(problems=tuple(found)) from None


def _block(source: Mapping[str, Any], file: str) -> tuple[Mapping[str, Any], tuple[Problem, ...]]:
    block = source.get("dbt_segments") or {}
    if isinstance(block, Mapping):
        return block, ()
    return {}, (Problem(file, "", "vars.dbt_segments", "must be a mapping"),)


@dataclass(frozen=True)
class Options:
    """What every command is told, by option or else by dbt's own environment variables.

    profiles_dir  only where it was named; None: dbt's own search
    target_path   absolute; the folder with manifest.json
    profile       of profiles.yml; None: the project's own
    selector      a name of selectors.yml, instead of select and exclude
    state         folder of an earlier run's artifacts
    vars          of `--vars`, parsed
    """

    project_dir: Path
    target_path: Path
    profiles_dir: Path | None = None
    profile: str | None = None
    target: str | None = None
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    selector: str | None = None
    state: Path | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    output: str = "text"


def environment() -> dict[str, str]:
    """A copy of the process's environment, for what is rendered from it."""
    return dict(os.environ)


def resolve_options(
    *,
    project_dir: str | Path | None = None,
    profiles_dir: str | Path | None = None,
    target: str | None = None,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    selector: str | None = None,
    state: str | Path | None = None,
    vars: str | Mapping[str, Any] | None = None,
    output: str = "text",
    target_path: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Options:
    """Options over DBT_PROJECT_DIR, DBT_PROFILES_DIR, DBT_TARGET and DBT_TARGET_PATH, over dbt's defaults.

    The project is the nearest folder upwards with a dbt_project.yml. Raises SettingsError for `vars` that are no YAML
    mapping.
    """
    env = os.environ if env is None else env
    cwd = cwd or Path.cwd()
    project = _path(cwd, project_dir or env.get("DBT_PROJECT_DIR")) or _nearest_project(cwd)
    profiles = _path(cwd, profiles_dir or env.get("DBT_PROFILES_DIR"))
    return Options(
        project_dir=project,
        target_path=_path(project, target_path or env.get("DBT_TARGET_PATH")) or project / "target",
        profiles_dir=profiles,
        target=target or env.get("DBT_TARGET") or None,
        select=tuple(select),
        exclude=tuple(exclude),
        selector=selector,
        state=_path(cwd, state),
        vars=_parse_vars(vars),
        output=output,
    )


def find_destinations_file(
    profiles_dir: Path | None, env: Mapping[str, str] | None = None, cwd: Path | None = None, home: Path | None = None
) -> Path | None:
    """destinations.yml where dbt would look for profiles.yml; None where it is not there.

    A folder that was named, by option or by DBT_PROFILES_DIR, is the only one searched.
    """
    env = os.environ if env is None else env
    cwd = cwd or Path.cwd()
    named = _path(cwd, profiles_dir or env.get("DBT_PROFILES_DIR"))
    folders = [named] if named else [cwd, (home or Path.home()) / ".dbt"]
    return next((folder / FILE_NAME for folder in folders if (folder / FILE_NAME).is_file()), None)


def _path(base: Path, value: str | Path | None) -> Path | None:
    """`value` below `base` unless it is absolute; "~" is the home folder. None for none."""
    return base / Path(value).expanduser() if value else None


def _nearest_project(cwd: Path) -> Path:
    return next((folder for folder in (cwd, *cwd.parents) if (folder / "dbt_project.yml").is_file()), cwd)


def _parse_vars(value: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise SettingsError(
                "--vars is not valid YAML", hint="as in --vars '{dbt_segments: {targets: [dev]}}'"
            ) from None
    if value is not None and not isinstance(value, Mapping):
        raise SettingsError("--vars must be a YAML mapping", hint="as in --vars '{dbt_segments: {targets: [dev]}}'")
    return value or {}
