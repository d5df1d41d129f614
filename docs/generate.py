"""Writes what the documentation quotes: real output, help texts, and tables that declarations already hold.

    python -m docs.generate            every page, the demo's output included (a minute)
    python -m docs.generate --check    exit code 1 where a page is not up to date; writes nothing

A page asks for a text with a pair of comments, and what stands between them is replaced:

    <!-- generated: help sync -->
    <!-- end -->
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from benchmarks.results import table
from dbt_segments import cli, demo
from dbt_segments.demo import changes
from dbt_segments.destinations import registry
from dbt_segments.destinations.base import Destination
from dbt_segments.identifiers.attempt import attempt
from dbt_segments.identifiers.rules import Rule
from tests.sabotage.cases import SABOTAGES
from tests.torture import report

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(?P<start><!-- generated: (?P<what>[^>]+?) -->\n)(?P<text>.*?)(?P<end><!-- end -->)", re.DOTALL)
_SECONDS = re.compile(r" *\d[\d,]*\.\d s$", re.MULTILINE)
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")
_VARIABLE = re.compile(r'"\{\{ env_var\(\'\w+\', \'([^\']*)\'\) \}\}([^"]*)"')
_HELP_WIDTH = 100

# What `destinations try` is asked in the table of identifiers; a reserved number, an example address.
_EXAMPLES = {
    "email": " Ada.Lovelace@Example.com",
    "phone": "(201) 555-0123",
    "maid": "AEBE52E7-03EE-455A-B3C4-E57283966239",
    "idfa": "aebe52e7-03ee-455a-b3c4-e57283966239",
    "aaid": "AEBE52E7-03EE-455A-B3C4-E57283966239",
    "android_id": "9774D56D682E549C",
    "device_id": "9774D56D682E549C",
    "external_id": " C-1042 ",
    "handle": "@AdaLovelace",
    "twitter_id": "143567",
    "partner_user_id": " P-77 ",
    "company_name": " Analytical Engines Ltd ",
    "website_domain": "https://www.Example.com/en",
    "email_domain": "Example.com",
    "organization": "1035",
    "company_page": "https://www.linkedin.com/company/example",
    "first_name": "Ada",
    "last_name": "O'Neill-Lovelace",
    "fi": "Ada",
    "gender": "Female",
    "doby": "1985-12-10",
    "dobm": "December",
    "dobd": "9",
    "city": "Saint-Étienne",
    "region": "New York",
    "postal_code": "10001-4321",
    "country": "USA",
}


def pages() -> list[Path]:
    """Every page, README first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> dict[str, str]:
    """What a page's text quotes now: name of the block -> its text."""
    return {found["what"]: found["text"] for found in _BLOCK.finditer(page)}


def text_of(what: str) -> str:
    """The text of a block, with its last newline. Raises KeyError for a name that is not known."""
    name, _, argument = what.partition(" ")
    return _SOURCES[name](argument)


def normalised(text: str) -> str:
    """The text without what differs from run to run: seconds and ports."""
    return _PORT.sub("0", _SECONDS.sub(" 0.0 s", text))


def refreshed(page: str) -> str:
    """The page with every block as it must be; a block that differs by a time only stays."""

    def fresh(found: re.Match[str]) -> str:
        text = text_of(found["what"])
        same = normalised(text) == normalised(found["text"])
        return found["start"] + (found["text"] if same else text) + found["end"]

    return _BLOCK.sub(fresh, page)


def main(words: list[str]) -> int:
    """Write the pages, or with `--check` only tell which ones would change."""
    stale = 0
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = refreshed(before)
        if after == before:
            continue
        stale += 1
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if "--check" not in words:
            path.write_text(after, encoding="utf-8")
    return 1 if stale and "--check" in words else 0


# -- sources --------------------------------------------------------------------------------------------------


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```\n"


@functools.cache
def _screen() -> str:
    """What `make demo` prints. Raises RuntimeError where the demo fails."""
    lines: list[str] = []
    if demo.run(None, lines.append) != 0:
        raise RuntimeError("the demo failed:\n" + "\n".join(lines))
    return "\n".join(lines)


# Part -> the act of the demo, and which of its paragraphs that begin with a command.
DEMO_PARTS = {
    "first": (1, 0),
    "files": (1, 1),
    "again": (2, 0),
    "change": (3, 0),
    "hold": (4, 0),
    "release": (5, 0),
    "kill": (6, 0),
    "recovery": (6, 1),
}


def _demo(part: str) -> str:
    """A part of the demo's screen; its sandbox is at the port that people use."""
    act, number = DEMO_PARTS[part]
    paragraphs = re.split(r"^\d\. ", _screen(), flags=re.MULTILINE)[act].split("\n\n")
    commands = [paragraph for paragraph in paragraphs if paragraph.startswith("$ ")]
    return _fenced(_PORT.sub("8199", commands[number]), "console")


def _edit(name: str) -> str:
    """What the demo changes in the sample project, as a diff: `day`, `mistake`, `meant`, `next day`."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        for part in ("models", "seeds"):
            shutil.copytree(demo.SAMPLE / part, project / part)
        if name == "next day":
            changes.a_day(project / "seeds")
        before = _texts(project)
        _EDITS[name](project)
        lines: list[str] = []
        for file, text in _texts(project).items():
            old, new = before[file].splitlines(keepends=True), text.splitlines(keepends=True)
            lines += difflib.unified_diff(old, new, file, file, n=0)
    kept = [line for line in lines if not line.startswith(("--- ", "@@ "))]
    return _fenced("".join(line.replace("+++ ", "# ", 1) for line in kept), "diff")


def _texts(project: Path) -> dict[str, str]:
    files = sorted(file for file in project.rglob("*") if file.suffix in (".csv", ".sql"))
    return {file.relative_to(project).as_posix(): file.read_text(encoding="utf-8") for file in files}


_EDITS: dict[str, Callable[[Path], object]] = {
    "day": lambda project: changes.a_day(project / "seeds"),
    "mistake": changes.break_readers,
    "meant": changes.narrow_lapsed,
    "next day": lambda project: changes.a_day(project / "seeds", newest=True),
}


def _sample(names: str) -> str:
    """The YAML of these models, as it stands in the sample project."""
    text = ""
    for file in ("models/schema.yml", "models/segments/schema.yml"):
        heading, *models = re.split(r"^  - name: ", (demo.SAMPLE / file).read_text("utf-8"), flags=re.MULTILINE)
        chosen = [model for name in names.split() for model in models if re.match(rf"{name}\b", model)]
        text += "".join(f"  - name: {model}" for model in chosen)
    return _fenced(heading + text, "yaml")


def _sandbox(_: str) -> str:
    """Connections to the sandbox as the sample project has them, with what stands in for its variables."""
    text = (demo.SAMPLE / "destinations.yml").read_text("utf-8").partition("\n")[2].partition("\nfiles:")[0]
    return _fenced(_VARIABLE.sub(r"\1\2", text), "yaml")


def _help(words: str) -> str:
    """The help text of a command."""
    command: click.Command = cli.main
    path = ["dbt-segments"]
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
        path.append(word)
    context = click.Context(
        command, info_name=" ".join(path), terminal_width=_HELP_WIDTH, max_content_width=_HELP_WIDTH
    )
    context.help_option_names = ["-h", "--help"]
    return _fenced(command.get_help(context), "text")


def _identifiers(type_name: str) -> str:
    """A destination's identifiers: its own names, whether they match alone, and what becomes of an example."""
    destination = registry.get(type_name)
    alone = {unit[0] for unit in destination.units if len(unit) == 1}
    lines = ["| identifier | field | matches alone | an example | is sent as |", "| --- | --- | --- | --- | --- |"]
    for name, accepts in destination.identifiers.items():
        if accepts.trait:
            continue
        example = _EXAMPLES[name]
        becomes = f"`{_in_clear(name, example, accepts.rule)}`"
        cells = (
            f"`{name}`",
            f"`{accepts.field}`",
            "yes" if name in alone else _together(name, destination),
            f"`{example}`",
            f"SHA-256 of {becomes}" if accepts.rule.hashed else f"{becomes}, in clear",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _together(name: str, destination: type[Destination]) -> str:
    """`no`, or that it matches with others."""
    return "together" if any(name in unit for unit in destination.units) else "no"


def _platforms(argument: str) -> str:
    """A row for each ad platform, out of what it declares: `short` for an overview, `sending` for how members go."""
    types = [registry.get(name) for name in registry.names()]
    platforms = [cls for cls in types if cls.one_click]
    if argument == "short":
        heads = ("platform", "type", "API version", "finds people by", "people it needs")
        rows = [
            (
                f"[{cls.title}](docs/reference/destinations/{cls.type}.md)",
                f"`{cls.type}`",
                cls.version or "-",
                _units(cls),
                f"{cls.minimum:,}" if cls.minimum else "-",
            )
            for cls in platforms
        ]
    else:
        heads = ("type", "match units", "members a request", "forgets a member after", "what accepted proves")
        rows = [
            (
                f"[`{cls.type}`](destinations/{cls.type}.md)",
                _units(cls),
                f"{cls.limits.members:,}",
                f"{cls.retention_days} days" if cls.retention_days else "never",
                cls.proves,
            )
            for cls in platforms
        ]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def _unsure(type_name: str) -> str:
    """What a platform's documents leave open, as it declares it."""
    return "\n".join(f"- {text[0].upper()}{text[1:]}." for text in registry.get(type_name).unsure) + "\n"


def _units(cls: type[Destination]) -> str:
    return ", ".join(" with ".join(f"`{name}`" for name in unit) for unit in cls.units)


def _benchmarks(argument: str) -> str:
    """The table of figures that `python -m benchmarks` wrote; the argument names their file."""
    figures = (ROOT / "docs" / "benchmarks" / f"{argument}.json").read_text(encoding="utf-8")
    return _fenced(table(json.loads(figures)), "text")


def _sabotages(invariant: str) -> str:
    """What breaks an invariant in the sabotages, and the test that notices it."""
    rows = [f"| {one.says} | `{one.test}` |" for one in SABOTAGES if one.invariant == int(invariant)]
    return "\n".join(["| if in the product | then this fails |", "| --- | --- |", *rows]) + "\n"


def _in_clear(name: str, example: str, rule: Rule) -> str:
    """What of an American's value is hashed or sent: the same rule is asked not to hash."""
    row = {"identifier": name, "value": example, "country": "US"}
    (answer,) = attempt([row], {name: dataclasses.replace(rule, hashed=False)})
    return str(answer["sent"])


def _torture(part: str) -> str:
    """A table of docs/torture.json, which `python -m tests.torture report --write` makes of results."""
    found = json.loads(report.FILE.read_text(encoding="utf-8"))
    tables = {
        "totals": report.totals,
        "faults": report.fault_table,
        "kills": report.kill_table,
        "changes": report.change_table,
        "mends": report.mend_table,
    }
    return tables[part](found)


_SOURCES: dict[str, Callable[[str], str]] = {
    "demo": _demo,
    "edit": _edit,
    "sample": _sample,
    "sandbox": _sandbox,
    "help": _help,
    "identifiers": _identifiers,
    "platforms": _platforms,
    "unsure": _unsure,
    "benchmarks": _benchmarks,
    "sabotages": _sabotages,
    "torture": _torture,
}


def commands() -> Iterator[str]:
    """Every command as it is typed after `dbt-segments`."""

    def below(group: click.Group, prefix: str) -> Iterator[str]:
        for name, command in sorted(group.commands.items()):
            if isinstance(command, click.Group):
                yield from below(command, f"{prefix}{name} ")
            else:
                yield f"{prefix}{name}"

    return below(cli.main, "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
