"""What the plugin adds to every dbt command, in processor time: `dbt parse` with it and without, and its import alone.

    .venv/bin/python benchmarks/startup.py [runs]

The project has one model and no hook line, which is where the plugin must cost least. With and without take turns, so
that a machine that gets slower meanwhile slows both down. "Without" is dbt told that there are no plugins.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = {
    "dbt_project.yml": "{name: shop, profile: shop, flags: {send_anonymous_usage_stats: false}}",
    "profiles.yml": "{shop: {target: dev, outputs: {dev: {type: duckdb, path: shop.duckdb}}}}",
    "models/customers.sql": "select 1 as customer_id",
}
DBT = "from dbt.cli.main import cli; cli(['--quiet', 'parse'])"
WITHOUT = f"import dbt_segments; dbt_segments.plugins = []; {DBT}"
WITH = f"import dbt_segments; {DBT}"
IMPORT = (
    "import dbt.cli.main, dbt_segments, time; began = time.perf_counter(); dbt_segments.plugins; "
    "print(time.perf_counter() - began)"
)


def seconds(code: str, folder: Path) -> float:
    """Processor time of the whole process; wall time would measure what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(folder: Path) -> float:
    """How long dbt waits for our module inside a command."""
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=folder, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in PROJECT.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        seconds(WITH, folder)  # writes the caches
        pairs = [(seconds(WITHOUT, folder), seconds(WITH, folder)) for _ in range(runs)]
        alone = statistics.median(imported(folder) for _ in range(runs))
    without, with_ = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"dbt parse without the plugin  {without * 1000:7.0f} ms (median of {runs})")
    print(f"dbt parse with the plugin     {with_ * 1000:7.0f} ms")
    print(f"difference                    {(with_ - without) * 1000:7.0f} ms (goal: under 30)")
    print(f"import of the plugin alone    {alone * 1000:7.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
