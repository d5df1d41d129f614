"""Two at once: threads of one process, and a `dbt build` that syncs while a run of the same sync sends."""

from __future__ import annotations

import threading

import pytest

from dbt_segments import pipeline
from dbt_segments.errors import LockedError
from dbt_segments.values import RunResult
from tests.kill.child import Orders
from tests.kill.harness import Running, check_members, in_flight, unanswered, until
from tests.kill.scenarios import a_change, a_first_sync, prepare
from tests.torture.kills import build, dbt_project, end_dbt, start_dbt
from tests.world import World

pytestmark = pytest.mark.slow


def test_two_threads_at_once(world: World) -> None:
    """Two syncs in threads of one process take turns: one of them sends, the other one finds nothing left to do."""
    after = prepare(world, "change")
    request, results = world.request(), []
    before = len(world.calls("add"))

    def run() -> None:
        results.append(pipeline.sync(request, lambda sync_id, text: None))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(one.syncs[0].status for one in results) == ["noop", "success"]
    sent = len(world.calls("add")) - before
    check_members(world, after.expected())
    assert pipeline.sync(request, lambda sync_id, text: None).syncs[0].status == "noop"
    assert len(world.calls("add")) - before == sent


def test_a_thread_that_may_not_wait_stops(world: World) -> None:
    """While one thread has a request under way another one with no time to wait is told so, and sends nothing."""
    after = prepare(world, "change")
    request, hurried = world.request(), world.request(lock_timeout_s=0.3)
    first: list[RunResult] = []
    with unanswered(world, "add") as release:
        made = len(world.calls("add"))
        thread = threading.Thread(target=lambda: first.append(pipeline.sync(request, lambda sync_id, text: None)))
        thread.start()
        until(lambda: len(world.calls("add")) > made, "the first thread's request")
        calls = len(world.calls())
        try:
            said = pipeline.sync(hurried, lambda sync_id, text: None).syncs[0].reason
        except LockedError as error:  # DuckDB: the whole run waits for the file's lock
            said = error.message
        assert "another" in said and len(world.calls()) == calls
        release()
        thread.join(120)
    assert first[0].syncs[0].status == "success"
    check_members(world, after.expected())


def test_dbt_build_syncs_after_the_run_that_sends(world: World) -> None:
    """`dbt build` builds while a run of the same sync has a request under way, waits with its own sync, and then sends
    what it built."""
    a_first_sync().write(world)
    world.connections = {"meta": world.meta(max_concurrency=1, timeout_s=100)}
    project = dbt_project(world)
    build(project, "--vars", "{dbt_segments: {sync_in_dbt: false}}")
    folder = str(project.path)
    words = ["sync", "--now", "--project-dir", folder, "--profiles-dir", folder]
    with unanswered(world, "add", 100.0) as release:
        cli = Running(words, Orders(f"{folder}/cli.txt"))
        in_flight(world, "add", cli)
        later = a_change()
        later.write(world)
        calls = len(world.calls())
        built = project.target_dir / "run_results.json"
        built.unlink()
        dbt = start_dbt(project)
        try:
            until(lambda: dbt.poll() is not None or built.exists(), "dbt to have built everything")
            assert dbt.poll() is None and cli.runs, cli.output
            assert len(world.calls()) == calls
        finally:
            release()
            code, said = end_dbt(dbt)
        assert cli.end() == 0, cli.output
    assert code == 0, said
    check_members(world, later.expected())
    calls = len(world.calls())
    build(project)
    assert len(world.calls()) == calls
