"""Runs of every tool in turn, and their medians."""

from __future__ import annotations

import datetime
import os
import platform
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
    template = folder / "template.duckdb"
    people.make(template, members)
    done: dict[str, list[Run]] = {tool.name: [] for tool in tools}
    for number in range(runs):
        for tool in tools:
            print(f"run {number + 1} of {runs}: {tool.name}", file=sys.stderr, flush=True)
            home = folder / f"{tool.name.replace(' ', '-')}-{number}"
            fresh(template, home)
            done[tool.name].append(_run(tool, home, sink))
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
    ratios = [run.cost.seconds / bare.cost.seconds for run, bare in zip(runs, limit, strict=True)]
    last = runs[-1]
    return {
        "seconds": round(statistics.median(seconds), 3),
        "seconds_range": [round(min(seconds), 3), round(max(seconds), 3)],
        "times_the_limit": round(statistics.median(ratios), 2),
        "cpu_s": round(statistics.median(run.cost.cpu_s for run in runs), 3),
        "server_cpu_s": round(statistics.median(run.counts["cpu_s"] for run in runs), 3),
        "peak_mb": round(statistics.median(run.cost.peak_mb for run in runs)),
        "requests": last.counts["requests"],
        "rows": last.counts["rows"],
        "body_mb": round(last.counts["body_bytes"] / 1e6, 2),
        "missing": max(run.missing for run in runs),
        "left_over": max(run.left_over for run in runs),
    }
