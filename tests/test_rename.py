"""A renamed model keeps its audience, its ledger and what an interrupted run left; chains of shared units hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dbt_segments import deliver, pipeline
from dbt_segments.adopt import adopt
from dbt_segments.audiences import Resolver
from dbt_segments.destinations.base import Audience
from dbt_segments.prune import prune
from dbt_segments.state.locks import Lock
from dbt_segments.values import Sync
from tests.projects import Warehouse
from tests.world import World, email, make_world, phone, sandbox

NAMES = [f"{name}@example.com" for name in ("ada", "bob", "cyd", "dan")]
RENAMED = {"gold": {"destinations": ["meta"], "renamed_from": ["vip"], "label": "vip"}}


class Killed(BaseException):
    """The process dies here."""


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        found = make_world(tmp_path / "shop", warehouse, serving)
        found.customers([(number, name) for number, name in enumerate(NAMES, 1)])
        yield found


def _die_after_sending(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync whose process dies once its requests are answered, before any outcome is on record."""

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deliver.Delivery, "note", die)
        with pytest.raises(Killed):
            world.sync()


def _made_and_died(resolver: Resolver, sync: Sync, audience: Audience) -> None:
    """The process dies once the audience is made and on record."""
    resolver._record(sync, audience, "created", audience.mark)
    raise Killed


def _made_by_hand(world: World) -> str:
    """Somebody makes an audience called gold at the platform."""
    form = {"name": "gold", "subtype": "CUSTOM", "customer_file_source": "USER_PROVIDED_ONLY"}
    url = f"{world.url}/meta/v26.0/act_1002003004005/customaudiences"
    headers = {"Authorization": "Bearer sandbox-token"}
    return str(httpx.post(url, data=form, headers=headers).raise_for_status().json()["id"])


def test_what_an_interrupted_run_sent_is_known_after_a_rename(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dan was sent, the run died, the model is renamed and Dan is no longer wanted: Dan leaves."""
    for keys in ([1], [1, 2], [1, 2, 3]):
        world.segment(keys)
        world.sync()
    world.segment([1, 2, 3, 4])
    monkeypatch.setattr(Lock, "may_start", lambda self, timeout_s: True)
    _die_after_sending(world, monkeypatch)
    assert email(NAMES[3]) in world.held()
    world.segments = RENAMED
    world.segment([1, 2, 3], "gold")
    result = world.sync()
    assert (len(world.audiences()), result.counts.added) == (1, 0)
    assert world.held() == {email(name) for name in NAMES[:3]}
    assert world.sync().status == "noop"


def test_a_plan_after_a_rename_says_what_the_sync_does(world: World) -> None:
    """Before the first run under the new name the plan reads the ledger of the former one."""
    world.segment([1, 2, 3])
    world.sync()
    world.segments = RENAMED
    world.segment([1, 2], "gold")
    planned = world.plan().run.syncs[0]
    done = world.sync()
    assert (planned.counts, planned.status) == (done.counts, done.status)
    assert (done.counts.removed, done.counts.unchanged) == (1, 2)


def test_a_long_chain_of_shared_units_is_asserted_whole(world: World) -> None:
    """120 customers are linked one to the next by a shared e-mail or phone; one leaves and the platform takes all of
    them along: every other one is in again afterwards."""
    rows = [(n, f"c{n // 2}@example.com", f"+1 201 555 {(n + 1) // 2:04d}") for n in range(2, 122)]
    world.customers(rows)
    world.segment([row[0] for row in rows])
    world.sync()
    world.segment([row[0] for row in rows[1:]])
    world.sync()
    expected = {email(row[1]) for row in rows[1:]} | {phone(f"1201555{(row[0] + 1) // 2:04d}") for row in rows[1:]}
    assert world.held() == expected


def test_a_new_id_begins_anew_after_a_rename(world: World) -> None:
    """`id:` is the way out where an audience has vanished, also for a model that was renamed: nothing is inherited."""
    world.segment([1, 2, 3])
    world.sync()
    world.segments = RENAMED
    world.segment([1, 2, 3], "gold")
    world.sync()
    [audience] = world.serving.sandbox.platforms["meta"].audiences.values()  # type: ignore[union-attr]
    audience.deleted = True
    world.segment([1, 2], "gold")
    result = world.sync()
    assert (result.status, "no longer exists" in result.reason) == ("failed", True), result
    world.segments = {"gold": {**RENAMED["gold"], "destinations": [{"to": "meta", "id": "again"}]}}
    result = world.sync()
    assert (result.status, result.counts.added) == ("success", 2), result
    assert world.held() == {email(name) for name in NAMES[:2]}


def test_a_model_that_is_renamed_back_goes_on_where_it_was(world: World) -> None:
    """What was sent under the name in between is known: who left meanwhile, and who leaves now, is taken out."""
    world.segment([1, 2])
    world.sync()
    world.segments = RENAMED
    world.segment([2, 3, 4], "gold")
    assert (world.sync().counts.added, world.sync().status) == (2, "noop")
    world.segments = {"vip": {"destinations": ["meta"], "renamed_from": ["gold"]}}
    world.segment([1, 3])
    planned = world.plan().run.syncs[0]
    result = world.sync()
    assert planned.counts == result.counts
    assert (result.counts.added, result.counts.removed, result.counts.unchanged) == (1, 2, 1), result
    assert world.held() == {email(NAMES[0]), email(NAMES[2])}
    assert world.sync().status == "noop"
    world.segments = {"gold": {"destinations": ["meta"], "renamed_from": ["vip"], "label": "vip"}}
    world.segment([3], "gold")
    assert world.sync().counts.removed == 1
    assert world.held() == {email(NAMES[2])}
    assert len(world.audiences()) == 1
    pipeline.collect(world.request(), lambda sync_id, text: None, dry_run=False)
    world.segments = {"vip": {"destinations": ["meta"], "renamed_from": ["gold"]}}
    [row] = pipeline.status(world.request()).syncs
    assert row.members == 1
    world.segment([3, 4])
    assert (world.sync().counts.added, world.sync().status) == (1, "noop")


def test_after_a_rename_back_what_an_interrupted_run_sent_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dan was sent under the name in between, the run died, and the model has its first name again without Dan."""
    world.segment([1, 2, 3])
    world.sync()
    world.segments = RENAMED
    world.segment([1, 2, 3], "gold")
    world.sync()
    world.segment([1, 2, 3, 4], "gold")
    monkeypatch.setattr(Lock, "may_start", lambda self, timeout_s: True)
    _die_after_sending(world, monkeypatch)
    world.segments = {"vip": {"destinations": ["meta"], "renamed_from": ["gold"]}}
    world.segment([1, 2, 3])
    world.sync()
    assert world.held() == {email(name) for name in NAMES[:3]}
    assert world.sync().status == "noop"


@pytest.mark.parametrize("how", ["synced", "made", "adopted"])
def test_what_was_sent_to_another_audience_says_nothing_of_its_own(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the new name has an audience besides the former one's, everybody is in it, and the former one's is told.

    synced   under the new name, before `renamed_from` said so
    made     so, and the run died before it sent anybody
    adopted  after the rename, before the first sync
    """
    world.segment([1, 2])
    world.sync()
    (former,) = world.audiences()
    world.segment([2, 3], "gold")
    world.segments = {"gold": {"destinations": ["meta"]}}
    renamed = {"gold": {"destinations": ["meta"], "renamed_from": ["vip"]}}
    with monkeypatch.context() as patch:
        if how == "made":
            patch.setattr(Resolver, "made", _made_and_died)
        if how == "adopted":
            world.segments = renamed
            options = world.request().options
            adopt(
                options, "shop.gold.meta", _made_by_hand(world), without_history=False, lock_timeout_s=20.0, tell=print
            )
        else:
            with contextlib.suppress(Killed):
                world.sync()
    world.segments = renamed
    world.sync()
    assert world.held("gold") == {email(NAMES[1]), email(NAMES[2])}
    assert world.held("vip") == {email(NAMES[0]), email(NAMES[1])}
    (orphan,) = pipeline.status(world.request()).orphans
    assert (orphan.sync_id, orphan.standing, orphan.audience_id) == ("shop.vip.meta", "deleted", former["id"])
    quiet = lambda *words: None  # noqa: E731
    (done,) = prune(world.request().options, (), "delete", act=True, lock_timeout_s=20.0, tell=quiet)
    assert (done.sync_id, done.members, done.done) == ("shop.vip.meta", 2, "deleted")
    assert [one["name"] for one in world.audiences()] == ["gold"]
    assert (world.sync().status, pipeline.status(world.request()).orphans) == ("noop", ())


def test_a_rename_that_is_not_declared_is_told_before_a_second_audience_is_made(world: World) -> None:
    """In the plan and in the first sync, once; not where the former model is named, or still there."""
    world.segment([1, 2])
    world.sync()
    world.segment([1, 2], "gold")
    both = {"gold": {"destinations": ["meta"]}, "vip": {"destinations": ["meta"]}}
    told = "warning: left_behind: gold gets a new audience, and that of vip stays as it is"
    for segments, expected in (
        (both, 0),
        ({"gold": {"destinations": ["meta"], "renamed_from": ["vip"]}}, 0),
        ({"gold": both["gold"]}, 1),
    ):
        world.segments = segments
        (planned,) = (one for one in world.plan().run.syncs if one.segment == "gold")
        assert sum(note.startswith(told) for note in planned.notes) == expected, planned.notes
    assert sum(note.startswith(told) for note in world.sync().notes) == 1
    assert not any("left_behind" in note for note in (*world.sync().notes, *world.plan().run.syncs[0].notes))


def test_an_older_deployment_leaves_the_tables_that_the_new_name_needs(world: World) -> None:
    """It still syncs under the old name, after two renames and with old pointers gone: the new names keep theirs."""
    world.variables["retention"] = {"pointers": 1}
    world.segment([1, 2, 3])
    world.sync()
    both = {**RENAMED["gold"], "renamed_from": ["vip", "gold"]}
    for name, segments in (("gold", RENAMED), ("best", {"best": both})):
        world.segments = segments
        world.segment([1, 2, 3], name)
        assert world.sync().status == "noop"
    place = f"{world.warehouse.schema}_dbt_segments"
    for keys in ([1, 2], [1, 2, 3]):
        world.segments = {"vip": {"destinations": ["meta"]}}
        world.segment(keys)
        assert world.sync().status == "success"
        world.sql(f"update {place}.pointers set committed_at = committed_at - interval '9 days'")
        pipeline.collect(world.request(), lambda sync_id, text: None, dry_run=False)
    world.segments = {"best": both}
    world.segment([1, 3], "best")
    result = world.sync()
    assert (result.status, result.counts.removed, result.counts.unchanged) == ("success", 1, 2), result
    assert world.held() == {email(NAMES[0]), email(NAMES[2])}
