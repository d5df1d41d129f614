"""init: files are made or edited, comments stay, a second run changes nothing, and what cannot be edited is printed."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dbt_segments import initial
from dbt_segments.cli import main
from dbt_segments.connections import read_connections
from dbt_segments.destinations import base
from tests.e2e.shell import process
from tests.projects import HOOK, REPOSITORY, DuckDBWarehouse, make_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project as users have them, with a profile in its own folder."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: shop.duckdb}}}\n")
    (folder / "dbt_project.yml").write_text("# our shop\nname: shop # theirs\nprofile: 'shop'\n")
    return folder


def call(project: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["init", *words, "--project-dir", str(project)], prog_name="dbt-segments")


def done(result: Result) -> dict[str, str]:
    """What was done, by file and what; from the JSON of a second way to print."""
    return {f"{Path(step['file']).name} {step['what']}": step["done"] for step in json.loads(result.stdout)["steps"]}


def test_a_bare_project_is_prepared(project: Path) -> None:
    """Every file says what the README tells users to write, and what stood there stays."""
    result = call(project, "--output", "json")
    assert result.exit_code == 0, result.stderr
    assert done(result) == {
        "packages.yml packages": "created",
        "dbt_project.yml on-run-end": "changed",
        "dbt_project.yml vars.dbt_segments": "changed",
        "destinations.yml connections": "created",
        ".gitignore lines": "created",
    }
    text = (project / "dbt_project.yml").read_text()
    assert text.startswith("# our shop\nname: shop # theirs\nprofile: 'shop'\n")
    assert yaml.safe_load(text) == {
        "name": "shop",
        "profile": "shop",
        "on-run-end": [HOOK],
        "vars": {"dbt_segments": {"targets": []}},
    }
    (package,) = yaml.safe_load((project / "packages.yml").read_text())["packages"]
    assert (project / package["local"]).resolve() == REPOSITORY
    assert (project / ".gitignore").read_text().splitlines() == list(initial.IGNORED)
    assert {"*.duckdb", "*.duckdb.wal"} <= {*initial.IGNORED}  # they hold members, raw
    tokens = Path(base.DEFAULT_TOKEN_FILE).name
    for name in (tokens, f".{tokens}", f".{tokens}.lock", f"..{tokens}.k3x_9a"):  # the last is what a killed run left
        assert fnmatchcase(name, initial.IGNORED[-1])
    connections = read_connections(project / "destinations.yml", {})
    assert (connections.names, connections.problems) == ((), {})


def test_the_example_of_a_connection_is_right(project: Path) -> None:
    """Uncommented, the example is a connection that works."""
    call(project)
    file = project / "destinations.yml"
    example = [line[2:] for line in file.read_text().splitlines() if line.startswith(("# meta:", "#   "))]
    file.write_text("\n".join(example))
    assert list(read_connections(file, {"META_ACCESS_TOKEN": "a-token"}).ok) == ["meta"]


def test_a_second_run_changes_nothing(project: Path) -> None:
    """Idempotent: not one byte differs."""
    call(project)
    before = {file.name: file.read_bytes() for file in project.iterdir()}
    assert set(done(call(project, "--output", "json")).values()) == {"unchanged"}
    assert {file.name: file.read_bytes() for file in project.iterdir()} == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("on-run-end: \"{{ log('x') }}\"  # ours\n", f'on-run-end: ["{{{{ log(\'x\') }}}}", "{HOOK}"]  # ours\n'),
        ("on-run-end:\n- a # one\n# two\nflags: {}\n", f'on-run-end:\n- a # one\n- "{HOOK}"\n# two\nflags: {{}}\n'),
        ("on-run-end: ['a']\n", f"on-run-end: ['a', \"{HOOK}\"]\n"),
        (f"on-run-end: '{HOOK}'\n", f"on-run-end: '{HOOK}'\n"),
    ],
)
def test_hooks_that_are_there_stay(project: Path, before: str, after: str) -> None:
    """Ours is added behind them, in the list's own style."""
    file = project / "dbt_project.yml"
    file.write_text(f"name: shop\nvars:\n  dbt_segments: {{targets: [prod]}}\n{before}")
    assert call(project).exit_code == 0
    assert file.read_text() == f"name: shop\nvars:\n  dbt_segments: {{targets: [prod]}}\n{after}"


def test_variables_and_packages_that_are_there_stay(project: Path) -> None:
    """Ours are added beside them; dependencies.yml is used where the project has its packages there."""
    (project / "dbt_project.yml").write_text("name: shop\nvars:\n  today: 1 # fixed\n")
    (project / "dependencies.yml").write_text(
        "packages:\n  - package: dbt-labs/dbt_utils # theirs\n    version: 1.0.0\n"
    )
    (project / ".gitignore").write_text("/target\n*.log")
    assert call(project, "--package", "https://example.com/dbt-segments.git@v1").exit_code == 0
    assert "vars:\n  today: 1 # fixed\n  dbt_segments:\n    targets: []\n" in (project / "dbt_project.yml").read_text()
    assert (project / "dependencies.yml").read_text() == (
        "packages:\n  - package: dbt-labs/dbt_utils # theirs\n    version: 1.0.0\n"
        "  - git: https://example.com/dbt-segments.git\n    revision: v1\n"
    )
    assert not (project / "packages.yml").exists()
    assert (project / ".gitignore").read_text().splitlines() == ["/target", "*.log", *initial.IGNORED[1:]]


@pytest.mark.parametrize(
    "text",
    ["name: &n shop\nprofile: *n\n", "on-run-end: |\n  select 1\nname: shop\n", "name: shop\nvars: [\n"],
)
def test_what_cannot_be_edited_is_printed(project: Path, text: str) -> None:
    """The file stays, its lines are printed, the other files are prepared, and the exit code says so."""
    file = project / "dbt_project.yml"
    file.write_text(text)
    result = call(project)
    assert result.exit_code == 1
    assert "on-run-end refused: " in result.stdout
    assert f"      - '{HOOK}'" in result.stdout
    assert HOOK not in file.read_text()
    assert (project / "packages.yml").exists()


def test_without_a_project_nothing_is_made(tmp_path: Path) -> None:
    """A wrong folder is no project to be."""
    result = call(tmp_path)
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "there is no dbt_project.yml" in result.stderr


def test_the_place_of_the_package(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed without a clone, the program does not guess where the dbt package is; a wrong folder is an error."""
    monkeypatch.setattr(initial, "_REPOSITORY", tmp_path)
    result = call(project)
    assert (result.exit_code, "--package FOLDER_OR_GIT_ADDRESS" in result.stdout) == (1, True)
    assert call(project, "--package", str(tmp_path)).exit_code == 2


@pytest.mark.parametrize("name", ["dbt-segments", "segments"])
def test_the_place_of_the_package_is_said_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Without a clone, a second run finds the entry that the first one was told, whatever its folder's name."""
    monkeypatch.setattr(initial, "_REPOSITORY", tmp_path)
    clone = tmp_path / name
    clone.mkdir()
    (clone / "dbt_project.yml").write_text("name: dbt_segments\n")
    assert call(project, "--package", str(clone)).exit_code == 0
    before = (project / "packages.yml").read_bytes()
    again = call(project, "--output", "json")
    assert (again.exit_code, set(done(again).values())) == (0, {"unchanged"})
    assert (project / "packages.yml").read_bytes() == before


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("git@example.com:shop/dbt-segments.git", {"git": "git@example.com:shop/dbt-segments.git"}),
        (
            "git@example.com:shop/dbt-segments.git@0.1",
            {"git": "git@example.com:shop/dbt-segments.git", "revision": "0.1"},
        ),
        ("https://example.com/dbt-segments", {"git": "https://example.com/dbt-segments"}),
    ],
)
def test_a_package_from_git(project: Path, place: str, entry: dict[str, str]) -> None:
    """An address with or without a revision; dbt itself warns of one that is not pinned."""
    call(project, "--package", place)
    assert yaml.safe_load((project / "packages.yml").read_text()) == {"packages": [entry]}


def test_connections_lie_beside_the_profile(project: Path, tmp_path: Path) -> None:
    """destinations.yml is where dbt finds profiles.yml, so that it is found too."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    call(project, "--profiles-dir", str(folder))
    assert (folder / "destinations.yml").exists()
    assert not (project / "destinations.yml").exists()


@pytest.mark.slow
def test_dbt_takes_what_init_wrote(tmp_path: Path) -> None:
    """`init`, `dbt deps` and `dbt build` work one after the other, and the hook records the build."""
    project = make_project(
        tmp_path / "shop", DuckDBWarehouse(tmp_path / "shop.duckdb"), {"models/one.sql": "select 1 as a"}
    )
    assert process(project, "init").code == 0
    project.dbt("deps")
    project.dbt("build")
    built: list[Any] = project.sql("select unique_id from main_dbt_segments.model_builds")
    assert ("model.shop.one",) in built
