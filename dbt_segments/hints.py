"""Lines `-- depends_on: {{ ref(...) }}` that a model needs when it asks for the membership of an entity.

dbt learns from a model's text what it depends on; the macro `segment_membership` finds the segments only later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbt_segments.errors import Problem, SettingsError
from dbt_segments.values import Model, Registry

_CALL = re.compile(r"""\bdbt_segments\s*\.\s*segment_membership\(\s*(?:entity\s*=\s*)?(['"])(?P<entity>[^'"]*)\1""")
_COMMENT = re.compile(r"{#.*?#}", re.DOTALL)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Missing:
    """The lines that one model lacks for one entity.

    path  of the model's file below the project; None where it belongs to a package
    """

    model: str
    file: str
    path: str | None
    entity: str
    lines: tuple[str, ...]

    def problem(self) -> Problem:
        """What is wrong, with the lines to add."""
        message = f"asks for segment_membership('{self.entity}') and lacks: {' '.join(self.lines)}"
        hint = "`dbt-segments validate --fix` writes them at its top" if self.path else "add them at its top"
        return Problem(self.file, self.model, "", message, hint)


def missing_hints(manifest: Mapping[str, Any], registry: Registry) -> tuple[list[Missing], list[Problem]]:
    """What every enabled model lacks, and calls for entities that nobody declares."""
    entities = {entity.name: entity for entity in registry.entities}
    missing, problems = [], []
    for uid, node in manifest.get("nodes", {}).items():
        model = registry.models.get(uid)
        if model is None or model.resource_type not in ("model", "snapshot"):
            continue
        for name in _asked(str(node.get("raw_code") or "")):
            if name not in entities:
                known = ", ".join(entities) or "none"
                message = f"asks for segment_membership('{name}'), and there is no such entity"
                problems.append(Problem(model.file, model.name, "", message, f"entities: {known}"))
                continue
            segments = [segment.model for segment in registry.segments if segment.entity.name == name]
            needed = [entities[name].model, *sorted(segments, key=lambda found: found.name)]
            lines = tuple(_line(item, node, manifest) for item in needed if item.unique_id not in model.depends_on)
            if lines:
                own = str(node.get("package_name")) == registry.project
                path = str(node.get("original_file_path")) if own else None
                missing.append(Missing(model.name, model.file, path, name, lines))
    return missing, problems


def write_hints(project_dir: Path, missing: Sequence[Missing]) -> Iterator[Missing]:
    """Put the lines at the top of their files; yields what is mended. A line that is there already is not repeated.

    Raises SettingsError where a file cannot be read or written.
    """
    for item in missing:
        if item.path is None:
            continue
        file = project_dir / item.path
        try:
            _prepend(file, item.lines)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{item.file}: cannot be written ({type(error).__name__})") from None
        yield item


def _prepend(file: Path, lines: Sequence[str]) -> None:
    with file.open(encoding="utf-8", newline="") as opened:
        text = opened.read()
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    text = text.removeprefix(mark)
    end = "\r\n" if "\r\n" in text else "\n"
    there = {line.strip() for line in text.splitlines()}
    new = "".join(line + end for line in lines if line not in there)
    if new:
        with file.open("w", encoding="utf-8", newline="") as opened:
            opened.write(mark + new + text)


def _asked(code: str) -> list[str]:
    """Entities whose membership this text asks for by name, once each."""
    return list(dict.fromkeys(found["entity"] for found in _CALL.finditer(_COMMENT.sub("", code))))


def _line(model: Model, caller: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The line for one model, as the calling model must refer to it."""
    node = manifest["nodes"].get(model.unique_id) or manifest["sources"][model.unique_id]
    if model.resource_type == "source":
        return f"-- depends_on: {{{{ source('{node['source_name']}', '{node['name']}') }}}}"
    package = "" if node.get("package_name") == caller.get("package_name") else f"'{node['package_name']}', "
    version = f", v={node['version']!r}" if node.get("version") is not None else ""
    return f"-- depends_on: {{{{ ref({package}'{node['name']}'{version}) }}}}"
