"""Audiences that a platform has ended and still shows: they count as gone, and nothing more is sent to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dbt_segments import adopt, pipeline, prune, sizes
from dbt_segments.audiences import AudienceHeldError
from dbt_segments.sandbox.server import build, serve
from tests.one_click import case_linkedin, case_reddit, case_tiktok
from tests.one_click.case import Case
from tests.one_click.test_platforms import ADA, BOB, CY, Shop
from tests.projects import DuckDBWarehouse
from tests.world import make_world

YEAR_S = 366 * 86_400


def _status(word: str) -> Callable[[Any], None]:
    """The platform gives every audience that it has now this status."""

    def end(platform: Any) -> None:
        platform.policy["statuses"] = dict.fromkeys(platform.audiences, word)

    return end


def _a_year_and_two_days(platform: Any) -> None:
    platform.clock.advance(YEAR_S + 86_400)


ENDS = [
    pytest.param((case_linkedin.CASE, _status("EXPIRED"), "EXPIRED"), id="linkedin-expired"),
    pytest.param((case_linkedin.CASE, _status("FAILED"), "FAILED"), id="linkedin-failed"),
    pytest.param((case_linkedin.CASE, _status("ERROR"), "ERROR"), id="linkedin-error"),
    pytest.param((case_reddit.CASE, _status("EXPIRED"), "EXPIRED"), id="reddit"),
    pytest.param((case_tiktok.CASE, _a_year_and_two_days, "expired"), id="tiktok"),
]


class Ended(Shop):
    """A shop whose audience the platform has ended, by this word of its own."""

    word: str


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> Iterator[Ended]:
    """Ada and Bob are in an audience that the platform has ended; now Cy is a member, too."""
    case: Case
    case, end, word = request.param
    with serve(sandbox=build((case.name,))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.identifiers = case.identifiers
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": [case.name]}}
        shop = Ended(world, case)
        shop.word = word
        shop.have([ADA, BOB])
        assert shop.sync().status == "success"
        end(serving.sandbox.platforms[case.name])
        shop.have([ADA, BOB, CY])
        yield shop


@pytest.mark.parametrize("shop", ENDS, indirect=True)
def test_an_ended_audience_is_told_before_anything_is_sent(shop: Ended) -> None:
    """The message names the audience, the platform's word and where `gone:` is written; no member goes out."""
    (audience,) = shop.world.audiences()
    before = [call["n"] for op in (shop.case.add, shop.case.remove) for call in shop.world.calls(op)]
    result = shop.sync()
    assert (result.status, result.exit_code) == ("failed", 1), result
    assert f"audience {audience['id']} ({audience['name']})" in result.reason
    assert f"{shop.case.name} calls it {shop.word}" in result.reason
    assert any(f"beside `to: {shop.case.name}` in the meta of vip" in note for note in result.notes), result.notes
    assert before == [call["n"] for op in (shop.case.add, shop.case.remove) for call in shop.world.calls(op)]
    assert len(shop.world.audiences()) == 1


@pytest.mark.parametrize("shop", ENDS, indirect=True)
def test_an_ended_audience_is_made_anew_by_policy(shop: Ended) -> None:
    """With everybody in it, once: the ended one has our mark or name and is not found again."""
    (old,) = shop.world.audiences()
    shop.world.variables["gone"] = "recreate"
    result = shop.sync()
    assert (result.status, result.counts.added) == ("success", 3), result
    assert any(shop.word in note and "with everybody in it" in note for note in result.notes), result.notes
    (new,) = (one for one in shop.world.audiences() if one["id"] != old["id"])
    assert (result.audience_id, new["name"]) == (new["id"], old["name"])
    assert {tuple(key) for key in new["keys"]} == shop.want(ADA, BOB, CY)
    assert (shop.sync().status, len(shop.world.audiences())) == ("noop", 2)


@pytest.mark.parametrize("shop", [ENDS[1], ENDS[3]], indirect=True)
def test_what_ends_again_is_not_made_again(shop: Ended) -> None:
    """A platform that ends each new audience gets one, not one a run; the message says so."""
    assert shop.world.serving is not None
    shop.world.variables["gone"] = "recreate"
    first = shop.sync()
    assert first.status == "success"
    assert any("keeps who is in it" in note for note in first.notes), first.notes
    _status(shop.word)(shop.world.serving.sandbox.platforms[shop.case.name])
    for members in ([ADA, BOB], [ADA]):
        shop.have(members)
        again = shop.sync()
        assert (again.status, again.exit_code) == ("failed", 1), again
        assert any("once in 30 days" in note for note in again.notes), again.notes
    assert len(shop.world.audiences()) == 2


@pytest.mark.parametrize("shop", [ENDS[3]], indirect=True)
def test_a_sync_with_nothing_to_send_says_that_its_audience_has_ended(
    shop: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the day on that its size is asked for, in each result and in `status`, until another one is made."""
    monkeypatch.setattr(sizes, "settles_after", lambda cls: timedelta(hours=-2))
    shop.have([ADA, BOB])
    for _ in range(2):
        result = shop.sync()
        said = [note for note in result.notes if f"calls it {shop.word}" in note]
        assert (result.status, len(said)) == ("noop", 1), result
        (line,) = pipeline.status(shop.world.request()).syncs
        assert said[0] in line.notes
    shop.world.variables["gone"] = "recreate"
    shop.have([ADA, BOB, CY])
    assert shop.sync().status == "success"
    (line,) = pipeline.status(shop.world.request()).syncs
    assert not any(shop.word in note for note in (*shop.sync().notes, *line.notes))


@pytest.mark.parametrize("shop", [ENDS[0], ENDS[3]], indirect=True)
def test_who_refuses_and_is_in_an_audience_that_was_left_behind_is_told(shop: Ended) -> None:
    """In each result and in `status`, with the number and the audience, until that is deleted at the platform."""
    world = shop.world
    world.suppress = ["opt_outs"]
    world.opt_outs([])
    (old,) = world.audiences()
    world.variables["gone"] = "recreate"
    assert not any("refusals_wait" in note for note in shop.sync().notes)
    world.opt_outs([1, 3])
    said = f"warning: refusals_wait: 1 member who refused is still in audience {old['id']} ({old['name']})"
    for status in ("success", "noop"):
        result = shop.sync()
        assert (result.status, [note for note in result.notes if note.startswith(said)] != []) == (status, True), result
        (line,) = pipeline.status(world.request()).syncs
        assert any(note.startswith(said) for note in line.notes), line.notes
    assert world.serving is not None
    world.serving.sandbox.platforms[shop.case.name].audiences[old["id"]].deleted = True
    for _ in range(2):
        result = shop.sync()
        assert (result.status, [note for note in result.notes if "refusals_wait" in note]) == ("noop", []), result
    (line,) = pipeline.status(world.request()).syncs
    assert not any("refusals_wait" in note for note in line.notes), line.notes


@pytest.mark.parametrize("shop", [ENDS[0], ENDS[4]], indirect=True)
def test_a_failing_sync_says_that_refusals_wait(shop: Ended) -> None:
    """Where no other audience is made, its members stay in the one that ended: the reason and `status` say how many."""
    world = shop.world
    world.suppress = ["opt_outs"]
    world.opt_outs([2])
    result = shop.sync()
    assert result.status == "failed"
    assert "refusals_wait: it still holds 1 member who refused: delete it there" in result.reason
    (line,) = pipeline.status(world.request()).syncs
    assert any("refusals_wait" in note for note in line.notes), line.notes


@pytest.mark.parametrize("shop", [ENDS[0], ENDS[3], ENDS[4]], indirect=True)
def test_an_ended_audience_is_neither_adopted_nor_left_to_prune(shop: Ended) -> None:
    """A sync takes over no audience that cannot be used, and one that nobody needs is deleted all the same."""
    (old,) = shop.world.audiences()
    shop.world.variables["gone"] = "adopt"
    assert shop.sync().status == "failed"
    shop.world.segment([3], "best")
    shop.world.segments = {"best": {"destinations": [shop.case.name]}}
    options = shop.world.request().options
    (pruned,) = prune.prune(options, (), "delete", act=True, lock_timeout_s=20.0, tell=lambda *said: None)
    assert pruned.done == "deleted", pruned
    platform = shop.world.serving.sandbox.platforms[shop.case.name]  # type: ignore[union-attr]
    platform.audiences[old["id"]].deleted = False
    with pytest.raises(AudienceHeldError, match=shop.word):
        named = {"without_history": False, "lock_timeout_s": 20.0}
        adopt.adopt(options, f"shop.best.{shop.case.name}", old["id"], tell=lambda *said: None, **named)


@pytest.mark.parametrize(
    "shop", [pytest.param((case_tiktok.CASE, lambda platform: None, ""), id="tiktok")], indirect=True
)
def test_a_young_audience_has_not_ended(shop: Ended) -> None:
    """TikTok calls it not valid, as it does one that has expired; but it has no last day behind it."""
    assert shop.world.serving is not None
    shop.world.serving.sandbox.platforms["tiktok"].policy["settled"] = False
    assert shop.sync().status == "success"
    assert shop.held() == shop.want(ADA, BOB, CY)
