"""What holds a sync before anything is sent, what a plan shows, and what a release lets through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbt_segments import guard, pipeline, record, report
from dbt_segments.errors import ConfigError
from dbt_segments.tally import Forecast
from dbt_segments.values import Counts, Hold
from tests.projects import Warehouse
from tests.scripted.destination import ScriptedReplace, registered
from tests.scripted.server import serve_scripted
from tests.world import KEY, World, email, make_world, phone, sandbox, sha


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    """One segment `vip` to the sandbox's Meta."""
    with sandbox() as serving:
        yield make_world(tmp_path / "shop", warehouse, serving)


def crowd(count: int) -> list[tuple[Any, ...]]:
    return [(n, f"c{n}@example.com") for n in range(1, count + 1)]


def held_by(rows: list[tuple[Any, ...]]) -> set[KEY]:
    return {email(row[1]) for row in rows}


def run_results(world: World, **statuses: str) -> None:
    """target/run_results.json of a `dbt build` just now, with the status of each model."""
    content = {
        "metadata": {"generated_at": "2026-01-01T00:00:00Z", "invocation_id": "i"},
        "args": {"which": "build"},
        "results": [{"unique_id": f"model.shop.{name}", "status": status} for name, status in statuses.items()],
    }
    world.project.write("target/run_results.json", json.dumps(content))


def test_a_release_of_nothing_is_an_error(world: World) -> None:
    """A name that is no sync and no segment is told, with the nearest one."""
    world.customers(crowd(1))
    world.segment([1])
    with pytest.raises(ConfigError) as caught:
        world.sync(allow_removals=("vipp",))
    assert (caught.value.message, caught.value.hint) == (
        "--allow-removals vipp: there is no such sync or segment",
        "did you mean `vip`?",
    )


@pytest.mark.parametrize("place", [(pipeline._Turn, "take"), (record, "write_run")])
def test_an_interrupted_statement_ends_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str]
) -> None:
    """DuckDB makes a RuntimeError of Ctrl-C; it is no bug of one sync, after which the others would be sent."""
    world.customers(crowd(1))
    world.segment([1])

    def interrupted(*arguments: Any) -> None:
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr(*place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.sync()


def test_a_held_sync_says_each_thing_once(world: World) -> None:
    """It plans twice, of everybody and of the refusals alone: the notes are those of what it does, and of its hold."""
    shared = "c1@example.com"
    rows = [*crowd(1), (2, shared, "+12015550102"), *crowd(120)[2:]]
    world.suppress = ["opt_outs"]
    world.opt_outs([])
    world.customers(rows)
    world.segment(range(1, 121))
    world.sync()
    world.customers([*rows, (121, shared, "+12015550121")])
    world.segment([*range(1, 61), 121])
    world.opt_outs([1])
    held = world.sync()
    assert held.reason.startswith("too_many_removals"), held
    assert held.notes[0] == "look at the models; to let it go once: --allow-removals vip"
    said = [note for note in held.notes if note.startswith("suppressed_shared")]
    assert said == ["suppressed_shared: 1 member shares an identifier with someone who refused it"]


# -- platforms that take the whole audience at once -----------------------------------------------------------


def listed(rows: list[tuple[Any, ...]]) -> set[KEY]:
    return {("email", value) for _, value in held_by(rows)}


def test_a_replace_that_outlasts_its_session_does_not_begin() -> None:
    """5,400 requests at one a second fit 90 minutes, one more does not; without a session anything fits."""
    assert guard.session(5_400, None, 5_400.0) is None
    assert guard.session(10_801, 2.0, 5_400.0) == (
        "replace_too_long: 10,801 requests would take 90 minutes, and the platform closes a replace after 90"
    )
    assert guard.session(10**9, None, None) is None


@pytest.fixture
def replaced(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    """80 members in a list that can only be replaced as a whole."""
    with registered(), serve_scripted() as serving:
        world = make_world(tmp_path / "shop", warehouse, serving)
        world.connections = {"acme": {"type": "scripted_replace", "base_url": serving.url}}
        world.segments = {"vip": {"destinations": ["acme"]}}
        world.customers(crowd(80))
        world.segment(range(1, 81))
        assert world.sync().counts.added == 80
        yield world


def test_a_replace_that_is_too_long_is_held(replaced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is sent, and the reason says what to expect."""
    monkeypatch.setattr(ScriptedReplace, "session_s", 0.5)
    replaced.customers(crowd(81))
    replaced.segment(range(1, 82))
    before = replaced.held()
    result = replaced.sync()
    assert (result.status, result.reason.split(":")[0], result.counts.added) == ("held", "replace_too_long", 1)
    assert replaced.held() == before == listed(crowd(80))


def test_a_replace_that_leaves_nobody_removes_them(world: World) -> None:
    """Meta refuses an empty replace: whoever is on record is removed instead, and somebody else's members stay."""
    world.segments = {"vip": {"syncs": [{"to": "meta", "mode": "replace"}]}}
    world.variables = {"hold": {"empty": "ignore"}}
    world.customers(crowd(3))
    world.segment([1, 2, 3])
    assert world.sync().status == "success"
    world.segment([])
    emptied = world.sync()
    assert (emptied.status, emptied.counts.removed) == ("success", 3), emptied
    assert world.held() == set()
    assert world.sync().requests == 0
    world.segment([2])
    world.sync()
    assert world.held() == held_by(crowd(3)[1:2])


def test_an_audience_of_nobody_is_replaced_by_nobody(replaced: World) -> None:
    """Everybody leaves a list that can only be replaced as a whole: one request without members empties it."""
    replaced.segment([])
    replaced.variables = {"hold": {"empty": "ignore"}}
    result = replaced.sync(allow_removals=("vip",))
    assert (result.status, result.counts.removed, result.requests) == ("success", 80, 2)
    assert replaced.held() == set()
    assert replaced.sync().status == "noop"


def test_refusals_wait_where_only_a_replace_could_send_them(replaced: World) -> None:
    """The held replace is not sent for a refusal's sake; the result says that it waits, and a release sends it."""
    replaced.suppress = ["opt_outs"]
    replaced.opt_outs([1])
    replaced.segment(range(1, 11))
    result = replaced.sync()
    assert (result.status, result.reason.split(":")[0]) == ("held", "too_many_removals")
    assert any(note.startswith("refusals_wait: ") for note in result.notes), result.notes
    assert replaced.held() == listed(crowd(80))
    assert replaced.sync(allow_removals=("vip",)).status == "success"
    assert replaced.held() == listed(crowd(10)[1:])


# -- thresholds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losing", "base", "holds"),
    [(50, 100, False), (51, 100, True), (51, 171, False), (52, 171, True), (300, 1000, False), (301, 1000, True)],
)
def test_removals_hold_beyond_both_limits(losing: int, base: int, holds: bool) -> None:
    """More than 50 members and more than 30 % of the acknowledged ones; exactly as many do not hold."""
    reason = guard.thresholds(Forecast(Counts(), losing=losing, changing=0, base=base), Hold())
    assert (reason is not None) is holds
    assert reason is None or reason.startswith(f"too_many_removals: {losing} of {base:,} members")


@pytest.mark.parametrize(
    ("changing", "base", "holds"), [(50, 60, False), (51, 102, False), (51, 101, True), (501, 1000, True)]
)
def test_changes_hold_beyond_both_limits(changing: int, base: int, holds: bool) -> None:
    """More than 50 members and more than half of the acknowledged ones."""
    reason = guard.thresholds(Forecast(Counts(), losing=0, changing=changing, base=base), Hold())
    assert (reason is not None) is holds
    assert reason is None or reason.startswith("too_many_changes: ")


def test_a_first_sync_is_never_held_by_thresholds() -> None:
    """Where nobody was acknowledged nobody can be lost."""
    assert guard.thresholds(Forecast(Counts(added=1000), losing=0, changing=0, base=0), Hold()) is None


def test_thresholds_are_the_users_to_set() -> None:
    """A limit of 10 members and 1 % holds earlier; the likely cause is part of the reason."""
    strict = Hold(remove_fraction=0.01, remove_members=10)
    found = Forecast(Counts(), losing=11, changing=0, base=1000, causes=("the moon",))
    assert guard.thresholds(found, strict) == (
        "too_many_removals: 11 of 1,000 members would leave (allowed 1%); likely cause: the moon"
    )


def test_a_sync_may_have_limits_of_its_own(world: World) -> None:
    """`hold` under a destination overrides the project's for this sync."""
    world.variables = {"hold": {"remove_members": 1, "remove_fraction": 0.1}}
    world.segments = {
        "vip": {"destinations": [{"to": "meta", "hold": {"remove_members": 5}}]},
        "new": {"destinations": ["meta"]},
    }
    world.customers(crowd(10))
    for name in world.segments:
        world.segment(range(1, 11), name)
    world.run()
    for name in world.segments:
        world.segment(range(1, 8), name)
    run = world.run()
    assert {sync.segment: sync.status for sync in run.syncs} == {"vip": "success", "new": "held"}
    assert world.held("vip") == held_by(crowd(7))
    assert world.held("new") == held_by(crowd(10))


# -- zero rows ------------------------------------------------------------------------------------------------


def test_an_empty_segment_is_released_by_its_own_setting_only(world: World) -> None:
    """Zero rows hold, whatever `allow_removals` says; with `empty: ignore` everybody leaves."""
    world.customers(crowd(3))
    world.segment([1, 2])
    world.sync()
    world.segment([])
    for options in ({}, {"allow_removals": ("vip",)}):
        result = world.sync(**options)
        assert (result.status, result.reason.split(":")[0]) == ("held", "segment_empty")
    assert world.held() == held_by(crowd(2))
    world.segments = {"vip": {"destinations": [{"to": "meta", "hold": {"empty": "ignore"}}]}}
    assert world.sync().counts.removed == 2
    assert world.held() == set()


def test_each_sync_of_an_empty_segment_follows_its_own_policy(world: World) -> None:
    """Of two audiences of one segment, only the one with `empty: ignore` may be emptied."""
    world.segments = {
        "vip": {
            "destinations": [
                {"to": "meta", "id": "one", "audience_name": "one", "hold": {"empty": "ignore"}},
                {"to": "meta", "id": "two", "audience_name": "two"},
            ]
        }
    }
    world.customers(crowd(3))
    world.segment([1, 2])
    world.run()
    world.segment([])
    run = world.run()
    assert {sync.sync_id: sync.status for sync in run.syncs} == {"one": "success", "two": "held"}
    assert world.held("one") == set()
    assert world.held("two") == held_by(crowd(2))


# -- plan -----------------------------------------------------------------------------------------------------


def test_a_plan_counts_what_the_sync_then_does(world: World) -> None:
    """Same members, same counts, no network, no audience; afterwards the sync does exactly that."""
    world.consent = {"ads": "ads_consent"}
    world.customers([(n, mail, None, None, True) for n, mail in crowd(5)])
    world.segment([1, 2, 3])
    first = world.plan().run.syncs[0]
    assert world.calls() == []
    assert first.counts == world.sync().counts
    world.customers(
        [
            (1, "c1@example.com", None, None, True),
            (2, "other@example.com", None, None, True),
            (4, "c4@example.com", None, None, True),
            (5, "broken", None, None, True),
            (6, "c6@example.com", None, None, False),
        ]
    )
    world.segment([1, 2, 4, 5, 6, 7])
    calls = len(world.calls())
    planned = world.plan().run.syncs[0]
    assert len(world.calls()) == calls
    done = world.sync()
    assert (planned.status, planned.counts) == (done.status, done.counts)
    assert vars(done.counts) == {
        "members": 5,
        "added": 1,
        "changed": 1,
        "removed": 1,
        "unchanged": 1,
        "rejected": 1,
        "unusable": 1,
        "refused": 1,
        "pending": 0,
    }
    assert world.held() == {email(f"{name}@example.com") for name in ("c1", "other", "c4")}


def test_a_plan_that_is_held_says_why_and_how_much(world: World) -> None:
    """The reason, the counts that would be, exit code 1; with the release the same plan goes through."""
    world.customers(crowd(120))
    world.segment(range(1, 121))
    world.sync()
    world.segment(range(1, 21))
    held = world.plan().run
    assert (held.syncs[0].status, held.syncs[0].counts.removed) == ("held", 100)
    assert held.syncs[0].reason.startswith("too_many_removals: 100 of 120 members")
    assert report.exit_code(held) == 1
    released = world.plan(allow_removals=("vip",)).run
    assert (released.syncs[0].status, released.syncs[0].counts.removed) == ("success", 100)
    assert world.held() == held_by(crowd(120))


def test_a_plan_shows_requests_without_values(world: World) -> None:
    """Removals first, then additions, each with its path and schema; neither values nor whole hashes nor the token."""
    world.customers([(1, "ada@example.com", "+1 201 555 0101"), (2, "bob@example.com")])
    world.segment([1])
    world.sync()
    world.segment([2])
    (shown,) = world.plan(show_requests=5).requests.values()
    assert len(shown) == 2
    assert "method: DELETE" in shown[0]
    assert "method: DELETE" not in shown[1]
    for text in shown:
        assert text.startswith(f"POST {world.url}/meta/v26.0/1202")
        assert '"EMAIL","PHONE"' in text
        for raw in ("example.com", sha("ada@example.com"), sha("bob@example.com"), sha("12015550101"), "sandbox-token"):
            assert raw not in text
    assert world.held() == {email("ada@example.com"), phone("12015550101")}


def test_a_plan_leaves_the_last_good_set_alone(world: World) -> None:
    """What was only planned is not what a held sync later falls back to."""
    world.suppress = ["opt_outs"]
    world.opt_outs([])
    world.customers(crowd(3))
    world.segment([1, 2])
    world.sync()
    world.segment([3])
    world.plan()
    run_results(world, vip="error")
    world.opt_outs([1])
    assert world.sync().status == "held"
    assert world.held() == held_by(crowd(2)[1:])


# -- release --------------------------------------------------------------------------------------------------


def test_a_release_is_of_thresholds_and_of_nothing_else(world: World) -> None:
    """A failed build holds although removals are allowed."""
    world.customers(crowd(3))
    world.segment([1, 2])
    world.sync()
    world.segment([3])
    run_results(world, vip="error")
    result = world.sync(allow_removals=("vip", "shop.vip.meta"))
    assert (result.status, result.reason.split(":")[0]) == ("held", "build_failed")
    assert world.held() == held_by(crowd(2))


def test_a_release_covers_changes_too(world: World) -> None:
    """Everybody's e-mail changed: held, and sent once it is released."""
    world.customers(crowd(60))
    world.segment(range(1, 61))
    world.sync()
    changed = [(key, f"new-{mail}") for key, mail in crowd(60)]
    world.customers(changed)
    reason = world.sync().reason
    assert reason.startswith("too_many_changes: 60 of 60")
    assert reason.endswith("likely cause: email differs for 60")
    assert world.held() == held_by(crowd(60))
    assert world.sync(allow_removals=("vip",)).counts.changed == 60
    assert world.held() == held_by(changed)


def test_a_new_identifier_is_named_as_the_cause(world: World) -> None:
    """Everybody is sent with a phone from now on: the entity has been given one, and later loses it."""
    both = world.identifiers
    world.identifiers = {"email": "email"}
    world.customers([(n, f"c{n}@example.com", f"+1201555{n:04}") for n in range(100, 160)])
    world.segment(range(100, 160))
    world.sync()
    world.identifiers = both
    assert world.sync().reason.endswith("likely cause: phone is there now and was not for 60")
    assert world.sync(allow_removals=("vip",)).counts.changed == 60
    world.identifiers = {"email": "email"}
    assert "phone has become null or is no longer sent for 60" in world.sync().reason


def test_a_misspelt_column_of_an_entity_is_told_where_it_stands(world: World) -> None:
    """The remedy is in the meta of the entity's model, with the nearest column."""
    world.identifiers = {"email": "emial"}
    world.customers(crowd(1))
    world.segment([1])
    held = world.sync()
    said = " ".join((held.reason, *held.notes))
    assert "column_missing: vip: neither it nor customers has a column emial" in said
    assert "did you mean `email`?; correct `identifiers` of entity `customer` in the meta of customers" in said


def test_a_warning_policy_warns_and_sends(world: World) -> None:
    """`tests: warn` sends although a test failed, and says so."""
    world.variables = {"hold": {"tests": "warn"}}
    world.data_tests = {"unique": "customers"}
    world.customers(crowd(2))
    world.segment([1])
    world.project.write(
        "target/run_results.json",
        json.dumps(
            {
                "metadata": {"generated_at": "2026-01-01T00:00:00Z"},
                "args": {"which": "test"},
                "results": [{"unique_id": "test.shop.unique", "status": "fail"}],
            }
        ),
    )
    result = world.sync()
    assert result.status == "success"
    assert any("warning: test_failed: test.shop.unique on customers" in note for note in result.notes)
    assert world.held() == held_by(crowd(1))
