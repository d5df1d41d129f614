from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result

import dbt_segments
from dbt_segments.cli import main
from dbt_segments.errors import LockedError, ManifestError, Problem, SegmentsError, WarehouseError
from dbt_segments.owners import StateSize
from dbt_segments.progress import Progress
from dbt_segments.state.upkeep import Rubbish
from dbt_segments.values import Counts, Registry, RunResult, SyncResult

ROOT = Path(dbt_segments.__file__).parents[1]
SENT = SyncResult(
    sync_id="shop.vip.meta",
    segment="vip",
    entity="customer",
    destination="meta",
    type="meta",
    status="success",
    counts=Counts(members=3, added=3),
    elapsed_s=0.4,
)
PROBLEM = Problem("models/a.yml", "vip", "segment.entity", "no such entity: custmer", "did you mean customer?")


@dataclass(frozen=True)
class Request:
    """As `pipeline.Request`."""

    options: Any
    now: bool = False
    full: bool = False
    lock_timeout_s: float = 300.0
    allow_removals: tuple[str, ...] = ()
    lift_refusals: tuple[str, ...] = ()
    show_requests: int = 0


@dataclass
class Pipeline:
    """Stands in for the pipeline: answers what it is told to, and keeps what it was asked."""

    syncs: tuple[SyncResult, ...] = (SENT,)
    problems: list[Problem] = field(default_factory=list)
    error: BaseException | None = None
    asked: list[Request] = field(default_factory=list)
    requests: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def _answer(self, request: Request) -> RunResult:
        self.asked.append(request)
        if self.error:
            raise self.error
        return RunResult("0193", "2025-05-01T06:00:00+00:00", 0.5, self.syncs)

    def sync(self, request: Request, progress: Any) -> RunResult:
        print("a driver prints")
        progress("shop.vip.meta", "sending batch 1")
        return self._answer(request)

    def plan(self, request: Request, progress: Any) -> Any:
        return type("PlanResult", (), {"run": self._answer(request), "requests": self.requests})

    def status(self, request: Request, progress: Any, *, refresh: bool = False) -> Any:
        self._answer(request)
        return type("Status", (), {"syncs": (), "orphans": (), "state": StateSize("shop_dbt_segments", ())})

    def collect(self, request: Request, progress: Any, *, dry_run: bool) -> Rubbish:
        self._answer(request)
        return Rubbish(("units_x_0a1b2c3d_1_1",) if dry_run else ())

    def validate(self, request: Request) -> tuple[Registry, list[Problem]]:
        self._answer(request)
        return Registry("shop", (), (), ()), self.problems


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline without a project or a warehouse."""
    fake, module = Pipeline(), ModuleType("dbt_segments.pipeline")
    module.__dict__.update(Request=Request, sync=fake.sync, plan=fake.plan, status=fake.status, validate=fake.validate)
    module.__dict__.update(collect=fake.collect)
    monkeypatch.setitem(sys.modules, "dbt_segments.pipeline", module)
    monkeypatch.setattr(dbt_segments, "pipeline", module, raising=False)
    return fake


def call(line: str, **options: Any) -> Result:
    return CliRunner().invoke(main, shlex.split(line), prog_name="dbt-segments", **options)


# -- results --------------------------------------------------------------------------------------------------


def test_results_go_to_stdout_and_the_rest_to_stderr(pipeline: Pipeline) -> None:
    """stdout holds the report alone; progress and whatever a driver prints stand on stderr."""
    result = call("sync")
    assert result.stdout == "vip -> meta   +3  -0   0.4 s\n"
    assert result.stderr == "a driver prints\nshop.vip.meta: sending batch 1\n"
    assert result.exit_code == 0


def test_json_is_all_of_stdout(pipeline: Pipeline) -> None:
    """`--output json` prints one JSON value, whatever happens meanwhile."""
    pipeline.syncs = (SENT, replace(SENT, status="held", counts=Counts()))
    result = call("sync --output json")
    assert [row["status"] for row in json.loads(result.stdout)["syncs"]] == ["success", "held"]
    assert result.exit_code == 1


def test_a_plan_prints_requests_that_were_asked_for(pipeline: Pipeline) -> None:
    """`--show-requests` reaches the pipeline, and what comes back is printed in both formats."""
    pipeline.requests = {"shop.vip.meta": ("POST /23850/users",)}
    assert "    POST /23850/users\n" in call("plan --show-requests 2").stdout
    assert json.loads(call("plan --show-requests 2 --output json").stdout)["requests"]
    assert [request.show_requests for request in pipeline.asked] == [2, 2]


def test_status_and_validate_have_both_formats(pipeline: Pipeline) -> None:
    """Every command on a project prints text or JSON."""
    assert call("status").stdout == "no syncs\nstate shop_dbt_segments: 0 tables\n"
    empty = {"syncs": [], "orphans": [], "state": {"schema": "shop_dbt_segments", "tables": []}}
    assert json.loads(call("status --output json").stdout) == empty
    assert call("validate").stdout == "0 segments, 0 entities, 0 syncs: all right\n"
    assert json.loads(call("validate --output json").stdout)["problems"] == []


def test_gc_takes_a_dry_run(pipeline: Pipeline) -> None:
    """`--dry-run` and `--lock-timeout` reach the pipeline."""
    assert call("state gc --dry-run").stdout == "table units_x_0a1b2c3d_1_1\n1 table and 0 rows would go\n"
    assert call("state gc --lock-timeout 5").stdout == "nothing to collect\n"
    assert pipeline.asked[1].lock_timeout_s == 5.0


def test_validate_prints_every_problem(pipeline: Pipeline) -> None:
    """Problems are the result of `validate`: on stdout, with exit code 2."""
    pipeline.problems = [PROBLEM, replace(PROBLEM, model="lapsed")]
    result = call("validate")
    assert result.stdout.splitlines() == [
        "models/a.yml: vip: segment.entity: no such entity: custmer (did you mean customer?)",
        "models/a.yml: lapsed: segment.entity: no such entity: custmer (did you mean customer?)",
        "2 problems",
    ]
    assert result.exit_code == 2
    assert call("validate --output json").exit_code == 2


# -- options --------------------------------------------------------------------------------------------------


def test_options_reach_the_pipeline(pipeline: Pipeline, tmp_path: Path) -> None:
    """Each option arrives in the request, parsed."""
    call(
        f"sync --project-dir {tmp_path} --profiles-dir {tmp_path} --target prod --state {tmp_path} --exclude tag:old"
        " --vars '{dbt_segments: {targets: [prod]}}' --now --full --lock-timeout 5 --allow-removals vip"
        " --allow-removals shop.lapsed.meta --lift-refusals gold"
    )
    request = pipeline.asked[0]
    options = request.options
    assert (options.project_dir, options.profiles_dir, options.target) == (tmp_path, tmp_path, "prod")
    assert (options.state, options.exclude) == (tmp_path, ("tag:old",))
    assert options.vars == {"dbt_segments": {"targets": ["prod"]}}
    assert (request.now, request.full, request.lock_timeout_s) == (True, True, 5.0)
    assert request.allow_removals == ("vip", "shop.lapsed.meta")
    assert request.lift_refusals == ("gold",)


def test_without_options_the_request_is_the_default(pipeline: Pipeline) -> None:
    """What was not said is not asked for."""
    call("plan")
    assert pipeline.asked == [Request(options=pipeline.asked[0].options)]
    assert (pipeline.asked[0].options.select, pipeline.asked[0].options.target) == ((), os.environ.get("DBT_TARGET"))


@pytest.mark.parametrize(
    "line",
    ["-s a b", "--select a --select b", "--select=a b", "-s a -s b", "-s a b --now", "--now -s a b"],
)
def test_select_takes_several_words(pipeline: Pipeline, line: str) -> None:
    """All of dbt's ways of naming several models work."""
    result = call(f"sync {line}")
    assert result.exit_code == 0
    assert pipeline.asked[0].options.select == ("a", "b")


@pytest.mark.parametrize(
    "line", ["sync --nonsense", "sync b", "nonsense", "sync --output xml", "plan --show-requests x"]
)
def test_wrong_usage_exits_2(pipeline: Pipeline, line: str) -> None:
    """Unknown words and bad values do not start anything."""
    assert call(line).exit_code == 2
    assert pipeline.asked == []


def test_vars_that_are_no_yaml_are_refused(pipeline: Pipeline) -> None:
    """`--vars` must be YAML; nothing starts otherwise."""
    result = call("sync --vars '{a: ['")
    assert (result.exit_code, pipeline.asked) == (2, [])
    assert "--vars" in result.stderr


# -- errors ---------------------------------------------------------------------------------------------------


def test_every_configuration_problem_is_on_stderr(pipeline: Pipeline) -> None:
    """A ConfigError shows all its problems at once and exits 2."""
    pipeline.error = ManifestError(problems=(PROBLEM, replace(PROBLEM, model="lapsed")), hint="run dbt parse")
    result = call("sync")
    assert result.stdout == ""
    assert result.stderr.splitlines()[-3:] == [
        "error: models/a.yml: vip: segment.entity: no such entity: custmer (did you mean customer?)",
        "error: models/a.yml: lapsed: segment.entity: no such entity: custmer (did you mean customer?)",
        "hint: run dbt parse",
    ]
    assert result.exit_code == 2


def test_an_error_of_ours_has_its_own_exit_code(pipeline: Pipeline) -> None:
    """The message, the hint and the code come from the error, also where its code was set for the occasion."""
    pipeline.error = LockedError("vip is held by another run", hint="wait for it")
    result = call("status")
    assert (result.stderr, result.exit_code) == ("error: vip is held by another run\nhint: wait for it\n", 3)
    at_start: SegmentsError = WarehouseError("no connection")
    at_start.exit_code = 2  # type: ignore[misc]
    pipeline.error = at_start
    assert call("status").exit_code == 2


def test_a_bug_shows_where_but_no_values(pipeline: Pipeline) -> None:
    """An unexpected error exits 2 with its traceback and its causes, without their texts."""
    value = "@".join(("ada", "example.com"))  # so that no line of source that a traceback quotes holds it
    try:
        try:
            raise KeyError(value)
        except KeyError as cause:
            raise ValueError(f"could not convert {value!r}") from cause
    except ValueError as error:
        pipeline.error = error
    result = call("sync")
    assert result.exit_code == 2
    assert "ada@" not in result.output
    assert "builtins.KeyError" in result.stderr
    assert "builtins.ValueError" in result.stderr
    assert "test_cli.py" in result.stderr
    assert "this is a bug in dbt-segments" in result.stderr


def test_ctrl_c_says_that_the_next_run_goes_on(pipeline: Pipeline) -> None:
    """An interrupted run ends as a shell expects, with a hint and no traceback."""
    pipeline.error = KeyboardInterrupt()
    result = call("sync")
    assert result.exit_code == 130
    assert "the next run finishes what was under way" in result.stderr
    assert "Traceback" not in result.stderr


# -- destinations try -----------------------------------------------------------------------------------------


def test_try_answers_every_line_in_order() -> None:
    """Each JSON line gets one with exactly what would be sent, or a reason; empty lines get none."""
    lines = [
        '{"identifier": "email", "value": " Ada@Example.com "}',
        "",
        '{"identifier": "phone", "value": "030 123456"}',
        '{"identifier": "phone", "value": "202 555 0143", "country": "US"}',
        '{"identifier": "FN", "value": "Zoë"}',
        '{"identifier": "email", "value": null}',
        '{"identifier": "nonsense", "value": "x"}',
    ]
    result = call("destinations try meta --default-country DE", input="\n".join(lines))
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    sent = [
        hashlib.sha256(text.encode()).hexdigest() for text in ("ada@example.com", "4930123456", "12025550143", "zoë")
    ]
    assert [answer["sent"] for answer in answers] == [*sent, None, None]
    assert [answer["hashed"] for answer in answers] == [True] * 4 + [False] * 2
    assert [answer["reason"] for answer in answers] == [None] * 4 + ["absent", "identifier_not_taken"]
    assert [list(answer) for answer in answers] == [["identifier", "value", "sent", "hashed", "reason"]] * 6
    assert [answer["identifier"] for answer in answers[:4]] == ["email", "phone", "phone", "FN"]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "line", [b"ada@example.com", b'["email", "ada@example.com"]', b'{"value": "ada\xff@example.com"}']
)
def test_try_refuses_what_is_no_json_object(line: bytes) -> None:
    """The error tells the line's number and not its text."""
    result = call("destinations try meta", input=b'{"identifier": "email", "value": "x"}\n' + line)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: stdin, line 2: not a JSON object\n")
    assert "ada" not in result.output


def test_try_knows_the_nearest_type() -> None:
    """A type that does not exist exits 2 with the nearest that does."""
    result = call("destinations try metta", input="")
    assert result.exit_code == 2
    assert "meta" in result.stderr


# -- sandbox --------------------------------------------------------------------------------------------------


def test_the_sandbox_says_where_it_is_and_keeps_its_state(tmp_path: Path) -> None:
    """The first line of stdout is the address; after Ctrl-C the members are in the file, and the exit code is 0."""
    state = tmp_path / "sandbox.json"
    command = [sys.executable, "-m", "dbt_segments", "sandbox", "--port", "0", "--state", str(state)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/_sandbox/state").json()["audiences"] == []
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert json.loads(state.read_text())


def test_the_sandbox_refuses_a_port_in_use(tmp_path: Path) -> None:
    """A taken port and a foreign state file are errors with a hint, not tracebacks."""
    foreign = tmp_path / "foreign.json"
    foreign.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (["--port", str(port)], ["--port", "0", "--state", str(foreign)]):
            command = [sys.executable, "-m", "dbt_segments", "sandbox", *options]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 2
            assert done.stderr.startswith("error: sandbox: ")
            assert "hint: choose another" in done.stderr
            assert "Traceback" not in done.stderr


# -- help -----------------------------------------------------------------------------------------------------


def commands(group: click.Group, path: str = "") -> dict[str, click.Command]:
    """Every command by its words."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{path}{name} ")
        else:
            found[f"{path}{name}"] = command
    return found


def test_the_documented_commands_are_there() -> None:
    """Users script against these names."""
    assert sorted(commands(main)) == sorted(
        [
            *(
                "init",
                "validate",
                "plan",
                "sync",
                "status",
                "list",
                "history",
                "rejects",
                "audiences list",
                "audiences prune",
            ),
            *("audiences adopt", "enable", "disable", "add", "destinations list", "destinations show"),
            *("destinations try", "schema", "sandbox", "demo", "build", "run", "state gc", "doctor"),
        ]
    )


@pytest.mark.parametrize("name", sorted(commands(main)))
def test_help_starts_with_one_sentence_and_shows_an_example(name: str) -> None:
    """The first line of help is a whole sentence, an example of this very command follows."""
    text = call(f"{name} --help").output
    first = text.splitlines()[2].strip()
    assert first.endswith(".")
    assert first.count(". ") == 0
    assert f"dbt-segments {name}" in text.partition("Example:")[2]


@pytest.mark.parametrize("name", ["validate", "plan", "sync", "status", "state gc"])
def test_the_examples_of_help_run(pipeline: Pipeline, name: str) -> None:
    """What help shows can be typed."""
    example = call(f"{name} --help").output.partition("Example:")[2].strip().splitlines()[0]
    assert call(example.rpartition("dbt-segments ")[2]).exit_code == 0
    assert len(pipeline.asked) == 1


def test_version_is_the_packages(pipeline: Pipeline) -> None:
    """`--version` prints the version that is installed."""
    assert call("--version").output == f"dbt-segments, version {dbt_segments.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    """`python -m dbt_segments --help` loads neither dbt nor an engine, client or server."""
    heavy = [
        "dbt.cli",
        "dbt.version",
        "duckdb",
        "httpx",
        "pydantic",
        "uvicorn",
        "starlette",
        "phonenumbers",
        "pycountry",
    ]
    script = (
        "import sys, runpy\n"
        "sys.argv = ['dbt-segments', 'sync', '--help']\n"
        "try: runpy.run_module('dbt_segments', run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"print('heavy:', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage: dbt-segments sync" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"


# -- progress -------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    """A log gets one whole line per message and no control characters."""
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress("shop.vip.meta", "encoding")
        progress("", "reading the manifest")
    assert stream.getvalue() == "shop.vip.meta: encoding\nreading the manifest\n"


def test_progress_rewrites_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is overwritten in full, cut to the width, and gone at the end; there is no colour."""
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with Progress(stream) as progress:
        progress("vip", "sending batch 1 of many")
        progress("vip", "done")
    assert stream.getvalue() == "\rvip: sending batch \rvip: done          \r         \r"
