"""A destination kept elsewhere, as docs/how-to/own-destination.md shows it: its contract, and installed as a wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.projects import REPOSITORY, DuckDBWarehouse, make_project
from tests.receiver import Answer, Received, receiving
from tests.world import World

PAGE = REPOSITORY / "docs" / "how-to" / "own-destination.md"
FILES = ("pyproject.toml", "dbt_segments_acme.py", "test_acme.py")


def write_example(folder: Path) -> Path:
    """The page's files, as a reader would save them."""
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"^`([\w.]+\.(?:toml|py))` ", page, re.MULTILINE)
    texts = re.findall(r"^```(?:toml|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert tuple(named) == FILES
    folder.mkdir()
    for name, text in zip(named, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(words: Sequence[str | Path], cwd: Path, **env: str) -> str:
    """What a command prints. Fails with all of its output."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_keeps_the_contract(tmp_path: Path) -> None:
    """The page's test file passes as it stands, and every test of the suite runs."""
    folder = write_example(tmp_path / "acme")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_acme.py"]
    shown = run(words, folder, PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(folder)]))
    assert re.search(r"^\d+ passed in", shown, re.MULTILINE), shown


@pytest.mark.slow
def test_an_installed_wheel_is_a_destination(tmp_path: Path) -> None:
    """Built, installed with pip beside this project in a fresh environment, listed, validated and synced."""
    example = write_example(tmp_path / "acme")
    wheels, environment = tmp_path / "wheels", tmp_path / "environment"
    for source in (REPOSITORY, example):
        run([sys.executable, "-m", "build", "--wheel", "--outdir", wheels, source], tmp_path)
    venv.create(environment, with_pip=True)
    constraints = REPOSITORY / "constraints.txt"
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--constraint", constraints, *sorted(wheels.glob("*.whl"))], tmp_path)
    command = environment / "bin" / "dbt-segments"

    warehouse = DuckDBWarehouse(tmp_path / "warehouse.duckdb")
    world = World(make_project(tmp_path / "shop", warehouse, {}), warehouse, "")
    world.customers([(1, "ada@example.com"), (2, "bea@example.com"), (3, "cyd@example.com")])
    world.segment([1, 2])
    item = {"to": "acme", "mode": "mirror", "key": {"id": "customer_id"}, "fields": {"mail": "email"}}
    world.segments = {"vip": {"syncs": [item]}}
    records: dict[int, Any] = {}

    def answer(received: Received) -> Answer:
        for row in received.json["rows"]:
            records.pop(row["key"]["id"], None)
            if received.method == "PUT":
                records[row["key"]["id"]] = row["values"]
        return Answer(200, {"refused": []})

    with receiving() as platform:
        platform.decide = answer
        base_url = platform.url.removesuffix("/hook")
        world.connections = {
            "acme": {"workspace": "shop", "api_key": "{{ env_var('ACME_KEY') }}", "base_url": base_url}
        }
        where = ["--project-dir", world.project.path, "--profiles-dir", world.project.path]
        world.write()
        assert re.search(r"^acme\b", run([command, "destinations", "list"], tmp_path), re.MULTILINE)
        assert "api_key" in run([command, "destinations", "show", "acme"], tmp_path)
        run([command, "validate", *where], tmp_path, ACME_KEY="key-1")
        result = json.loads(run([command, "sync", *where, "--output", "json"], tmp_path, ACME_KEY="key-1"))
        assert [(sync["status"], sync["type"], sync["added"]) for sync in result["syncs"]] == [("success", "acme", 2)]
        assert records == {1: {"mail": "ada@example.com"}, 2: {"mail": "bea@example.com"}}
        world.segment([2, 3])
        run([command, "sync", *where, "--now"], tmp_path, ACME_KEY="key-1")
        assert set(records) == {2, 3}
        assert {received.headers["authorization"] for received in platform.requests} == {"Bearer key-1"}
