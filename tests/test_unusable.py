"""A connection with a mistake costs its own syncs, and nothing else."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dbt_segments import pipeline
from dbt_segments.cli import main
from dbt_segments.connections import read_connections
from dbt_segments.destinations import registry
from dbt_segments.errors import ConfigError, ManifestError
from tests.projects import Warehouse
from tests.world import World, email, make_world, sandbox

ADA, BOB = "ada@example.com", "bob@example.com"
UNSET = {"type": "meta", "ad_account_id": "77", "access_token": "{{ env_var('NO_SUCH_TOKEN') }}"}
BROKEN = {
    "secret": UNSET,
    "setting": {"type": "meta", "ad_account_id": "77", "access_token": "t", "timeout": "5"},
    "type": {"type": "mta", "ad_account_id": "77", "access_token": "t"},
}


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: Warehouse) -> Iterator[World]:
    """A segment at a connection that works and at one that is to be broken."""
    with sandbox() as serving:
        found = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        found.customers([(1, ADA), (2, BOB)])
        found.segment([1, 2])
        found.segments["vip"]["destinations"] = ["other", "meta"]
        found.connections = {"meta": found.meta(), "other": found.meta(ad_account_id="77")}
        yield found


def call(world: World, *words: str) -> Result:
    world.write()
    folder = str(world.project.path)
    place = ["--project-dir", folder, "--profiles-dir", folder]
    return CliRunner().invoke(main, [*words, *place], prog_name="dbt-segments")


def told(world: World, *words: str) -> Any:
    done = call(world, *words, "--output", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("how", BROKEN)
def test_only_the_syncs_of_a_broken_connection_fail(world: World, how: str) -> None:
    """The others are sent; the failed one names what is missing, and is due again once it is there."""
    world.connections["other"] = BROKEN[how]
    for run in (world.plan().run, world.run()):
        failed, well = run.syncs
        assert (failed.destination, failed.status, failed.exit_code) == ("other", "failed", 1)
        assert failed.reason.startswith("connection_unusable: ")
        assert "destinations.yml: other: " in failed.reason
        assert {"secret": "NO_SUCH_TOKEN", "setting": "timeout", "type": "mta"}[how] in failed.reason
        assert (well.status, well.counts.added) == ("success", 2)
    assert world.held() == {email(ADA), email(BOB)}
    world.connections["other"] = world.meta(ad_account_id="77")
    mended, _ = world.run(now=False).syncs
    assert (mended.status, mended.counts.added) == ("success", 2)


PASTED = "EAAB9x7QsecretZ0Zk41"


@pytest.mark.parametrize(
    "settings",
    [
        {"type": PASTED},
        {"type": "meta", PASTED: "x"},
        {"type": "meta", PASTED: "{{ nothing }}"},
        {"type": "meta", "access_token": f"{{{{ {PASTED} }}}}"},
        {"type": "meta", "access_token": f"{{{{ env_var('{PASTED}/x=') }}}}"},
        {"type": "meta", "access_token": [PASTED]},
        {"type": "meta", "access_token": {PASTED: PASTED}},
    ],
)
def test_a_pasted_secret_is_neither_shown_nor_kept(world: World, settings: dict[str, Any]) -> None:
    """Wherever in a connection it stands by mistake: as a type, a key, a variable's name or a value of a wrong kind."""
    world.connections["other"] = settings
    failed, _ = world.run().syncs
    assert failed.reason.startswith("connection_unusable: ")
    assert PASTED not in json.dumps(world.state("sync_runs", "reason"))
    assert PASTED not in call(world, "validate").output + call(world, "status").output


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "https://crm.example/in", "headers": {"X-Key": PASTED, PASTED: ["x"]}},
        {"url": f"https://u:{PASTED}@crm.example/in"},
        {"url": PASTED},
        {"url": "https://crm.example/in", "headers": {PASTED: "{{ nothing }}"}},
    ],
)
def test_nor_is_one_in_a_nested_setting(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Names of headers, credentials in a URL and a URL that is none are not shown."""
    path = tmp_path / "destinations.yml"
    path.write_text(yaml.safe_dump({"hook": {"type": "webhook", **settings}}))
    problems = read_connections(path, {}).problems["hook"]
    assert problems
    assert PASTED not in " ".join(map(str, problems))


def test_commands_that_look_need_no_secrets(world: World) -> None:
    """They end well and say which connection cannot be used; a plan of the other sync is as ever."""
    world.run()
    world.connections["other"] = UNSET
    assert [one["usable"] for one in told(world, "list")["syncs"]] == [False, True]
    assert "on, success, connection unusable" in call(world, "list").stdout
    assert len(told(world, "audiences", "list")["audiences"]) == 2
    broken, well = told(world, "status")["syncs"]
    assert (broken["members"], well["members"]) == (2, 2)
    assert "NO_SUCH_TOKEN is not set" in " ".join(broken["notes"])
    assert told(world, "history")["total"] == 2
    assert told(world, "rejects")["total"] == 0
    assert told(world, "plan", "--select", "shop.vip.meta")["syncs"][0]["status"] == "noop"
    assert call(world, "plan").exit_code == 1


def test_a_run_without_any_usable_connection_does_not_start(world: World) -> None:
    """As any mistake in what the user wrote: exit code 2, every variable that is missing named once."""
    world.connections = {"meta": UNSET, "other": UNSET}
    for word in ("plan", "sync"):
        done = call(world, word)
        assert done.exit_code == 2
        assert done.stderr.count("NO_SUCH_TOKEN is not set") == 2, done.stderr
    assert call(world, "audiences", "adopt", "shop.vip.meta", "--id", "1").exit_code == 2
    assert world.calls() == []


def test_a_run_without_any_usable_connection_leaves_no_earlier_success(world: World) -> None:
    """Its results file and its rows in `sync_runs` say that it failed; where there is not even a manifest, the file."""
    path = world.project.path / "target" / "dbt_segments_results.json"
    assert call(world, "sync").exit_code == 0
    world.connections = {"meta": UNSET, "other": UNSET}
    assert call(world, "sync").exit_code == 2
    written = json.loads(path.read_text())
    assert [one["status"] for one in written["syncs"]] == ["failed", "failed"]
    assert (written["error"]["exit_code"], "NO_SUCH_TOKEN" in written["error"]["message"]) == (2, True)
    assert world.state("sync_runs", "status", "1 = 1 order by finished_at") == [("success",)] * 2 + [("failed",)] * 2
    options = world.request()
    (world.project.path / "target" / "manifest.json").unlink()
    with pytest.raises(ManifestError):
        pipeline.sync(options, lambda sync_id, text: None)
    written = json.loads(path.read_text())
    assert (written["syncs"], "manifest" in written["error"]["message"]) == ([], True)


def test_a_suppression_model_that_is_not_there_stops_its_connection(world: World) -> None:
    """Nobody knows whom to leave out: its syncs send nothing."""
    world.connections["other"]["suppress"] = ["nobody"]
    failed, well = world.run().syncs
    assert (failed.status, well.status) == ("failed", "success")
    assert "suppress" in failed.reason
    assert [one["account"] for one in world.audiences()] == ["1002003004005"]


def test_a_mistake_in_a_model_still_stops_everything(world: World) -> None:
    """It is not known which syncs it would change."""
    world.connections["other"] = UNSET
    world.segments["vip"]["destinations"] = ["other", "meta", "nowhere"]
    with pytest.raises(ConfigError, match="nowhere"):
        pipeline.plan(world.request(), lambda sync_id, text: None)


@pytest.mark.parametrize("kind", ["google_ads", "linkedin", "microsoft_ads", "reddit", "snapchat"])
def test_secrets_do_not_leave_a_sandbox(tmp_path: Path, kind: str) -> None:
    """A refresh token would go to the real endpoint: the connection is refused until `token_url` is named."""
    case = importlib.import_module(f"tests.one_click.case_{kind}").CASE
    settings = {**case.connection("http://127.0.0.1:1/x", tmp_path), "type": kind}
    own = settings.pop("token_url")
    refresh = {"client_id": "c", "client_secret": "s", "refresh_token": "r"}
    settings = {key: value for key, value in settings.items() if key not in ("access_token", "service_account_file")}

    def problems(**more: str) -> list[str]:
        path = tmp_path / "destinations.yml"
        path.write_text(yaml.safe_dump({"one": {**settings, **refresh, **more}}))
        return [problem.key for problem in read_connections(path, {}).problems.get("one", ())]

    assert problems() == ["token_url"]
    assert problems(token_url=own) == []
    assert problems(base_url=registry.get(kind).base_url) == []
