"""The benchmarks measure what they say: same people, same work at the server, medians of the same turn.

No test looks at how long anything took.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import duckdb
import pytest

from benchmarks import limit, people, sink
from benchmarks.compare import SCENARIOS, Measure, summary
from benchmarks.peers import why
from benchmarks.plan import NINE
from benchmarks.process import Cost, measured
from benchmarks.results import table
from tests.projects import REPOSITORY

MEMBERS = 2_000
CHANGED, LEFT = 20, 2


def post(url: str, body: bytes, kind: str) -> Any:
    with urlopen(Request(url, data=body, headers={"Content-Type": kind})) as reply:
        return json.load(reply)


def test_people_are_always_the_same(tmp_path: Path) -> None:
    """Two warehouses hold the same rows; e-mails and phones differ from person to person, and lead to nobody."""
    rows = []
    for name in ("one", "two"):
        path = tmp_path / name
        people.make(path, MEMBERS)
        with duckdb.connect(str(path)) as connection:
            rows.append(connection.execute("select * from customers order by customer_id").fetchall())
            of_nobody = "email like '%@Example.com' and phone like '+1 (___) 555-____'"
            unique = "count(distinct email), count(distinct phone), count(distinct last_name) > 500"
            found = connection.execute(f"select {unique} from customers where {of_nobody}").fetchone()
            assert found == (MEMBERS, MEMBERS, True)
    assert rows[0] == rows[1]


def test_a_change_is_what_it_says(tmp_path: Path) -> None:
    """1 % have another e-mail and a later `updated_at`; 0.1 % have left the segment."""
    people.make(tmp_path / "w", MEMBERS)
    before = people.expected(tmp_path / "w")
    people.change(tmp_path / "w")
    after = people.expected(tmp_path / "w")
    assert (len(before), len(after - before), len(before - after)) == (MEMBERS, CHANGED, CHANGED + LEFT)
    with duckdb.connect(str(tmp_path / "w")) as connection:
        later = "select count(*) from customers where updated_at > timestamp '2026-01-01'"
        assert connection.execute(later).fetchone() == (CHANGED,)


def test_the_sink_counts_and_keeps() -> None:
    """Rows of a form, of its JSON twin and of a plain array are members; a removal takes them out; a reset forgets."""
    odd = 'a+b%25 "é,[1]'
    payload = json.dumps({"schema": ["EMAIL", "FN"], "data": [["a", odd], ["b", ""]]})
    with sink.running() as server:
        form = "application/x-www-form-urlencoded"
        body = urlencode({"payload": payload, "session": "{}"}).encode()
        answer = post(f"{server.url}/v26.0/1/users", body, form)
        assert answer == {"num_received": 2, "num_invalid_entries": 0}
        post(f"{server.url}/rows", b'[{"email": "c", "first_name": "d"}]', "application/json")
        assert server.members() == {"a", "b", "c"}
        counts = server.counts()
        assert (counts["requests"], counts["rows"]) == (2, 3)
        assert counts["body_bytes"] == len(body) + 35
        server.reset(keep=True)
        assert (server.counts()["requests"], server.members()) == (0, {"a", "b", "c"})
        removal = json.dumps({"method": "DELETE", "payload": json.loads(payload)})
        post(f"{server.url}/v26.0/1/users", removal.encode(), "application/json")
        assert server.members() == {"c"}
        removal = urlencode({"payload": '{"data":[["c"]]}', "method": "DELETE"})
        post(f"{server.url}/v26.0/1/users", removal.encode(), form)
        assert server.members() == set()
        post(f"{server.url}/rows", b'[["x"]]', "application/json")
        server.reset()
        assert server.members() == set()


def test_a_form_is_read_as_it_was_written() -> None:
    """Whatever the escapes, the sink sees the text that was sent."""
    fields = {"payload": 'a+b c%25 "é,[1]{}:&=', "method": "DELETE"}
    assert sink._form(urlencode(fields).encode()) == fields


def test_the_bare_limit_keeps_the_audience_equal(tmp_path: Path) -> None:
    """It is a limit only as long as it does the job: first sync, no-op, change."""
    warehouse = tmp_path / "warehouse.duckdb"
    people.make(warehouse, MEMBERS)
    arguments = (str(warehouse), str(tmp_path / "snapshot.duckdb"))
    with sink.running() as server:
        for rows in (MEMBERS, 0, CHANGED + CHANGED + LEFT):
            if 0 < rows < MEMBERS:
                people.change(warehouse)
            server.reset(keep=True)
            limit.sync(*arguments, server.url)
            assert server.members() == people.expected(warehouse)
            assert server.counts()["rows"] == rows


def test_ratios_are_of_the_same_turn() -> None:
    """Each run is compared with the limit's run beside it, then the median is taken: a slow turn cancels out."""

    def runs(*seconds: float, left_over: int = 0) -> list[Measure]:
        counts = {"requests": 1, "rows": 2, "body_bytes": 3_000_000, "cpu_s": 0.5}
        return [Measure(Cost(s, s / 2, 100.0, ""), counts, 0, left_over) for s in seconds]

    found = summary(runs(2.0, 40.0, 3.0, left_over=7), runs(1.0, 20.0, 1.0))
    assert found == {
        "seconds": 3.0,
        "seconds_range": [2.0, 40.0],
        "times_the_limit": 2.0,
        "cpu_s": 1.5,
        "cpu_times_the_limit": 2.0,
        "server_cpu_s": 0.5,
        "peak_mb": 100,
        "requests": 1,
        "rows": 2,
        "body_mb": 3.0,
        "missing": 0,
        "left_over": 7,
    }


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "ERROR: Ignored the following versions: 0.1.0 Requires-Python >=3.12; 0.1.1 Requires-Python >=3.12\n"
            "ERROR: No matching distribution found for acme",
            "needs Python >=3.12",
        ),
        ("ERROR: No matching distribution found for acme", "no wheel for this Python and platform"),
        ("ERROR: https://index.example/simple /home/ada/.venv", "pip failed"),
    ],
)
def test_a_peer_that_does_not_install_has_a_reason(said: str, reason: str) -> None:
    """In few words, with no address and no path of this machine."""
    assert why(said) == reason


def test_a_command_that_fails_is_no_measure() -> None:
    """A tool's error is never taken for a fast sync."""
    with pytest.raises(RuntimeError, match="ended with 3:\nwhy"):
        measured([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])


def test_the_peak_is_that_of_the_command() -> None:
    """Not that of whoever measures: a small process stays small beside a large one."""
    held = bytearray(300_000_000)
    cost = measured([sys.executable, "-c", "print('done')"])
    assert (cost.output, len(held)) == ("done\n", 300_000_000)
    assert 0 < cost.peak_mb < 100


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    """`make bench`, small and without peers: the table, the JSON, and audiences that are right after each sync."""
    file = tmp_path / "results.json"
    options = ["--members", str(MEMBERS), "--runs", "1", "--no-peers", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    text = file.read_text(encoding="utf-8")
    results = json.loads(text)
    assert done.stdout == table(results) + "\n"
    assert not [path for path in (str(REPOSITORY), str(Path.home()), str(tmp_path)) if path in text + done.stdout]
    assert [tool["name"] for tool in results["tools"]] == ["bare limit", "dbt-segments"]
    for tool in results["tools"]:
        syncs = tool["syncs"]
        assert tuple(syncs) == SCENARIOS
        assert [syncs[what]["rows"] for what in SCENARIOS] == [MEMBERS, 0, CHANGED + CHANGED + LEFT]
        assert {(sync["missing"], sync["left_over"]) for sync in syncs.values()} == {(0, 0)}


@pytest.mark.slow
def test_plan_smoke() -> None:
    """Every platform plans everybody of the large segment, and says what is wrong with the small one."""
    command = [sys.executable, "-m", "benchmarks.plan", "--members", "200", "--runs", "1"]
    lines = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    for platform in NINE:
        assert any(line.split() == ["vip", "->", platform, "+200", "-0"] for line in lines)
    assert any(line.startswith("warning: below_minimum: ") for line in lines)
    assert sum("warning: cadence" in line for line in lines) == 1
    assert lines[-1].startswith("nine cost ")
