"""`dbt-segments` as users start it: a process in the sample project, with a sandbox for Meta.

The sample project is built once for the whole file; each test works on a copy of it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.shell import TOKEN, Ended, Platform, command, platform, process
from tests.projects import REPOSITORY, DbtProject, DuckDBWarehouse

SAMPLE = REPOSITORY / "sample_project"
SEGMENTS = ("lapsed_buyers", "big_spenders", "newsletter_readers")
MINE = ("--select", *SEGMENTS)  # those that go to Meta; the demo plays the others
MADE_BY_DBT = shutil.ignore_patterns("package-lock.yml", "target", "dbt_packages", "logs", "*.duckdb*", "__pycache__")
# DESIGN section 10: users script against these.
RUN_KEYS = ["run_id", "started_at", "elapsed_s", "syncs"]
SYNC_KEYS = [
    *("sync_id", "segment", "entity", "destination", "type", "status", "reason", "audience_id", "audience_name"),
    *("members", "added", "changed", "removed", "unchanged", "rejected", "unusable", "refused", "pending"),
    *("unconfirmed", "requests", "retries", "bytes_sent", "elapsed_s", "notes"),
]
STATUS_KEYS = [
    *("sync_id", "destination", "audience_id", "audience_name", "members", "pending", "unconfirmed"),
    *("last_status", "last_finished_at", "next_due", "notes"),
    *("size_lower", "size_upper", "match_rate", "sized_at"),
]
DIGEST = re.compile("[0-9a-fA-F]{64}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample project after `dbt build`."""
    project = tmp_path_factory.mktemp("built") / "shop"
    shutil.copytree(SAMPLE, project, ignore=MADE_BY_DBT)
    (project / "dbt_packages").mkdir()
    (project / "dbt_packages/dbt_segments").symlink_to(REPOSITORY, target_is_directory=True)
    DbtProject(project, DuckDBWarehouse(project / "shop.duckdb")).dbt("build")
    return project


@pytest.fixture
def meta() -> Iterator[Platform]:
    with platform() as one:
        yield one


@pytest.fixture
def shop(built: Path, meta: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtProject:
    """A copy of it, whose destination is this test's sandbox; this process stands in its folder, as its shell does."""
    path = tmp_path / "shop"
    shutil.copytree(built, path, symlinks=True)
    monkeypatch.chdir(path)
    monkeypatch.setenv("DBT_SEGMENTS_SANDBOX_URL", meta.serving.url)
    return DbtProject(path, DuckDBWarehouse(path / "shop.duckdb"))


def customers(shop: DbtProject) -> list[dict[str, str]]:
    with (shop.path / "seeds/raw_customers.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def private(shop: DbtProject) -> set[str]:
    """Raw values that no output may show: e-mail addresses and phone numbers, as they are and in lower case."""
    raw = {customer[name].strip() for customer in customers(shop) for name in ("email", "phone")}
    return {text for value in raw for text in (value, value.lower()) if len(value) > 4}


def assert_private(shop: DbtProject, *outputs: Ended) -> None:
    """No raw identifier, no whole hash and no secret is in what a command printed."""
    text = "".join(output.stdout + output.stderr for output in outputs)
    assert [value for value in private(shop) if value in text] == []
    assert DIGEST.search(text) is None
    assert TOKEN not in text


def counts(done: Ended) -> dict[str, tuple[int, ...]]:
    """Segment -> members, added, changed, removed, unchanged, rejected, unusable, refused, pending."""
    return {name: tuple(row[key] for key in SYNC_KEYS[9:18]) for name, row in done.syncs().items()}


# -- the ordinary day -----------------------------------------------------------------------------------------


def test_validate_plan_sync_status(shop: DbtProject, meta: Platform) -> None:
    """The four commands of a first day, in both formats: what the plan said is what was sent, once."""
    checked = process(shop, "validate", "--output", "json")
    assert (checked.code, checked.stderr) == (0, "")
    assert json.loads(checked.stdout) == {"problems": [], "warnings": [], "segments": 7, "entities": 2, "syncs": 15}

    planned = process(shop, "plan", *MINE, "--show-requests", "2", "--output", "json")
    assert planned.code == 0, planned
    plan = json.loads(planned.stdout)
    assert list(plan) == [*RUN_KEYS, "requests"]
    assert sorted(plan["requests"]) == sorted(f"shop.{segment}.meta" for segment in SEGMENTS)
    for texts in plan["requests"].values():
        assert texts
        assert all("POST" in text and '"EMAIL"' in text for text in texts)
    assert meta.requests() == 0
    assert_private(shop, planned)

    synced = process(shop, "sync", *MINE, "--output", "json")
    assert synced.code == 0, synced
    run = json.loads(synced.stdout)
    assert list(run) == RUN_KEYS
    assert [list(row) for row in run["syncs"]] == [SYNC_KEYS] * 3
    assert run == json.loads((shop.path / "target/dbt_segments_results.json").read_text())
    assert {row["status"] for row in run["syncs"]} == {"success"}
    assert counts(synced) == counts(planned)
    for row in run["syncs"]:
        arrived = meta.members()[row["audience_name"]]
        assert sum(field == "EXTERN_ID" for field, _ in arrived) == row["added"]
    assert meta.requests() == sum(row["requests"] for row in run["syncs"])
    assert {row["audience_id"] for row in run["syncs"]} == {a["id"] for a in meta.serving.state()["audiences"]}
    assert_private(shop, synced)

    known = process(shop, "status", *MINE, "--output", "json")
    assert known.code == 0, known
    rows = json.loads(known.stdout)["syncs"]
    assert [list(row) for row in rows] == [STATUS_KEYS] * 3
    added = {row["sync_id"]: row["added"] for row in run["syncs"]}
    assert {row["sync_id"]: row["members"] for row in rows} == added
    assert {row["last_status"] for row in rows} == {"success"}
    assert all(row["next_due"] > row["last_finished_at"] for row in rows)
    assert meta.violations() == []


def test_a_second_sync_sends_nothing(shop: DbtProject, meta: Platform) -> None:
    """It is not due the same day; with --now it is, and there is nothing to do; the text says both."""
    assert command(shop, "sync", *MINE).code == 0
    before = meta.writes(), meta.members()
    again = command(shop, "sync", *MINE, "--output", "json")
    assert again.code == 0
    assert {(row["status"], row["reason"]) for row in again.syncs().values()} == {("skipped", "not_due")}
    now = command(shop, "sync", "--now", "--select", "big_spenders")
    assert now.code == 0
    assert re.match(r"big_spenders -> meta +up to date, \d+ members", now.stdout), now
    assert (meta.writes(), meta.members()) == before


def test_plan_as_text_shows_masked_requests(shop: DbtProject, meta: Platform) -> None:
    """For people, too: the request's place and form, nothing of a hash or an id, no secret."""
    planned = command(shop, "plan", "--select", "newsletter_readers", "--show-requests", "1")
    assert planned.code == 0, planned
    assert "nothing was sent" in planned.stdout
    (line,) = (line for line in planned.stdout.splitlines() if line.strip().startswith("payload: "))
    payload = json.loads(line.partition("payload: ")[2])
    assert payload["schema"] == ["EMAIL", "EXTERN_ID"]
    assert payload["data"]
    for hashed, own in payload["data"]:
        assert hashed == "<sha256>"
        assert own == "***"
    assert_private(shop, planned)
    assert meta.requests() == 0


def test_a_target_that_may_not_send_plans(shop: DbtProject, meta: Platform) -> None:
    """Without leave the same command counts what it would send, sends nothing, and is content."""
    planned = command(shop, "plan", *MINE, "--output", "json")
    done = process(shop, "sync", *MINE, "--output", "json", "--vars", "{dbt_segments: {targets: [prod]}}")
    assert done.code == 0, done
    for row in done.syncs().values():
        assert (row["status"], row["requests"], row["audience_id"]) == ("skipped", 0, None)
        assert row["reason"].startswith("target_not_allowed")
        assert row["added"] > 0
    assert counts(done) == counts(planned)
    assert meta.requests() == 0
    text = command(shop, "sync", *MINE, "--vars", "{dbt_segments: {targets: [prod]}}")
    assert text.code == 0
    assert "dev may not send" in text.stdout
    assert command(shop, "sync", *MINE).code == 0  # nothing of the refusal is remembered
    assert meta.requests() > 0


@pytest.mark.slow
def test_another_folder_and_dbts_variables(shop: DbtProject, meta: Platform, tmp_path: Path) -> None:
    """Options and dbt's own variables name the project, from wherever the command is started."""
    profiles = shop.path / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("shop.duckdb", str(shop.path / "shop.duckdb")))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    planned = command(shop, "plan", *MINE, "--output", "json")
    assert planned.code == 0, planned
    variables = {"DBT_PROJECT_DIR": str(shop.path), "DBT_PROFILES_DIR": str(shop.path)}
    same = process(shop, "plan", *MINE, "--output", "json", cwd=folder, env=variables)
    assert counts(same) == counts(planned)
    assert list(folder.iterdir()) == []


# -- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_token_that_is_not_set(shop: DbtProject, meta: Platform) -> None:
    """The message names file, connection, key and variable; only the syncs of other connections go on."""
    connections = shop.path / "destinations.yml"
    connections.write_text(
        re.sub(r"env_var\('META_ACCESS_TOKEN', '[^']*'\)", "env_var('META_TOKEN')", connections.read_text())
    )
    for run, words, code in (
        (process, ("sync",), 1),
        (process, ("sync", *MINE), 2),
        (command, ("plan",), 1),
        (command, ("validate",), 2),
    ):
        done = run(shop, *words)
        assert done.code == code, done
        assert "META_TOKEN" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert "destinations.yml" in done.stdout + done.stderr
    assert command(shop, "list").code == command(shop, "status").code == 0
    assert meta.members() == {}


def test_a_token_that_is_refused(shop: DbtProject, meta: Platform) -> None:
    """A wrong token fails every sync with exit code 1 and the platform's code, and is not repeated to anybody."""
    done = process(shop, "sync", *MINE, "--output", "json", env={"META_ACCESS_TOKEN": "wrong-secret-token"})
    assert done.code == 1, done
    for row in done.syncs().values():
        assert row["status"] == "failed"
        assert "190" in row["reason"]
        assert row["added"] == 0
    assert "wrong-secret-token" not in done.stdout + done.stderr
    assert meta.members() == {}
    assert command(shop, "sync", *MINE).code == 0
    assert sorted(meta.members()) == ["Big spenders", "Lapsed buyers", "Newsletter readers"]


@pytest.mark.slow
def test_a_platform_that_is_away(shop: DbtProject, meta: Platform) -> None:
    """Where nobody listens the failure may pass by itself: exit code 3, and the next sync does it all."""
    profiles = yaml.safe_load((shop.path / "destinations.yml").read_text())
    profiles["meta"]["timeout_s"] = 1
    away = shop.write("away/destinations.yml", yaml.safe_dump(profiles))
    shutil.copyfile(shop.path / "profiles.yml", away.parent / "profiles.yml")
    done = process(
        shop,
        *("sync", "--output", "json", "--select", "big_spenders", "--profiles-dir", str(away.parent)),
        env={"DBT_SEGMENTS_SANDBOX_URL": "http://127.0.0.1:1"},
    )
    assert done.code == 3, done
    assert done.sync()["status"] == "failed"
    assert command(shop, "sync", "--select", "big_spenders").code == 0
    assert list(meta.members()) == ["Big spenders"]


def test_a_column_that_is_not_there(shop: DbtProject, meta: Platform) -> None:
    """`validate` finds it where dbt's catalog knows the columns; else the sync of each segment is held for it."""
    schema = shop.path / "models/schema.yml"
    schema.write_text(schema.read_text().replace("email: email", "email: e_mail", 1))
    shop.run("parse")
    done = command(shop, "sync", *MINE, "--output", "json")
    assert done.code == 1, done
    for row in done.syncs().values():
        assert row["status"] == "held"
        assert row["reason"].startswith("column_missing: ")
        assert "e_mail" in row["reason"]
    assert meta.requests() == 0
    shop.run("docs", "generate")
    checked = command(shop, "validate", "--output", "json")
    assert checked.code == 2
    (problem,) = json.loads(checked.stdout)["problems"]
    assert problem["file"] == "models/schema.yml"
    assert problem["model"] == "customers"
    assert problem["key"].startswith("entity.identifiers.email")
    assert "e_mail" in problem["message"]
    assert "email" in problem["hint"]


def test_an_empty_segment(shop: DbtProject, meta: Platform) -> None:
    """A segment of nobody is held, with exit code 1 and in words; the other two go out."""
    shop.sql("delete from main.big_spenders")
    done = command(shop, "sync", *MINE)
    assert done.code == 1, done
    lines = done.stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("big_spenders -> meta"))
    assert "held" in lines[place]
    assert lines[place + 1] == "  segment_empty: big_spenders has no members"
    assert "1 held" in lines[-1]
    assert sorted(meta.members()) == ["Lapsed buyers", "Newsletter readers"]


def test_mistakes_are_told_before_anything_starts(shop: DbtProject, meta: Platform) -> None:
    """An unknown segment, option, target or project ends with exit code 2 and a sentence on stderr."""
    unknown = command(shop, "sync", "--select", "big_spendrs")
    assert unknown.code == 2
    assert unknown.stderr.startswith("error: nothing matches big_spendrs")
    assert command(shop, "sync", "--no-such-option").code == 2
    target = command(shop, "sync", "--target", "prod")
    assert target.code == 2
    assert "prod" in target.stderr
    wrong = command(shop, "sync", *MINE, "--vars", "{dbt_segments: {target: dev}}")
    assert wrong.code == 2
    assert "targets" in wrong.stderr  # the nearest spelling
    assert meta.requests() == 0


def test_a_project_that_was_never_built(shop: DbtProject, meta: Platform) -> None:
    """Without a database file, and without a manifest, the message says what to run first, and makes no file."""
    (shop.path / "shop.duckdb").unlink()
    done = command(shop, "sync", *MINE)
    assert done.code == 2
    assert "there is no DuckDB file" in done.stderr
    assert "dbt build" in done.stderr
    assert not (shop.path / "shop.duckdb").exists()
    shutil.rmtree(shop.path / "target")
    for words in ("sync", "plan", "validate", "status"):
        done = command(shop, words)
        assert done.code == 2
        assert "manifest.json" in done.stderr
        assert "dbt" in done.stderr
    assert meta.requests() == 0


# -- destinations try -----------------------------------------------------------------------------------------


def test_try_says_what_a_sync_sends(shop: DbtProject, meta: Platform) -> None:
    """What `destinations try` answers for the members of an audience is exactly what arrives there."""
    assert command(shop, "sync", "--select", "newsletter_readers").code == 0
    (arrived,) = meta.members().values()
    ids = {value for field, value in arrived if field == "EXTERN_ID"}
    asked: list[dict[str, Any]] = [
        {"identifier": "email", "value": customer["email"]}
        for customer in customers(shop)
        if customer["customer_id"] in ids
    ]
    done = process(shop, "destinations", "try", "meta", stdin="".join(f"{json.dumps(line)}\n" for line in asked))
    assert (done.code, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(asked)
    assert {("EMAIL", answer["sent"]) for answer in answers if answer["sent"]} == arrived - {
        ("EXTERN_ID", own) for own in ids
    }


def test_try_needs_no_project(tmp_path: Path, shop: DbtProject) -> None:
    """It reads lines and answers each, in any folder."""
    lines = (
        '{"identifier": "email", "value": " Mary@Example.com "}\n'
        '{"identifier": "phone", "value": "020 7946 0958", "country": "United Kingdom"}\n'
        '{"identifier": "email", "value": "nobody"}\n'
    )
    done = process(shop, "destinations", "try", "meta", stdin=lines, cwd=tmp_path)
    assert done.code == 0, done
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["sent"] for answer in answers] == [
        hashlib.sha256(b"mary@example.com").hexdigest(),
        hashlib.sha256(b"442079460958").hexdigest(),
        None,
    ]
    assert [answer["reason"] for answer in answers] == [None, None, "email_invalid"]
    assert all(list(answer) == ["identifier", "value", "sent", "hashed", "reason"] for answer in answers)
