"""enable, disable and add: the YAML file says what was asked, and every other byte stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dbt_segments.cli import main
from dbt_segments.destinations import registry
from dbt_segments.destinations.base import ConnectionSettings, Limits, RecordDestination
from tests.projects import DuckDBWarehouse, make_project
from tests.world import World

HEAD = """\
# models of the shop
version: 2
models:
  - name:   customers   # the entity
    description: 'quoted'
  - name: vip
    config:
      meta:
        owner: "ads team"
        dbt_segments:
          segment:
            entity: customer
"""
TAIL = """\
    columns:
      - {name: customer_id}   # its key

  - name: other
"""


class Hook(RecordDestination):
    """A destination that is no ad platform."""

    type = "hook"
    settings_model = ConnectionSettings
    limits = Limits(members=10)

    def account(self) -> str:
        return "hook"


@pytest.fixture(autouse=True)
def _hook() -> Iterator[None]:
    registry.register(Hook)
    yield
    registry.unregister(Hook)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A project whose manifest is written by hand; there is no warehouse and no platform."""
    warehouse = DuckDBWarehouse(tmp_path / "none.duckdb")
    world = World(make_project(tmp_path / "shop", warehouse, {}), warehouse, "http://127.0.0.1:9")
    world.connections = {"meta": world.meta(), "meta_emea": world.meta(), "hook": {}}
    return world


def give(world: World, body: str, block: dict[str, Any] | None = None, file: str | None = None) -> Path:
    """Write the segment's part of the file, and a manifest that dbt would have made of it."""
    text = HEAD + "".join(f"            {line}\n" if line else "\n" for line in body.splitlines()) + TAIL
    path = world.project.write("models/schema.yml", file if file is not None else text)
    world.segments = {"vip": yaml.safe_load(body) if block is None else block}
    world.segments["vip"] = world.segments["vip"] or {}
    world.write()
    return path


def call(world: World, *words: str) -> Result:
    folder = str(world.project.path)
    place = ["--project-dir", folder, "--profiles-dir", folder]
    return CliRunner().invoke(main, [*words, *place], prog_name="dbt-segments")


def body_of(path: Path) -> str:
    """The segment's part of the file; the rest must be as it was."""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    assert text.startswith(HEAD)
    assert text.endswith(TAIL)
    return "\n".join(line.removeprefix(" " * 12) for line in text[len(HEAD) : -len(TAIL)].splitlines())


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ("destinations: [meta]  # one", "destinations: [{to: meta, enabled: false}]  # one"),
        ("destinations: [ meta_emea,  'meta' ]", "destinations: [ meta_emea,  {to: 'meta', enabled: false} ]"),
        (
            "destinations:\n  - meta_emea\n  - meta   # why\nlabel: VIP",
            "destinations:\n  - meta_emea\n  - {to: meta, enabled: false}   # why\nlabel: VIP",
        ),
        (
            "destinations:\n- to: meta\n  identifiers: [email]  # only this\n\n# the end\nlabel: VIP",
            "destinations:\n- to: meta\n  identifiers: [email]  # only this\n  enabled: false\n\n# the end\nlabel: VIP",
        ),
        (
            "destinations:\n  - {to: meta, identifiers: [email]}",
            "destinations:\n  - {to: meta, identifiers: [email], enabled: false}",
        ),
        ("syncs:\n  - to: hook\n    mode: upsert", "syncs:\n  - to: hook\n    mode: upsert\n    enabled: false"),
    ],
)
def test_off_and_on_again(world: World, on: str, off: str) -> None:
    """Off writes `enabled: false` beside the overrides; on restores the very text; both may be repeated."""
    connection = "hook" if "hook" in on else "meta"
    path = give(world, on)
    done = call(world, "disable", "vip", connection)
    assert (done.exit_code, body_of(path)) == (0, off), done.stderr
    assert "it is so already" in call(world, "disable", "vip", connection).stdout
    done = call(world, "enable", "vip", connection)
    assert (done.exit_code, body_of(path)) == (0, on), done.stderr
    assert json.loads(call(world, "enable", "vip", connection, "--output", "json").stdout)["changed"] is False


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("label: VIP  # loud", "label: VIP  # loud\ndestinations: [meta]"),
        ("destinations: []", "destinations: [meta]"),
        ("destinations: [meta_emea]", "destinations: [meta_emea, meta]"),
        ("destinations:\n- meta_emea # x\nlabel: VIP", "destinations:\n- meta_emea # x\n- meta\nlabel: VIP"),
        (
            "destinations:\n  - to: meta_emea\n    hold:\n      empty: warn\n  # last",
            "destinations:\n  - to: meta_emea\n    hold:\n      empty: warn\n  - meta\n  # last",
        ),
        ("destinations: [{to: meta, enabled: no}]", "destinations: [meta]"),
        (
            "destinations:\n  - enabled: false\n    to: meta",
            "destinations:\n  - enabled: true\n    to: meta",
        ),
    ],
)
def test_a_destination_is_switched_on(world: World, before: str, after: str) -> None:
    """A connection is added in the list's own style, wherever there is room for it."""
    path = give(world, before)
    done = call(world, "enable", "vip", "meta")
    assert (done.exit_code, body_of(path)) == (0, after), done.stderr


def test_line_ends_and_a_missing_last_one(world: World) -> None:
    """A file of Windows keeps its line ends, and a file may end without one."""
    text = (HEAD + "            label: VIP").replace("\n", "\r\n")
    path = give(world, "label: VIP")
    path.write_bytes(text.encode())
    assert call(world, "enable", "vip", "meta").exit_code == 0
    assert path.read_bytes().decode() == text + "\r\n            destinations: [meta]\r\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD + "            destinations: &all [meta_emea]\n", "line 13: an anchor or alias"),
        (HEAD + "            <<: {label: x}\n", "line 13: a merge key"),
        (HEAD.replace("- name: vip", "- &vip\n    name: vip"), "an anchor or alias"),
        (HEAD.replace("name: vip", "name: somebody"), "does not stand there with the model"),
        ("models: [", "line 1 is not valid YAML"),
        (HEAD + "            destinations: meta_emea\n", "holds no list"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(world: World, text: str, why: str) -> None:
    """The file stays as it is, and the lines to write are printed."""
    path = give(world, "label: VIP", file=text)
    done = call(world, "enable", "vip", "meta")
    assert done.exit_code == 2
    assert why in done.stderr
    assert "    destinations:\n      - meta\n" in done.stderr
    assert path.read_text() == text


def test_a_block_in_sql_is_refused(world: World) -> None:
    """config() in SQL is the user's to edit."""
    path = give(world, "label: VIP")
    manifest = world.project.manifest()
    manifest["nodes"]["model.shop.vip"]["patch_path"] = None
    world.project.write("target/manifest.json", json.dumps(manifest))
    done = call(world, "disable", "vip", "meta")
    assert (done.exit_code, path.read_text().count("enabled")) == (2, 0)
    assert "models/vip.sql: vip: not edited" in done.stderr
    assert "- to: meta\n        enabled: false" in done.stderr


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (("enable", "vipp", "meta"), "there is no segment `vipp`", "did you mean `vip`?"),
        (("enable", "vip", "meat"), "there is no connection `meat`", "did you mean `meta`?"),
        (("enable", "vip", "hook"), "hook takes no one-click syncs", "write it under `syncs`"),
        (("disable", "vip", "hook"), "vip has no sync to hook", "dbt-segments list"),
        (("add", "vip", "--to", "meta_emea"), "has a sync to meta_emea already", "enable vip meta_emea"),
        (("add", "vip", "--to", "hook", "--mode", "upset"), "segment.syncs.mode", "did you mean `upsert`?"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    world: World, words: tuple[str, ...], error: str, hint: str
) -> None:
    """An unknown name gets the nearest spelling; a sync that could not work is not written."""
    path = give(world, "destinations: [meta_emea]")
    before = path.read_text()
    done = call(world, *words)
    assert done.exit_code == 2
    assert error in done.stderr
    assert hint in done.stderr
    assert path.read_text() == before


def test_one_click_needs_something_to_match_on(world: World) -> None:
    """What `validate` would refuse afterwards is not switched on."""
    world.identifiers = {"first_name": "first_name"}
    path = give(world, "label: VIP")
    done = call(world, "enable", "vip", "meta")
    assert done.exit_code == 2
    assert "could match nobody" in done.stderr
    assert "destinations" not in path.read_text()


def test_two_syncs_to_one_connection_are_left_to_the_user(world: World) -> None:
    """Which one is meant cannot be told from the connection's name."""
    give(world, "syncs: [{to: hook, mode: upsert, object: a}, {to: hook, mode: upsert, object: b}]")
    done = call(world, "disable", "vip", "hook")
    assert done.exit_code == 2
    assert "vip has 2 syncs to hook" in done.stderr


# -- add ------------------------------------------------------------------------------------------------------


def test_add_proposes_one_click_for_an_ad_platform(world: World) -> None:
    """Without --write nothing is written; with it, the same lines are."""
    path = give(world, "destinations: [meta_emea]")
    before = path.read_text()
    assert "destinations:\n    - meta\n" in call(world, "add", "vip", "--to", "meta").stdout
    assert path.read_text() == before
    assert call(world, "add", "vip", "--to", "meta", "--write").exit_code == 0
    assert body_of(path) == "destinations: [meta_emea, meta]"


def test_add_writes_nothing_that_would_be_refused(world: World) -> None:
    """What `validate` would not take is not written either."""
    path = give(world, "label: VIP")
    before = path.read_text()
    done = call(world, "add", "vip", "--to", "meta", "--object", "bogus", "--write")
    assert done.exit_code == 2, done.output
    assert path.read_text() == before


def test_add_proposes_key_and_fields_for_a_classic_sync(world: World) -> None:
    """Identifiers and the segment's own columns are mapped under their own names; consent is not; the rest is named."""
    world.consent = {"ads": "ads_consent"}
    path = give(world, "label: VIP")
    manifest = world.project.manifest()
    columns = {
        "customers": ("customer_id", "email", "phone", "country", "ads_consent"),
        "vip": ("customer_id", "score"),
    }
    for model, names in columns.items():
        manifest["nodes"][f"model.shop.{model}"]["columns"] = {name: {"name": name} for name in names}
    world.project.write("target/manifest.json", json.dumps(manifest))
    words = ("add", "vip", "--to", "hook", "--object", "contacts")
    found = json.loads(call(world, *words, "--output", "json").stdout)
    assert found["item"] == {
        "to": "hook",
        "object": "contacts",
        "mode": "upsert",
        "key": {"customer_id": "customer_id"},
        "fields": {"email": "email", "phone": "phone", "score": "score"},
    }
    assert (found["kind"], found["left"], found["written"]) == ("syncs", ["country"], False)
    done = call(world, *words, "--write")
    assert done.exit_code == 0, done.stderr
    assert "could be mapped too: country" in done.stdout
    assert yaml.safe_load(body_of(path)) == {"label": "VIP", "syncs": [found["item"]]}
    assert call(world, "add", "vip", "--to", "hook", "--object", "leads", "--mode", "mirror", "--write").exit_code == 0
    assert [item["object"] for item in yaml.safe_load(body_of(path))["syncs"]] == ["contacts", "leads"]
