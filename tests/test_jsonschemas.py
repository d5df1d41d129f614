"""JSON Schemas: every YAML example of the repository passes, and mistakes that the program refuses do not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from dbt_segments import jsonschemas
from dbt_segments.cli import main
from tests.projects import REPOSITORY

EXAMPLES = re.compile(r"^( *)```yaml\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def editors(text: str) -> Any:
    """YAML as an editor reads it: `on` is a word."""
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """YAML 1.2, in which only true and false are booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def kind_of(value: Any, path: Path) -> str | None:
    """Which schema a YAML text is for; None for texts that are none of ours."""
    if not isinstance(value, dict):
        return None
    if path.name == "destinations.yml" or any(
        isinstance(entry, dict) and ("ad_account_id" in entry or "type" in entry) for entry in value.values()
    ):
        return "destinations"
    if {"models", "seeds", "snapshots", "sources"} & value.keys() and path.name != "dbt_project.yml":
        return "meta"
    return "vars" if "vars" in value else None


def examples() -> Iterator[Any]:
    """(kind, values) of every YAML example in the pages, and of the sample project's files."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    texts = [(page, text) for page in pages for _, text in EXAMPLES.findall(page.read_text(encoding="utf-8"))]
    files = [
        file for file in sorted((REPOSITORY / "sample_project").rglob("*.yml")) if "dbt_packages" not in file.parts
    ]
    texts += [(file, file.read_text(encoding="utf-8")) for file in files if "target" not in file.parts]
    for number, (path, text) in enumerate(texts):
        value = editors(text)
        kind = kind_of(value, path)
        if kind is not None:
            yield pytest.param(kind, value, id=f"{kind}: {path.name} {number}")


EVERY = list(examples())


@pytest.mark.parametrize(("kind", "value"), EVERY)
def test_every_example_passes(kind: str, value: Any) -> None:
    """What a page shows, an editor with the schema does not mark."""
    jsonschema.validate(value, jsonschemas.SCHEMAS[kind]())


def test_there_are_examples_of_each_kind() -> None:
    """The search for examples finds some."""
    assert {example.values[0] for example in EVERY} == set(jsonschemas.SCHEMAS)
    assert len(EVERY) >= 8


def model(block: Any, **more: Any) -> Any:
    return {"models": [{"name": "vip", "config": {"meta": {"dbt_segments": block}}, **more}]}


META = {"ad_account_id": "1", "access_token": "{{ env_var('X') }}"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("meta", model({"segment": {"entity": "customer", "destinatons": ["meta"]}})),
        ("meta", model({"segment": {"entity": "customer", "syncs": [{"to": "crm", "mode": "upset"}]}})),
        ("meta", {"seeds": [{"name": "x", "meta": {"dbt_segments": {"entity": {"key": "id"}}}}]}),
        ("meta", {"sources": [{"tables": [{"meta": {"dbt_segments": {"entity": {"key": "id"}}}}]}]}),
        ("meta", {"models": [{"versions": [{"v": 1, "config": {"meta": {"dbt_segments": 3}}}]}]}),
        ("destinations", {"meta": {**META, "acces_token": "x"}}),
        ("destinations", {"meta": {"access_token": "x"}}),
        ("destinations", {"emea": META}),
        ("destinations", {"emea": {"type": "mta", **META}}),
        ("destinations", {"emea": {"type": "meta", **META, "timeout_s": 0}}),
        ("destinations", {"meta": {"type": "facebook"}}),
        ("vars", {"vars": {"dbt_segments": {"target": ["prod"]}}}),
        ("vars", {"vars": {"dbt_segments": {"hold": {"empty": "maybe"}}}}),
    ],
)
def test_mistakes_are_marked(kind: str, value: Any) -> None:
    """Unknown keys, wrong words and missing keys, wherever a block may stand."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, jsonschemas.SCHEMAS[kind]())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("meta", {"version": 2, "models": [{"name": "other", "config": {"meta": {"owner": 1}}}], "exposures": []}),
        ("meta", model({"segment": {"entity": "customer", "destinations": ["meta", {"to": "x", "audience_id": 7}]}})),
        ("destinations", None),
        ("destinations", {"meta": {"ad_account_id": 1002, "access_token": "x", "timeout_s": "{{ env_var('T') }}"}}),
        ("destinations", {"facebook": META, "emea": {"type": "meta", **META}}),
        (
            "vars",
            {"name": "shop", "vars": {"today": 1, "dbt_segments": {"targets": "prod", "grants": {"select": "a"}}}},
        ),
    ],
)
def test_what_the_program_takes_is_not_marked(kind: str, value: Any) -> None:
    """Short forms, Jinja in the place of numbers, and everything that is not ours."""
    jsonschema.validate(value, jsonschemas.SCHEMAS[kind]())


@pytest.mark.parametrize("kind", list(jsonschemas.SCHEMAS))
def test_the_command_prints_a_valid_schema(kind: str) -> None:
    """The output is a schema of its draft, and nothing else."""
    done = CliRunner().invoke(main, ["schema", kind])
    assert done.exit_code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(done.stdout))
