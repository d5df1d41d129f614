"""What dbt built and tested decides what may be sent: real dbt commands, then `dbt-segments sync`.

A project that is built and synced once is made for the whole file; each test goes on from a copy of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dbt_segments.sandbox import control
from tests.e2e.shell import Ended, Platform, command, platform
from tests.projects import DbtProject, DuckDBWarehouse, PostgresWarehouse, Warehouse, make_project

COUNT = 80
Key = tuple[str, str]

CUSTOMERS = """
{{ config(materialized='table') }}
select customer_id, email, first_name, signed_up_on from {{ ref('raw_customers') }}
"""
# One segment stands on the entity, the other beside it: it is built even where the entity fails.
VIP = "{{ config(materialized='table') }} select customer_id from {{ ref('customers') }}"
FIRST = "{{ config(materialized='table') }} select customer_id from {{ ref('raw_customers') }} where first_name = 'Ann'"
SCHEMA = """
seeds:
  - {name: raw_customers, config: {event_time: signed_up_on, column_types: {signed_up_on: timestamp}}}
models:
  - name: customers
    columns: [{name: first_name, data_tests: [{accepted_values: {arguments: {values: [Ann, Bob]}}}]}]
    config:
      meta:
        dbt_segments:
          entity:
            name: customer
            kind: person
            key: customer_id
            identifiers: {email: email, first_name: first_name, external_id: customer_id}
  - {name: vip, config: {meta: {dbt_segments: {segment: {entity: customer, destinations: [meta]}}}}}
  - {name: first, config: {meta: {dbt_segments: {segment: {entity: customer, destinations: [meta]}}}}}
"""


def person(number: int) -> tuple[str, str]:
    return ("Ann" if number <= 10 else "Bob", f"member{number}@example.com")


def keys(*numbers: int, ids: str = "{}") -> set[Key]:
    """Every identifier of these members that finds them."""
    emails = {("EMAIL", hashlib.sha256(person(number)[1].encode()).hexdigest()) for number in numbers}
    return emails | {("EXTERN_ID", ids.format(number)) for number in numbers}


ALL = {"vip": keys(*range(1, COUNT + 1)), "first": keys(*range(1, 11))}


def seed_csv(count: int = COUNT) -> str:
    lines = ["customer_id,first_name,email,signed_up_on"]
    lines += [f"{number},{','.join(person(number))},2025-01-01 00:00:00" for number in range(1, count + 1)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Shop:
    """A project, and the platform that its segments go to."""

    project: DbtProject
    meta: Platform

    def model(self, name: str, sql: str) -> None:
        self.project.write(f"models/{name}.sql", sql)

    def dbt(self, *arguments: str, ok: bool = True) -> None:
        self.project.run(*arguments, ok=ok)

    def sync(self, *arguments: str) -> Ended:
        return command(self.project, "sync", "--now", "--output", "json", *arguments)

    def held(self, *arguments: str) -> dict[str, str]:
        """Sync and get the reasons; the run must need reading, send nothing and leave every member where he is."""
        writes, members = self.meta.writes(), self.meta.members()
        done = self.sync(*arguments)
        assert done.code == 1, done
        assert {row["status"] for row in done.syncs().values()} == {"held"}, done
        assert (self.meta.writes(), self.meta.members()) == (writes, members)
        return {segment: row["reason"] for segment, row in done.syncs().items()}

    def sent(self, *arguments: str) -> dict[str, str]:
        """Sync and get the statuses; all must be well."""
        done = self.sync(*arguments)
        assert done.code == 0, done
        return {segment: row["status"] for segment, row in done.syncs().items()}


def make(folder: Path, warehouse: Warehouse) -> DbtProject:
    files = {
        "seeds/raw_customers.csv": seed_csv(),
        "models/customers.sql": CUSTOMERS,
        "models/vip.sql": VIP,
        "models/first.sql": FIRST,
        "models/schema.yml": SCHEMA,
    }
    return make_project(folder, warehouse, files, package=True)


def connect(project: DbtProject, meta: Platform) -> Shop:
    project.write("destinations.yml", yaml.safe_dump({"meta": meta.connection()}))
    return Shop(project, meta)


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project, its warehouse and a sandbox's state, after `dbt seed; dbt run; dbt-segments sync`."""
    folder = tmp_path_factory.mktemp("synced")
    with platform() as meta:
        shop = connect(make(folder / "shop", DuckDBWarehouse(folder / "warehouse.duckdb")), meta)
        shop.dbt("seed")
        shop.dbt("run")
        assert shop.sent() == {"vip": "success", "first": "success"}
        assert meta.members() == ALL
        control.save(meta.serving.sandbox, str(folder / "sandbox.json"))
    return folder


@pytest.fixture
def meta() -> Iterator[Platform]:
    with platform() as one:
        yield one


@pytest.fixture
def shop(synced: Path, meta: Platform, tmp_path: Path) -> Shop:
    """A copy of all that, for one test."""
    folder = tmp_path / "copy"
    shutil.copytree(synced, folder, symlinks=True)
    control.load(meta.serving.sandbox, str(folder / "sandbox.json"))
    warehouse = DuckDBWarehouse(folder / "warehouse.duckdb")
    profiles = {"shop": {"target": "dev", "outputs": {"dev": warehouse.output()}}}
    (folder / "shop/profiles.yml").write_text(yaml.safe_dump(profiles))
    return connect(DbtProject(folder / "shop", warehouse), meta)


def newest_results(shop: Shop) -> tuple[str, set[str]]:
    """Which command wrote run_results.json, and the statuses in it."""
    content = json.loads((shop.project.target_dir / "run_results.json").read_text())
    nodes = [result for result in content["results"] if not result["unique_id"].startswith("operation.")]
    return content["args"]["which"], {node["status"] for node in nodes}


# -- dbt's commands -------------------------------------------------------------------------------------------


def test_a_test_run_and_docs_hide_no_build(shop: Shop) -> None:
    """After `run; test` and `run; docs generate` a good build is known as one, and a change is sent."""
    shop.project.write("seeds/raw_customers.csv", seed_csv(COUNT + 1))
    shop.dbt("seed")
    shop.dbt("run")
    shop.dbt("test")
    assert newest_results(shop) == ("test", {"pass"})
    assert shop.sent() == {"vip": "success", "first": "noop"}
    assert shop.meta.members() == {**ALL, "vip": keys(*range(1, COUNT + 2))}
    shop.project.write("seeds/raw_customers.csv", seed_csv())
    shop.dbt("seed")
    shop.dbt("run")
    shop.dbt("docs", "generate")
    assert newest_results(shop)[0] == "generate"
    assert shop.sent() == {"vip": "success", "first": "noop"}
    assert shop.meta.members() == ALL
    assert shop.meta.violations() == []


def test_a_failed_entity_holds_until_it_is_mended(shop: Shop) -> None:
    """The segment that was built is held with the one that was skipped, docs change nothing, `retry` releases both."""
    shop.model("customers", "{{ config(materialized='table') }} select no_such_column from {{ ref('raw_customers') }}")
    shop.dbt("run", ok=False)
    reasons = shop.held()
    assert reasons["first"].startswith("build_failed: model.shop.customers in dbt run ")
    assert "build_skipped: model.shop.vip in dbt run " in reasons["vip"]
    assert "build_failed: model.shop.customers in dbt run " in reasons["vip"]
    assert "model.shop.first" not in reasons["first"]

    results = (shop.project.target_dir / "run_results.json").read_bytes()
    shop.model("customers", CUSTOMERS)
    shop.dbt("docs", "generate")
    assert newest_results(shop) == ("generate", {"success"})
    assert shop.held() == reasons
    shop.dbt("compile")
    assert shop.held() == reasons
    planned = command(shop.project, "plan", "--now", "--output", "json")
    assert planned.code == 1
    assert {row["status"] for row in planned.syncs().values()} == {"held"}

    (shop.project.target_dir / "run_results.json").write_bytes(results)  # `retry` goes by it
    shop.dbt("retry")
    assert shop.sent() == {"vip": "noop", "first": "noop"}
    assert shop.meta.members() == ALL


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--empty"], "built_empty"), (["--sample", "1 day"], "built_sample")],
    ids=["empty", "sample"],
)
def test_a_build_of_a_part_holds(shop: Shop, options: list[str], code: str) -> None:
    """`build --empty` and `build --sample` hold, whatever thresholds are released, until a whole build."""
    shop.dbt("build", *options)
    assert shop.project.sql("select count(*) from main.customers") == [(0,)]
    for arguments in ((), ("--allow-removals", "vip", "--allow-removals", "first"), ("--full",)):
        reasons = shop.held(*arguments)
        assert reasons["vip"].startswith(f"{code}: model.shop.vip in dbt build ")
        assert f"{code}: model.shop.customers in dbt build " in reasons["first"]
    shop.dbt("test")
    assert set(shop.held()) == {"vip", "first"}
    shop.dbt("build")
    assert shop.sent() == {"vip": "noop", "first": "noop"}
    assert shop.meta.members() == ALL


def test_a_failed_test_of_the_entity_holds_or_warns(shop: Shop) -> None:
    """A failure in `dbt test` holds, a new build alone does not release; the policy `warn` lets go and says so."""
    shop.model("customers", f"{CUSTOMERS} union all select 900, 'member900@example.com', 'Cyd', null")
    shop.dbt("run")
    shop.dbt("test", ok=False)
    for reason in shop.held().values():
        assert reason.startswith("test_failed: test.shop.accepted_values_customers_first_name__Ann__Bob.")
        assert reason.endswith(": fail")
        assert " on customers in dbt test " in reason
    shop.dbt("run")
    assert all(reason.startswith("test_failed: ") for reason in shop.held().values())

    warned = ("--vars", "{dbt_segments: {hold: {tests: warn}}}")
    done = command(shop.project, "sync", "--now", *warned)
    assert done.code == 0, done
    assert "warning: test_failed: test.shop.accepted_values_customers_first_name__Ann__Bob." in done.stdout
    assert shop.meta.members() == {**ALL, "vip": ALL["vip"] | keys(900)}

    shop.model("customers", CUSTOMERS)
    shop.dbt("build")
    assert shop.sent() == {"vip": "success", "first": "noop"}
    assert shop.meta.members() == ALL


@pytest.mark.slow
def test_a_test_that_only_warns_holds_nothing(shop: Shop) -> None:
    """Severity `warn` is a pass, also while its test has failures."""
    schema = SCHEMA.replace("[Ann, Bob]}", "[Ann, Bob]}, config: {severity: warn}")
    shop.project.write("models/schema.yml", schema)
    shop.model("customers", f"{CUSTOMERS} union all select 900, 'member900@example.com', 'Cyd', null")
    shop.dbt("build")
    assert newest_results(shop) == ("build", {"success", "warn"})
    assert shop.sent() == {"vip": "success", "first": "noop"}
    assert shop.meta.members() == {**ALL, "vip": ALL["vip"] | keys(900)}


@pytest.mark.slow
def test_without_the_hook_line_the_sync_says_that_it_knows_nothing(shop: Shop) -> None:
    """Where nobody records builds, `docs generate` leaves no witness: it warns, and does not take docs for a build."""
    settings = shop.project.path / "dbt_project.yml"
    content = yaml.safe_load(settings.read_text())
    del content["on-run-end"]
    settings.write_text(yaml.safe_dump(content))
    shop.project.sql("drop table main_dbt_segments.model_builds")
    shop.dbt("docs", "generate")
    done = command(shop.project, "sync", "--now")
    assert done.code == 0
    assert "builds_unknown: no record of any dbt run; add on-run-end:" in done.stdout
    shop.model("customers", "{{ config(materialized='table') }} select no_such_column from {{ ref('raw_customers') }}")
    shop.dbt("run", ok=False)
    assert shop.held()["first"].startswith("build_failed: model.shop.customers in dbt run ")


# -- the data -------------------------------------------------------------------------------------------------


def test_a_column_that_became_null_holds_and_names_the_cause(shop: Shop) -> None:
    """With every e-mail null nobody could be found any more: held with the likely cause, gone again when mended."""
    shop.model("customers", CUSTOMERS.replace("email,", "cast(null as varchar) as email,"))
    shop.dbt("build", "--exclude", "resource_type:test")
    done = shop.sync()
    assert done.code == 1
    vip, first = (done.syncs()[name] for name in ("vip", "first"))
    assert vip["status"] == "held"
    assert vip["reason"].startswith("too_many_removals: 80 of 80 members would leave (allowed 30%)")
    assert "an identifier column has become null" in vip["reason"]
    planned = command(shop.project, "plan", "--now", "--output", "json", "--select", "vip").sync()
    assert (planned["status"], planned["reason"]) == ("held", vip["reason"])
    assert (planned["members"], planned["removed"], planned["unusable"]) == (80, 0, 80)
    # a small audience has no threshold: its members are gone as the data say
    assert first["status"] == "success"
    assert shop.meta.members() == {**ALL, "first": set()}
    shop.model("customers", CUSTOMERS)
    shop.dbt("build")
    assert shop.sent() == {"vip": "noop", "first": "success"}
    assert shop.meta.members() == ALL


def test_keys_of_another_form_hold_until_they_are_released(shop: Shop) -> None:
    """Re-typed keys hold with the cause; `--allow-removals` releases this sync in this run, and everybody stays in."""
    shop.project.write("models/customers.sql", CUSTOMERS.replace("customer_id,", "'C-' || customer_id as customer_id,"))
    shop.model("first", FIRST.replace("select customer_id", "select 'C-' || customer_id as customer_id"))
    shop.dbt("run")
    done = shop.sync()
    assert done.code == 1
    vip = done.syncs()["vip"]
    assert vip["status"] == "held"
    assert vip["reason"].startswith("too_many_removals: 80 of 80 members would leave (allowed 30%); likely cause: ")
    assert "the entity's keys were re-typed" in vip["reason"]
    # the former ids stay on the same people, whose e-mail is still wanted: an id alone is never taken out
    retyped = {"vip": keys(*range(1, COUNT + 1), ids="C-{}"), "first": keys(*range(1, 11), ids="C-{}")}
    assert shop.meta.members() == {"vip": ALL["vip"], "first": ALL["first"] | retyped["first"]}
    assert shop.sync("--allow-removals", "first").syncs()["vip"]["status"] == "held"
    assert shop.sent("--allow-removals", "vip") == {"vip": "success", "first": "noop"}
    assert shop.meta.members() == {segment: ALL[segment] | retyped[segment] for segment in ALL}
    assert shop.meta.people() == {"vip": COUNT, "first": 10}
    assert shop.sent() == {"vip": "noop", "first": "noop"}
    assert shop.meta.violations() == []


@pytest.mark.slow
def test_a_segment_of_nobody_holds(shop: Shop) -> None:
    """Zero rows hold one segment and not the other; the policy `ignore` lets them go."""
    shop.model("first", f"{FIRST} and false")
    shop.dbt("run")
    done = shop.sync()
    assert done.code == 1
    assert done.syncs()["first"]["reason"] == "segment_empty: first has no members"
    assert done.syncs()["vip"]["status"] == "noop"
    assert shop.meta.members() == ALL
    released = ("--vars", "{dbt_segments: {hold: {empty: ignore}}}")
    assert shop.sent(*released) == {"vip": "noop", "first": "success"}
    assert shop.meta.members() == {**ALL, "first": set()}


# -- the other warehouse --------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_the_gate_stands_on_postgres_too(postgres_warehouse: PostgresWarehouse, meta: Platform, tmp_path: Path) -> None:
    """Failed, docs, mended: the same three answers from the state in PostgreSQL."""
    shop = connect(make(tmp_path / "shop", postgres_warehouse), meta)
    shop.dbt("seed")
    shop.dbt("run")
    assert shop.sent() == {"vip": "success", "first": "success"}
    shop.model("customers", "{{ config(materialized='table') }} select no_such_column from {{ ref('raw_customers') }}")
    shop.dbt("run", ok=False)
    shop.model("customers", CUSTOMERS)
    shop.dbt("docs", "generate")
    assert shop.held()["first"].startswith("build_failed: model.shop.customers in dbt run ")
    shop.dbt("build", "--empty", "--exclude", "resource_type:test")
    assert shop.held()["first"].count("built_empty: ") == 2
    shop.dbt("build", "--exclude", "resource_type:test")  # dbt 1.12 empties seeds too: `run` alone would hold
    assert shop.sent() == {"vip": "noop", "first": "noop"}
    assert meta.members() == ALL
