"""list, history, rejects and audiences: what they tell is what the state holds, and reading makes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from dbt_segments.cli import main
from tests.projects import Warehouse
from tests.world import World, make_world, sandbox


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    """Three customers of whom one has nothing to match on, and a segment of all."""
    with sandbox() as serving:
        world = make_world(tmp_path / "shop", warehouse, serving)
        world.customers([(1, "a@example.com"), (2, "b@example.com"), (3, None)])
        world.segment([1, 2, 3])
        yield world


def call(world: World, *words: str) -> Result:
    folder = str(world.project.path)
    place = ["--project-dir", folder, "--profiles-dir", folder]
    return CliRunner().invoke(main, [*words, *place], prog_name="dbt-segments")


def told(world: World, *words: str) -> Any:
    """The JSON of a command that succeeds."""
    done = call(world, *words, "--output", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_project_without_a_state_is_listed(world: World) -> None:
    """Nothing was ever synced: the matrix is there, logs are empty, and no schema is made by looking."""
    world.write()
    assert call(world, "list").stdout.splitlines() == ["segment   meta", "vip       on, never"]
    assert told(world, "history") == {"runs": [], "total": 0}
    assert told(world, "rejects") == {"rejects": [], "total": 0}
    assert told(world, "audiences", "list") == {"audiences": []}
    assert [call(world, word).stdout for word in ("history", "rejects")] == ["no runs\n", "no rejects\n"]
    schemas = world.sql("select count(*) from information_schema.schemata where schema_name like '%_dbt_segments'")
    assert schemas == [(0,)]


def test_what_a_sync_did_is_told(world: World) -> None:
    """The matrix has the audience and the last status; history and rejects have their rows, newest first."""
    assert world.sync().status == "success"
    world.segment([1, 3])
    assert world.sync(allow_removals=("vip",)).counts.removed == 1
    (listed,) = told(world, "list")["syncs"]
    (audience,) = world.audiences()
    assert (listed["audience_id"], listed["enabled"], listed["last_status"]) == (audience["id"], True, "success")
    runs = told(world, "history")["runs"]
    assert [(run["status"], run["added"], run["removed"]) for run in runs] == [("success", 0, 1), ("success", 2, 0)]
    assert runs[0]["finished_at"].endswith("+00:00")
    newest = told(world, "history", "--limit", "1")
    assert (newest["runs"], newest["total"]) == (runs[:1], 2)
    assert call(world, "history", "--limit", "1").stdout.splitlines()[-1] == "1 of 2 runs"
    (reject,) = told(world, "rejects")["rejects"]
    assert (reject["key"], reject["reason"], reject["class"]) == ("3", "no_identifier", "data")
    text = "".join(call(world, *words).output for words in (["list"], ["history"], ["rejects"], ["audiences", "list"]))
    assert "example.com" not in text


def test_audiences_of_disabled_and_deleted_segments_stay_and_are_listed(world: World) -> None:
    """Nothing is sent to them any more, and nothing is removed from them."""
    world.segments["gone"] = {"destinations": ["meta"]}
    world.segment([2], "gone")
    world.run()
    del world.segments["gone"]
    world.segments["vip"] = {"destinations": [{"to": "meta", "enabled": False}], "label": "vip"}
    world.write()
    found = told(world, "list")
    assert [(one["sync_id"], one["standing"]) for one in found["kept"]] == [
        ("shop.gone.meta", "deleted"),
        ("shop.vip.meta", "off"),
    ]
    assert world.run().syncs == ()
    assert sorted(len(audience["keys"]) for audience in world.audiences()) == [1, 2]
    lines = call(world, "list").stdout.splitlines()
    assert lines[:2] == ["segment   meta", "vip       off, success"]
    assert "audiences that nothing is sent to:" in lines
    assert ["not in the project" in lines[-2], "switched off" in lines[-1]] == [True, True]
    # Who selects asks for segments of the project.
    assert [one["sync_id"] for one in told(world, "list", "--select", "vip")["kept"]] == ["shop.vip.meta"]
    assert [one["sync_id"] for one in told(world, "audiences", "list", "-s", "vip")["audiences"]] == ["shop.vip.meta"]
    assert {run["segment"] for run in told(world, "history", "--select", "vip")["runs"]} == {"vip"}


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_a_project_that_has_no_sync_any_more_is_warned_of_its_audiences(world: World, command: str) -> None:
    """They keep whom they hold. Code 0: that may be what is wanted; and not where a sync is left, or never was one."""
    told = "warning: no model declares a sync, and nothing is sent to 1 audience of the state: dbt-segments list"
    segments = world.segments
    world.segments = {}
    world.write()
    assert "no model declares" not in call(world, command).stderr
    world.segments = segments
    world.sync()
    assert "no model declares" not in call(world, command).stderr
    world.segments = {}
    world.write()
    done = call(world, command)
    assert done.exit_code == 0
    assert told in done.stderr.splitlines(), done.stderr


def test_a_renamed_model_keeps_its_history(world: World) -> None:
    """What was recorded under the former name is that of the segment now."""
    world.sync()
    world.segments = {"best": {"destinations": ["meta"], "renamed_from": ["vip"]}}
    world.write()
    found = told(world, "list")
    assert (found["syncs"][0]["last_status"], found["kept"]) == ("success", [])
    assert len(told(world, "history", "-s", "best")["runs"]) == 1


def test_an_audience_is_listed_once_and_not_as_on_when_it_is_gone(world: World) -> None:
    """After a rename under the new name; after it was made again beside the new one; a kept one is not confused."""

    def listed() -> list[tuple[str, str, str, str]]:
        found = told(world, "audiences", "list")["audiences"]
        return [(one["sync_id"], one["audience_id"], one["event"], one["standing"]) for one in found]

    world.sync()
    (first,) = [one["id"] for one in world.audiences()]
    world.segments = {"best": {"destinations": [{"to": "meta", "gone": "recreate"}], "renamed_from": ["vip"]}}
    world.segment([1, 2], "best")
    world.write()
    assert listed() == [("shop.best.meta", first, "created", "on")]
    assert world.serving is not None
    for audience in world.serving.sandbox.platforms["meta"].audiences.values():  # type: ignore[attr-defined]
        audience.deleted = True
    world.segment([1], "best")
    assert world.sync().status == "success"
    (second,) = [one["id"] for one in world.audiences()]
    assert listed() == [("shop.best.meta", second, "created", "on"), ("shop.vip.meta", first, "gone", "over")]
    lines = call(world, "audiences", "list").stdout.splitlines()
    assert [word in line for line, word in zip(lines[1:], ("  on  ", "audience is no more"), strict=True)] == [True] * 2
    assert told(world, "list")["syncs"][0]["audience_id"] == second
    world.segments = {"best": {"destinations": [{"to": "meta", "enabled": False}]}}
    world.write()
    assert call(world, "audiences", "prune", "--policy", "delete", "--yes").exit_code == 0
    assert listed()[0] == ("shop.best.meta", second, "deleted", "over")
    assert told(world, "list")["syncs"][0]["audience_id"] is None


@pytest.mark.parametrize("policy", ["empty", "delete"])
def test_a_pruned_audience_of_a_renamed_model_is_listed_once(world: World, policy: str) -> None:
    """What was done to it is on record under one id, and what it was under another."""
    world.sync()
    (first,) = [one["id"] for one in world.audiences()]
    world.segments = {"best": {"destinations": [{"to": "meta", "enabled": False}], "renamed_from": ["vip"]}}
    world.segment([1, 2], "best")
    world.write()
    assert call(world, "audiences", "prune", "--policy", policy, "--yes").exit_code == 0
    (found,) = told(world, "audiences", "list")["audiences"]
    expected = ("emptied", "off") if policy == "empty" else ("deleted", "over")
    assert (found["audience_id"], found["event"], found["standing"]) == (first, *expected)


def test_a_classic_sync_says_its_mode(world: World) -> None:
    """The matrix tells one-click and classic apart."""
    world.segments["vip"] = {"syncs": [{"to": "meta", "mode": "mirror"}]}
    world.write()
    assert call(world, "list").stdout.splitlines()[1] == "vip       classic mirror, on, never"
    (listed,) = told(world, "list")["syncs"]
    assert (listed["one_click"], listed["mode"]) == (False, "mirror")


# -- adopt ----------------------------------------------------------------------------------------------------


def make_audience(world: World, name: str) -> str:
    """An audience that somebody made at the platform."""
    fields = {"name": name, "subtype": "CUSTOM", "customer_file_source": "USER_PROVIDED_ONLY"}
    made = httpx.post(
        f"{world.url}/meta/v26.0/act_1002003004005/customaudiences",
        data=fields,
        headers={"Authorization": "Bearer sandbox-token"},
    )
    return str(made.raise_for_status().json()["id"])


def test_an_audience_is_adopted_by_its_id(world: World) -> None:
    """It gets our mark, its name stays, and the next sync fills it instead of making another."""
    theirs = make_audience(world, "Spring")
    world.write()
    done = told(world, "audiences", "adopt", "shop.vip.meta", "--id", theirs)
    assert (done["audience_id"], done["audience_name"], done["changed"]) == (theirs, "Spring", True)
    assert done["mark"].startswith("dbt-segments:")
    assert told(world, "audiences", "adopt", "shop.vip.meta", "--id", theirs)["changed"] is False
    assert world.sync().audience_id == theirs
    assert [audience["name"] for audience in world.audiences()] == ["Spring"]


def test_an_audience_is_adopted_by_its_name(world: World) -> None:
    """The name is compared as it is, and of several audiences none is taken."""
    theirs = make_audience(world, "Spring")
    make_audience(world, "Spring 2026")
    world.write()
    done = told(world, "audiences", "adopt", "shop.vip.meta", "--name", "Spring")
    assert (done["audience_id"], done["changed"]) == (theirs, True)
    assert world.sync().audience_id == theirs
    world.segments["other"] = {"destinations": ["meta"]}
    twins = sorted(make_audience(world, "Autumn") for _ in range(2))
    world.write()
    refused = call(world, "audiences", "adopt", "shop.other.meta", "--name", "Autumn")
    assert (refused.exit_code, f"several audiences are named Autumn: {', '.join(twins)}" in refused.stderr) == (1, True)


def test_an_audience_that_was_let_go_is_free(world: World) -> None:
    """A sync that adopted one audience, sent nothing and adopted another leaves the first one, unmarked, to others."""
    spring, autumn = make_audience(world, "Spring"), make_audience(world, "Autumn")
    world.segments["other"] = {"destinations": ["meta"]}
    world.write()
    for audience in (spring, autumn):
        assert told(world, "audiences", "adopt", "shop.vip.meta", "--id", audience)["changed"]
    done = call(world, "audiences", "adopt", "shop.other.meta", "--id", autumn)
    assert "already belongs to shop.vip.meta" in done.stderr
    headers = {"Authorization": "Bearer sandbox-token"}
    httpx.post(f"{world.url}/meta/v26.0/{spring}", data={"description": ""}, headers=headers).raise_for_status()
    assert told(world, "audiences", "adopt", "shop.other.meta", "--id", spring)["changed"]


def test_after_a_sync_another_audience_is_refused(world: World) -> None:
    """What was sent to the first one would be forgotten there."""
    theirs = make_audience(world, "Spring")
    world.sync()
    done = call(world, "audiences", "adopt", "shop.vip.meta", "--id", theirs)
    assert done.exit_code == 1
    assert "it has sent members to audience" in done.stderr


def test_one_audience_has_one_sync(world: World) -> None:
    """An audience of another sync of this state is not taken away from it, history or not."""
    world.sync()
    (mine,) = world.audiences()
    world.segments["other"] = {"destinations": ["meta"]}
    world.write()
    for more in ([], ["--without-history"]):
        done = call(world, "audiences", "adopt", "shop.other.meta", "--id", mine["id"], *more)
        assert done.exit_code == 1
        assert "already belongs to shop.vip.meta" in done.stderr


def test_a_lost_state_is_begun_anew_only_on_request(world: World) -> None:
    """The mark of the lost state holds; `--without-history` takes the audience over, and its members stay."""
    world.sync()
    (mine,) = world.audiences()
    world.sql(f"drop schema {world.warehouse.schema}_dbt_segments cascade")
    world.variables = {"require_state": True}
    world.write()
    words = ["audiences", "adopt", "shop.vip.meta", "--by-mark"]
    lost = call(world, *words)
    assert (lost.exit_code, "audiences adopt --without-history" in lost.stderr) == (2, True)
    world.variables = {}
    held = world.sync()
    assert held.reason.startswith("foreign_mark")
    assert any(f"adopt shop.vip.meta --id {mine['id']} --without-history" in note for note in held.notes)
    refused = call(world, *words)
    assert (refused.exit_code, "--without-history" in refused.stderr) == (1, True)
    taken = told(world, *words, "--without-history")
    assert (taken["audience_id"], taken["mark"] != mine.get("mark")) == (mine["id"], True)
    world.segment([1])
    assert world.sync().audience_id == mine["id"]
    assert len(world.held()) == 2, "who was sent by the lost state stays"


def test_a_lost_state_may_be_required_by_the_settings(world: World) -> None:
    """`require_state` stops everything but the adoption that begins it anew."""
    world.sync()
    world.sql(f"drop schema {world.warehouse.schema}_dbt_segments cascade")
    world.variables = {"require_state": True}
    world.write()
    assert told(world, "audiences", "adopt", "shop.vip.meta", "--by-mark", "--without-history")["changed"]


def test_a_state_that_never_sent_is_none(world: World) -> None:
    """`plan` and `status` make a state where there is none; `require_state` is not satisfied by that."""
    world.sync()
    world.sql(f"drop schema {world.warehouse.schema}_dbt_segments cascade")
    world.write()
    assert call(world, "plan").exit_code == 0
    assert call(world, "status").exit_code == 0
    world.variables = {"require_state": True}
    world.write()
    done = call(world, "sync", "--now")
    assert (done.exit_code, "require_state is true" in done.stderr) == (2, True), done.output


def test_syncs_of_a_whole_entity_are_listed_and_selected_by_its_name(world: World) -> None:
    """`list` has a row for the entity; `--select customer` means its syncs; switching them is left to the user."""
    world.connections = {"meta": world.meta(), "out": {"type": "files", "path": str(world.project.path / "out")}}
    world.syncs = [{"to": "out", "mode": "upsert", "key": {"Id": "customer_id"}, "fields": {"Mail": "email"}}]
    world.write()
    listed = told(world, "list")["syncs"]
    assert sorted(one["sync_id"] for one in listed) == ["shop.customers.out", "shop.vip.meta"]
    assert [one.sync_id for one in world.run(select=("customer",)).syncs] == ["shop.customers.out"]
    done = call(world, "disable", "customer", "out")
    assert done.exit_code == 2
    assert "entity" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["shop.vip.mta", "--by-mark"], 2, "did you mean `shop.vip.meta`?"),
        (["shop.vip.meta"], 2, "say one of --id, --name and --by-mark"),
        (["shop.vip.meta", "--by-mark", "--id", "1"], 2, "say one of --id, --name and --by-mark"),
        (["shop.vip.meta", "--name", "Spring", "--id", "1"], 2, "say one of --id, --name and --by-mark"),
        (["shop.vip.meta", "--name", "Spring"], 1, "has no audience named Spring"),
        (["shop.vip.meta", "--by-mark"], 1, "carries its mark"),
        (["shop.vip.meta", "--id", "999"], 1, "999"),
    ],
)
def test_what_cannot_be_adopted(world: World, words: list[str], code: int, error: str) -> None:
    """Nothing is recorded, and the message says what to do."""
    world.write()
    done = call(world, "audiences", "adopt", *words)
    assert (done.exit_code, error in done.stderr) == (code, True), done.stderr
    assert told(world, "audiences", "list") == {"audiences": []}


def test_only_a_target_that_may_send_adopts(world: World) -> None:
    """Writing the mark is a request that changes something."""
    theirs = make_audience(world, "Spring")
    world.variables = {"targets": ["prod"]}
    world.write()
    done = call(world, "audiences", "adopt", "shop.vip.meta", "--id", theirs)
    assert (done.exit_code, "dbt target dev may not send" in done.stderr) == (2, True)


def test_the_yaml_and_the_command_must_agree(world: World) -> None:
    """A sync whose `audience_id` names another audience would be held at once."""
    theirs = make_audience(world, "Spring")
    world.segments["vip"] = {"destinations": [{"to": "meta", "audience_id": "77"}]}
    world.write()
    done = call(world, "audiences", "adopt", "shop.vip.meta", "--id", theirs)
    assert (done.exit_code, "`audience_id` names 77" in done.stderr) == (1, True)
