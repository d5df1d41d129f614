"""manifest.json, as dbt writes it and as hand-made mistakes change it -> the registry and its problems."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dbt_segments import jsonschemas
from dbt_segments.connections import Connections
from dbt_segments.destinations import registry as destinations
from dbt_segments.errors import ManifestError, Problem
from dbt_segments.manifest import checked_registry, load_registry, read_registry
from dbt_segments.settings import read_project_settings
from dbt_segments.values import Connection, Hold, Registry, Sync
from tests import platforms
from tests.projects import DuckDBWarehouse, make_project

SETTINGS = read_project_settings({"dbt_segments": {"hold": {"tests": "warn"}}})
SCHEMA = """
sources:
  - name: raw
    tables:
      - name: companies
        config:
          meta: {dbt_segments: {entity: {name: company, kind: company, key: id, identifiers: {email: email}}}}
models:
  - name: customers
    config:
      tags: [core]
      meta:
        dbt_segments:
          entity:
            name: customer
            key: customer_id
            identifiers:
              email: email
              phone: {column: phone, country: country}
              fn: first_name
              mobile_id: {column: device, os: ios}
              dobd: birth_day
              birth_date: born
              dobm: birth_month
              user_id: customer_id
            consent: {ads: ads_consent}
            suppress: [opt_outs]
            related: {rep: {model: employees, on: rep_id, key: employee_id}}
    columns:
      - name: customer_id
        data_tests:
          - unique
          - not_null: {config: {severity: warn}}
  - name: employees
  - name: lapsed
    latest_version: 2
    config:
      meta:
        dbt_segments:
          segment:
            entity: customer
            destinations: [acme]
    versions: [{v: 1}, {v: 2}]
  - name: switched_off
    config:
      enabled: false
      meta: {dbt_segments: {sgment: {}}}
seeds:
  - name: opt_outs
  - name: vips
    meta:
      dbt_segments:
        segment:
          entity: customer
          name: vip
          label: Very important
          renamed_from: [favourites]
          suppress: [opt_outs]
          destinations:
            - to: acme
              audience_name: VIP
              identifiers: [phone, email]
              schedule: hourly
              removals: false
              hold: {remove_members: 3}
            - phones
          syncs:
            - {to: other, mode: mirror, id: vip_at_other, audience_id: 77}
"""
FILES = {
    "models/schema.yml": SCHEMA,
    "models/customers.sql": "select 1 as customer_id",
    "models/employees.sql": "select 1 as employee_id",
    "models/lapsed_v1.sql": "select customer_id from {{ ref('customers') }}",
    "models/lapsed_v2.sql": "select customer_id from {{ ref('customers') }}",
    "models/switched_off.sql": "select 1 as customer_id",
    "models/in_sql.sql": (
        "{{ config(meta={'dbt_segments': {'segment': {'entity': 'company', 'destinations': []}}}) }} select 1 as id"
    ),
    "seeds/opt_outs.csv": "customer_id\n1\n",
    "seeds/vips.csv": "customer_id\n1\n",
    "tests/singular.sql": "select * from {{ ref('customers') }} where customer_id < 0",
}


def _connection(name: str, kind: str, account: str = "1") -> Connection:
    settings = platforms.AcmeSettings.model_validate({"account_id": account, "access_token": "t"})
    return Connection(name, kind, settings)


def _connections(**problems: tuple[Problem, ...]) -> Connections:
    ok = [
        _connection("acme", "acme_ads", "1"),
        _connection("other", "acme_ads", "2"),
        _connection("twin", "acme_ads", "1"),
        _connection("phones", "phone_ads"),
        _connection("crm", "crm"),
    ]
    return Connections(
        "destinations.yml",
        {connection.name: connection for connection in ok if connection.name not in problems},
        problems,
        {connection.name: platforms.get(connection.type) for connection in ok},
    )


@pytest.fixture(autouse=True)
def _platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "get", platforms.get)
    monkeypatch.setattr(destinations, "names", platforms.names)


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What dbt itself writes for the project above."""
    folder = tmp_path_factory.mktemp("registry")
    project = make_project(folder / "shop", DuckDBWarehouse(folder / "shop.duckdb"), FILES)
    project.run("parse")
    return project.manifest()


@pytest.fixture
def manifest(parsed: dict[str, Any]) -> dict[str, Any]:
    """A copy to spoil."""
    return copy.deepcopy(parsed)


def _block(manifest: dict[str, Any], unique_id: str) -> dict[str, Any]:
    """The block of a node, to be changed in place; plain `meta` is a copy of the same."""
    part = manifest["sources"] if unique_id.startswith("source.") else manifest["nodes"]
    block: dict[str, Any] = part[unique_id]["config"]["meta"]["dbt_segments"]
    return block


def _read(manifest: dict[str, Any], **problems: tuple[Problem, ...]) -> Registry:
    registry, found = read_registry(manifest, SETTINGS, _connections(**problems))
    assert found == []
    return registry


def _problems(manifest: dict[str, Any], catalog: dict[str, Any] | None = None) -> list[str]:
    return [str(problem) for problem in read_registry(manifest, SETTINGS, _connections(), catalog)[1]]


def _sync(registry: Registry, sync_id: str) -> Sync:
    return next(sync for sync in registry.syncs if sync.id == sync_id)


CUSTOMERS, VIPS, LAPSED = "model.shop.customers", "seed.shop.vips", "model.shop.lapsed.v2"


# -- what is read -------------------------------------------------------------------------------------------------


def test_entities_are_read_with_everything_they_name(manifest: dict[str, Any]) -> None:
    """Identifiers get their table's names, a birth date feeds what has no column of its own, models are resolved."""
    customer = next(entity for entity in _read(manifest).entities if entity.name == "customer")
    assert {item.name: item.column for item in customer.identifiers} == {
        "email": "email",
        "phone": "phone",
        "first_name": "first_name",
        "maid": "device",
        "doby": "born",
        "dobm": "birth_month",
        "dobd": "birth_day",
        "external_id": "customer_id",
    }
    assert next(item for item in customer.identifiers if item.name == "phone").country == "country"
    assert [model.unique_id for model in customer.suppress] == ["seed.shop.opt_outs"]
    (rep,) = customer.related
    assert (rep.model.name, rep.on, rep.key) == ("employees", "rep_id", "employee_id")
    assert customer.consent == {"ads": "ads_consent"}


def test_a_source_may_be_an_entity(manifest: dict[str, Any]) -> None:
    """Its relation is the source's table."""
    company = next(entity for entity in _read(manifest).entities if entity.name == "company")
    assert company.model.relation.endswith('"raw"."companies"')


def test_models_carry_what_the_gate_needs(manifest: dict[str, Any]) -> None:
    """Error-level tests are attached, singular ones too; warnings are not; parents are known."""
    registry = _read(manifest)
    tests = registry.models[CUSTOMERS].tests
    assert sorted(test.split(".")[2] for test in tests) == ["singular", "unique_customers_customer_id"]
    assert registry.models[LAPSED].depends_on == (CUSTOMERS,)
    assert registry.models[CUSTOMERS].file == "models/customers.sql"
    assert registry.tags[CUSTOMERS] == ("core",)
    assert registry.project == "shop"
    assert registry.invocation_id == manifest["metadata"]["invocation_id"]


def test_sync_ids_come_from_the_model_not_from_the_list(manifest: dict[str, Any]) -> None:
    """Versions have ids of their own, an `id` wins, and nothing depends on the order."""
    expected = {
        "shop.lapsed_v1.acme",
        "shop.lapsed_v2.acme",
        "shop.vips.acme",
        "shop.vips.phones",
        "vip_at_other",
    }
    assert {sync.id for sync in _read(manifest).syncs} == expected
    _block(manifest, VIPS)["segment"]["destinations"].reverse()
    assert {sync.id for sync in _read(manifest).syncs} == expected


def test_one_click_chooses_by_itself(manifest: dict[str, Any]) -> None:
    """All that both sides know, in the platform's order, without a first initial beside the first name."""
    sync = _sync(_read(manifest), "shop.lapsed_v2.acme")
    assert [item.name for item in sync.identifiers] == [
        "email",
        "phone",
        "first_name",
        "doby",
        "dobm",
        "dobd",
        "maid",
        "external_id",
    ]
    assert (sync.one_click, sync.audience_name, sync.schedule, sync.mode) == (True, "lapsed_v2", "daily", "mirror")
    assert sync.hold == Hold(tests="warn")


def test_every_default_can_be_overridden(manifest: dict[str, Any]) -> None:
    """What an item says is what the sync does; the rest of the project's thresholds stays."""
    sync = _sync(_read(manifest), "shop.vips.acme")
    assert [item.name for item in sync.identifiers] == ["email", "phone"]
    assert (sync.audience_name, sync.schedule, sync.removals) == ("VIP", "hourly", False)
    assert sync.hold == Hold(tests="warn", remove_members=3)
    assert sync.former_ids == ("shop.favourites.acme",)
    assert sync.segment.name == "vip"
    assert [model.name for model in sync.segment.suppress] == ["opt_outs"]


def test_a_mobile_id_whose_system_is_known_goes_where_systems_are_told_apart(manifest: dict[str, Any]) -> None:
    """`maid` with `os: ios` is sent as that platform's idfa; the segment's label names the audience."""
    sync = _sync(_read(manifest), "shop.vips.phones")
    assert [(item.name, item.column, item.os) for item in sync.identifiers] == [
        ("idfa", "device", "ios"),
        ("email", "email", None),
    ]
    assert sync.audience_name == "Very important"


def test_a_mirror_to_an_ad_platform_needs_no_mapping(manifest: dict[str, Any]) -> None:
    """A classic sync without mapping is read like a one-click item, with its own id and audience."""
    sync = _sync(_read(manifest), "vip_at_other")
    assert (sync.one_click, sync.audience_id, sync.connection.name) == (False, "77", "other")


def test_newer_manifests_and_unknown_keys_are_tolerated(manifest: dict[str, Any]) -> None:
    """Only this package's own block is strict."""
    manifest["metadata"]["dbt_schema_version"] = "https://schemas.getdbt.com/dbt/manifest/v20.json"
    manifest["nodes"][CUSTOMERS]["new_key"] = {"a": 1}
    assert _read(manifest).syncs


def test_blocks_under_plain_meta_are_read_and_config_wins(manifest: dict[str, Any]) -> None:
    """Older projects write `meta` beside `config`."""
    node = manifest["nodes"][VIPS]
    node["meta"] = {"dbt_segments": {"sgment": 1}}
    assert _sync(_read(manifest), "vip_at_other")
    node["meta"] = node["config"].pop("meta")
    node["config"]["meta"] = {}
    assert _sync(_read(manifest), "vip_at_other")


def test_one_name_needs_no_brackets(manifest: dict[str, Any]) -> None:
    """A text is a list of one where names are listed."""
    expected = _read(copy.deepcopy(manifest))
    _set(manifest, VIPS, "segment.renamed_from", "favourites")
    _set(manifest, VIPS, "segment.suppress", "opt_outs")
    _set(manifest, CUSTOMERS, "entity.suppress", "opt_outs")
    assert _read(manifest) == expected
    block = {"config": {"meta": {"dbt_segments": _block(manifest, VIPS)}}}
    jsonschema.validate({"models": [{"name": "vips", **block}]}, jsonschemas.SCHEMAS["meta"]())


def test_a_connection_that_nobody_uses_needs_no_secret(manifest: dict[str, Any]) -> None:
    """Its problems are told only where an enabled sync needs it."""
    problem = Problem("destinations.yml", "phones", "access_token", "environment variable X is not set")
    item = _block(manifest, VIPS)["segment"]["destinations"]
    item[1] = {"to": "phones", "enabled": False}
    unused = _sync(_read(manifest, phones=(problem,)), "shop.vips.phones")
    assert (unused.enabled, unused.connection.problems) == (False, (problem,))
    item[1] = {"to": "phones"}
    assert read_registry(manifest, SETTINGS, _connections(phones=(problem,)))[1] == [problem]


def test_disabled_models_are_passed_over(manifest: dict[str, Any]) -> None:
    """What dbt does not build is not checked and not synced."""
    manifest["nodes"][VIPS]["config"]["enabled"] = False
    _block(manifest, VIPS)["sgment"] = {}
    assert not [sync for sync in _read(manifest).syncs if sync.segment.name == "vip"]


# -- mistakes -----------------------------------------------------------------------------------------------------


def _set(manifest: dict[str, Any], unique_id: str, path: str, value: Any) -> None:
    *folders, last = path.split(".")
    place: Any = _block(manifest, unique_id)
    for folder in folders:
        place = place[int(folder)] if isinstance(place, list) else place[folder]
    place[int(last) if isinstance(place, list) else last] = value


@pytest.mark.parametrize(
    ("unique_id", "path", "value", "expected"),
    [
        (
            CUSTOMERS,
            "entity.identifiers.phone",
            {"column": "phone", "contry": "country"},
            "models/schema.yml: customers: entity.identifiers.phone.contry: unknown key (did you mean `country`?)",
        ),
        (
            VIPS,
            "segment.entity",
            "custmer",
            "models/schema.yml: vips: segment.entity: there is no entity `custmer` (did you mean `customer`?)",
        ),
        (
            CUSTOMERS,
            "entity.identifiers.emial",
            "email",
            "models/schema.yml: customers: entity.identifiers.emial: there is no such identifier "
            "(did you mean `email`?)",
        ),
        (
            CUSTOMERS,
            "entity.identifiers.first_name",
            "given",
            "models/schema.yml: customers: entity.identifiers.first_name: "
            "`fn` and `first_name` are the same identifier",
        ),
        (
            CUSTOMERS,
            "entity.suppress",
            ["opt_out"],
            "models/schema.yml: customers: entity.suppress: there is no model, seed, snapshot or source `opt_out`; "
            "did you mean `opt_outs`?",
        ),
        (
            CUSTOMERS,
            "entity.related.rep.model",
            "employes",
            "models/schema.yml: customers: entity.related.rep.model: there is no model, seed, snapshot or source "
            "`employes`; did you mean `employees`?",
        ),
        (
            VIPS,
            "segment.destinations.1",
            "acne",
            "models/schema.yml: vips: segment.destinations[1]: there is no connection `acne` in destinations.yml "
            "(did you mean `acme`?)",
        ),
        (
            VIPS,
            "segment.destinations.0.identifiers",
            ["email", "city"],
            "models/schema.yml: vips: segment.destinations[0].identifiers: acme_ads does not take `city` (it takes "
            "email, phone, first_name, last_name, fi, postal_code, doby, dobm, dobd, maid, external_id)",
        ),
        (
            VIPS,
            "segment.destinations.0.identifiers",
            ["email", "zip"],
            "models/schema.yml: vips: segment.destinations[0].identifiers: the entity has no `zip`; it has email, "
            "phone, first_name, maid, dobd, doby, dobm, external_id",
        ),
        (
            VIPS,
            "segment.destinations.0.identifiers",
            ["first_name"],
            "models/schema.yml: vips: segment.destinations[0]: acme_ads could match nobody by the identifiers of "
            "entity `customer` (first_name) (it needs one of: email, phone, maid, external_id, "
            "first_name with last_name with postal_code)",
        ),
        (
            VIPS,
            "segment.destinations.1",
            "crm",
            "models/schema.yml: vips: segment.destinations[1]: crm takes no one-click syncs, so it cannot stand under "
            "`destinations` (write it under `syncs`)",
        ),
        (
            VIPS,
            "segment.syncs.0",
            {"to": "crm", "mode": "upsert", "object": "contacts", "key": {"email": "email"}},
            "models/schema.yml: vips: segment.syncs[0]: crm has no mode `upsert` (its modes: mirror)",
        ),
        (
            CUSTOMERS,
            "entity.syncs",
            [{"to": "crm", "mode": "mirror", "fields": {"Mail": "email"}}],
            "models/schema.yml: customers: entity.syncs[0]: crm takes identifiers: `object`, `key` and `fields` have "
            "no place here (leave them out)",
        ),
        (
            VIPS,
            "segment.destinations.1",
            {"to": "twin", "audience_name": "VIP"},
            "models/schema.yml: vips: segment.destinations[1]: `vips` segment.destinations[0] sends to the same "
            "audience; an audience has one sync (give one of them another `audience_name` or `audience_id`)",
        ),
        (
            VIPS,
            "segment.destinations.1",
            {"to": "acme", "audience_name": "Another"},
            "models/schema.yml: vips: segment.destinations[1]: sync id `shop.vips.acme` is also that of `vips` "
            "segment.destinations[0] (give one of them an `id` of its own)",
        ),
        (
            VIPS,
            "segment.destinations.1",
            {"to": "other", "audience_id": 77},
            "models/schema.yml: vips: segment.syncs[0]: `vips` segment.destinations[1] sends to the same audience; "
            "an audience has one sync (give one of them another `audience_name` or `audience_id`)",
        ),
        (
            VIPS,
            "segment.name",
            "lapsed_v1",
            "models/schema.yml: vips: segment.name: segment `lapsed_v1` is also declared by `lapsed_v1` "
            "(give each its own name)",
        ),
        (
            VIPS,
            "segment.renamed_from",
            ["lapsed_v1"],
            "models/schema.yml: vips: segment.renamed_from: `lapsed_v1` is still a segment of its own "
            "(remove one of the two)",
        ),
        (
            "source.shop.raw.companies",
            "entity.name",
            "customer",
            "models/schema.yml: companies: entity.name: entity `customer` is also declared by `customers` "
            "(is the block inherited from a folder or a source?)",
        ),
        (
            "model.shop.in_sql",
            "segment.destinations",
            ["acme"],
            "models/in_sql.sql: in_sql: segment.destinations[0]: one-click needs an entity of kind person; `company` "
            "is of kind company (write it under `syncs`, as `{to: crm, mode: mirror}` with a connection of that type; "
            "or make a segment of persons)",
        ),
        (
            "model.shop.in_sql",
            "segment.destinations",
            ["phones"],
            "models/in_sql.sql: in_sql: segment.destinations[0]: one-click needs an entity of kind person; `company` "
            "is of kind company (write it under `syncs` with `mode: mirror`; or make a segment of persons)",
        ),
    ],
)
def test_a_mistake_says_where_and_what_next(
    manifest: dict[str, Any], unique_id: str, path: str, value: Any, expected: str
) -> None:
    """File, model, key, what is wrong, and the remedy."""
    _set(manifest, unique_id, path, value)
    assert expected in _problems(manifest)


def test_one_mistake_is_told_once(manifest: dict[str, Any]) -> None:
    """Segments of an entity whose own block is wrong do not complain as well."""
    _set(manifest, CUSTOMERS, "entity.kee", "x")
    assert _problems(manifest) == ["models/schema.yml: customers: entity.kee: unknown key (did you mean `key`?)"]


@pytest.mark.parametrize("unique_id", [CUSTOMERS, VIPS])
@pytest.mark.parametrize(
    "key",
    ["dbt_segment", "dbt-segments", "dbtsegments", "dbt_segements", "db_segments", "DBT_SEGMENTS", "dbt_sgements"],
)
def test_a_block_under_a_misspelt_key_is_no_silence(manifest: dict[str, Any], unique_id: str, key: str) -> None:
    """Nobody would sync what it declares; those who name its entity do not complain as well."""
    node = manifest["nodes"][unique_id]
    for meta in (node["config"]["meta"], node["meta"]):
        meta[key] = meta.pop("dbt_segments")
    name = node["name"]
    expected = f"models/schema.yml: {name}: {key}: unknown key in `meta` (did you mean `dbt_segments`?)"
    assert _problems(manifest) == [expected]


def test_what_others_write_into_meta_is_theirs(manifest: dict[str, Any]) -> None:
    """Only a mapping under what is really close to our key was meant for us."""
    node = manifest["nodes"]["model.shop.employees"]
    others = (
        "segments",
        "segment",
        "dbt",
        "dbt_comments",
        "dbt_elements",
        "my_segments",
        "ad_segments",
        "dbt_segment_id",
    )
    node["config"]["meta"] = {**{key: {"entity": {"name": "x"}} for key in others}, "dbt_segment": "vip"}
    assert _problems(manifest) == []


def test_all_mistakes_come_in_one_go(manifest: dict[str, Any]) -> None:
    """The user runs validate once, not once a mistake."""
    _set(manifest, CUSTOMERS, "entity.suppress", ["opt_out"])
    _set(manifest, VIPS, "segment.destinations.1", "acne")
    _set(manifest, LAPSED, "segment.entty", "customer")
    assert len(_problems(manifest)) == 3


@pytest.mark.parametrize("unique_id", [CUSTOMERS, LAPSED])
def test_ephemeral_models_are_refused(manifest: dict[str, Any], unique_id: str) -> None:
    """They are nowhere in the warehouse, so there is nothing to read."""
    manifest["nodes"][unique_id]["config"]["materialized"] = "ephemeral"
    manifest["nodes"][unique_id]["relation_name"] = None
    assert any("use view or table" in text for text in _problems(manifest))


def test_a_source_cannot_be_a_segment(manifest: dict[str, Any]) -> None:
    """dbt does not build sources, so nothing would say that they are ready."""
    manifest["sources"]["source.shop.raw.companies"]["config"]["meta"] = {
        "dbt_segments": {"segment": {"entity": "customer"}}
    }
    assert any("a source cannot be a segment" in text for text in _problems(manifest))


def test_two_mobile_ids_for_one_place_are_not_dropped_silently(manifest: dict[str, Any]) -> None:
    """Where a platform takes one id a member, the user chooses."""
    identifiers = _block(manifest, CUSTOMERS)["entity"]["identifiers"]
    del identifiers["mobile_id"]
    identifiers |= {"idfa": "apple_id", "aaid": "google_id"}
    assert any(
        "acme_ads takes one `maid` a member and the entity has `idfa` and `aaid`" in t for t in _problems(manifest)
    )
    for name in ("v1", "v2"):
        _set(manifest, f"model.shop.lapsed.{name}", "segment.destinations", [{"to": "acme", "identifiers": ["idfa"]}])
    _set(manifest, VIPS, "segment.syncs", [])
    sync = _sync(_read(manifest), "shop.lapsed_v2.acme")
    assert [(item.name, item.column, item.os) for item in sync.identifiers] == [("maid", "apple_id", "ios")]


def _catalog(*columns: str) -> dict[str, Any]:
    return {"nodes": {CUSTOMERS: {"columns": {name: {"name": name, "type": "TEXT"} for name in columns}}}}


def test_columns_are_checked_where_all_are_known(manifest: dict[str, Any]) -> None:
    """The catalog knows every column; YAML lists only some, so alone it proves nothing."""
    assert _problems(manifest) == []
    columns = [
        "EMAIL",
        "phone",
        "first_name",
        "device",
        "born",
        "birth_day",
        "birth_month",
        "ads_consent",
        "rep_id",
        "countri",
    ]
    assert _problems(manifest, _catalog("customer_id", "country", *columns)) == []
    assert _problems(manifest, _catalog("customer_id", *columns)) == [
        "models/schema.yml: customers: entity.identifiers.phone.country: `customers` has no column `country` "
        "(did you mean `countri`?; if the catalog is old, run `dbt docs generate`)"
    ]


def test_a_contract_knows_every_column_too(manifest: dict[str, Any]) -> None:
    """dbt enforces that such a model has exactly the columns of its YAML."""
    manifest["nodes"][LAPSED]["config"]["contract"] = {"enforced": True}
    manifest["nodes"][LAPSED]["columns"] = {"id": {"name": "id", "data_type": "int"}}
    assert any("`lapsed_v2` has no column `customer_id`" in text for text in _problems(manifest))


# -- files --------------------------------------------------------------------------------------------------------


def test_files_that_are_no_manifest_are_refused(tmp_path: Path, manifest: dict[str, Any]) -> None:
    """Missing, damaged, foreign and too old ones each say what to run."""
    file = tmp_path / "manifest.json"
    old = {**manifest, "metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v11.json"}}
    for text in (None, "{", "[]", "{}", json.dumps(old)):
        if text is not None:
            file.write_text(text, encoding="utf-8")
        with pytest.raises(ManifestError) as caught:
            load_registry(tmp_path, SETTINGS, _connections())
        assert "dbt" in (caught.value.hint or "")


def test_the_checked_registry_raises_every_problem(tmp_path: Path, manifest: dict[str, Any]) -> None:
    """A sync starts only without any."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    assert checked_registry(tmp_path, SETTINGS, _connections()).syncs
    _set(manifest, VIPS, "segment.destinations", ["acne", "acmee"])
    file.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        checked_registry(tmp_path, SETTINGS, _connections())
    assert len(caught.value.problems) == 2
