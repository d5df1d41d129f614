"""Fixtures that every test may use: a warehouse, and a dbt project on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import REQUIRED, NoServerError, PostgresServer, running_server
from tests.projects import DbtProject, DuckDBWarehouse, MakeProject, PostgresWarehouse, Warehouse, make_project

# Every scenario of these runs on both warehouses; the default suite takes DuckDB's half, `.ci/run` both.
_BOTH_IN_CI = (
    "test_invariants",
    "test_guard",
    "test_builds",
    "test_macros",
    "test_membership_macro",
    "test_state_schema",
    "test_cadence_engine",
    "test_refusals",
    "test_rename",
    "test_inventory",
    "test_lifecycle",
    "test_sizes",
    "test_histories",
    "test_recovery",
    "test_records_e2e",
    "test_inside",
    "test_membership",
    "test_upkeep",
    "test_chinook",
    "test_records",
)


# Whole suites that together take minutes: kills, random histories, the vendors' large libraries, platforms in depth,
# and scenarios that are further from what every sync does.
_LONG = (
    "kill/",
    "properties/",
    "torture/",
    "contract/test_google_ads_protos.py",
    "e2e/test_chinook.py",
    "e2e/test_gate.py",
    "one_click/test_chinook.py",
    "one_click/test_ended.py",
    "one_click/test_found_again.py",
    "one_click/test_full.py",
    "one_click/test_one_field.py",
    "one_click/test_pinterest.py",
    "test_cadence_engine.py",
    "test_google_ads_replace.py",
    "test_google_ads_syncs.py",
    "test_guard.py",
    "test_inventory.py",
    "test_lifecycle.py",
    "test_lifted.py",
    "test_made_with_members.py",
    "test_membership.py",
    "test_membership_macro.py",
    "test_records.py",
    "test_records_e2e.py",
    "test_refusals.py",
    "test_rename.py",
    "test_sizes.py",
    "test_torture.py",
    "test_unusable.py",
    "test_upkeep.py",
)
# Of scenarios with many cases the default suite takes the first one each.
_FIRST_CASE = (
    "test_invariants.py",
    "test_macros.py",
    "test_statements.py",
)
# Of these it takes the plain cases alone.
_PLAIN = {
    "test_platforms": ("test_a_first_sync",),
    "test_inside": ("test_the_program_syncs", "test_nothing_happens", "test_a_runner_gets", "test_our_import_errors"),
}
# What `.ci/run` plays at every change, of all that is slow; of the rest one part at a time, in turn.
_EVERY_TIME = (
    "e2e/",
    "kill/",
    "properties/test_stateful.py",
    "sabotage/",
    "test_benchmarks.py",
    "test_builds.py",
    "test_invariants.py",
    "test_macros.py",
    "test_state_schema.py",
    "test_statements.py",
    "test_torture.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--in-turn 2/3`: of the slow tests that need not run every time, the second of three parts."""
    parser.addoption("--in-turn", metavar="K/N", help="of most slow tests play the K-th of N parts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what `.ci/run` runs besides, so that the default suite stays short; and take what is in turn."""
    seen: set[tuple[Path, str]] = set()
    for item in items:
        place = _place(item)
        name = getattr(item, "originalname", item.name)
        both = item.get_closest_marker("postgres") is not None and item.path.stem in _BOTH_IN_CI
        further = place.endswith(_FIRST_CASE) and (item.path, name) in seen
        in_depth = item.path.stem in _PLAIN and not name.startswith(_PLAIN[item.path.stem])
        if both or further or in_depth or place.startswith(_LONG):
            item.add_marker("slow")
        seen.add((item.path, name))
    part, parts = _in_turn(config.getoption("--in-turn") or "1/1")
    waiting = [item for item in items if item.get_closest_marker("slow") and not _place(item).startswith(_EVERY_TIME)]
    passed_over = {item for number, item in enumerate(waiting) if number % parts != part - 1}
    items[:] = [item for item in items if item not in passed_over]
    config.hook.pytest_deselected(items=list(passed_over))


def _in_turn(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--in-turn {text}: K/N is needed, with 1 <= K <= N")
    return int(part), int(parts)


def _place(item: pytest.Item) -> str:
    """The test's file, from `tests/` on."""
    return item.path.relative_to(Path(__file__).parent).as_posix()


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test, and dbt reports to nobody."""
    for name in [name for name in os.environ if name.startswith(("DBT_", "DUCKDB_")) and name != REQUIRED]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "1")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests of this process; skips where there is none, fails where one is required."""
    try:
        with running_server() as server:
            yield server
    except NoServerError as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def duckdb_warehouse(tmp_path: Path) -> DuckDBWarehouse:
    """A DuckDB file of this test's own, not there yet."""
    return DuckDBWarehouse(tmp_path / "warehouse.duckdb")


@pytest.fixture
def postgres_warehouse(postgres_server: PostgresServer) -> Iterator[PostgresWarehouse]:
    """An empty PostgreSQL database of this test's own."""
    with postgres_server.fresh_database() as database:
        yield PostgresWarehouse(database)


@pytest.fixture(params=["duckdb", pytest.param("postgres", marks=pytest.mark.postgres)])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """Both warehouses in turn: the test runs once on each."""
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


@pytest.fixture
def dbt_project(tmp_path: Path, request: pytest.FixtureRequest) -> MakeProject:
    """`dbt_project(files, warehouse=..., package=...)` writes a dbt project and returns it.

    files      path -> text, e.g. {"models/customers.sql": "select 1 as customer_id"}
    warehouse  default: the test's own DuckDB file
    package    with the dbt package of this repository and its on-run-end line
    vars       the project's variables; `extra` is merged into dbt_project.yml
    """

    def make(
        files: dict[str, str] | None = None,
        *,
        warehouse: Warehouse | None = None,
        package: bool = False,
        vars: dict[str, object] | None = None,
        extra: dict[str, object] | None = None,
        name: str = "shop",
    ) -> DbtProject:
        chosen = warehouse or request.getfixturevalue("duckdb_warehouse")
        return make_project(tmp_path / name, chosen, files or {}, package=package, vars=vars, extra=extra)

    return make
