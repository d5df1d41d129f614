"""Project settings, options, and destinations.yml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbt_segments.connections import Connections, read_connections
from dbt_segments.destinations import registry
from dbt_segments.errors import SettingsError
from dbt_segments.settings import find_destinations_file, read_project_settings, resolve_options
from dbt_segments.values import Hold
from tests import platforms

Read = Callable[..., Connections]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """`read(yaml, **env)` reads a destinations.yml whose types are those of tests/platforms.py."""
    monkeypatch.setattr(registry, "get", platforms.get)
    monkeypatch.setattr(registry, "names", platforms.names)

    def read(text: str, **env: str) -> Connections:
        path = tmp_path / "destinations.yml"
        path.write_text(text, encoding="utf-8")
        return read_connections(path, env)

    return read


def told(connections: Connections) -> dict[str, list[tuple[str, str, str]]]:
    return {
        name: [(problem.key, problem.message, problem.hint) for problem in problems]
        for name, problems in connections.problems.items()
    }


# -- vars ---------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    """Without settings nothing may send, and everything else has its documented value."""
    settings = read_project_settings({"other": 1})
    assert (settings.targets, settings.timezone, settings.fail_dbt, settings.memory_limit) == ((), "UTC", True, "1GB")
    assert settings.hold == Hold()


def test_each_inner_key_overrides_singly() -> None:
    """The command line changes what it names and leaves the rest, inside `hold` too."""
    project = {"targets": ["prod"], "timezone": "Europe/Berlin", "hold": {"remove_members": 5, "tests": "warn"}}
    cli = {"targets": "dev", "hold": {"tests": "ignore"}, "schema": "audiences"}
    settings = read_project_settings({"dbt_segments": project}, {"dbt_segments": cli})
    assert (settings.targets, settings.timezone, settings.state_schema) == (("dev",), "Europe/Berlin", "audiences")
    assert settings.hold == Hold(remove_members=5, tests="ignore")


@pytest.mark.parametrize(
    ("block", "key", "text"),
    [
        ({"target": ["prod"]}, "target", "did you mean `targets`?"),
        ({"timezone": "Europe/Berlni"}, "timezone", "did you mean `Europe/Berlin`?"),
        ({"timezone": "../etc/passwd"}, "timezone", "is no IANA time zone"),
        ({"default_country": "XX"}, "default_country", "is no ISO 3166 country"),
        ({"default_country": "UK"}, "default_country", "use GB"),
        ({"default_country": False}, "default_country", "quotes"),
        ({"hold": {"empty": "never"}}, "hold.empty", "must be 'hold', 'warn' or 'ignore'"),
        ({"hold": {"remove_fraction": 30}}, "hold.remove_fraction", "less than or equal to 1"),
        ({"hold": {"remove_member": 3}}, "hold.remove_member", "did you mean `remove_members`?"),
        ({"memory_limit": "lots"}, "memory_limit", "512MB"),
        ({"state": {"target": "x"}}, "state.profile", "is required"),
    ],
)
def test_a_mistake_in_vars_is_told_by_its_key(block: dict[str, Any], key: str, text: str) -> None:
    """Each mistake names the file, the key and what to write."""
    with pytest.raises(SettingsError) as caught:
        read_project_settings({"dbt_segments": block})
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == ("dbt_project.yml", f"vars.dbt_segments.{key}")
    assert text in str(problem)


def test_a_mistake_on_the_command_line_is_told_as_such() -> None:
    """The file that is named is where the mistake is."""
    with pytest.raises(SettingsError) as caught:
        read_project_settings({"dbt_segments": {"timezone": "UTC"}}, {"dbt_segments": {"timezone": "Mars"}})
    assert [problem.file for problem in caught.value.problems] == ["--vars"]


def test_a_country_is_read_in_either_case() -> None:
    """`default_country: de` is Germany."""
    assert read_project_settings({"dbt_segments": {"default_country": "de"}}).default_country == "DE"


# -- options ------------------------------------------------------------------------------------------------------


def test_options_come_from_the_nearest_project(tmp_path: Path) -> None:
    """Inside a project nothing needs to be said."""
    (tmp_path / "dbt_project.yml").touch()
    inner = tmp_path / "models" / "marts"
    inner.mkdir(parents=True)
    options = resolve_options(env={}, cwd=inner)
    assert (options.project_dir, options.target_path, options.profiles_dir) == (tmp_path, tmp_path / "target", None)


def test_options_win_over_the_environment(tmp_path: Path) -> None:
    """An option is nearer than a variable; relative paths start at the working folder, the target's at the project."""
    env = {"DBT_PROJECT_DIR": "a", "DBT_PROFILES_DIR": "b", "DBT_TARGET": "ci", "DBT_TARGET_PATH": "out"}
    from_env = resolve_options(env=env, cwd=tmp_path)
    assert (from_env.project_dir, from_env.profiles_dir) == (tmp_path / "a", tmp_path / "b")
    assert (from_env.target, from_env.target_path) == ("ci", tmp_path / "a" / "out")
    given = resolve_options(env=env, cwd=tmp_path, project_dir="c", profiles_dir="/d", target="prod", vars="{a: 1}")
    assert (given.project_dir, given.profiles_dir, given.target) == (tmp_path / "c", Path("/d"), "prod")
    assert given.vars == {"a": 1}


@pytest.mark.parametrize("text", ["[1]", "{a: ", "word"])
def test_vars_must_be_a_mapping(text: str) -> None:
    """Anything else is refused before it is used."""
    with pytest.raises(SettingsError):
        resolve_options(env={}, vars=text)


def test_destinations_file_is_searched_in_dbts_order(tmp_path: Path) -> None:
    """A named folder alone; else the working folder, else ~/.dbt."""
    folders = {name: tmp_path / name for name in ("option", "variable", "work", "home/.dbt")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    where = {"cwd": folders["work"], "home": tmp_path / "home"}
    env = {"DBT_PROFILES_DIR": str(folders["variable"])}

    def find(profiles_dir: Path | None, env: dict[str, str]) -> Path | None:
        return find_destinations_file(profiles_dir, env, **where)

    assert find(None, {}) is None
    for name in ("home/.dbt", "work"):
        (folders[name] / "destinations.yml").touch()
        assert find(None, {}) == folders[name] / "destinations.yml"
    assert find(None, env) is None
    (folders["variable"] / "destinations.yml").touch()
    assert find(None, env) == folders["variable"] / "destinations.yml"
    assert find(folders["option"], env) is None


# -- destinations.yml ---------------------------------------------------------------------------------------------


def test_a_connection_is_rendered_and_validated(read: Read) -> None:
    """env_var() is filled in, numbers stay as written, and the name is the default of the type."""
    text = """
    acme:
      account_id: 0012
      api_version: 2026-07-15
      timeout_s: "{{ env_var('TIMEOUT', 30) }}"
      access_token: "{{ env_var('DBT_ENV_SECRET_TOKEN') }}"
      app_secret: "{{ env_var('NONE', '') }}"
    second: {type: acme_ads, account_id: 9, access_token: t, base_url: "http://127.0.0.1:8080"}
    """
    connections = read(text, DBT_ENV_SECRET_TOKEN="s3cr3t")
    assert connections.problems == {}
    first = connections.ok["acme"]
    assert (first.type, first.settings.account_id, first.settings.timeout_s) == ("acme_ads", "0012", 30.0)
    assert (first.settings.api_version, first.settings.app_secret) == ("2026-07-15", None)
    assert first.settings.access_token.get_secret_value() == "s3cr3t"
    assert "s3cr3t" not in repr(connections)
    assert connections.ok["second"].settings.base_url == "http://127.0.0.1:8080"


def test_a_missing_variable_blocks_only_its_connection(read: Read) -> None:
    """It is told once, by name, and the other connections work."""
    text = """
    acme: {account_id: 1, access_token: "{{ env_var('TOKEN') }}"}
    other: {type: acme, account_id: 1, access_token: t}
    """
    connections = read(text)
    assert list(connections.ok) == ["other"]
    assert set(connections.types) == {"acme", "other"}
    assert told(connections) == {
        "acme": [("access_token", "environment variable TOKEN is not set", "set TOKEN, or give env_var() a default")]
    }


def test_a_variable_set_to_nothing_is_told(read: Read) -> None:
    """CI systems hand out empty texts for secrets that they do not have."""
    connections = read("acme: {account_id: 1, access_token: \"{{ env_var('TOKEN') }}\"}", TOKEN="")
    assert [(key, message) for key, message, _ in told(connections)["acme"]] == [("access_token", "is empty")]


def test_mistakes_have_the_nearest_spelling(read: Read) -> None:
    """Types and keys are both looked up, and all mistakes come together."""
    text = """
    acme: {acount_id: 1, access_token: t, timeout_s: long}
    other: {type: acme_adz}
    """
    found = told(read(text))
    assert ("acount_id", "unknown key", "did you mean `account_id`?") in found["acme"]
    assert [key for key, _, _ in found["acme"]] == ["timeout_s", "account_id", "acount_id"]
    assert found["other"] == [("type", "`acme_adz` is no destination type", "did you mean `acme_ads`?")]


@pytest.mark.parametrize(
    ("url", "private", "message"),
    [
        ("https://ads.example.com/v1", False, None),
        ("http://localhost:1", False, None),
        ("http://[::1]:1", False, None),
        ("http://10.0.0.8", True, None),
        ("http://10.0.0.8", False, "must start with https://"),
        ("http://ads.example.com", False, "must start with https://"),
        ("http://127.0.0.1.example.com", False, "must start with https://"),
        ("ftp://127.0.0.1", False, "must be an https:// URL"),
        ("https://me:hunter22@ads.example.com", False, "must not hold credentials"),
    ],
)
def test_secrets_travel_only_over_tls_or_loopback(read: Read, url: str, private: bool, message: str | None) -> None:
    """Plain http is for loopback written as such, or for who asks for it by name."""
    text = f"acme: {{account_id: 1, access_token: t, base_url: '{url}', allow_private: {str(private).lower()}}}"
    found = told(read(text)).get("acme", [])
    assert [(key, text) for key, text, _ in found] == ([("base_url", message)] if message else [])


@pytest.mark.parametrize(
    "text",
    [
        "acme: {account_id: [hunter22], access_token: {a: hunter22}}",
        "acme: {account_id: 1, access_token: t, timeout_s: hunter22}",
        "acme: {account_id: 1, access_token: t, base_url: 'http://hunter22.example.com'}",
        'acme: {account_id: 1, access_token: "{{ hunter22\' }}"}',
        "acme: {account_id: 1, access_token: 'hunter22}",
        "acme: {account_id: 1, access_token: t, region: hunter22}",
        "acme: [hunter22]",
        "- hunter22",
        "acme:\n  access_token: hunter22: x",
    ],
)
def test_no_problem_repeats_a_value(read: Read, text: str) -> None:
    """What stands in the file may be a secret, even where it stands wrongly."""
    connections = read(text)
    assert connections.problems
    assert "hunter22" not in str([str(problem) for found in connections.problems.values() for problem in found])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acme: {a: 1}\nacme: {a: 2}", "line 1: `acme` stands there twice"),
        ("acme: {a: 1\nb", "is not valid YAML"),
        ("- acme", "must be a mapping"),
    ],
)
def test_an_unreadable_file_is_one_problem(read: Read, text: str, message: str) -> None:
    """A file that cannot be trusted yields no connection, and says where to look."""
    connections = read(text)
    assert not connections.ok
    assert message in str(connections.problems[""][0])


def test_only_env_var_is_known(read: Read) -> None:
    """destinations.yml is no place for other Jinja."""
    found = told(read('acme: {account_id: "{{ target.name }}", access_token: t}'))
    assert found["acme"][0] == ("account_id", "'target' is undefined", "only env_var() is known here")


def test_no_file_means_no_connections() -> None:
    """A project without destinations needs no file."""
    assert read_connections(None, {}) == Connections()
