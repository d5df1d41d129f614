"""The workbench: an embedded DuckDB that normalises, hashes and encodes the rows of one run.

It lies in a folder that only this user can read and that is removed when the run ends. A folder that a killed run
left behind is removed by the next run: it can hold raw identifiers, so it must not outlive its process for long.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb

_PREFIX = "dbt-segments-"


@contextlib.contextmanager
def open_workbench(memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private database with a memory limit; larger work spills to its folder.

    memory_limit  DuckDB's text, e.g. "1GB"; the process needs some 200 MB on top
    """
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
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
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove workbenches whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).split("-")[0]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
