"""The dbt package in a user's project: what it records, what it leaves alone."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.projects import HOOK, REPOSITORY, DbtProject, MakeProject, Warehouse

SHOP = {
    "seeds/raw_customers.csv": "customer_id,email\n1,ada@example.com\n2,bob@example.com\n",
    "models/customers.sql": "{{ config(materialized='table') }} select * from {{ ref('raw_customers') }}",
    "models/lapsed.sql": "select customer_id from {{ ref('customers') }} where customer_id > {{ var('above', 0) }}",
    "models/schema.yml": "models: [{name: customers, columns: [{name: customer_id, data_tests: [unique, not_null]}]}]",
}


@pytest.fixture
def shop(dbt_project: MakeProject, warehouse: Warehouse) -> DbtProject:
    return dbt_project(SHOP, warehouse=warehouse, package=True)


def recorded(project: DbtProject, columns: str = "unique_id, status") -> list[tuple[Any, ...]]:
    """Rows of model_builds in the order in which they were written; generated test names lose their digest."""
    schema = f"{project.warehouse.schema}_dbt_segments"
    rows = project.sql(f"select {columns} from {schema}.model_builds order by built_at, unique_id")
    return [tuple(_plain(value) for value in row) for row in rows]


def _plain(value: Any) -> Any:
    return ".".join(value.split(".")[:3]) if isinstance(value, str) and value.startswith("test.") else value


def test_build_records_every_seed_model_and_test(shop: DbtProject) -> None:
    """After `dbt build` a second connection reads one row per seed, model and test, with its status."""
    shop.run("build")
    assert recorded(shop, "unique_id, resource_type, command, status, is_empty, is_sample, protocol") == [
        ("model.shop.customers", "model", "build", "success", False, False, 1),
        ("model.shop.lapsed", "model", "build", "success", False, False, 1),
        ("seed.shop.raw_customers", "seed", "build", "success", False, False, 1),
        ("test.shop.not_null_customers_customer_id", "test", "build", "pass", False, False, 1),
        ("test.shop.unique_customers_customer_id", "test", "build", "pass", False, False, 1),
    ]
    (invocation_id,) = {row[0] for row in recorded(shop, "invocation_id")}
    assert invocation_id == json.loads((shop.target_dir / "run_results.json").read_text())["metadata"]["invocation_id"]


def test_built_at_is_utc(shop: DbtProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """built_at is the time in UTC, whatever the time zone of the process."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    before = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
    shop.run("seed")
    after = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
    ((built_at,),) = recorded(shop, "built_at")
    assert before <= built_at <= after


def test_every_run_appends(shop: DbtProject) -> None:
    """A second command adds its rows to a table that is there, committed, and keeps the first one's."""
    shop.run("seed")
    shop.run("run", "--select", "customers")
    assert recorded(shop, "unique_id, command") == [
        ("seed.shop.raw_customers", "seed"),
        ("model.shop.customers", "run"),
    ]


def test_commands_that_build_nothing_record_nothing(shop: DbtProject) -> None:
    """compile, docs generate and show leave no trace, although dbt runs the hook for some of them."""
    shop.run("build")
    before = recorded(shop)
    shop.run("compile")
    shop.run("docs", "generate")
    shop.run("show", "--select", "customers")
    assert recorded(shop) == before


def test_the_test_command_records_tests_and_no_models(shop: DbtProject) -> None:
    """A test that fails in `dbt test` after `dbt run` is known, and no model counts as built by it."""
    shop.run("seed")
    shop.run("run")
    shop.sql(f"insert into {shop.warehouse.schema}.customers values (1, 'eve@example.com')")
    shop.run("test", ok=False)
    assert [row for row in recorded(shop, "command, resource_type, unique_id, status") if row[0] == "test"] == [
        ("test", "test", "test.shop.not_null_customers_customer_id", "pass"),
        ("test", "test", "test.shop.unique_customers_customer_id", "fail"),
    ]


def test_a_failed_model_and_what_it_skips_are_recorded(shop: DbtProject) -> None:
    """The failure, the skipped child, and then the retry that mends both are three facts in the table."""
    shop.run("seed")
    shop.write("models/customers.sql", "select no_such_column from {{ ref('raw_customers') }}")
    shop.run("run", ok=False)
    shop.write("models/customers.sql", "select * from {{ ref('raw_customers') }}")
    shop.run("retry")
    assert recorded(shop, "unique_id, status")[1:] == [
        ("model.shop.customers", "error"),
        ("model.shop.lapsed", "skipped"),
        ("model.shop.customers", "success"),
        ("model.shop.lapsed", "success"),
    ]


@pytest.mark.parametrize(
    ("options", "empty", "sample"),
    [
        (["--empty"], True, False),
        (["--sample", "{'start': '2026-01-01', 'end': '2026-02-01'}"], False, True),
        (["--event-time-start", "2026-01-01", "--event-time-end", "2026-02-01"], False, True),
    ],
    ids=["empty", "sample", "event-time"],
)
def test_partial_builds_say_so(dbt_project: MakeProject, options: list[str], empty: bool, sample: bool) -> None:
    """Models built without rows, or with a part of them, are recorded as such, also by a retry of that command."""
    project = dbt_project({**SHOP, "models/broken.sql": "select no_such_column"}, package=True)
    project.run("seed")
    project.run("run", *options, ok=False)
    project.run("retry", ok=False)
    rows = recorded(project, "unique_id, status, is_empty, is_sample")[1:]
    assert ("model.shop.customers", "success", empty, sample) in rows
    assert rows.count(("model.shop.broken", "error", empty, sample)) == 2


def test_more_results_than_one_insert_holds(dbt_project: MakeProject, warehouse: Warehouse) -> None:
    """501 results are 501 rows, over two inserts, and a quote in a name is only a quote."""
    node = {"unique_id": "model.shop.o'brien", "resource_type": "model", "status": "success"}
    build = {**node, "is_empty": False, "is_sample": False}
    hook = "{{ dbt_segments._record_builds_sql([" + repr(build) + "] * 501) if execute }}"
    project = dbt_project(SHOP, warehouse=warehouse, package=True, extra={"on-run-start": [hook]})
    project.run("seed")
    assert recorded(project).count(("model.shop.o'brien", "success")) == 501


def test_the_state_schema_can_be_named(dbt_project: MakeProject, warehouse: Warehouse) -> None:
    """`vars: {dbt_segments: {schema: ...}}` says where the table goes."""
    project = dbt_project(SHOP, warehouse=warehouse, package=True, vars={"dbt_segments": {"schema": "crm_state"}})
    project.run("seed")
    assert project.sql("select unique_id from crm_state.model_builds") == [("seed.shop.raw_customers",)]


def test_rows_survive_a_hook_that_leaves_a_transaction_open(dbt_project: MakeProject, warehouse: Warehouse) -> None:
    """An earlier hook that looks up a relation opens a transaction that dbt rolls back; our rows are not in it."""
    lookup = "{% if execute %}{% do adapter.get_relation(target.database, target.schema, 'customers') %}{% endif %}"
    project = dbt_project(SHOP, warehouse=warehouse, package=True)
    settings = project.path / "dbt_project.yml"
    settings.write_text(settings.read_text().replace("on-run-end:\n", f'on-run-end:\n- "{lookup}"\n'))
    project.run("seed")
    assert recorded(project) == [("seed.shop.raw_customers", "success")]


def test_an_error_in_the_hook_is_one_failed_hook(dbt_project: MakeProject) -> None:
    """Where the table cannot be written, dbt finishes, reports the hook as failed, and the models are built."""
    project = dbt_project(SHOP, package=True)
    project.sql("create schema main_dbt_segments")
    project.sql("create table main_dbt_segments.model_builds (something integer)")
    result = project.run("seed", ok=False)
    assert result.exception is None
    assert project.sql("select count(*) from main.raw_customers") == [(2,)]


def test_a_consumer_gets_macros_and_nothing_else(dbt_project: MakeProject) -> None:
    """`dbt deps` with `local:` and a build add no model, seed, test or analysis of ours to the user's project."""
    project = dbt_project({"models/customers.sql": "select 1 as customer_id"}, extra={"on-run-end": [HOOK]})
    project.write("packages.yml", f"packages: [{{local: '{REPOSITORY}'}}]")
    project.run("deps")
    project.run("build")
    nodes = {name for kind in ("nodes", "sources", "exposures", "unit_tests") for name in project.manifest()[kind]}
    assert nodes == {"model.shop.customers", "operation.shop.shop-on-run-end-0"}
    assert recorded(project) == [("model.shop.customers", "success")]


def test_macros_keep_to_what_every_dbt_understands() -> None:
    """No macro uses what MiniJinja (dbt v2) lacks: append, extend, update, pop, % formatting, varargs, modules.re."""
    lacking = (".append(", ".extend(", ".update(", ".pop(", "varargs", "kwargs", "modules.re", " % ", "'%", '"%')
    found = [(name, word) for name, text in _macros() for word in lacking if word in text]
    assert found == [], "MiniJinja lacks these"


def test_one_public_macro_per_file() -> None:
    """Each file is named for the one macro that it offers; all others in it are that macro's variants."""
    for name, text in _macros():
        offered = [line.split("macro ")[1].split("(")[0] for line in text.splitlines() if line.startswith("{% macro")]
        assert [macro for macro in offered if not macro.endswith(f"__{name}")] == [name]


def _macros() -> Iterator[tuple[str, str]]:
    for file in sorted((REPOSITORY / "macros").rglob("*.sql")):
        yield file.stem, file.read_text(encoding="utf-8").replace("'%Y-%m-%d %H:%M:%S.%f'", "")
