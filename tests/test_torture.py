"""The runner of histories and kills: what it plays, what it keeps, and what it makes of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.properties.faults import KINDS
from tests.properties.history import EVERY_SHAPE, History
from tests.properties.outcome import Mismatch
from tests.torture import report, runner
from tests.torture.runner import Job, Wanted


def wanted(**values: Any) -> Wanted:
    return Wanted(**{"histories": 0, "postgres": 0, "kills": 0, "seconds": 600.0, "seed": 40, **values})


def test_jobs_are_mixed_and_have_seeds_of_their_own() -> None:
    """Histories on both warehouses and every kind of kill, evenly, each shape of destination in turn."""
    found = list(runner.jobs(wanted(histories=90, postgres=9, kills=20)))
    histories = [one for one in found if (one.kind, one.warehouse) == ("history", "duckdb")]
    assert [one.seed for one in histories] == list(range(40, 130))
    assert {one.shape for one in histories} == set(EVERY_SHAPE)
    assert len(found) == len(set(found)) == 90 + 9 + 20
    first_half = found[: len(found) // 2]
    assert 40 <= sum(one.kind == "history" for one in first_half) <= 55
    assert {one.kind for one in found[:8]} == {"history", "kill_cli", "kill_point", "kill_dbt"}


def test_a_run_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file has is not played again, and half a line at its end is nothing."""
    results = tmp_path / "results.jsonl"
    known = {"kind": "history", "warehouse": "duckdb", "shape": EVERY_SHAPE[0], "seed": 40, "error": ""}
    results.write_text(json.dumps(known) + "\n" + '{"kind": "hist')
    todo: list[Job] = []
    monkeypatch.setattr(runner, "_work", lambda jobs, *rest: todo.extend(jobs))
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda method: _Here)
    assert runner.play(wanted(histories=3), results, workers=2) == []
    assert sorted(one.seed for one in todo) == [41, 42]
    runner._append(results, {"kind": "more"})
    assert runner.read(results) == [known, {"kind": "more"}]


class _Here:
    """A process that is none."""

    def __init__(self, target: Any, args: Any) -> None:
        self._run = lambda: target(*args)

    Process: Any = None

    def start(self) -> None:
        self._run()

    def join(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False


_Here.Process = _Here


def test_a_history_leaves_a_record() -> None:
    """Steps, syncs, what was met and changed; only faults that the page describes."""
    record = runner.again(Job("history", "duckdb", 5, "scripted"))
    assert record["error"] == ""
    assert (record["steps"], record["mends"]) == (12, 1) and record["syncs"] >= 12
    assert record["changed"] and set(record["met"]) <= set(KINDS)
    json.dumps(record)


def test_a_divergence_is_told_with_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs is in the record, its last line the command that plays it again; the figures have that line."""

    def wrong(history: History) -> None:
        raise Mismatch("one too many")

    monkeypatch.setattr(History, "finish", wrong)
    record = runner.again(Job("history", "duckdb", 5, "scripted"))
    last = "replay: python -m tests.properties.history scripted 5 --steps 12 -v"
    assert "one too many" in record["error"] and record["error"].splitlines()[-1] == last
    assert report.figures([record])["divergences"] == [last]


def test_figures_are_sums() -> None:
    """Of records of all kinds; the tables hold every number."""
    history = {
        "kind": "history",
        "warehouse": "postgres",
        "shape": "meta",
        "seconds": 1.6,
        "error": "",
        "steps": 12,
        "syncs": 15,
        "mends": 1,
        "met": {"killed": 2},
        "changed": {"new_value": 3},
    }
    kill = {"kind": "kill_dbt", "warehouse": "duckdb", "seconds": 2.0, "error": "", "killed": 7}
    found = report.figures([history, history, kill])
    assert found["histories"] == {"duckdb": {}, "postgres": {"meta": 2}}
    assert (found["steps"], found["syncs"], found["seconds"]) == (24, 30, 6)
    assert (found["faults"]["killed"], found["kills"]) == (4, {"kill_dbt duckdb": 7})
    text = report.text(found)
    for line in (
        "| histories on PostgreSQL | 2 |",
        "| `dbt build`, while it builds or syncs | DuckDB | 7 |",
        "| new value | 6 |",
    ):
        assert line in text
    of_each = report.figures([{**history, "shape": shape} for shape in EVERY_SHAPE])
    assert of_each["histories"]["postgres"] == dict.fromkeys(EVERY_SHAPE, 1) and report.text(of_each)
    with pytest.raises(ValueError, match="gremlin"):
        report.figures([{**history, "met": {"gremlin": 1}}])


def test_figures_of_several_goes_add_up() -> None:
    """Numbers by their names, at whatever depth; what only one of them has stays."""
    before = {"histories": {"duckdb": {"meta": 2}}, "divergences": [], "steps": 24}
    found = {"histories": {"duckdb": {"meta": 1, "scripted": 3}}, "divergences": ["replay: x"], "steps": 48}
    assert report.together(before, found) == {
        "histories": {"duckdb": {"meta": 3, "scripted": 3}},
        "divergences": ["replay: x"],
        "steps": 72,
    }
