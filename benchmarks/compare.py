"""Runs of every tool in turn, and their medians."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import people
from benchmarks.process import Cost, measured
from benchmarks.sink import Sink
from benchmarks.tools import WAREHOUSE, Tool, fresh

# Each tool syncs so many once, unmeasured, so that Python has compiled its modules.
WARM_MEMBERS = 1_000
SCENARIOS = ("first sync", "nothing changed", "1.1 % changed")


@dataclass(frozen=True)
class Measure:
    """One sync: its cost, what the server counted, and members that the server lacks or should no longer have."""

    cost: Cost
    counts: dict[str, Any]
    missing: int
    left_over: int


Run = dict[str, Measure]


def compare(tools: Sequence[Tool], members: int, runs: int, folder: Path, sink: Sink) -> dict[str, Any]:
    """Measure `tools`, the first of which is the limit that all are compared with."""
    warm, template = folder / "warm.duckdb", folder / "template.duckdb"
    people.make(warm, WARM_MEMBERS)
    people.make(template, members)
    done: dict[str, list[Run]] = {tool.name: [] for tool in tools}
    for tool in tools:
        _say(f"warm up: {tool.name}")
        _run(tool, fresh(warm, folder, tool.name), sink)
    for number in range(1, runs + 1):
        for tool in tools:
            _say(f"run {number} of {runs}: {tool.name}")
            home = fresh(template, folder, f"{tool.name} {number}")
            done[tool.name].append(_run(tool, home, sink))
            shutil.rmtree(home)
    limit = done[tools[0].name]
    return {
        "date": datetime.date.today().isoformat(),
        "members": members,
        "runs": runs,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} {platform.machine()} processors",
        "tools": [
            {
                "name": tool.name,
                "versions": dict(tool.versions),
                "does": tool.does,
                "syncs": {what: summary([run[what] for run in done[tool.name]], [run[what] for run in limit])
                          for what in SCENARIOS},
            }
            for tool in tools
        ],
    }  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(tool: Tool, home: Path, sink: Sink) -> Run:
    sink.reset()
    job = tool.prepare(home, sink.url)
    found = {}
    for what in SCENARIOS:
        if what == SCENARIOS[-1]:
            people.change(home / WAREHOUSE)
        sink.reset(keep=True)
        cost = measured(job.command, job.folder, job.environment)
        have, want = sink.members(), people.expected(home / WAREHOUSE)
        found[what] = Measure(cost, sink.counts(), len(want - have), len(have - want))
    return found


def summary(runs: Sequence[Measure], limit: Sequence[Measure]) -> dict[str, Any]:
    """Medians of one tool's runs of one scenario; each run is compared with the limit's run of the same turn."""
    seconds = [run.cost.seconds for run in runs]
    turns = list(zip(runs, limit, strict=True))
    last = runs[-1]
    return {
        "seconds": round(statistics.median(seconds), 3),
        "seconds_range": [round(min(seconds), 3), round(max(seconds), 3)],
        "times_the_limit": round(statistics.median(run.cost.seconds / bare.cost.seconds for run, bare in turns), 2),
        "cpu_s": round(statistics.median(run.cost.cpu_s for run in runs), 3),
        "cpu_times_the_limit": round(statistics.median(run.cost.cpu_s / bare.cost.cpu_s for run, bare in turns), 2),
        "server_cpu_s": round(statistics.median(run.counts["cpu_s"] for run in runs), 3),
        "peak_mb": round(statistics.median(run.cost.peak_mb for run in runs)),
        "requests": last.counts["requests"],
        "rows": last.counts["rows"],
        "body_mb": round(last.counts["body_bytes"] / 1e6, 2),
        "missing": max(run.missing for run in runs),
        "left_over": max(run.left_over for run in runs),
    }
