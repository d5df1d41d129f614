"""Plays jobs in worker processes and appends one JSON record for each to a file.

A job is a history or a round of kills; the file is only ever appended to, so runs add up, and a run that was
interrupted goes on where it stopped when it is given the same seed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.postgres import PostgresServer, running_server
from tests.projects import DuckDBWarehouse, PostgresWarehouse, Warehouse
from tests.properties.history import EVERY_SHAPE, LONG, quickly, replay, run
from tests.properties.outcome import Mismatch
from tests.torture import kills

# Of so many histories on DuckDB one closes the file after every session, as users' runs do.
_SLOWLY = 10


@dataclass(frozen=True)
class Job:
    """What is to be played.

    kind  history, or a kind of kill: see `tests.torture.kills`
    """

    kind: str
    warehouse: str
    seed: int
    shape: str = "meta"


@dataclass(frozen=True)
class Wanted:
    """How much is asked for, in histories on DuckDB and on PostgreSQL, rounds of kills, and seconds for all of it."""

    histories: int
    postgres: int
    kills: int
    seconds: float
    seed: int


def jobs(wanted: Wanted) -> Iterator[Job]:
    """Everything that is asked for, mixed, the first of each kind at once: an interrupted run has some of all."""
    counts = {("history", "duckdb"): wanted.histories, ("history", "postgres"): wanted.postgres}
    for kind, warehouse, share in kills.KINDS:
        counts[kind, warehouse] = round(wanted.kills * share)
    total = max(counts.values(), default=0)
    done = dict.fromkeys(counts, 0)
    for turn in range(1, total + 1):
        for (kind, warehouse), count in counts.items():
            while done[kind, warehouse] < -(-count * turn // total):
                number = done[kind, warehouse]
                done[kind, warehouse] += 1
                yield Job(kind, warehouse, wanted.seed + number, EVERY_SHAPE[number % len(EVERY_SHAPE)])


def play(wanted: Wanted, results: Path, workers: int) -> list[dict[str, Any]]:
    """Play what the results file does not have yet; the records that were added."""
    results.parent.mkdir(parents=True, exist_ok=True)
    before = read(results)
    known = {(one["kind"], one["warehouse"], one["seed"], one["shape"]) for one in before}
    todo = [one for one in jobs(wanted) if (one.kind, one.warehouse, one.seed, one.shape) not in known]
    context = multiprocessing.get_context("spawn")
    # The folder is this process's: dbt's own processes clear theirs away in it when a worker ends.
    scratches = tempfile.TemporaryDirectory(prefix="torture-", dir=_fast(), ignore_cleanup_errors=True)
    with _server(todo) as port, scratches as scratch:
        deadline = time.monotonic() + wanted.seconds
        processes = [
            context.Process(
                target=_work, args=(todo[number::workers], results, port, deadline - time.monotonic(), scratch)
            )
            for number in range(workers)
        ]
        _end_tidily()
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        finally:
            for process in [one for one in processes if one.is_alive()]:
                process.terminate()
                process.join()
    return read(results)[len(before) :]


def _fast() -> Path | None:
    """Where files are in memory, if anywhere: a history writes a great many small ones."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK) else None


def _end_tidily() -> None:
    """SIGTERM ends this process as Ctrl-C does: servers stop, and folders are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def read(results: Path) -> list[dict[str, Any]]:
    """All records so far; a last line that a killed run left half written is skipped."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


@contextlib.contextmanager
def _server(todo: Sequence[Job]) -> Iterator[int | None]:
    """One PostgreSQL server for all workers, where anything needs it."""
    if not any(one.warehouse == "postgres" for one in todo):
        yield None
        return
    with running_server() as server:
        yield server.port


def _work(todo: Iterable[Job], results: Path, port: int | None, seconds: float, scratch: str) -> None:
    _end_tidily()
    tempfile.tempdir = scratch
    os.environ["DBT_SEND_ANONYMOUS_USAGE_STATS"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    deadline = time.monotonic() + seconds
    with contextlib.suppress(KeyboardInterrupt):
        for job in todo:
            if time.monotonic() >= deadline:
                return
            with tempfile.TemporaryDirectory() as folder:
                record = _record(job, Path(folder), port)
            _append(results, record)
            if record["error"]:
                print(f"\n{job}\n{record['error']}", flush=True)


def _record(job: Job, folder: Path, port: int | None) -> dict[str, Any]:
    """Play one job. A failure of the harness itself counts as one of the job: nobody would look at it otherwise."""
    started, found, error = time.monotonic(), {}, ""
    try:
        with _warehouse(job, folder, port) as warehouse:
            if job.kind == "history":
                found = _history(job, folder, warehouse)
            else:
                found = kills.play(job.kind, folder, warehouse, job.seed)
    except Mismatch as wrong:
        error = str(wrong)
    except Exception as wrong:
        error = f"{type(wrong).__name__}: {wrong}\n{traceback.format_exc(limit=-6)}"
    if error and "replay: " not in error:
        error += f"\nreplay: python -m tests.torture replay {job.kind} {job.warehouse} {job.seed} {job.shape}"
    return {**asdict(job), "seconds": round(time.monotonic() - started, 2), "error": error, **found}


def _history(job: Job, folder: Path, warehouse: Warehouse) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        if job.warehouse == "postgres" or job.seed % _SLOWLY:
            stack.enter_context(quickly(warehouse))
        played = run(folder / "shop", warehouse, job.shape, job.seed, LONG)
    return {**asdict(played), "met": dict(played.met), "changed": dict(played.changed)}


@contextlib.contextmanager
def _warehouse(job: Job, folder: Path, port: int | None) -> Iterator[Warehouse]:
    if job.warehouse == "duckdb":
        yield DuckDBWarehouse(folder / "w.duckdb")
        return
    assert port is not None
    with PostgresServer(port).fresh_database(f"torture_{os.getpid()}") as database:
        yield PostgresWarehouse(database)


def again(job: Job) -> dict[str, Any]:
    """Play one job in this process, on a server made for it."""
    with _server([job]) as port, tempfile.TemporaryDirectory() as folder:
        return _record(job, Path(folder), port)


def _append(results: Path, record: dict[str, Any]) -> None:
    """One line, whole, whoever else appends and wherever the last one was cut off."""
    with results.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        cut = b"\n" if file.read(1) not in (b"", b"\n") else b""
        file.write(cut + json.dumps(record, sort_keys=True).encode() + b"\n")


__all__ = ["Job", "Wanted", "again", "jobs", "play", "read", "replay"]
