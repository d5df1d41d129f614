"""Figures of torture runs: from the records of `tests.torture.runner` to docs/torture.json and the page's tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.properties.faults import KINDS
from tests.properties.shop import is_asynchronous

FILE = Path(__file__).resolve().parents[2] / "docs" / "torture.json"


def figures(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over records.

    histories    warehouse -> shape -> how many
    faults       fault -> how often it really happened, changes likewise
    mends        syncs without faults until everything was right -> histories, by "at once" and "with jobs"
    kills        kind and warehouse -> processes killed
    divergences  the commands that replay them

    Raises ValueError for a fault that is not in `tests.properties.faults.KINDS`.
    """
    histories: dict[str, Counter[str]] = {"duckdb": Counter(), "postgres": Counter()}
    mends: dict[str, Counter[str]] = {"at once": Counter(), "with jobs": Counter()}
    faults: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    divergences = []
    for one in records:
        if one["error"]:
            divergences.append(str(one["error"]).splitlines()[-1])
            continue
        sums["seconds"] += round(one["seconds"])
        if one["kind"] != "history":
            killed[f"{one['kind']} {one['warehouse']}"] += one["killed"]
            continue
        histories[one["warehouse"]][one["shape"]] += 1
        sums["steps"] += one["steps"]
        sums["syncs"] += one["syncs"]
        mends["with jobs" if is_asynchronous(one["shape"]) else "at once"][str(one["mends"])] += 1
        faults.update(one["met"])
        changes.update(one["changed"])
    unknown = faults.keys() - KINDS
    if unknown:
        raise ValueError(f"faults that nobody has described: {', '.join(sorted(unknown))}")
    return {
        "histories": {name: dict(sorted(found.items())) for name, found in histories.items()},
        "faults": {name: faults[name] for name in KINDS},
        "changes": dict(sorted(changes.items())),
        "mends": {name: dict(sorted(found.items(), key=lambda pair: int(pair[0]))) for name, found in mends.items()},
        "kills": dict(sorted(killed.items())),
        "divergences": divergences,
        **{name: sums[name] for name in ("steps", "syncs", "seconds")},
    }


def together(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Both figures as one: numbers and lists add up, by their names."""
    both = {**before, **found}
    for name in before.keys() & found.keys():
        old, new = before[name], found[name]
        both[name] = together(old, new) if isinstance(old, Mapping) else old + new
    return both


def kept() -> dict[str, Any]:
    """The figures that the page has."""
    figures: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return figures


def write(found: Mapping[str, Any]) -> None:
    """Keep the figures for the page."""
    FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def text(found: Mapping[str, Any]) -> str:
    """All tables, as the page has them; last, where a log is cut, how to play again what diverged."""
    tables = [one(found) for one in (totals, mend_table, fault_table, kill_table, change_table)]
    return "\n".join([*tables, *found["divergences"]])


def totals(found: Mapping[str, Any]) -> str:
    """How much was played, and what came of it."""
    count = {name: sum(shapes.values()) for name, shapes in found["histories"].items()}
    rows = [
        ("histories on DuckDB", count["duckdb"]),
        ("histories on PostgreSQL", count["postgres"]),
        ("steps", found["steps"]),
        ("syncs", found["syncs"]),
        ("faults that happened", sum(found["faults"].values())),
        ("processes killed", sum(found["kills"].values())),
        ("divergences", len(found["divergences"])),
        ("hours of one core", round(found["seconds"] / 3600, 1)),
    ]
    return _table(("what", "count"), rows)


def fault_table(found: Mapping[str, Any]) -> str:
    """Fault, count, and the invariants that it threatens."""
    rows = [(name, says, found["faults"][name], threatens) for name, (says, threatens) in KINDS.items()]
    return _table(("fault", "what happens", "count", "invariants"), rows)


def kill_table(found: Mapping[str, Any]) -> str:
    """Processes killed, by what they were."""
    names = {
        "kill_cli": "`dbt-segments sync`, at any time",
        "kill_point": "`dbt-segments sync`, before or after a named point",
        "kill_dbt": "`dbt build`, while it builds or syncs",
    }
    rows = []
    for name, count in found["kills"].items():
        kind, warehouse = name.split()
        rows.append((names[kind], {"duckdb": "DuckDB", "postgres": "PostgreSQL"}[warehouse], count))
    return _table(("process", "warehouse", "killed"), rows)


def mend_table(found: Mapping[str, Any]) -> str:
    """After how many syncs without faults a history was right."""
    return _table(
        ("destination", "syncs until right", "histories"),
        [
            (f"answers {name}" if name == "at once" else name, number, count)
            for name, counts in found["mends"].items()
            for number, count in counts.items()
        ],
    )


def change_table(found: Mapping[str, Any]) -> str:
    """What people and analysts changed in between."""
    return _table(("change", "count"), [(name.replace("_", " "), count) for name, count in found["changes"].items()])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
