"""The documentation says what is: quoted output is real, tables are whole, links lead somewhere, examples are read."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from dbt_segments import builds, choose, cli, errors, freeze, meta, report, settings
from dbt_segments.connections import read_connections
from dbt_segments.destinations import _meta_faults as faults
from dbt_segments.destinations import registry
from dbt_segments.destinations.base import ConnectionSettings
from dbt_segments.settings import read_project_settings
from dbt_segments.state import ledger, pending, schema
from dbt_segments.values import RunResult
from docs import generate
from tests.projects import HOOK, REPOSITORY

PACKAGE = REPOSITORY / "dbt_segments"
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = generate.pages()
BLOCKS = [(path, what) for path in PAGES for what in generate.blocks(path.read_text(encoding="utf-8"))]
CHEAP = [pytest.param(path, what, id=f"{path.stem}: {what}") for path, what in BLOCKS if not what.startswith("demo ")]

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def read(path: str | Path) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def sections(page: str, level: str = "##") -> dict[str, str]:
    """Heading -> the text below it, up to the next heading of that level."""
    _, *parts = re.split(rf"^{level} ", read(page), flags=re.MULTILINE)
    return {part.split("\n", 1)[0].strip(): part for part in parts}


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, headings and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "`" in line.split(" | ")[0]]


def named(text: str) -> list[str]:
    """What stands in code quotes in the first column of tables."""
    return [word for row in rows(text) for word in _CODE.findall(row[0])]


def fields(model: type[BaseModel]) -> set[str]:
    """Keys of a block, as users write them."""
    return {info.alias or name for name, info in model.model_fields.items()}


def yaml_blocks(path: str | Path) -> list[Any]:
    """Every YAML example of a page."""
    found = re.findall(r"^ *```yaml\n(.*?)^ *```", read(path), flags=re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(text) for text in found]


# -- what is quoted -------------------------------------------------------------------------------------------


def assert_real(path: Path, what: str) -> None:
    quoted = generate.blocks(path.read_text(encoding="utf-8"))[what]
    assert generate.normalised(quoted) == generate.normalised(generate.text_of(what))


@pytest.mark.parametrize(("path", "what"), CHEAP)
def test_quoted_text_is_real(path: Path, what: str) -> None:
    """Help, tables and YAML are what the program says now; `python -m docs.generate` writes them."""
    assert_real(path, what)


@pytest.mark.slow
def test_the_demo_shows_what_the_pages_say() -> None:
    """The demo runs, and README and tutorial quote its screen; the tutorial the whole of it, in order."""
    quoted = [(path, what) for path, what in BLOCKS if what.startswith("demo ")]
    assert [what for path, what in quoted if path == README] == ["demo first", "demo change", "demo hold"]
    tutorial = [what for path, what in quoted if path == DOCS / "tutorial.md"]
    assert tutorial == [f"demo {part}" for part in generate.DEMO_PARTS]
    for path, what in quoted:
        assert_real(path, what)


def test_a_block_that_differs_by_a_time_only_stays() -> None:
    """Writing the pages again makes no noise, and a real difference is written."""
    assert generate.normalised("a   1.9 s\nb 127.0.0.1:8199") == generate.normalised("a  12.0 s\nb 127.0.0.1:41")
    assert generate.normalised("a +1 1.9 s") != generate.normalised("a +2 1.9 s")
    stale = "<!-- generated: help demo -->\nold\n<!-- end -->"
    assert generate.refreshed(stale) == stale.replace("old\n", generate.text_of("help demo"))


def test_every_command_is_documented() -> None:
    """The command reference quotes the help of each command, and the README lists it."""
    commands = set(generate.commands())
    quoted = {what.removeprefix("help ") for what in generate.blocks(read("docs/reference/cli.md"))}
    assert quoted == commands
    assert {word.removeprefix("dbt-segments ") for word in named(sections("README.md")["Commands"])} == commands


def typed() -> Iterator[Any]:
    """Every `dbt-segments` line of the pages' consoles, as words after the program."""
    for path in PAGES:
        for text in re.findall(r"^```console\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^\$ dbt-segments (.+?)(?: &)?$", text, re.MULTILINE):
                yield pytest.param(shlex.split(line, comments=True), id=f"{path.stem}: {line}")


@pytest.mark.parametrize("words", list(typed()))
def test_what_pages_tell_to_type_can_be_typed(words: list[str]) -> None:
    """Each command of a console is one that the program has, with options that it takes."""
    command: click.Command = cli.main
    while isinstance(command, click.Group):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context("dbt-segments", list(words))


# -- links ----------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    """Each relative link names a file that is there and a heading in it."""
    for _, link in _LINK.findall(path.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    """No page is an orphan."""
    seen, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        links = [link.partition("#")[0] for _, link in _LINK.findall(page.read_text(encoding="utf-8"))]
        found = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        waiting += found - seen
    assert seen == set(PAGES)


def test_each_invariant_has_its_tests() -> None:
    """The README's thirteen lines name tests that exist."""
    tree = ast.parse(read("tests/test_invariants.py"))
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    lines = re.findall(
        r"^\| (\d+) \| .+ \| `(test_\d+_)\*` \|$", sections("README.md")["What is guaranteed"], re.MULTILINE
    )
    assert [int(number) for number, _ in lines] == list(range(1, 14))
    for number, prefix in lines:
        assert prefix == f"test_{number}_"
        assert any(name.startswith(prefix) for name in tests), prefix


# -- examples -------------------------------------------------------------------------------------------------


def meta_examples() -> Iterator[dict[str, Any]]:
    for page in ("README.md", "docs/tutorial.md", "docs/reference/meta.md"):
        for block in yaml_blocks(page):
            for model in block.get("models", ()) if isinstance(block, dict) else ():
                yield model["config"]["meta"]["dbt_segments"]


def test_examples_of_meta_are_read() -> None:
    """Each block that a page shows is one that the program takes."""
    examples = [meta.Meta.model_validate(block) for block in meta_examples()]
    assert sum(example.entity is not None for example in examples) == 3
    assert sum(example.segment is not None for example in examples) == 5


def test_examples_of_settings_are_read(tmp_path: Path) -> None:
    """The README's and the reference's variables and connections are ones that the program takes."""
    found = [block for page in ("README.md", "docs/reference/settings.md") for block in yaml_blocks(page)]
    variables = [block for block in found if "vars" in block]
    connections = [block for block in found if "ad_account_id" in block.get("meta", {})]
    assert (len(variables), len(connections)) == (4, 2)
    for block in variables:
        assert read_project_settings(block["vars"]).targets == ("prod",)
    for number, block in enumerate(connections):
        file = tmp_path / f"{number}.yml"
        file.write_text(yaml.safe_dump(block), encoding="utf-8")
        read_back = read_connections(file, {"META_ACCESS_TOKEN": "a-token"})
        assert read_back.problems == {}
        assert set(read_back.ok) == set(block)


def test_the_readme_names_versions_that_work_together() -> None:
    """The file is there, and keeps away from the dbt that the README warns of."""
    (file,) = re.findall(r"`--constraint \.\./dbt-segments/(\S+)`", read("README.md"))
    (pinned,) = re.findall(r"^dbt-core==1\.(\d+)\.", read(file), re.MULTILINE)
    assert int(pinned) < 12


def test_the_hook_line_is_the_one_that_is_tested() -> None:
    """The README's on-run-end line is that of the tests and of the sample project."""
    (line,) = [block["on-run-end"] for block in yaml_blocks("README.md") if "on-run-end" in block]
    assert line == HOOK == yaml.safe_load(read("sample_project/dbt_project.yml"))["on-run-end"]


# -- completeness ---------------------------------------------------------------------------------------------

META_SECTIONS = {
    "Meta": "The block",
    "EntityBlock": "entity",
    "IdentifierBlock": "identifier",
    "RelatedBlock": "relation",
    "SegmentBlock": "segment",
    "DestinationItem": "destination",
    "SyncItem": "sync",
    "FieldBlock": "field",
    "HoldBlock": "hold",
}


def blocks_of(module: ModuleType) -> dict[str, type[BaseModel]]:
    """The models that a module declares."""
    found = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {
        name: value
        for name, value in found.items()
        if issubclass(value, BaseModel) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def test_every_key_of_meta_is_documented() -> None:
    """Each block of `meta` has a section with exactly its keys."""
    models, page = blocks_of(meta), sections("docs/reference/meta.md")
    assert models.keys() == META_SECTIONS.keys()
    for name, heading in META_SECTIONS.items():
        own = fields(models[name]) - (fields(meta.DestinationItem) if name == "SyncItem" else set())
        assert set(named(page[heading])) == own, heading


def test_defaults_of_thresholds_are_documented() -> None:
    """The table of `hold` shows the real defaults."""
    shown = {row[0].strip("`"): row[1].strip("`") for row in rows(sections("docs/reference/meta.md")["hold"])}
    hold = settings.ProjectSettings().hold
    assert shown == {name: str(getattr(hold, name)) for name in fields(meta.HoldBlock)}


def test_every_identifier_name_is_documented() -> None:
    """The table of names holds those that configuration takes, each a name or synonym of it."""
    shown = set(
        _CODE.findall("".join("|".join(row) for row in rows(sections("docs/reference/meta.md")["Identifier names"])))
    )
    assert shown >= set(choose.NAMES)
    names = set(named(sections("docs/reference/meta.md")["Identifier names"]))
    assert names <= set(choose.NAMES)


def test_every_setting_is_documented() -> None:
    """Project settings and the settings of every connection: exactly those that exist."""
    page = sections("docs/reference/settings.md")
    known = fields(settings.ProjectSettings) | fields(settings.StateTarget)
    assert set(named(page["Project settings"])) == known
    assert set(named(page["grants"])) == fields(settings.GrantsBlock)
    assert set(named(page["retention"])) == fields(settings.RetentionBlock)
    assert set(named(page["destinations.yml"])) == fields(ConnectionSettings)
    for name in registry.names():
        model = registry.get(name).settings_model
        own = {key for key in fields(model) if _differs(model, key)}
        assert set(named(sections(f"docs/reference/destinations/{name}.md")["Settings"])) == own, name


def _differs(model: type[BaseModel], key: str) -> bool:
    """Whether a setting is the type's own, or has another default there."""
    common = ConnectionSettings.model_fields.get(key)
    return common is None or common.default != model.model_fields[key].default


def test_the_results_are_documented() -> None:
    """Every key of `sync --output json` stands in the command reference, and no other."""
    run = report.results(RunResult("1", "", 0.0, ()), errors.SettingsError("wrong"))
    result = {key for key in report._result(_result()) if key}
    assert set(named(sections("docs/reference/cli.md")["Results as JSON"])) == set(run) | result


def _result() -> Any:
    from dbt_segments.values import SyncResult

    return SyncResult("s", "s", "e", "d", "t", "noop")


def test_every_exit_code_is_documented() -> None:
    """The codes of the errors, and the shell's own for an interrupt."""
    shown = re.findall(r"^\| (\d+) \|", sections("docs/reference/cli.md")["Exit codes"], re.MULTILINE)
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    known = {cls.exit_code for cls in classes if issubclass(cls, errors.SegmentsError)}
    assert {int(code) for code in shown} == known | {0, 130}


def test_state_tables_are_documented() -> None:
    """Every table with exactly its columns, and the version that wrote them."""
    page = sections("docs/reference/state.md")
    tables = {name: list(columns) for name, columns in schema.TABLES.items()} | {"model_builds": list(builds.COLUMNS)}
    assert page.keys() == tables.keys()
    for name, columns in tables.items():
        shown = [word for row in rows(page[name]) if len(row) == 2 for word in _CODE.findall(row[0])]
        assert shown == columns, name
    assert f"state version {schema.VERSION}" in read("docs/reference/state.md")


def test_immutable_tables_are_documented() -> None:
    """The columns of ledgers and generations stand in the table of kinds, in order."""
    kinds = [row for row in rows(sections("docs/reference/state.md")["pointers"]) if len(row) == 3]
    shown = [_CODE.findall(row[2]) for row in kinds]
    assert [*pending.PENDING, *pending.PENDING_UNITS] in shown
    assert list(ledger.MEMBERS) in shown
    assert list(ledger.UNITS) in shown


def test_tables_with_raw_identifiers_are_documented() -> None:
    """Also those that only a killed run leaves: which, and for how long."""
    page = sections("docs/reference/state.md")["pointers"]
    told = page.split("**raw identifiers**")[-1]
    for kind in (freeze.FROZEN, freeze.REFUSALS):
        assert re.search(rf"`{kind}_[^`]*\.\.\.`", told), kind
    assert "`state gc`" in told
    assert f"`{freeze.REFUSALS}_...`" in sections("docs/architecture.md")["Known limits"]


def said() -> set[str]:
    """Every reason code in the source: what is raised, logged or returned as one."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "sandbox":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= set(_codes_in(node))
            if path.stem in ("builds", "guard"):
                found |= set(_prefixes_in(node))
    return found


def _codes_in(node: ast.AST) -> Iterator[str]:
    """Codes that an error, a result or a rule is made with."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("HeldError", "_always") and node.args:
            yield from _texts(node.args[0])
        for keyword in node.keywords:
            if (name == "AudienceHeldError" and keyword.arg == "code") or keyword.arg == "reason":
                yield from _texts(keyword.value)
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("code", "reason"):
        branches = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        yield from (text for branch in branches for text in _texts(branch) if re.fullmatch(r"[a-z_]+", text))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # phone_number is what a platform calls its field.
        yield from re.findall(r"^(phone_(?!number$)[a-z_]+)$", node.value)
        yield from re.findall(r"'([a-z]+(?:_[a-z]+)+)'(?= else | end)", node.value)


def _prefixes_in(node: ast.AST) -> Iterator[str]:
    """Codes in front of a reason's words, in modules whose functions return reasons."""
    text = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        yield from re.findall(r"^([a-z]+_[a-z_]*[a-z])(?=: )", text.value)


def _texts(node: ast.AST) -> Iterator[str]:
    """A constant's code: the whole word, or what stands before its colon."""
    formatted = isinstance(node, ast.JoinedStr)
    start = node.values[0] if isinstance(node, ast.JoinedStr) else node
    if isinstance(start, ast.Constant) and isinstance(start.value, str):
        code, colon, _ = start.value.partition(": ")
        if code and (colon or not formatted):
            yield code


def test_every_reason_is_documented() -> None:
    """Each code that a sync, a row or an identifier can be refused with stands in the page on holds."""
    assert said() - set(named(read("docs/how-to/holds.md"))) == set()


def test_every_documented_reason_exists() -> None:
    """The page on holds names no code that the source does not know."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    known = {name for name in named(read("docs/how-to/holds.md")) if "/" not in name}
    assert {name for name in known if not re.search(rf"\b{name}\b", source)} == set()


def test_meta_codes_are_documented() -> None:
    """Every code that the classifier of Meta's errors knows stands in the table of errors."""
    known = faults._THROTTLED | faults._GONE | faults._FLAGGED | faults._TERMS | faults._SESSION_OVER
    known |= {*faults._TOKEN, *faults._PERMISSION, *faults._REQUEST, faults._TOO_SMALL}
    known |= {faults._REPLACE_RUNNING, faults._PART_FAILED, faults._TOO_LARGE, 368, 190}
    text = sections("docs/reference/destinations/meta.md")["Errors"]
    assert {code for code in known if not re.search(rf"\b{code}\b", text)} == set()


def test_every_module_is_in_the_architecture() -> None:
    """The table of modules holds each module of the package, and no other."""
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    shown = set(named(sections("docs/architecture.md")["Modules"]))
    assert shown == found - {"__init__", "__main__"}


def test_every_batch_state_is_folded_in_the_architecture() -> None:
    """The table of what a fold makes of a batch knows every state that the log may hold."""
    text = sections("docs/architecture.md")["State"]
    assert {state for state in pending._RANK if not re.search(rf"^\|.*\b{state}\b", text, re.MULTILINE)} == set()
