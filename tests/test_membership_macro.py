"""The macro `segment_membership` in a user's own model, with the real dbt on both warehouses, and its missing hints."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dbt_segments.cli import main
from tests.projects import DbtProject, MakeProject, Warehouse

HINTS = """\
-- depends_on: {{ ref('customers') }}
-- depends_on: {{ ref('lapsed') }}
-- depends_on: {{ ref('vip') }}
"""
CALL = "{{ dbt_segments.segment_membership('customer') }}"
FILES = {
    "models/customers.sql": "select * from (values (1, 'a'), (2, 'b'), (3, 'c'), (cast(null as integer), 'd')) "
    "as t(customer_id, email)",
    "models/lapsed.sql": "select customer_id from {{ ref('customers') }} where customer_id > 1",
    "models/vip.sql": "select 2 as customer_id union all select 2 union all select 77 union all select null",
    "models/other.sql": "select 1 as company_id",
    "models/schema.yml": """
models:
  - name: customers
    config: {meta: {dbt_segments: {entity: {name: customer, key: customer_id}}}}
  - name: lapsed
    config: {meta: {dbt_segments: {segment: {entity: customer, name: "o'hara"}}}}
  - name: vip
    config: {meta: {dbt_segments: {segment: {entity: customer, name: Zebra}}}}
  - name: other
    config: {meta: {dbt_segments: {entity: {name: company, key: company_id}}}}
""",
    "models/customer_membership.sql": HINTS + CALL,
    "models/company_membership.sql": "-- depends_on: {{ ref('other') }}\n" + CALL.replace("customer", "company"),
}


@pytest.fixture
def shop(dbt_project: MakeProject, warehouse: Warehouse) -> DbtProject:
    return dbt_project(FILES, warehouse=warehouse, package=True)


def test_every_record_has_its_segments(shop: DbtProject) -> None:
    """Sorted by code points, empty for none, unknown and null keys left out; lists of the warehouse's own type."""
    shop.run("run")
    schema = shop.warehouse.schema
    rows = shop.sql(f"select customer_id, segments from {schema}.customer_membership order by 1")
    assert rows == [(1, []), (2, ["Zebra", "o'hara"]), (3, ["o'hara"])]
    assert shop.sql(f"select company_id, segments from {schema}.company_membership") == [(1, [])]
    wanted = {"duckdb": "VARCHAR[]", "postgres": "text[]"}[shop.warehouse.type]
    kind = {"duckdb": "typeof(segments)", "postgres": "cast(pg_typeof(segments) as text)"}[shop.warehouse.type]
    assert {row[0] for row in shop.sql(f"select {kind} from {schema}.customer_membership")} == {wanted}


def test_a_missing_hint_is_dbts_own_error_and_is_mended(dbt_project: MakeProject) -> None:
    """dbt stops at the model; `validate` names each line, `validate --fix` writes them, and dbt goes on."""
    project = dbt_project({**FILES, "models/customer_membership.sql": "\r\n" + CALL + "\r\n"}, package=True)
    result = project.run("run", ok=False)
    (failed,) = [row for row in result.result.results if row.status == "error"]
    assert "unable to infer all dependencies" in failed.message
    code, out = validate(project)
    assert code == 2
    assert "models/customer_membership.sql: customer_membership: asks for segment_membership('customer')" in out
    assert [line for line in HINTS.splitlines() if line not in out] == []
    code, out = validate(project, "--fix")
    assert code == 0
    assert "run `dbt parse`" in out
    validate(project, "--fix")
    text = (project.path / "models/customer_membership.sql").read_bytes().decode()
    assert text == HINTS.replace("\n", "\r\n") + "\r\n" + CALL + "\r\n"
    project.run("run")
    assert validate(project)[0] == 0


def test_hints_are_written_as_the_model_must_refer(dbt_project: MakeProject) -> None:
    """Sources and versions have their own forms, dbt takes them, and the query runs."""
    files = {
        "models/schema.yml": """
sources:
  - name: crm
    schema: main
    tables:
      - name: people
        config: {meta: {dbt_segments: {entity: {name: person, key: id}}}}
models:
  - name: vip
    latest_version: 2
    config: {meta: {dbt_segments: {segment: {entity: person}}}}
    versions: [{v: 2}]
""",
        "models/vip_v2.sql": "select 1 as id",
        "models/membership.sql": "{# dbt_segments.segment_membership('nobody') #}\n"
        '{{ dbt_segments.segment_membership(entity="person") }}',
    }
    project = dbt_project(files, package=True)
    project.sql("create table main.people as select * from (values (1), (2)) t(id)")
    project.run("parse")
    validate(project, "--fix")
    text = (project.path / "models/membership.sql").read_text()
    assert text.splitlines()[:2] == [
        "-- depends_on: {{ source('crm', 'people') }}",
        "-- depends_on: {{ ref('vip', v=2) }}",
    ]
    project.run("run")
    assert validate(project)[0] == 0
    assert project.sql("select * from main.membership order by id") == [(1, ["vip_v2"]), (2, [])]


def test_an_unknown_entity_is_named(dbt_project: MakeProject) -> None:
    """dbt says which entities there are, and so does `validate` before it runs."""
    call = "{{ dbt_segments.segment_membership('custmer') }}"
    project = dbt_project({**FILES, "models/customer_membership.sql": call}, package=True)
    result = project.run("run", ok=False)
    assert "no model declares this entity; entities: company, customer" in str(result.result or result.exception)
    code, out = validate(project, "--fix")
    assert code == 2
    assert "segment_membership('custmer'), and there is no such entity (entities: customer, company)" in out


def validate(project: DbtProject, *options: str) -> tuple[int, str]:
    """Exit code and both streams of `dbt-segments validate`."""
    folder = str(project.path)
    done = CliRunner().invoke(main, ["validate", "--project-dir", folder, "--profiles-dir", folder, *options])
    return done.exit_code, done.output
