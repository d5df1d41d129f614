"""What dbt built decides what may be sent: each sequence of commands, and each way to fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import pytest

from dbt_segments import builds
from dbt_segments.builds import Build
from dbt_segments.errors import ManifestError, StateError
from dbt_segments.values import Connection, Entity, Hold, Model, Registry, Related, Segment, Sync
from tests.projects import REPOSITORY, DbtProject, MakeProject, Warehouse

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def model(name: str, *, kind: str = "model", tests: tuple[str, ...] = (), parents: tuple[str, ...] = ()) -> Model:
    return Model(
        f"{kind}.shop.{name}", name, kind, "shop", f'"main"."{name}"', "x.sql", tests=tests, depends_on=parents
    )


CUSTOMERS = model("customers", tests=("test.shop.unique",), parents=("model.shop.staged",))
STAGED = model("staged", parents=("source.shop.crm",))
EMPLOYEES, OPT_OUTS, LAPSED, VIPS = (model(name) for name in ("employees", "opt_outs", "lapsed", "vips"))
CRM = model("crm", kind="source")
CUSTOMER = Entity(
    "customer",
    "person",
    CUSTOMERS,
    "customer_id",
    suppress=(OPT_OUTS,),
    related=(Related("rep", EMPLOYEES, "rep_id", "employee_id"),),
)
SYNC = Sync(
    "shop.lapsed.meta",
    Segment("lapsed", "Lapsed", LAPSED, CUSTOMER, suppress=(VIPS,)),
    Connection("meta", "meta", None),
    one_click=True,
    identifiers=(),
    audience_name="Lapsed",
)
ALL = (CUSTOMERS, STAGED, EMPLOYEES, OPT_OUTS, LAPSED, VIPS, CRM)
REGISTRY = Registry("shop", (CUSTOMER,), (SYNC.segment,), (SYNC,), {found.unique_id: found for found in ALL})


def built(unique_id: str, status: str = "success", **more: Any) -> Build:
    return Build(unique_id, status, NOON, invocation_id="i-1", command="build", **more)


GOOD = {found.unique_id: built(found.unique_id) for found in ALL if found is not CRM}
GOOD["test.shop.unique"] = built("test.shop.unique", "pass")


def held(change: Mapping[str, Build], sync: Sync = SYNC, freshness: Mapping[str, str] | None = None) -> list[str]:
    """Codes of the holds after `change`, which replaces some of the good builds."""
    holds, _ = builds.gate(sync, REGISTRY, {**GOOD, **change}, freshness)
    return [reason.split(":")[0] for reason in holds]


def test_everything_built_and_passed_holds_nothing() -> None:
    """With each model built and each test passed there is neither a hold nor a warning."""
    assert builds.gate(SYNC, REGISTRY, GOOD, {"source.shop.crm": "pass"}) == ([], [])


@pytest.mark.parametrize("name", ["lapsed", "customers", "employees", "opt_outs", "vips"])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("error", "build_failed"),
        ("runtime error", "build_failed"),
        ("a word of some later dbt", "build_failed"),
        ("skipped", "build_skipped"),
        ("partial success", "build_partial"),
    ],
)
def test_a_failed_build_of_any_model_involved_holds(name: str, status: str, code: str) -> None:
    """Segment, entity, related and both suppression models: one that failed holds, though the others succeeded."""
    unique_id = f"model.shop.{name}"
    assert held({unique_id: built(unique_id, status)}) == [code]


def test_a_failure_further_up_does_not_hold() -> None:
    """A parent that failed and was not needed to build the entity again is dbt's business."""
    assert held({"model.shop.staged": built("model.shop.staged", "error")}) == []


@pytest.mark.parametrize("status", ["success", "no-op", "reused"])
def test_statuses_that_leave_a_good_table(status: str) -> None:
    """A model that dbt did not need to build again is as good as a built one."""
    assert held({"model.shop.lapsed": built("model.shop.lapsed", status)}) == []


def test_empty_and_sampled_builds_hold() -> None:
    """A table that --empty emptied, or that --sample shortened, is never sent."""
    assert held({"model.shop.lapsed": built("model.shop.lapsed", empty=True)}) == ["built_empty"]
    assert held({"model.shop.customers": built("model.shop.customers", sample=True)}) == ["built_sample"]


@pytest.mark.parametrize(
    ("policy", "holds", "warnings"),
    [("hold", ["test_failed"], []), ("warn", [], ["test_failed"]), ("ignore", [], [])],
)
def test_a_failed_test_follows_the_policy(
    policy: Literal["hold", "warn", "ignore"], holds: list[str], warnings: list[str]
) -> None:
    """A failing test of the entity holds, warns or does nothing, as `hold: {tests: ...}` says."""
    change = {**GOOD, "test.shop.unique": built("test.shop.unique", "fail")}
    found = builds.gate(replace(SYNC, hold=Hold(tests=policy)), REGISTRY, change)
    assert [[reason.split(":")[0] for reason in reasons] for reasons in found] == [holds, warnings]


@pytest.mark.parametrize(("status", "codes"), [("error", ["test_failed"]), ("skipped", ["test_skipped"]), ("warn", [])])
def test_other_ends_of_a_test(status: str, codes: list[str]) -> None:
    """A test that could not run holds; one that only warned does not."""
    assert held({"test.shop.unique": built("test.shop.unique", status)}) == codes


def test_a_stale_source_above_the_entity_holds() -> None:
    """A freshness error anywhere above the models holds; a freshness warning does not; others are not looked at."""
    assert held({}, freshness={"source.shop.crm": "error"}) == ["source_stale"]
    assert held({}, freshness={"source.shop.crm": "warn", "source.shop.other": "error"}) == []
    assert held({}, replace(SYNC, hold=Hold(freshness="ignore")), {"source.shop.crm": "error"}) == []


def test_models_that_nobody_saw_built_are_warned_about() -> None:
    """Without any record there is one warning, with some records one for each unknown model, and never a hold."""
    some = {name: found for name, found in GOOD.items() if name != "model.shop.vips"}
    for known, codes in (({}, ["builds_unknown"]), (some, ["build_unknown"])):
        holds, warnings = builds.gate(SYNC, REGISTRY, known)
        assert (holds, [warning.split(":")[0] for warning in warnings]) == ([], codes)


def test_reasons_name_the_model_and_the_command() -> None:
    """A reason reads as a code, then which model, which command, and what happened."""
    holds, _ = builds.gate(SYNC, REGISTRY, {**GOOD, "model.shop.lapsed": built("model.shop.lapsed", "error")})
    assert holds == ["build_failed: model.shop.lapsed in dbt build i-1: error"]


def test_latest_counts_not_worst() -> None:
    """A model that failed and was then built is built, whichever witness is read first."""
    failed = built("model.shop.lapsed", "error")
    mended = replace(failed, status="success", built_at=NOON + timedelta(minutes=1))
    assert builds.latest([failed, mended]) == builds.latest([mended, failed]) == {mended.unique_id: mended}


def test_a_test_that_passed_on_an_empty_table_does_not_mend_a_failure() -> None:
    """`dbt build --empty` passes every test; the earlier failure on real rows still counts."""
    failed = built("test.shop.unique", "fail")
    empty = replace(failed, status="pass", empty=True, built_at=NOON + timedelta(minutes=1))
    assert builds.latest([failed, empty])["test.shop.unique"] is failed


def rows(*pairs: tuple[int, int]) -> list[tuple[Any, ...]]:
    """Rows of model_builds as (minute, protocol)."""
    return [
        (
            "i",
            f"model.shop.m{minute}",
            "model",
            "run",
            "success",
            None,
            None,
            datetime(2026, 3, 1, 12, minute),
            protocol,
        )
        for minute, protocol in pairs
    ]


def test_rows_of_an_older_protocol_are_history() -> None:
    """Only the newest row must have our protocol: after an upgrade the older ones stay."""
    assert [build.built_at.minute for build in builds.from_rows(rows((1, 0), (2, builds.PROTOCOL)))] == [1, 2]


@pytest.mark.parametrize(("protocol", "remedy"), [(0, "dbt deps"), (2, "pip install -U dbt-segments")])
def test_another_protocol_is_refused_with_the_remedy(protocol: int, remedy: str) -> None:
    """A package and a program that do not belong together stop, and the message says which one to update."""
    with pytest.raises(StateError) as caught:
        builds.from_rows(rows((1, builds.PROTOCOL), (2, protocol)))
    assert remedy in (caught.value.hint or "")


def test_macro_and_program_have_one_protocol() -> None:
    """The number in macros/_protocol.sql is the one in builds.py."""
    assert f"return({builds.PROTOCOL})" in (REPOSITORY / "macros/_protocol.sql").read_text()


def test_a_damaged_run_results_is_refused(tmp_path: Path) -> None:
    """A file that dbt did not finish stops the run; a missing one is nothing known."""
    file = tmp_path / "run_results.json"
    assert builds.read_run_results(file) == ()
    for text in ('{"metadata": {"gen', "[]", '{"args": {"which": "run"}, "results": [{}]}'):
        file.write_text(text)
        with pytest.raises(ManifestError):
            builds.read_run_results(file)


def test_freshness_is_read_from_sources_json(tmp_path: Path) -> None:
    """Each source has the status that `dbt source freshness` gave it."""
    file = tmp_path / "sources.json"
    assert builds.read_freshness(file) == {}
    file.write_text(json.dumps({"results": [{"unique_id": "source.shop.crm", "status": "runtime error"}]}))
    assert builds.read_freshness(file) == {"source.shop.crm": "runtime error"}


# -- with dbt itself ------------------------------------------------------------------------------------------

SHOP = {
    "models/customers.sql": "{{ config(materialized='table') }} select 1 as customer_id",
    "models/lapsed.sql": "select customer_id from {{ ref('customers') }}",
    "models/schema.yml": "models: [{name: customers, columns: [{name: customer_id, data_tests: [unique]}]}]",
}


@pytest.fixture
def shop(dbt_project: MakeProject, warehouse: Warehouse) -> DbtProject:
    return dbt_project(SHOP, warehouse=warehouse, package=True)


def statuses(project: DbtProject, *, table: bool = True, **target: str) -> dict[str, tuple[str, bool, bool]]:
    """Node name -> status, empty, sample, by the table (if wanted) and run_results.json together."""
    found = list(builds.read_run_results(project.target_dir / "run_results.json", **target))
    if table:
        relation = f"{project.warehouse.schema}_dbt_segments.model_builds"
        found += builds.from_rows(project.sql(builds.latest_sql(relation)))
    newest = builds.latest(found).values()
    return {build.unique_id.split(".")[2]: (build.status, build.empty, build.sample) for build in newest}


GOOD_SHOP = {
    "customers": ("success", False, False),
    "lapsed": ("success", False, False),
    "unique_customers_customer_id": ("pass", False, False),
}


@pytest.mark.parametrize("after", [["test"], ["docs", "generate"], ["compile"], ["show", "--select", "lapsed"]])
def test_run_then_something_else(dbt_project: MakeProject, after: list[str]) -> None:
    """`dbt run` and then a command that overwrites run_results.json: the models are still known as built by the run."""
    project = dbt_project(SHOP, package=True)
    project.run("run")
    project.run(*after)
    tests = {} if after != ["test"] else {"unique_customers_customer_id": ("pass", False, False)}
    assert statuses(project) == {"customers": GOOD_SHOP["customers"], "lapsed": GOOD_SHOP["lapsed"], **tests}


@pytest.mark.parametrize("command", [["compile"], ["docs", "generate"], ["show", "--select", "lapsed"], ["clone"]])
def test_commands_that_only_look_as_if_they_built(dbt_project: MakeProject, command: list[str]) -> None:
    """After these run_results.json says `success` of models that were not built; it is not believed."""
    project = dbt_project(SHOP)
    project.run("build")
    state = project.path / "other"
    (project.target_dir).rename(state)
    project.run(*command, *(["--state", str(state)] if command == ["clone"] else []))
    assert statuses(project, table=False) == {}


def test_an_empty_build_then_a_real_one(shop: DbtProject) -> None:
    """After `build --empty` the models count as empty, and its tests for nothing; a real build mends both."""
    shop.run("build", "--empty")
    assert statuses(shop) == {"customers": ("success", True, False), "lapsed": ("success", True, False)}
    shop.run("build")
    assert statuses(shop) == GOOD_SHOP


def test_a_failed_test_skips_the_segment_until_retry_mends_it(shop: DbtProject) -> None:
    """`build` with a failing test, then `retry` when the rows are mended: fail and skipped, then pass and success."""
    shop.write("models/customers.sql", f"{SHOP['models/customers.sql']} union all select 1")
    shop.run("build", ok=False)
    assert {name: status for name, (status, *_) in statuses(shop).items()} == {
        "customers": "success",
        "lapsed": "skipped",
        "unique_customers_customer_id": "fail",
    }
    shop.sql(f"delete from {shop.warehouse.schema}.customers")
    shop.run("retry")
    assert statuses(shop) == GOOD_SHOP


def test_results_of_another_target_are_not_ours(dbt_project: MakeProject) -> None:
    """run_results.json of `--target dev` says nothing about prod; without `--target` the default target is meant."""
    project = dbt_project(SHOP)
    project.run("run")
    named = {"target": "prod", "default_target": "dev"}
    assert statuses(project, table=False, **named) == {}
    assert set(statuses(project, table=False, target="dev", default_target="dev")) == {"customers", "lapsed"}
    project.run("run", "--target", "dev")
    assert statuses(project, table=False, target="prod", default_target="prod") == {}
