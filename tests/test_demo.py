"""The demo's own judgement. `make demo` plays the whole of it, and fails where anything is not as it must be."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from dbt_segments import demo
from dbt_segments.errors import SettingsError

KEPT = frozenset({("EMAIL", "a" * 64), ("EXTERN_ID", "1")})
CAME = frozenset({("EMAIL", "b" * 64), ("EXTERN_ID", "2")})
GONE = frozenset({("EMAIL", "c" * 64), ("EXTERN_ID", "3")})
CHANGE = demo.Change("somebody came, somebody left", came=CAME, gone=GONE)
FIRST = {demo.READERS: KEPT | GONE, "Big spenders": KEPT, "Lapsed buyers": GONE}
THIRD = {**FIRST, demo.READERS: KEPT | CAME}


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["customer_id"]: row for row in csv.DictReader(lines)}


def test_membership_as_it_must_be_passes() -> None:
    """Nothing is wrong where the third sync did the change and nothing else."""
    assert demo.judge(FIRST, FIRST, THIRD, CHANGE, sends_again=0) == []


@pytest.mark.parametrize(
    ("first", "second", "third", "sends_again", "wrong"),
    [
        ({}, {}, {}, 0, "empty"),
        ({**FIRST, "Big spenders": frozenset()},) * 2 + (THIRD, 0, "empty"),
        (FIRST, FIRST, THIRD, 1, "second sync sent"),
        (FIRST, {**FIRST, "Big spenders": GONE}, {**THIRD, "Big spenders": GONE}, 0, "second sync changed"),
        (FIRST, FIRST, {**THIRD, demo.READERS: KEPT}, 0, "did not add"),
        (FIRST, FIRST, {**THIRD, demo.READERS: CAME}, 0, "did not remove"),
        (FIRST, FIRST, {**THIRD, demo.READERS: KEPT | CAME | GONE}, 0, "did not remove"),
        (FIRST, FIRST, {**THIRD, "Big spenders": KEPT | CAME}, 0, "another audience"),
        (FIRST, FIRST, {demo.READERS: KEPT | CAME}, 0, "another audience"),
    ],
)
def test_membership_that_is_not_is_named(
    first: demo.Members, second: demo.Members, third: demo.Members, sends_again: int, wrong: str
) -> None:
    """Each way of being wrong is said."""
    assert any(wrong in text for text in demo.judge(first, second, third, CHANGE, sends_again))


def test_the_change_is_one_of_each_kind(tmp_path: Path) -> None:
    """One e-mail address changes, one customer subscribes, one unsubscribes; no other cell of the seed changes."""
    seeds = shutil.copytree(demo.SAMPLE / "seeds", tmp_path / "seeds")
    before = rows(seeds / "raw_customers.csv")
    change = demo.change_data(seeds)
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
    monkeypatch.setitem(demo._PROGRAMS, "dbt", "json.tool")  # refuses what `dbt deps` takes
    screen: list[str] = []
    assert demo.run(tmp_path, screen.append) == 1
    assert "$ dbt deps --quiet" in screen
    assert any(line.startswith("usage:") for line in screen)
    assert "exit code 2" in screen[-1]
