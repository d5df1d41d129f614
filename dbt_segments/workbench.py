"""The workbench: an embedded DuckDB that normalises, hashes and encodes the rows of one run.

It lies in a folder that only this user can read and that is removed when the run ends. A folder that a killed run
left behind is removed by the next run: it can hold raw identifiers, so it must not outlive its process for long.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import filelock

_PREFIX = "dbt-segments-bench-"
_ALIVE = "alive.lock"
_RESTING = "32MB"
_YOUNG_S = 60.0


@contextlib.contextmanager
def open_workbench(memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private database with a memory limit; larger work spills to its folder.

    memory_limit  DuckDB's text, e.g. "1GB"; the process needs some 200 MB on top
    """
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    alive = filelock.FileLock(folder / _ALIVE)
    alive.acquire()
    try:
        connection = duckdb.connect(
            str(folder / "workbench.duckdb"),
            config={"memory_limit": memory_limit, "temp_directory": str(folder / "spill")},
        )
        try:
            # Rows carry their own numbers, so that DuckDB may reorder and stream instead of buffering.
            connection.execute("set preserve_insertion_order = false")
            yield connection
        finally:
            connection.close()
    finally:
        alive.release()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def resting(bench: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Give the workbench's memory back while the warehouse does heavy work in this process."""
    row = bench.execute("select current_setting('memory_limit')").fetchone()
    bench.execute(f"set memory_limit = '{_RESTING}'")
    try:
        yield
    finally:
        if row is not None:
            bench.execute(f"set memory_limit = '{row[0]}'")


def count(bench: duckdb.DuckDBPyConnection, sql: str) -> int:
    """The one number that a query yields; null counts as 0."""
    # All of it is fetched: an unfinished result would keep the connection from taking in other data.
    rows = bench.execute(sql).fetchall()
    return int(rows[0][0]) if rows and rows[0][0] is not None else 0


def remove_leftovers() -> None:
    """Remove workbenches that no process holds any more; a very young one may not be held yet."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(filelock.Timeout, OSError):
            if time.time() - folder.stat().st_mtime > _YOUNG_S:
                with filelock.FileLock(folder / _ALIVE, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
