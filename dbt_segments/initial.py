"""The files of a dbt project, made ready for this package: each step may be repeated, and edits touch nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dbt_segments import yamledit
from dbt_segments.errors import SettingsError
from dbt_segments.settings import FILE_NAME, Options, environment
from dbt_segments.warehouse import profiles_dir
from dbt_segments.yamledit import NotEditableError

HOOK = "{{ dbt_segments.on_run_end() }}"
# A platform's renewed tokens may be in a file here, with a lock and a draft of it while it changes.
IGNORED = (
    "target/",
    "dbt_packages/",
    "logs/",
    "*.dbt_segments.lock",
    "*.duckdb",
    "*.duckdb.wal",
    "*dbt_segments_tokens.json*",
)
_REPOSITORY = Path(__file__).resolve().parents[1]
_VARIABLES: dict[str, Any] = {"dbt_segments": {"targets": []}}

CONNECTIONS = """\
# Connections of dbt-segments: name -> settings. Secrets come from the environment.
# `dbt-segments destinations list` names the types, `dbt-segments destinations show meta` the settings of one.
#
# meta:
#   ad_account_id: "1002003004005"
#   access_token: "{{ env_var('META_ACCESS_TOKEN') }}"
"""

CI_HINT = """\
in CI, with a state that must be there already (the build syncs what it built):
  dbt parse --target prod
  dbt-segments validate --target prod
  dbt build --target prod --vars '{dbt_segments: {require_state: true}}'"""


@dataclass(frozen=True)
class Step:
    """One file.

    done   created, changed, unchanged, or refused: then `lines` are the user's to write
    why    of a refusal
    """

    file: str
    what: str
    done: Literal["created", "changed", "unchanged", "refused"]
    why: str = ""
    lines: tuple[str, ...] = ()


def prepare(options: Options, package: str | None) -> tuple[Step, ...]:
    """Bring every file in order; what is there already stays.

    package  a folder or git address of the dbt package, as ADDRESS@REVISION too; None: the clone that this program runs
             from

    Raises SettingsError where there is no dbt project.
    """
    project = options.project_dir
    if not (project / "dbt_project.yml").is_file():
        raise SettingsError(
            f"{project}: there is no dbt_project.yml", hint="run it in a dbt project, or name one: --project-dir"
        )
    return tuple(_steps(project, options, package))


def _steps(project: Path, options: Options, package: str | None) -> Iterator[Step]:
    yield _packages(project, package)
    file = project / "dbt_project.yml"
    yield _yaml_step(file, "on-run-end", {"on-run-end": [HOOK]}, _with_hook)
    yield _yaml_step(file, "vars.dbt_segments", {"vars": _VARIABLES}, _with_variables)
    folder = profiles_dir(options.profiles_dir, environment(), project)
    yield _connections(folder / FILE_NAME)
    yield _ignored(project / ".gitignore")


# -- packages -------------------------------------------------------------------------------------------------


def _packages(project: Path, package: str | None) -> Step:
    """The entry beside the other packages: dbt takes them from packages.yml or dependencies.yml, not from both."""
    entry = _entry(project, package)
    file = project / "packages.yml"
    other = project / "dependencies.yml"
    if not file.is_file() and other.is_file() and "packages:" in other.read_text(encoding="utf-8"):
        file = other
    if entry is None and _has_ours(file, project):
        return Step(file.name, "packages", "unchanged")
    if entry is None:
        wanted = {"packages": [{"local": "<folder of dbt-segments>"}]}
        why = "the dbt package's place is not known: --package FOLDER_OR_GIT_ADDRESS"
        return Step(file.name, "packages", "refused", why, tuple(yamledit.block(wanted)))

    def change(text: str, values: dict[str, Any]) -> str | None:
        listed = values.get("packages") or []
        if entry in listed or any(_is_ours(one, project) for one in listed):
            return None
        values["packages"] = [*listed, entry]
        return _appended(text, "packages", entry)

    return _yaml_step(file, "packages", {"packages": [entry]}, change)


def _entry(project: Path, package: str | None) -> dict[str, str] | None:
    if package is not None and ("://" in package or package.startswith("git@")):
        head, at, revision = package.rpartition("@")
        pinned = bool(at) and "/" in head and "/" not in revision  # the @ of git@host is no revision's
        return {"git": head, "revision": revision} if pinned else {"git": package}
    folder = Path(package).expanduser().resolve() if package is not None else _REPOSITORY
    if not (folder / "dbt_project.yml").is_file():
        if package is not None:
            raise SettingsError(f"--package: there is no dbt_project.yml in {package}")
        return None
    return {"local": Path(os.path.relpath(folder, project.resolve())).as_posix()}


def _has_ours(file: Path, project: Path) -> bool:
    """Whether the file lists the package already, so that its place need not be known."""
    try:
        values = yamledit.load(yamledit.read(file)) if file.is_file() else None
    except NotEditableError:
        return False
    listed = values.get("packages") if isinstance(values, dict) else None
    return any(_is_ours(one, project) for one in listed) if isinstance(listed, list) else False


def _is_ours(entry: Any, project: Path) -> bool:
    """By its name, or else by what lies in its folder."""
    if not isinstance(entry, dict):
        return False
    if any(word in str(value) for value in entry.values() for word in ("dbt-segments", "dbt_segments")):
        return True
    file = project / str(entry.get("local", "")) / "dbt_project.yml"
    if "local" not in entry or not file.is_file():
        return False
    try:
        values = yamledit.load(yamledit.read(file))
    except NotEditableError:
        return False
    return isinstance(values, dict) and values.get("name") == "dbt_segments"


# -- dbt_project.yml ------------------------------------------------------------------------------------------


def _with_hook(text: str, values: dict[str, Any]) -> str | None:
    present = values.get("on-run-end")
    hooks = present if isinstance(present, list) else [present] if present else []
    if any("dbt_segments.on_run_end" in str(hook) for hook in hooks):
        return None
    if not hooks:
        values["on-run-end"] = [HOOK]
        return _appended(text, "on-run-end", HOOK)
    values["on-run-end"] = [*hooks, HOOK]
    node = yamledit.value_of(yamledit.root(text), "on-run-end")
    assert node is not None
    if isinstance(present, list):
        return yamledit.with_item(text, node, [_quoted(HOOK)])
    if text[node.start_mark.index] in "|>":
        raise NotEditableError("on-run-end is a text block")
    both = f"[{yamledit.text_of(text, node)}, {_quoted(HOOK)}]"
    return yamledit.replaced(text, node, both)


def _with_variables(text: str, values: dict[str, Any]) -> str | None:
    present = values.get("vars")
    if isinstance(present, dict) and "dbt_segments" in present:
        return None
    values["vars"] = {**(present or {}), **_VARIABLES}
    root = yamledit.root(text)
    node = yamledit.value_of(root, "vars")
    if node is None:
        return yamledit.with_key(text, root, "vars", _VARIABLES)
    if not isinstance(node, yaml.MappingNode):
        raise NotEditableError("vars is no mapping")
    return yamledit.with_key(text, node, "dbt_segments", _VARIABLES["dbt_segments"])


def _appended(text: str, key: str, item: Any) -> str:
    """The text with an item in the list of a top-level key, which is made where it is missing."""
    lines = yamledit.block(item) if isinstance(item, dict) else [_quoted(item)]
    node = yamledit.value_of(yamledit.root(text), key) if text.strip() and yamledit.load(text) else None
    if node is None:
        newline = "" if not text or text.endswith("\n") else "\n"
        rest = "".join(f"    {line}\n" for line in lines[1:])
        return f"{text}{newline}{key}:\n  - {lines[0]}\n{rest}"
    if isinstance(node, yaml.SequenceNode):
        return yamledit.with_item(text, node, lines)
    if yamledit.is_null(node):
        return yamledit.replaced(text, node, yamledit.flow([item]))
    raise NotEditableError(f"{key} is no list")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- files ----------------------------------------------------------------------------------------------------


def _yaml_step(
    file: Path, what: str, wanted: dict[str, Any], change: Callable[[str, dict[str, Any]], str | None]
) -> Step:
    """Change a YAML file, provided that it then says what is expected and that nothing else differs.

    change  (text, values) -> text, making the same change on the values; None where nothing is to be done
    """
    there = file.is_file()
    try:
        text = yamledit.read(file) if there else ""
        values = yamledit.load(text) or {}
        if not isinstance(values, dict):
            raise NotEditableError("it is no mapping")
        if there and values:
            yamledit.require_plain(text, yamledit.root(text))
        after = change(text, values)
        if after is None:
            return Step(file.name, what, "unchanged")
        if yamledit.load(after) != values:
            raise NotEditableError("its form cannot be edited safely")
        yamledit.write(file, after)
    except NotEditableError as error:
        return Step(file.name, what, "refused", str(error), tuple(yamledit.block(wanted)))
    return Step(file.name, what, "changed" if there else "created")


def _connections(file: Path) -> Step:
    if file.exists():
        return Step(str(file), "connections", "unchanged")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(CONNECTIONS, encoding="utf-8")
    return Step(str(file), "connections", "created")


def _ignored(file: Path) -> Step:
    there = file.is_file()
    text = yamledit.read(file) if there else ""
    known = {line.strip().strip("/") for line in text.splitlines()}
    missing = [line for line in IGNORED if line.strip("/") not in known]
    if not missing:
        return Step(file.name, "lines", "unchanged")
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = newline if text and not text.endswith("\n") else ""
    yamledit.write(file, text + gap + "".join(line + newline for line in missing))
    return Step(file.name, "lines", "changed" if there else "created")
