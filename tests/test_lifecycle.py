"""Audiences that are deleted at the platform, or that nobody needs any more: by policy, and never by a member call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from dbt_segments import pipeline, retry
from dbt_segments.cli import main
from dbt_segments.destinations.meta import Meta
from dbt_segments.errors import UnknownError
from tests.projects import Warehouse
from tests.world import World, email, make_world, sandbox

ADA, BOB, CYD = "ada@example.com", "bob@example.com", "cyd@example.com"


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Ada and Bob in `vip`, synced once."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with sandbox() as serving:
        made = make_world(tmp_path / "shop", warehouse, serving)
        made.customers([(1, ADA), (2, BOB), (3, CYD)])
        made.segment([1, 2])
        assert made.sync().status == "success"
        yield made


def call(world: World, *words: str) -> Result:
    folder = str(world.project.path)
    world.write()
    return CliRunner().invoke(
        main, [*words, "--project-dir", folder, "--profiles-dir", folder], prog_name="dbt-segments"
    )


def prune(world: World, *words: str) -> list[dict[str, Any]]:
    done = call(world, "audiences", "prune", *words, "--output", "json")
    assert done.exit_code in (0, 1), done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["audiences"]
    return found


def item(world: World, **more: Any) -> None:
    world.segments = {"vip": {"destinations": [{"to": "meta", **more}]}}


def platform(world: World) -> Any:
    assert world.serving is not None
    return world.serving.sandbox.platforms["meta"]


def delete_there(world: World) -> None:
    """Somebody deletes the audiences in the platform's own tool."""
    for audience in platform(world).audiences.values():
        audience.deleted = True


# -- gone -----------------------------------------------------------------------------------------------------


def test_by_default_a_vanished_audience_fails_its_sync(world: World) -> None:
    """No other one is made, and the remedy is named."""
    delete_there(world)
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.status, result.exit_code) == ("failed", 1)
    assert f"audience {next(iter(platform(world).audiences))} (vip) no longer exists" in result.reason
    assert any("gone: recreate" in note and "beside `to: meta` in the meta of vip" in note for note in result.notes)
    assert world.audiences() == []


@pytest.mark.parametrize("where", ["item", "project"])
def test_a_vanished_audience_is_made_again_with_everybody(world: World, where: str) -> None:
    """In the run that finds it gone, through an ordinary creation; the next run has nothing to do."""
    delete_there(world)
    if where == "item":
        item(world, gone="recreate")
    else:
        world.variables["gone"] = "recreate"
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.status, result.counts.added, result.counts.unchanged) == ("success", 3, 0)
    assert world.held() == {email(ADA), email(BOB), email(CYD)}
    assert any("was deleted at the platform" in note for note in result.notes)
    assert sum("below_minimum" in note for note in result.notes) == 1  # of the plan that was sent, not of the first one
    assert [event for (event,) in world.state("audiences", "event", "1 = 1 order by recorded_at")] == [
        *("intended", "created", "gone", "intended", "created"),
    ]
    again = world.sync()
    assert (again.status, again.requests) == ("noop", 0)
    world.segment([2, 3])
    assert world.sync().counts.removed == 1
    assert world.held() == {email(BOB), email(CYD)}


def test_a_recreation_that_dies_is_finished_by_the_next_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the new audience was made: the next run finds it by its mark, and there is one."""
    delete_there(world)
    item(world, gone="recreate")
    world.segment([1, 2, 3])
    create = Meta.create

    def lost(self: Meta, name: str, mark: str) -> Any:
        yield from create(self, name, mark)
        raise UnknownError("the answer was lost", code="test")

    with monkeypatch.context() as patch:
        patch.setattr(Meta, "create", lost)
        assert world.sync().status == "failed"
    assert world.sync().status == "success"
    assert world.held() == {email(ADA), email(BOB), email(CYD)}


def test_refusals_are_remembered_beyond_a_recreation(world: World) -> None:
    """Ada refuses and had an older address that Cyd has now: it is sent for nobody, into the new audience too."""
    world.suppress = ["opt_outs"]
    world.opt_outs([])
    world.customers([(1, "old@example.com"), (2, BOB), (3, CYD)])
    world.sync()
    world.customers([(1, ADA), (2, BOB), (3, CYD)])
    world.opt_outs([1])
    world.sync()
    delete_there(world)
    item(world, gone="recreate")
    world.customers([(1, "new@example.com"), (2, BOB), (3, "old@example.com"), (4, CYD)])
    world.segment([1, 2, 3, 4])
    world.sync()
    assert world.held() == {email(BOB), email(CYD)}


def test_another_audience_takes_the_place(world: World) -> None:
    """`adopt` takes the one of that name over, fills it with everybody and leaves members of others in it."""
    (old,) = world.audiences()
    delete_there(world)
    item(world, gone="adopt")
    world.segment([1, 2, 3])
    failed = world.sync()
    assert (failed.status, world.audiences()) == ("failed", [])
    assert world.serving is not None
    made = platform(world)
    url = f"{world.serving.url}/meta/v26.0/act_1002003004005/customaudiences"
    form = {"name": old["name"], "subtype": "CUSTOM", "customer_file_source": "USER_PROVIDED_ONLY"}
    created = httpx.post(url, data=form, headers={"Authorization": "Bearer sandbox-token"}).json()["id"]
    stranger = email("stranger@example.com")
    made.audiences[created].members.add([made.codec.encode(*stranger)], 0)
    result = world.sync()
    assert (result.status, result.audience_id) == ("success", created)
    assert world.held() == {email(ADA), email(BOB), email(CYD), stranger}
    world.segment([1])
    world.sync()
    assert world.held() == {email(ADA), stranger}


def test_an_audience_that_the_user_names_is_not_replaced(world: World) -> None:
    """`audience_id` says which one: there is no other."""
    (audience,) = world.audiences()
    item(world, audience_id=audience["id"], gone="recreate")
    delete_there(world)
    world.segment([1, 2, 3])
    assert world.sync().status == "failed"
    assert world.audiences() == []


def test_nothing_waits_where_nothing_follows_a_removal(world: World) -> None:
    """A removal that has not ended is no news of batches that there are none of."""
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "reset_before", "match": {"op": "remove"}, "times": -1})
    world.segment([1])
    told: list[str] = []
    pipeline.sync(world.request(), lambda sync_id, text: told.append(text))
    assert any(text.startswith("remove: ") for text in told)
    assert not any("must wait" in text for text in told)


# -- not needed any more --------------------------------------------------------------------------------------


def test_nothing_is_pruned_by_itself(world: World) -> None:
    """By default an audience without a sync is kept; status and prune name it, and a plan does nothing."""
    item(world, enabled=False)
    world.run()
    assert "audience that nothing is sent to" in call(world, "status").stdout
    (one,) = prune(world, "--yes")
    assert (one["standing"], one["action"], one["done"]) == ("off", "keep", "kept")
    (planned,) = prune(world, "--policy", "delete")
    assert (planned["action"], planned["done"], planned["members"]) == ("delete", "planned", 2)
    text = call(world, "audiences", "prune", "--plan", "--policy", "empty").stdout
    assert text.splitlines()[-1] == "nothing was done: --yes does it"
    assert world.held() == {email(ADA), email(BOB)}


@pytest.mark.parametrize("how", ["off", "deleted"])
def test_an_audience_is_emptied_of_our_members(world: World, how: str) -> None:
    """Those of others stay; the state knows, and a sync that is switched on again sends everybody."""
    (audience,) = world.audiences()
    stranger = email("stranger@example.com")
    made = platform(world)
    made.audiences[audience["id"]].members.add([made.codec.encode(*stranger)], 0)
    if how == "off":
        item(world, enabled=False, orphan="empty")
    else:
        world.segments = {}
        world.variables["orphans"] = "empty"
    (one,) = prune(world, "--yes")
    assert (one["standing"], one["done"]) == (how, "emptied"), one
    assert world.held() == {stranger}
    assert prune(world)[0]["action"] == "keep"
    run = json.loads(call(world, "history", "--output", "json", "--limit", "1").stdout)["runs"][0]
    assert (run["removed"], run["segment"], run["entity"]) == (2, "vip", "customer")
    item(world)
    assert world.sync().counts.added == 2
    assert world.held() == {email(ADA), email(BOB), stranger}


@pytest.mark.parametrize("policy", ["empty", "delete"])
def test_a_pruned_audience_is_filled_again_at_once(world: World, policy: str) -> None:
    """Its sync has run today, but what it did is undone: switched on again it is due, once."""
    assert world.sync(now=False).reason == "not_due"
    item(world, enabled=False)
    prune(world, "--yes", "--policy", policy)
    item(world)
    again = world.sync(now=False)
    assert (again.status, again.counts.added) == ("success", 2)
    assert world.held() == {email(ADA), email(BOB)}
    assert world.sync(now=False).reason == "not_due"


def test_a_sync_that_was_switched_off_meanwhile_is_due(world: World) -> None:
    """A run that passed it over is noted once; after that it is due, and then no more."""
    item(world, enabled=False)
    world.run(now=False)
    world.run(now=False)
    assert world.state("sync_runs", "status", "reason = 'disabled'") == [("skipped",)]
    item(world)
    assert world.sync(now=False).status == "noop"
    assert world.sync(now=False).reason == "not_due"


@pytest.mark.parametrize("how", ["off", "deleted"])
def test_an_audience_of_ours_is_deleted(world: World, how: str) -> None:
    """It is gone at the platform and from the lists; a sync that is switched on again makes another one."""
    if how == "off":
        item(world, enabled=False, orphan="delete")
    else:
        world.segments = {}
        world.variables["orphans"] = "delete"
    (one,) = prune(world, "--yes")
    assert one["done"] == "deleted"
    assert world.audiences() == []
    assert prune(world) == []
    assert call(world, "audiences", "prune").stdout == "every audience has its sync\n"
    item(world)
    assert world.sync().counts.added == 2
    assert world.held() == {email(ADA), email(BOB)}


def test_an_adopted_audience_is_emptied_and_not_deleted(world: World) -> None:
    """Somebody else made it and may use it."""
    (audience,) = world.audiences()
    platform(world).audiences[audience["id"]].description = ""
    world.segments = {"gold": {"destinations": [{"to": "meta", "audience_id": audience["id"]}]}}
    world.segment([3], "gold")
    world.sql(f"delete from {world.warehouse.schema}_dbt_segments.audiences")
    assert world.sync().status == "success"
    world.segments = {}
    (one,) = prune(world, "--policy", "delete", "--yes")
    assert (one["action"], one["done"]) == ("empty", "emptied")
    assert world.held() == {email(ADA), email(BOB)}


def test_an_audience_that_is_gone_already_is_taken_note_of(world: World) -> None:
    """Deleted by hand before: it disappears from the lists."""
    world.segments = {}
    delete_there(world)
    for policy in ("empty", "delete"):
        found = prune(world, "--policy", policy, "--yes")
        assert [one["done"] for one in found] == (["gone"] if policy == "empty" else [])


def test_what_cannot_be_pruned_says_why(world: World) -> None:
    """Another account, a lost connection, a mark that is not ours, a name that is none: nothing is touched."""
    world.segments = {}
    world.variables["orphans"] = "delete"
    world.connections = {"meta": world.meta(ad_account_id="77")}
    (one,) = prune(world, "--yes")
    assert (one["action"], one["note"]) == ("keep", "connection meta now names account act_77")
    world.connections = {"other": world.meta()}
    assert "connection meta is not there" in prune(world, "--yes")[0]["note"]
    world.connections = {}
    (audience,) = platform(world).audiences.values()
    audience.description = "dbt-segments:0123:shop.vip.meta:1"
    done = call(world, "audiences", "prune", "--yes")
    assert done.exit_code == 1
    assert "mark of another state" in done.stdout
    assert len(world.audiences()) == 1
    wrong = call(world, "audiences", "prune", "shop.vpi.meta")
    assert wrong.exit_code == 2
    assert "shop.vip.meta" in wrong.stderr
    assert call(world, "audiences", "prune", "--target", "prod").exit_code == 2


def test_a_sync_that_runs_is_never_pruned(world: World) -> None:
    """Neither is one whose model was renamed."""
    assert prune(world, "--policy", "delete", "--yes") == []
    world.segments = {"gold": {"renamed_from": ["vip"], "destinations": ["meta"]}}
    assert prune(world, "--policy", "delete", "--yes") == []
    world.segments = {"gold": {"renamed_from": ["vip"], "destinations": [{"to": "meta", "enabled": False}]}}
    (one,) = prune(world, "--policy", "empty", "--yes")
    assert (one["sync_id"], one["members"], one["done"]) == ("shop.vip.meta", 2, "emptied")
    assert world.held() == set()


def test_a_new_id_with_the_old_name_is_told_whose_audience_that_is(world: World) -> None:
    """No state was lost. The remedy that is named helps."""
    item(world, id="again")
    held = world.sync()
    assert (held.status, held.reason.split(": ")[0]) == ("held", "foreign_mark")
    assert "carries the mark of sync shop.vip.meta" in held.reason
    (hint,) = (note for note in held.notes if "audience_name" in note)
    assert "lost" not in hint
    words = hint.split("dbt-segments ")[1].split()
    assert call(world, *words, "--yes").exit_code == 0
    assert world.sync().counts.added == 2
    assert len(world.audiences()) == 1


# -- names ----------------------------------------------------------------------------------------------------


def test_a_name_that_is_too_long_is_told_before_anything_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the place and a remedy; an audience that is named by its id needs no name."""
    monkeypatch.setattr(Meta, "longest_name", 10)
    world.segments = {"vip": {"label": "Lapsed buyers", "destinations": ["meta"]}}
    _, (problem,) = pipeline.validate(world.request())
    assert (problem.model, problem.key) == ("vip", "segment.destinations[0]")
    assert "13 characters, meta takes 10" in problem.message
    assert "audience_name" in problem.hint
    world.segments["vip"]["destinations"] = [{"to": "meta", "audience_name": "Lapsed"}]
    assert pipeline.validate(world.request())[1] == []
    world.segments["vip"]["destinations"] = [{"to": "meta", "audience_id": "1202"}]
    assert pipeline.validate(world.request())[1] == []
