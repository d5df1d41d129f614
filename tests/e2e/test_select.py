"""Selectors on a real project: whatever `dbt ls` lists for a selector, its syncs are what we select."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dbt_segments.dbtgraph import DbtGraph
from dbt_segments.errors import ConfigError, ManifestError
from dbt_segments.manifest import checked_registry
from dbt_segments.project import read_configuration, selected
from dbt_segments.settings import resolve_options
from tests.e2e.shell import command
from tests.projects import DbtProject, DuckDBWarehouse, make_project

pytestmark = pytest.mark.slow

SEGMENT = {"dbt_segments": {"segment": {"entity": "customer", "destinations": ["meta"]}}}
SCHEMA = {
    "sources": [{"name": "crm", "schema": "main", "tables": [{"name": "people"}]}],
    "models": [
        {
            "name": "customers",
            "config": {
                "meta": {
                    "dbt_segments": {
                        "entity": {"name": "customer", "key": "customer_id", "identifiers": {"email": "email"}}
                    }
                }
            },
        },
        {
            "name": "vip",
            "config": {"meta": SEGMENT, "tags": ["nightly"]},
            "columns": [{"name": "customer_id", "data_tests": ["unique"]}],
        },
        {"name": "lapsed", "config": {"meta": SEGMENT, "materialized": "table"}},
        {"name": "fresh", "config": {"meta": SEGMENT, "tags": ["nightly"]}},
        {
            "name": "scored",
            "latest_version": 2,
            "config": {"meta": SEGMENT},
            "versions": [{"v": 1, "config": {"meta": {}}}, {"v": 2}],
        },
    ],
}
SELECTORS = {
    "selectors": [
        {"name": "tables", "definition": {"method": "config.materialized", "value": "table"}},
        {"name": "most", "definition": {"union": ["tag:nightly", {"exclude": ["vip"]}]}},
    ]
}
FILES = {
    "models/marts/customers.sql": "select 1 as customer_id, 'a@example.com' as email",
    "models/marts/orders.sql": "select * from {{ source('crm', 'people') }}",
    "models/segments/vip.sql": "select customer_id from {{ ref('customers') }}",
    "models/segments/lapsed.sql": "select customer_id from {{ ref('orders') }}",
    "models/segments/new/fresh.sql": "select customer_id from {{ ref('vip') }} where {{ recent() }}",
    "models/segments/scored_v1.sql": "select customer_id from {{ ref('orders') }}",
    "models/segments/scored_v2.sql": "select customer_id from {{ ref('orders') }}",
    "macros/recent.sql": "{% macro recent() %}1 = 1{% endmacro %}",
    "models/schema.yml": json.dumps(SCHEMA),  # JSON is YAML
    "selectors.yml": json.dumps(SELECTORS),
    "destinations.yml": json.dumps({"meta": {"ad_account_id": "1", "access_token": "sandbox-token"}}),
}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> DbtProject:
    """The project, parsed twice: `earlier/` holds the artifacts from before `vip` and the macro changed."""
    path = tmp_path_factory.mktemp("selected")
    project = make_project(path / "shop", DuckDBWarehouse(path / "shop.duckdb"), FILES)
    project.run("parse")
    (project.path / "earlier").mkdir()
    shutil.copy(project.target_dir / "manifest.json", project.path / "earlier" / "manifest.json")
    project.write("models/segments/lapsed.sql", "select customer_id from {{ ref('orders') }} where 1 = 1")
    project.write("macros/recent.sql", "{% macro recent() %}2 = 2{% endmacro %}")
    project.run("parse")
    return project


def ours(project: DbtProject, *select: str, exclude: tuple[str, ...] = (), selector: str | None = None) -> list[str]:
    options = resolve_options(
        project_dir=project.path,
        profiles_dir=project.path,
        select=select,
        exclude=exclude,
        selector=selector,
        state=project.path / "earlier",
    )
    profile, settings, connections = read_configuration(options)
    registry = checked_registry(options.target_path, settings, connections)
    return sorted(sync.segment.model.unique_id for sync in selected(options, profile, registry))


def theirs(project: DbtProject, *arguments: str) -> list[str]:
    """Segments that `dbt ls` lists."""
    listed = project.run(
        "ls",
        *arguments,
        "--resource-type",
        "model",
        "--output",
        "json",
        "--output-keys",
        "unique_id",
        "--state",
        str(project.path / "earlier"),
    ).result
    names = {json.loads(line)["unique_id"] for line in listed}
    return sorted(names - {"model.shop.customers", "model.shop.orders"})


@pytest.mark.parametrize(
    "select",
    [
        "vip",
        "segments",
        "shop.segments.new",
        "shop",
        "scored",
        "scored.v2",
        "tag:nightly",
        "tag:nightly,config.materialized:view",
        "path:models/segments/new",
        "path:models/segments/vip.sql",
        "models/segments/new",
        "file:fresh.sql",
        "lapsed.sql",
        "config.materialized:table",
        "source:crm+",
        "source:crm.people+2",
        "package:shop",
        "+fresh",
        "1+fresh",
        "customers+",
        "customers+1",
        "@customers",
        "@vip",
        "resource_type:model",
        "version:latest",
        "*e*s*",
        "state:modified",
        "state:modified.body+",
        "state:modified.macros",
        "state:unmodified",
        "vip lapsed",
        "state:modified,tag:nightly vip",
    ],
)  # fmt: skip
def test_a_selector_means_what_it_means_to_dbt(parsed: DbtProject, select: str) -> None:
    """Our selection is that of `dbt ls`, cut down to segments; none of these selectors is empty."""
    expected = theirs(parsed, "--select", *select.split())
    assert expected
    assert ours(parsed, select) == expected


def test_exclusion_and_selectors_of_selectors_yml(parsed: DbtProject) -> None:
    """`--exclude` and `--selector` too."""
    assert ours(parsed, exclude=("state:modified",)) == theirs(parsed, "--exclude", "state:modified")
    for name, expected in (("tables", ["model.shop.lapsed"]), ("most", ["model.shop.fresh"])):
        assert ours(parsed, selector=name) == theirs(parsed, "--selector", name) == expected


@pytest.mark.parametrize("select", ["nonsense:x", "state:nonsense", "source:crm++", "@vip+"])
def test_what_dbt_does_not_understand_is_refused(parsed: DbtProject, select: str) -> None:
    """No selector is passed over in silence, and the message names it."""
    with pytest.raises(ConfigError) as caught:
        ours(parsed, select)
    assert select in caught.value.message


def test_a_selector_that_is_not_there(parsed: DbtProject) -> None:
    """The nearest name of selectors.yml is told."""
    with pytest.raises(ConfigError) as caught:
        ours(parsed, selector="table")
    assert caught.value.hint == "did you mean `tables`?"


def test_comparison_needs_the_artifacts_of_an_earlier_run(parsed: DbtProject, tmp_path: Path) -> None:
    """Without --state, or with a folder that holds none, the message says what to name."""
    for state, message in ((None, "compares with an earlier run"), (tmp_path, "there is no manifest.json")):
        options = resolve_options(project_dir=parsed.path, profiles_dir=parsed.path, select=["state:new"], state=state)
        profile, settings, connections = read_configuration(options)
        registry = checked_registry(options.target_path, settings, connections)
        with pytest.raises(ConfigError, match=message):
            selected(options, profile, registry)


def test_a_manifest_that_this_dbt_cannot_read(parsed: DbtProject, tmp_path: Path) -> None:
    """Another dbt's manifest ends in a message with a remedy, not in a traceback."""
    manifest = parsed.manifest()
    del manifest["nodes"]["model.shop.vip"]["fqn"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    options = resolve_options(project_dir=parsed.path, target_path=tmp_path)
    with pytest.raises(ManifestError, match="the installed dbt-core cannot read it"):
        DbtGraph(options, {}).term("path:models")


def test_commands_take_selectors(parsed: DbtProject) -> None:
    """The options reach dbt; nothing modified is nothing to do, a name that is none is a mistake."""
    state = ["--state", str(parsed.path / "earlier")]
    listed = command(parsed, "list", "-s", "state:modified", "tag:nightly,@vip", *state, "--output", "json")
    assert {row["segment"] for row in json.loads(listed.stdout)["segments"]} == {"vip", "lapsed", "fresh"}
    assert command(parsed, "list", "--selector", "tables").stdout.splitlines()[1:] == ["lapsed    on, never"]
    nothing = command(parsed, "list", "-s", "state:new", *state)
    assert (nothing.code, nothing.stdout) == (0, "no segments\n")
    unknown = command(parsed, "list", "-s", "lapsd")
    assert (unknown.code, unknown.stderr.splitlines()[0]) == (2, "error: nothing matches lapsd")


def test_dbt_reads_what_toggling_wrote(parsed: DbtProject) -> None:
    """Off and on again with dbt's own parser in between; this project's properties are JSON, which is YAML too."""
    before = (parsed.path / "models/schema.yml").read_text()
    assert command(parsed, "disable", "vip", "meta").code == 0
    parsed.run("parse")
    assert "vip         off, never" in command(parsed, "list").stdout.splitlines()
    assert command(parsed, "enable", "vip", "meta").code == 0
    assert (parsed.path / "models/schema.yml").read_text() == before
    versioned = command(parsed, "disable", "scored_v2", "meta")
    assert (versioned.code, "not edited" in versioned.stderr) == (2, True)
    parsed.run("parse")
