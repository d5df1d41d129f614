"""`doctor`: what it says of a connection is what the platform says, and nothing is changed there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dbt_segments import doctor, retry
from dbt_segments.cli import main
from dbt_segments.connections import read_connections
from dbt_segments.destinations import registry
from dbt_segments.destinations.base import Audience, Finding
from dbt_segments.destinations.meta import Meta, MetaSettings
from dbt_segments.sandbox.server import build, platforms, serve
from dbt_segments.send import Sender
from tests.one_click.case import cases
from tests.projects import REPOSITORY, DuckDBWarehouse
from tests.scripted.destination import Scripted, registered
from tests.scripted.server import serve_scripted
from tests.world import World, make_world, sandbox


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with sandbox() as serving:
        yield make_world(tmp_path / "shop", duckdb_warehouse, serving)


def call(world: World, *words: str) -> Result:
    folder = str(world.project.path)
    place = ["--project-dir", folder, "--profiles-dir", folder]
    return CliRunner().invoke(main, ["doctor", *words, *place], prog_name="dbt-segments")


def told(world: World, *words: str) -> dict[str, tuple[str, str]]:
    """What was looked at -> level and words, of the only connection."""
    world.write()
    done = call(world, *words, "--output", "json")
    assert done.exit_code in (0, 1), done.output
    (one,) = json.loads(done.stdout)["connections"]
    found = {finding["what"]: (finding["level"], finding["said"]) for finding in one["findings"]}
    assert done.exit_code == int("wrong" in {level for level, _ in found.values()})
    return found


def policy(world: World, **wanted: Any) -> None:
    assert world.serving is not None
    world.serving.sandbox.platforms["meta"].policy.update(wanted)


def test_a_good_connection_is_good(world: World) -> None:
    """Everything that Meta says is asked for, and nothing that changes anything; no token stands in a URL."""
    found = told(world)
    assert {what: level for what, (level, _) in found.items()} == dict.fromkeys(
        ("settings", "version", "credentials", "token", "scopes", "account", "terms"), "ok"
    )
    assert [call["op"] for call in world.calls()] == ["debug_token", "account"]
    assert world.audiences() == []
    assert world.serving is not None
    assert world.serving.state()["violations"]["meta"] == []
    text = call(world)
    assert text.stdout.splitlines()[0] == "meta (meta, v26.0)"
    assert text.stdout.splitlines()[-1] == "1 connection, 0 findings wrong, 0 warnings"
    assert "sandbox-token" not in text.output


@pytest.mark.parametrize(
    ("settings", "wanted", "what", "level", "words"),
    [
        ({"access_token": "other"}, {}, "credentials", "wrong", "token"),
        ({}, {"scopes": ["ads_read"]}, "scopes", "wrong", "ads_management"),
        ({}, {"terms_accepted": False}, "terms", "wrong", "not accepted"),
        ({}, {"token_days": 5.5}, "token", "warning", "5 days"),
        ({}, {"token_days": 50.5}, "token", "ok", "50 days"),
        ({"api_version": "v25.0"}, {}, "version", "unknown", "v25.0, set by `api_version`"),
        ({"api_version": "v19.0"}, {}, "platform", "wrong", "version has ended"),
    ],
)
def test_what_is_wrong_is_named(
    world: World, settings: dict[str, Any], wanted: dict[str, Any], what: str, level: str, words: str
) -> None:
    """Each trouble is its own finding, with a remedy where it is wrong."""
    world.connections = {"meta": world.meta(**settings)}
    policy(world, **wanted)
    found = told(world)
    assert found[what][0] == level
    assert words in found[what][1]


@pytest.mark.parametrize("name", ["linkedin", "pinterest"])
@pytest.mark.parametrize(("days", "level"), [(5.5, "warning"), (13.5, "warning"), (14.5, "ok"), (300.5, "ok")])
def test_how_long_a_refresh_token_lasts(
    tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, name: str, days: float, level: str
) -> None:
    """What the platform says when the token is used stands in place of the rule; from 14 days on it is a warning."""
    (case,) = [case for case in cases() if case.name == name]
    with serve(sandbox=build((name,))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.connections = {name: case.connection(f"{serving.url}/{name}", tmp_path)}
        world.segments = {"vip": {"destinations": [name]}}
        serving.sandbox.platforms[name].policy["refresh_days"] = days
        assert told(world)["token"] == (level, f"the refresh token ends in {int(days)} days")


def test_a_token_of_which_nothing_is_said_is_unknown(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> None:
    """LinkedIn tells the end of a refresh token when it is used, of a fixed one only to the app."""
    with serve(sandbox=build(("linkedin",))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        (case,) = [case for case in cases() if case.name == "linkedin"]
        connection = case.connection(f"{serving.url}/linkedin", tmp_path)
        world.connections = {"linkedin": connection}
        world.segments = {"vip": {"destinations": ["linkedin"]}}
        serving.sandbox.platforms["linkedin"].policy["refresh_days"] = None
        level, said = told(world)["token"]
        assert (level, "365 days" in said) == ("unknown", True)
        kept = {"type", "base_url", "ad_account_id", "source_platform"}
        fixed = {key: value for key, value in connection.items() if key in kept}
        world.connections = {"linkedin": {**fixed, "access_token": "sandbox-token"}}
        level, said = told(world)["token"]
        assert (level, "60 days" in said) == ("unknown", True)


def test_a_token_that_cannot_be_inspected_is_asked_for_its_permissions(world: World) -> None:
    """An app that may not inspect tokens still learns the scopes; when the token ends is not known."""
    policy(world, may_inspect=False)
    found = told(world)
    assert [found[what][0] for what in ("credentials", "scopes", "token")] == ["ok", "ok", "unknown"]
    policy(world, scopes=["ads_read"])
    assert told(world)["scopes"][0] == "wrong"


def test_a_missing_secret_is_a_finding(world: World) -> None:
    """A connection in use whose variable is not set is told of, and nothing is asked."""
    world.connections = {"meta": world.meta(access_token="{{ env_var('NO_SUCH_TOKEN') }}")}
    found = told(world)
    assert found == {"settings": ("wrong", "access_token: environment variable NO_SUCH_TOKEN is not set")}
    assert world.calls() == []


def test_the_sandbox_takes_what_its_documentation_says(tmp_path: Path) -> None:
    """The connections that the page of the commands shows log in at every platform."""
    page = (REPOSITORY / "docs/reference/cli.md").read_text(encoding="utf-8")
    text = page.partition("<!-- generated: sandbox -->\n```yaml\n")[2].partition("```\n")[0]
    with serve(sandbox=build(tuple(platforms()))) as serving:
        file = tmp_path / "destinations.yml"
        file.write_text(text.replace("http://127.0.0.1:8199", serving.url), encoding="utf-8")
        connections = read_connections(file, {}, tmp_path)
        assert connections.problems == {}
        assert {cls.type for cls in connections.types.values()} >= platforms().keys()
        for name in connections.names:
            found = doctor.checkup(name, connections)
            assert {doctor.level(one) for one in found.findings} <= {"ok", "unknown", "warning"}, found


@pytest.mark.parametrize("words", [(), ("meta",)])
def test_a_suppression_model_that_is_not_there_is_a_finding(world: World, words: tuple[str, ...]) -> None:
    """No sync of the connection would start for it; the platform is asked all the same."""
    world.connections = {"meta": world.meta(suppress=["opt_outs"])}
    found = told(world, *words)
    level, said = found["settings"]
    assert (level, said.startswith("suppress: there is no model, seed, snapshot or source `opt_outs`")) == (
        "wrong",
        True,
    )
    assert found["credentials"][0] == "ok"


def test_a_platform_that_is_down_is_a_finding(world: World) -> None:
    """No answer is not an error of the command."""
    world.connections = {"meta": world.meta(base_url="http://127.0.0.1:9", timeout_s=1)}
    assert told(world)["platform"][0] == "wrong"


def test_only_connections_in_use_or_named_are_looked_at(world: World) -> None:
    """An unused connection is left alone; a named one needs no manifest; a wrong name is an error with a guess."""
    world.connections = {"meta": world.meta(), "spare": world.meta(ad_account_id="77")}
    world.write()
    names = [one["connection"] for one in json.loads(call(world, "--output", "json").stdout)["connections"]]
    assert names == ["meta"]
    (world.project.path / "target" / "manifest.json").unlink()
    assert call(world, "spare").stdout.startswith("spare (meta, v26.0)")
    wrong = call(world, "spaer")
    assert wrong.exit_code == 2
    assert "there is no connection `spaer`" in wrong.stderr
    assert "spare" in wrong.stderr
    assert call(world).exit_code == 2


def test_what_cannot_be_asked_is_said(world: World, tmp_path: Path) -> None:
    """A webhook would have to be sent to: its settings are looked at, and that is all."""
    world.connections = {"hook": {"type": "webhook", "url": f"{world.url}/webhook", "signature": "none"}}
    world.segments = {"vip": {"syncs": [{"to": "hook", "mode": "upsert"}]}}
    assert told(world)["platform"][0] == "unknown"


@pytest.mark.parametrize(("days", "level"), [(400, "ok"), (61, "ok"), (60, "warning"), (0, "warning"), (-1, "wrong")])
def test_the_end_of_a_version_is_told_sixty_days_before(
    world: World, monkeypatch: pytest.MonkeyPatch, days: int, level: str
) -> None:
    """The program's own version: fine, then a warning, then wrong. One that is set by hand has no known end."""
    last = datetime.now(timezone.utc).date() + timedelta(days=days)
    with registered(), serve_scripted() as serving:
        monkeypatch.setattr(Scripted, "sunset", last.isoformat())
        world.connections = {"acme": {"type": "scripted", "base_url": serving.url}}
        world.segments = {"vip": {"destinations": ["acme"]}}
        assert told(world)["version"][0] == level
        world.connections["acme"]["api_version"] = "v2"
        assert told(world)["version"][0] == "unknown"


def test_every_sunset_is_a_date() -> None:
    """The declarations can be read."""
    for name in registry.names():
        sunset = registry.get(name).sunset
        assert sunset is None or date.fromisoformat(sunset)


def test_an_audience_of_meta_is_deleted_once(world: World) -> None:
    """Deleting what is gone already is done."""
    assert world.serving is not None
    settings = MetaSettings(ad_account_id="42", access_token="sandbox-token", base_url=f"{world.serving.url}/meta")
    destination = Meta(settings)
    with Sender(destination) as sender:
        made: Audience = sender.play(destination.create("VIP", "dbt-segments:s:x:1"))
        sender.play(destination.delete(made))
        assert world.audiences() == []
        sender.play(destination.delete(made))


def test_levels() -> None:
    """What is not known and has a remedy is a warning."""
    cases = [(True, "", "ok"), (False, "", "wrong"), (None, "", "unknown"), (None, "do it", "warning")]
    assert [doctor.level(Finding("x", good, "said", hint)) for good, hint, _ in cases] == [level for *_, level in cases]
