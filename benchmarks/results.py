"""Figures as a table, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = (
    *("sync", "tool", "seconds", "from - to", "x limit", "cpu s", "x limit", "peak MB"),
    *("requests", "rows", "MB sent", "missing", "left over"),
)


def table(results: Mapping[str, Any]) -> str:
    """Every scenario, a line for each tool, then the versions and what could not be measured."""
    lines = [_HEAD]
    for what in results["tools"][0]["syncs"]:
        lines += [(what, *_cells(tool["name"], tool["syncs"][what])) for tool in results["tools"]]
    about = f"{results['members']:,} members, {results['runs']} runs, Python {results['python']}, {results['machine']}"
    versions = [f"{tool['name']}: {tool['does']} ({_versions(tool['versions'])})" for tool in results["tools"]]
    absent = [f"not measured: {tool['name']} ({tool['requires']}): {tool['reason']}" for tool in results["absent"]]
    return "\n".join([f"{about}, {results['date']}", "", *_aligned(lines), "", *versions, *absent])


def _cells(name: str, sync: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = sync["seconds_range"]
    return (
        name,
        f"{sync['seconds']:.2f}",
        f"{low:.2f} - {high:.2f}",
        f"{sync['times_the_limit']:.1f}",
        f"{sync['cpu_s']:.2f}",
        f"{sync['cpu_times_the_limit']:.1f}",
        f"{sync['peak_mb']:,}",
        f"{sync['requests']:,}",
        f"{sync['rows']:,}",
        f"{sync['body_mb']:,.1f}",
        f"{sync['missing']:,}",
        f"{sync['left_over']:,}",
    )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text to the left, of numbers to the right."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(_HEAD))]
    return [
        "  ".join(
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
