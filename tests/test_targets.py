"""A manifest that dbt wrote for one target is not synced as another one's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbt_segments import pipeline
from dbt_segments.errors import ManifestError
from dbt_segments.nodes import load_manifest
from dbt_segments.targets import check_target
from dbt_segments.warehouse import load_profile
from tests.projects import DbtProject, DuckDBWarehouse, MakeProject
from tests.world import make_world, sandbox

MODELS = {"models/a.sql": "select 1 as id", "models/b.sql": "{{ config(schema='marts') }} select 1 as id"}
OWN_NAMES = """
{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ 'analytics' if target.name == 'prod' else target.schema }}
{%- endmacro %}
"""


@pytest.fixture
def shop(dbt_project: MakeProject) -> DbtProject:
    """Two targets in two schemas of one database; dev is the default."""
    project = dbt_project(MODELS)
    output = project.warehouse.output()
    profiles = {"shop": {"target": "dev", "outputs": {"dev": {**output, "schema": "dev"}, "prod": output}}}
    project.write("profiles.yml", yaml.safe_dump(profiles))
    return project


def check(project: DbtProject, target: str) -> None:
    profile = load_profile(project.path, project.path, target, {}, os.environ)
    check_target(load_manifest(project.target_dir / "manifest.json"), profile, project.target_dir)


@pytest.mark.parametrize("command", ["parse", "build"])
def test_dbts_own_names_show_the_target(shop: DbtProject, command: str) -> None:
    """Whatever command wrote the manifest; models with a schema of their own count like the others."""
    shop.run(command)
    check(shop, "dev")
    with pytest.raises(ManifestError, match="a is in schema dev there, and in main on target prod") as caught:
        check(shop, "prod")
    assert "dbt parse --target prod" in str(caught.value.hint)
    shop.run("parse", "--target", "prod")
    check(shop, "prod")


def test_another_database_is_another_target(shop: DbtProject) -> None:
    """Each target with a DuckDB file of its own."""
    profiles = yaml.safe_load((shop.path / "profiles.yml").read_text())
    profiles["shop"]["outputs"]["dev"] |= {"schema": "main", "path": str(shop.path / "elsewhere.duckdb")}
    shop.write("profiles.yml", yaml.safe_dump(profiles))
    shop.run("parse")
    with pytest.raises(ManifestError, match="a is in database elsewhere there"):
        check(shop, "prod")


def test_where_the_project_names_schemas_the_command_s_results_tell(shop: DbtProject) -> None:
    """The target of a build is known by its results, named or not; of what only parses nothing is known."""
    shop.write("macros/names.sql", OWN_NAMES)
    for options, other in ((["--target", "prod"], "dev"), ([], "prod")):
        shop.run("build", *options)
        with pytest.raises(ManifestError, match="written by a command on target"):
            check(shop, other)
        check(shop, "prod" if options else "dev")
    shop.run("parse", "--target", "prod")
    for target in ("dev", "prod"):
        check(shop, target)


def test_neither_a_sync_nor_a_plan_reads_another_targets_models(
    tmp_path: Path, duckdb_warehouse: DuckDBWarehouse
) -> None:
    """Nothing is sent, and nothing compared: its members would all be somebody else's."""
    with sandbox() as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.customers([(1, "ada@example.com")])
        world.segment([1])
        request = world.request()
        manifest = world.project.manifest()
        for node in manifest["nodes"].values():
            node["schema"] = "dev"
        world.project.write("target/manifest.json", json.dumps(manifest))
        commands: list[Any] = [pipeline.plan, pipeline.sync]
        for command in commands:
            with pytest.raises(ManifestError, match=r"is not of target dev: .* is in schema dev there, and in main on"):
                command(request, lambda *said: None)
        assert world.calls() == []
