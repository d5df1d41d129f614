"""The demo's own judgement. `make demo` plays the whole of it, and fails where anything is not as it must be."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from dbt_segments import demo
from dbt_segments.demo import acts, changes, stage
from dbt_segments.demo.acts import JOB, LAPSED, READERS
from dbt_segments.errors import SettingsError

KEPT = frozenset({("EMAIL", "a" * 64), ("EXTERN_ID", "1")})
CAME = frozenset({("EMAIL", "b" * 64), ("EXTERN_ID", "2")})
GONE = frozenset({("EMAIL", "c" * 64), ("EXTERN_ID", "3")})
CHANGE = changes.Change("somebody came, somebody left", came=CAME, gone=GONE)
OTHERS = {f"other: {number}": KEPT for number in range(9)}
FIRST: stage.Members = {READERS: KEPT | GONE, LAPSED: KEPT | GONE, **OTHERS, JOB: frozenset()}
SECOND = {**FIRST, JOB: KEPT}
THIRD = {**FIRST, READERS: KEPT | CAME}
RELEASED = {**FIRST, LAPSED: KEPT}


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["customer_id"]: row for row in csv.DictReader(lines)}


def test_membership_as_it_must_be_passes() -> None:
    """Nothing is wrong where each sync did its part and nothing else."""
    assert acts.judge_again(FIRST, SECOND, sent_again=0) == []
    assert acts.judge_change(FIRST, THIRD, CHANGE) == []
    assert acts.judge_release(FIRST, RELEASED) == []


@pytest.mark.parametrize(
    ("first", "second", "sent_again", "wrong"),
    [
        ({}, {}, 0, "empty"),
        ({**FIRST, LAPSED: frozenset()}, {**SECOND, LAPSED: frozenset()}, 0, "empty"),
        (FIRST, SECOND, 1, "second sync sent"),
        (FIRST, {**SECOND, LAPSED: GONE}, 0, "second sync changed"),
        (FIRST, FIRST, 0, "has not ended"),
    ],
)
def test_a_second_sync_that_does_something_is_named(
    first: stage.Members, second: stage.Members, sent_again: int, wrong: str
) -> None:
    """So is a first one that left an audience empty."""
    assert any(wrong in text for text in acts.judge_again(first, second, sent_again))


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        ({**THIRD, READERS: KEPT}, "did not add"),
        ({**THIRD, READERS: CAME}, "did not remove"),
        ({**THIRD, READERS: KEPT | CAME | GONE}, "did not remove"),
        ({**THIRD, LAPSED: KEPT | CAME}, "another audience"),
        ({READERS: KEPT | CAME}, "another audience"),
    ],
)
def test_a_change_that_is_not_the_one_is_named(after: stage.Members, wrong: str) -> None:
    """Each way of being wrong is said."""
    assert any(wrong in text for text in acts.judge_change(FIRST, after, CHANGE))


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        (FIRST, "removed nobody"),
        ({**FIRST, LAPSED: KEPT | CAME}, "added somebody"),
        ({**FIRST, LAPSED: frozenset()}, "emptied"),
        ({**RELEASED, READERS: KEPT}, "another audience"),
    ],
)
def test_a_release_that_does_something_else_is_named(after: stage.Members, wrong: str) -> None:
    """It lets go who left, and touches nobody else."""
    assert any(wrong in text for text in acts.judge_release(FIRST, after))


@pytest.mark.parametrize("newest", [False, True])
def test_the_change_is_one_of_each_kind(tmp_path: Path, newest: bool) -> None:
    """One e-mail address changes, one customer subscribes, one unsubscribes; no other cell of the seed changes."""
    seeds = shutil.copytree(demo.SAMPLE / "seeds", tmp_path / "seeds")
    before = rows(seeds / "raw_customers.csv")
    change = changes.a_day(seeds, newest)
    after = rows(seeds / "raw_customers.csv")
    changed = [
        (column, before[key][column], after[key][column])
        for key in before
        for column in before[key]
        if before[key][column] != after[key][column]
    ]
    assert sorted(column for column, _, _ in changed) == ["email", "newsletter", "newsletter"]
    assert {(old, new) for column, old, new in changed if column == "newsletter"} == {
        ("true", "false"),
        ("false", "true"),
    }
    assert before.keys() == after.keys()
    assert (len(change.came), len(change.gone), change.came & change.gone) == (3, 3, frozenset())


def test_two_days_change_different_customers(tmp_path: Path) -> None:
    """The second day undoes nothing of the first."""
    seeds = shutil.copytree(demo.SAMPLE / "seeds", tmp_path / "seeds")
    first, second = changes.a_day(seeds), changes.a_day(seeds, newest=True)
    assert (first.came | first.gone) & (second.came | second.gone) == frozenset()


def test_what_is_broken_can_be_mended(tmp_path: Path) -> None:
    """The edits of models find their places, and mending leaves the sample's own text."""
    shutil.copytree(demo.SAMPLE / "models", tmp_path / "models")
    readers = tmp_path / "models/segments/newsletter_readers.sql"
    before = readers.read_text(encoding="utf-8")
    changes.break_readers(tmp_path)
    assert readers.read_text(encoding="utf-8") != before
    changes.mend_readers(tmp_path)
    assert readers.read_text(encoding="utf-8") == before
    changes.narrow_lapsed(tmp_path)
    with pytest.raises(ValueError, match="lapsed_buyers"):
        changes.narrow_lapsed(tmp_path)


def test_without_the_sample_project_the_demo_says_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed package has no sample project: a hint, not a traceback."""
    monkeypatch.setattr(demo, "SAMPLE", tmp_path / "missing")
    with pytest.raises(SettingsError, match="sample project") as caught:
        demo.run(None, print)
    assert "make demo" in (caught.value.hint or "")


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """The demo writes into new or empty folders only."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        demo.run(tmp_path, print)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failing_command_fails_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first command that fails ends the demo with 1, its output on the screen."""
    monkeypatch.setitem(stage.PROGRAMS, "dbt", "json.tool")  # refuses what `dbt deps` takes
    screen: list[str] = []
    assert demo.run(tmp_path, screen.append) == 1
    assert "$ dbt deps --quiet" in screen
    assert any(line.startswith("usage:") for line in screen)
    assert "exit code 2" in screen[-1]
