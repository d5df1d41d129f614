"""Syncing inside dbt: the real dbt, as a program and as dbtRunner, with the hook line and without.

dbt runs in this process, which saves seconds each time; what only a process of its own shows is in one test.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbt_common.events.base_types import EventMsg

import dbt_segments
from dbt_segments import pipeline, plugin
from dbt_segments.state import locks
from tests.e2e.shell import Ended, Platform, command, platform
from tests.projects import DbtProject, DuckDBWarehouse, Warehouse, make_project, no_open_warehouse

VIP = "select customer_id from {{ ref('customers') }}"
MODELS = {
    "seeds/raw_customers.csv": "customer_id,email\n1,ann@example.com\n2,bob@example.com\n3,eve@example.com\n",
    "seeds/picked.csv": "customer_id\n2\n3\n",
    "models/customers.sql": "{{ config(materialized='table') }} select * from {{ ref('raw_customers') }}",
    "models/vip.sql": VIP,
    "models/first.sql": "select customer_id from {{ ref('customers') }} where customer_id = 1",
}
ENTITY = {"name": "customer", "kind": "person", "key": "customer_id", "identifiers": {"email": "email"}}
SEGMENT = {"entity": "customer", "destinations": [{"to": "meta", "schedule": "every run"}]}
SCHEMA = {
    "seeds": [{"name": "picked", "config": {"meta": {"dbt_segments": {"segment": SEGMENT}}}}],
    "models": [
        {"name": "customers", "config": {"meta": {"dbt_segments": {"entity": ENTITY}}}},
        {"name": "vip", "config": {"meta": {"dbt_segments": {"segment": SEGMENT}}}},
        {"name": "first", "config": {"meta": {"dbt_segments": {"segment": SEGMENT}}}},
    ],
}
ALL = {"picked": 2, "vip": 3, "first": 1}


@dataclass(frozen=True)
class Shop:
    """A project whose dbt commands sync, and the platform that its segments go to."""

    project: DbtProject
    meta: Platform
    capture: pytest.CaptureFixture[str]

    def program(self, *words: str) -> Ended:
        """The `dbt` program: its own entry point, in this process."""
        from dbt.cli.main import cli

        self.capture.readouterr()
        code: Any = 0
        with no_open_warehouse():
            try:
                cli.main([*words, *self.project.options()], prog_name="dbt")
            except SystemExit as end:
                code = end.code
        said = self.capture.readouterr()
        return Ended(code, said.out, said.err)

    def synced(self) -> dict[str, str] | None:
        """Segment -> status, as the results file has it; None where there is no file."""
        file = self.project.target_dir / "dbt_segments_results.json"
        return (
            {row["segment"]: row["status"] for row in json.loads(file.read_text())["syncs"]} if file.exists() else None
        )

    def settings(self, **values: Any) -> None:
        """Change `vars: {dbt_segments: ...}`."""
        with self._dbt_project() as content:
            content["vars"]["dbt_segments"].update(values)

    def flag(self, name: str) -> None:
        """Set a flag of dbt's."""
        with self._dbt_project() as content:
            content["flags"][name] = True

    def no_hook(self) -> None:
        with self._dbt_project() as content:
            del content["on-run-end"]

    @contextlib.contextmanager
    def _dbt_project(self) -> Iterator[dict[str, Any]]:
        content = yaml.safe_load((self.project.path / "dbt_project.yml").read_text())
        yield content
        self.project.write("dbt_project.yml", yaml.safe_dump(content, sort_keys=False))


def make(folder: Path, warehouse: Warehouse) -> DbtProject:
    files = {**MODELS, "models/schema.yml": yaml.safe_dump(SCHEMA)}
    return make_project(folder / "shop", warehouse, files, package=True, inside=True)


@pytest.fixture
def meta() -> Iterator[Platform]:
    with platform() as one:
        yield one


@pytest.fixture
def shop(
    tmp_path: Path,
    meta: Platform,
    warehouse: Warehouse,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    monkeypatch.setenv("DBT_LOG_LEVEL_FILE", "none")  # dbt never closes the file
    project = make(tmp_path, warehouse)
    project.write("destinations.yml", yaml.safe_dump({"meta": meta.connection()}))
    return Shop(project, meta, capsys)


duckdb_only = pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)


def notes(said: str) -> list[tuple[str, str]]:
    """Level and text of what is ours in a log of JSON lines; each line must be JSON."""
    lines = [json.loads(line)["info"] for line in said.splitlines()]
    return [(line["level"], line["msg"]) for line in lines if line["msg"].startswith("dbt-segments: ")]


# -- what is synced -------------------------------------------------------------------------------------------


def test_each_command_syncs_what_it_built(shop: Shop) -> None:
    """seed, run, build and retry sync their own segments; the others sync nothing and leave the report alone."""
    run, people = shop.project.run, shop.meta.people
    run("seed")
    assert shop.synced() == {"picked": "held"}  # the entity has not been built yet
    run("run")
    assert (shop.synced(), people()) == ({"vip": "success", "first": "success"}, {"vip": 3, "first": 1})
    run("seed", "--select", "picked")
    assert (shop.synced(), people()) == ({"picked": "success"}, ALL)

    requests = shop.meta.requests()
    for words in (["test"], ["compile"], ["docs", "generate"], ["parse"], ["run", "--empty"], ["build", "--empty"]):
        run(*words)
        assert (shop.synced(), shop.meta.requests()) == ({"picked": "success"}, requests), words

    shop.project.write("models/first.sql", "select no_such_column from {{ ref('customers') }}")
    run("build", ok=False)
    assert shop.synced() == {"picked": "noop", "vip": "noop"}
    shop.project.write("models/first.sql", "select customer_id from {{ ref('customers') }} where customer_id < 3")
    run("retry")
    assert (shop.synced(), people()) == ({"first": "success"}, {**ALL, "first": 2})
    run("run", "--select", "customers")
    assert shop.synced() == {}  # an entity alone is no segment


@duckdb_only
def test_the_program_syncs_and_says_so(shop: Shop) -> None:
    """One event per sync at dbt's own level; nothing under --quiet; one JSON object a line where JSON is asked for."""
    done = shop.program("build")
    assert done.code == 0
    assert (shop.synced(), shop.meta.people()) == (dict.fromkeys(ALL, "success"), ALL)
    assert "dbt-segments: vip -> meta   +3  -0 " in done.stdout
    assert "dbt-segments: 3 syncs: 3 sent; " in done.stdout

    assert shop.program("--quiet", "run") == Ended(0, "", "")
    assert shop.synced() == {"vip": "noop", "first": "noop"}

    done = shop.program("--log-format", "json", "run", "--select", "vip")
    ((level, text),) = notes(done.stdout)
    assert (done.code, level, text[:49]) == (0, "info", "dbt-segments: vip -> meta   up to date, 3 members")


@duckdb_only
@pytest.mark.slow
def test_options_of_dbt_are_those_of_the_sync(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--target, --profile, --vars and --target-path name the same warehouse, settings and artifacts for both."""
    prod = DuckDBWarehouse(tmp_path / "prod.duckdb")
    profiles = yaml.safe_load((shop.project.path / "profiles.yml").read_text())
    profiles["other"] = {"target": "dev", "outputs": {"dev": prod.output(), "prod": prod.output()}}
    shop.project.write("profiles.yml", yaml.safe_dump(profiles))
    chosen = ("--profile", "other", "--target", "prod", "--target-path", "elsewhere")
    done = shop.program("build", *chosen, "--vars", "{dbt_segments: {targets: [prod], schema: of_segments}}")
    assert (done.code, shop.meta.people()) == (0, ALL)
    assert prod.sql("select count(*) from of_segments.sync_runs") == [(3,)]
    assert (shop.project.path / "elsewhere/dbt_segments_results.json").exists()
    assert not shop.project.warehouse.path.exists()  # type: ignore[attr-defined]

    shop.project.write("models/vip.sql", "select no_such_column from {{ ref('customers') }}")
    assert shop.program("run", *chosen, "--vars", "{dbt_segments: {targets: [prod], schema: of_segments}}").code == 1
    shop.project.write("models/vip.sql", VIP)
    assert shop.program("retry", "--target-path", "elsewhere", "--profile", "other").code == 0
    assert prod.sql("select segment from of_segments.sync_runs order by finished_at desc limit 1") == [("vip",)]


# -- exit codes -----------------------------------------------------------------------------------------------


@duckdb_only
def test_what_needs_reading_fails_dbt(shop: Shop) -> None:
    """A held sync makes the exit code 1, even quietly; `fail_dbt: false` leaves it at 0."""
    assert shop.program("build").code == 0
    shop.project.write("models/vip.sql", VIP + " where false")
    done = shop.program("--quiet", "build")
    assert (done.code, shop.synced()) == (1, {"picked": "noop", "vip": "held", "first": "noop"})
    assert "dbt-segments: vip -> meta   held" in done.stdout and "first" not in done.stdout
    done = shop.program("--log-format", "json", "run", "--select", "vip")
    assert [(level, text.split("\n")[0][:35]) for level, text in notes(done.stdout)] == [
        ("error", "dbt-segments: vip -> meta   held   "),
        ("info", "dbt-segments: dbt ends with exit code 1"[:35]),
    ]

    shop.settings(fail_dbt=False)
    done = shop.program("--log-format", "json", "run")
    assert (done.code, shop.synced()) == (0, {"vip": "held", "first": "noop"})
    assert [level for level, _ in notes(done.stdout)] == ["info", "warn", "info"]

    # what dbt itself failed at stays failed, and what it built goes out
    shop.project.write("models/vip.sql", VIP)
    shop.project.write("models/first.sql", "select no_such_column")
    assert (shop.program("run").code, shop.synced()) == (1, {"vip": "noop"})


@duckdb_only
def test_a_sync_that_cannot_start_fails_dbt_where_it_may_send(shop: Shop) -> None:
    """Without credentials dbt ends with 1, and says why in its log and in the file; on other targets it warns."""
    shop.project.write("destinations.yml", "meta: {ad_account_id: '1', access_token: \"{{ env_var('NOT_SET') }}\"}")
    done = shop.program("build")
    assert done.code == 1
    assert "NOT_SET" in done.stdout
    told = json.loads((shop.project.target_dir / "dbt_segments_results.json").read_text())
    assert {one["status"] for one in told["syncs"]} == {"failed"}
    assert "NOT_SET" in told["error"]["message"] and told["error"]["exit_code"] == 2

    shop.settings(targets=["prod"])
    assert shop.program("build", "--quiet").code == 0
    shop.project.write("destinations.yml", yaml.safe_dump({"meta": shop.meta.connection()}))
    done = shop.program("build")
    assert (done.code, shop.synced(), shop.meta.requests()) == (0, dict.fromkeys(ALL, "skipped"), 0)
    assert "vars.dbt_segments.targets: prod" in done.stdout

    shop.settings(target=["dev"])  # misspelt
    assert "vars.dbt_segments.target" in shop.program("seed").stdout


@duckdb_only
def test_a_bug_fails_dbt_without_its_text(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody foresaw is told by where it arose; its text may quote a member."""

    identifier = "@".join(("ann", "example.com"))

    def broken(*arguments: Any) -> None:
        raise RuntimeError(identifier)

    monkeypatch.setattr(pipeline, "sync", broken)
    done = shop.program("build")
    assert done.code == 1
    assert "in broken" in done.stdout and "please report" in done.stdout
    assert identifier not in done.stdout + done.stderr


# -- when nothing happens -------------------------------------------------------------------------------------


@duckdb_only
def test_nothing_happens_without_the_hook_line(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word, no file, no request, and nothing of ours is imported; nor where `sync_in_dbt` is false."""
    hook = (shop.project.path / "dbt_project.yml").read_text()
    shop.no_hook()
    monkeypatch.setattr(plugin, "_sync", None)
    done = shop.program("build")
    assert (done.code, "dbt-segments" in done.stdout, shop.synced()) == (0, False, None)
    monkeypatch.undo()
    shop.project.write("dbt_project.yml", hook)
    shop.settings(sync_in_dbt=False)
    done = shop.program("build")
    assert (done.code, "dbt-segments" in done.stdout, shop.synced()) == (0, False, None)
    assert shop.meta.requests() == 0


@duckdb_only
def test_without_a_manifest_it_says_so(shop: Shop) -> None:
    """--no-write-json is a warning; `dbt-segments build`, which was asked to sync, fails."""
    done = shop.program("--log-format", "json", "--no-write-json", "build")
    ((level, text),) = notes(done.stdout)
    assert (done.code, level, "--no-write-json" in text) == (0, "warn", True)
    assert command(shop.project, "build", "--no-write-json").code == 2
    assert shop.meta.requests() == 0


def refuse(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Make the import of one of our modules fail, as after a half-done upgrade."""
    for name in [name for name in sys.modules if name == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


@duckdb_only
def test_our_import_errors_leave_dbt_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the plugin cannot be loaded dbt warns once and goes on, even where warnings are errors; where the sync
    cannot be loaded, and the hook line asks for it, that is an error."""
    with monkeypatch.context() as patch:
        patch.delattr(dbt_segments, "plugins", raising=False)
        patch.delattr(dbt_segments, "plugin")
        refuse(patch, "dbt_segments.plugin")
        patch.setattr("dbt.plugins.manager._MODULES_CACHE", None)
        done = shop.program("--log-format", "json", "build")
        ((level, text),) = notes(done.stdout)
        assert (done.code, level, shop.synced()) == (0, "warn", None)
        assert text.startswith("dbt-segments: not loaded, so nothing is synced inside dbt: ModuleNotFoundError")
        vars(dbt_segments).pop("plugins")
        shop.flag("require_all_warnings_handled_by_warn_error")
        done = shop.program("--log-format", "json", "--warn-error-options", '{"error": ["Note"]}', "run")
        assert (done.code, [level for level, _ in notes(done.stdout)]) == (0, ["error"])
    vars(dbt_segments).pop("plugins", None)

    with monkeypatch.context() as patch:
        patch.delattr(dbt_segments, "pipeline")
        refuse(patch, "dbt_segments.pipeline")
        done = shop.program("--log-format", "json", "run")
        assert (done.code, notes(done.stdout)[0][0]) == (1, "error")
        patch.delattr(dbt_segments, "inside")
        refuse(patch, "dbt_segments.inside")
        done = shop.program("--log-format", "json", "run")
        ((level, text),) = notes(done.stdout)
        assert (done.code, level) == (1, "error") and "ModuleNotFoundError" in text
        shop.no_hook()
        done = shop.program("--log-format", "json", "run")
        assert (done.code, notes(done.stdout)) == (0, [])


# -- dbtRunner, and dbt within dbt ----------------------------------------------------------------------------


@duckdb_only
def test_a_runner_gets_dbts_own_result(shop: Shop) -> None:
    """Under dbtRunner a held sync changes neither success nor exception; the file and the events tell it."""
    from dbt.cli.main import dbtRunner

    events: list[EventMsg] = []
    shop.project.write("models/vip.sql", VIP + " where false")
    with no_open_warehouse():
        done = dbtRunner(callbacks=[events.append]).invoke(["build", *shop.project.options()])
    assert (done.success, done.exception) == (True, None)
    assert {result.node.name for result in done.result.results} >= {"vip", "first"}
    assert shop.synced() == {"picked": "success", "vip": "held", "first": "success"}
    told = [event.info.msg for event in events if event.info.msg.startswith("dbt-segments: vip")]
    assert len([text for text in told if " held " in text]) == 1
    try:
        raise KeyError
    except KeyError:  # a caller who handles an error of its own is no failure of dbt's
        shop.project.run("run", "--select", "first")
    assert shop.synced() == {"first": "noop"}


@duckdb_only
@pytest.mark.parametrize("moment", ["EndRunResult", "CommandCompleted"])
def test_only_the_outermost_command_syncs(shop: Shop, moment: str) -> None:
    """A dbt command that a callback starts syncs nothing, before and after results are written; the outer one does."""
    from dbt.cli.main import dbtRunner

    words = shop.project.options()
    shop.project.run("seed", "--select", "raw_customers")
    shop.project.run("run", "--select", "customers")
    (shop.project.target_dir / "dbt_segments_results.json").unlink()
    nested: list[Any] = []
    at_the_end: list[Any] = []

    def nest(event: EventMsg) -> None:
        if event.info.name == moment and not nested:
            nested.append(None)
            nested[0] = dbtRunner().invoke(["run", "--select", "first", *words])
            at_the_end.append(shop.synced())

    with no_open_warehouse():
        done = dbtRunner(callbacks=[nest]).invoke(["run", "--select", "vip", *words])
    assert (done.success, nested[0].success, at_the_end) == (True, True, [None])
    assert (shop.synced(), shop.meta.people()) == ({"vip": "success"}, {"vip": 3})


@duckdb_only
def test_ctrl_c_and_crashes_sync_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where dbt ends in an exception after its results were written, nothing goes out, and the next command does."""
    from dbt.task.run import RunTask

    with monkeypatch.context() as patch:
        patch.setattr(RunTask, "interpret_results", lambda *arguments: 1 / 0)
        assert shop.program("build").code == 2
    assert (shop.synced(), shop.meta.requests()) == (None, 0)
    assert (shop.program("build").code, shop.meta.people()) == (0, ALL)


# -- dbt-segments build and run -------------------------------------------------------------------------------


@pytest.mark.slow
@duckdb_only
def test_the_wrappers_pass_options_through(shop: Shop) -> None:
    """They need no hook line, take dbt's options as they are, sync once, and end with the worse exit code."""
    shop.no_hook()
    assert command(shop.project, "build", "--select", "picked", "raw_customers", "customers").code == 0
    assert (shop.synced(), shop.meta.people()) == ({"picked": "success"}, {"picked": 2})
    shop.settings(sync_in_dbt=False, fail_dbt=False)  # of dbt's own commands
    assert command(shop.project, "run", "-s", "vip", "first", "-t", "dev").code == 0
    assert (shop.synced(), shop.meta.people()) == ({"vip": "success", "first": "success"}, ALL)

    shop.project.write("models/vip.sql", VIP + " where false")
    assert (command(shop.project, "run").code, shop.synced()) == (1, {"vip": "held", "first": "noop"})
    shop.project.write("models/first.sql", "select no_such_column")
    shop.project.write("models/vip.sql", VIP)
    assert (command(shop.project, "run").code, shop.synced()) == (1, {"vip": "noop"})
    wrong = command(shop.project, "run", "--no-such-option")
    assert (wrong.code, "--no-such-option" in wrong.stderr) == (2, True)
    shown = command(shop.project, "build", "--help")
    assert (shown.code, "dbt-segments build" in shown.stdout, "--full-refresh" in shown.stdout) == (0, True, True)


@duckdb_only
def test_the_wrapper_and_the_hook_line_are_one_sync(shop: Shop) -> None:
    """With the hook line `dbt-segments build` still syncs once."""
    assert command(shop.project, "build").code == 0
    assert shop.project.sql("select count(*) from main_dbt_segments.sync_runs") == [(3,)]


# -- as users have it -----------------------------------------------------------------------------------------


@duckdb_only
def test_the_process_dbt(shop: Shop) -> None:
    """`dbt` in a process of its own: what may go out does, a held sync is exit code 1, stdout is dbt's log alone."""
    shop.project.write("models/vip.sql", VIP + " where false")
    done = shop.project.dbt("--log-format", "json", "build", ok=False)
    assert {level for level, _ in notes(done.stdout)} == {"info", "error"}
    assert (done.returncode, done.stderr) == (1, "")
    assert shop.meta.people() == {"picked": 2, "first": 1}


@duckdb_only
def test_dbt_lets_go_of_its_file_before_it_waits(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While dbt's own sync waits for another run, that run can open the DuckDB file: else each waits for the other."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    file_lock, kept_open = locks.file_lock, []

    def noting(*arguments: Any) -> Any:
        kept_open.append(DuckDBConnectionManager._ENV is not None)
        return file_lock(*arguments)

    monkeypatch.setattr(locks, "file_lock", noting)
    assert shop.program("build").code == 0
    assert kept_open == [False]
