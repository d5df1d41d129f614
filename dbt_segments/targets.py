"""Whether manifest.json speaks of the dbt target that is synced.

dbt renders every relation for one target, and the manifest does not name it: after `dbt build --target dev` it lists
the relations of dev, whatever target a sync is told. Most projects leave schemas to dbt's own rule, by which the
manifest shows its target. Where macros of the project name them, the results of the command that wrote the manifest
have to tell.

Source: dbt Core 1.10 to 1.12, macros `default__generate_schema_name` and `default__generate_database_name`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dbt_segments.errors import ManifestError
from dbt_segments.warehouse import Profile

_RULES = ("generate_schema_name", "generate_database_name")
_KINDS = ("model", "seed")


def check_target(manifest: Mapping[str, Any], profile: Profile, target_path: Path) -> None:
    """Raise ManifestError where the manifest was written for another target than the profile's.

    target_path  the folder of the manifest and of run_results.json
    """
    if _names_itself(manifest, profile.kind):
        made_for = _told(manifest, target_path, profile)
        said = f"it was written by a command on target {made_for}" if made_for not in (None, profile.target) else ""
    else:
        said = next(_elsewhere(manifest, profile), "")
    if said:
        raise ManifestError(
            f"{target_path / 'manifest.json'} is not of target {profile.target}: {said}",
            hint=f"run `dbt parse --target {profile.target}`, or build that target, first",
        )


def _names_itself(manifest: Mapping[str, Any], kind: str) -> bool:
    """Whether a macro of the project, or of a package of its, names schemas or databases."""
    dbts_own = ("dbt", f"dbt_{kind}")
    return any(
        str(macro.get("name", "")).endswith(_RULES) and macro.get("package_name") not in dbts_own
        for macro in (manifest.get("macros") or {}).values()
    )


def _elsewhere(manifest: Mapping[str, Any], profile: Profile) -> Iterator[str]:
    """Models that lie elsewhere than dbt's own rule puts them on this target."""
    for node in (manifest.get("nodes") or {}).values():
        config = node.get("config") or {}
        if node.get("resource_type") not in _KINDS or config.get("enabled") is False:
            continue
        custom = config.get("schema")
        schema = f"{profile.schema}_{str(custom).strip()}" if custom else profile.schema
        database = config.get("database") or profile.database
        for what, is_in, should in (
            ("schema", node.get("schema"), schema),
            ("database", node.get("database"), database),
        ):
            if is_in and should and str(is_in).casefold() != str(should).strip().casefold():
                yield f"{node.get('name')} is in {what} {is_in} there, and in {should} on target {profile.target}"


def _told(manifest: Mapping[str, Any], target_path: Path, profile: Profile) -> str | None:
    """The target of the command that wrote the manifest, where run_results.json is of the same command."""
    try:
        results = json.loads((target_path / "run_results.json").read_text(encoding="utf-8"))
        arguments, written_by = results["args"], results["metadata"]["invocation_id"]
        named, command = arguments.get("target"), arguments.get("which")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if not written_by or written_by != manifest["metadata"].get("invocation_id"):
        return None
    # A command without `--target` leaves no trace of it; `retry` takes that of the command that it tries again.
    return str(named) if named else None if command == "retry" else profile.default_target or None
