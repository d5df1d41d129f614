"""destinations list and show: what is printed is what the destination declares."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner, Result

from dbt_segments.cli import main
from dbt_segments.destinations import registry
from dbt_segments.destinations.base import Op, Support
from dbt_segments.destinations.meta import Meta


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["destinations", *words], prog_name="dbt-segments")


def test_every_type_is_listed() -> None:
    """Types by name, with title and version, in both formats."""
    found = {one["type"]: one for one in json.loads(call("list", "--output", "json").stdout)["destinations"]}
    assert list(found) == list(registry.names())
    assert (found["meta"]["title"], found["meta"]["one_click"]) == (Meta.title, True)
    line = next(line for line in call("list").stdout.splitlines() if line.startswith("meta "))
    assert re.split(" {2,}", line)[1:3] == [Meta.title, Meta.version]
    assert line.endswith("   yes")


def test_a_type_is_shown_as_it_declares_itself() -> None:
    """Settings with what is secret and required, identifiers with what they match, limits and operations."""
    found = json.loads(call("show", "meta", "--output", "json").stdout)
    settings = {one["setting"]: one for one in found["settings"]}
    assert settings.keys() == set(Meta.settings_model.model_fields)
    assert [settings[name]["secret"] for name in ("access_token", "ad_account_id")] == [True, False]
    assert [settings[name]["required"] for name in ("access_token", "app_secret", "timeout_s")] == [True, False, False]
    assert settings["timeout_s"]["default"] == 60
    identifiers = {one["identifier"]: one for one in found["identifiers"]}
    assert list(identifiers) == list(Meta.identifiers)
    assert (identifiers["email"]["matches"], identifiers["email"]["hashed"]) == ("alone", True)
    assert (identifiers["city"]["matches"], identifiers["maid"]["hashed"]) == ("never", False)
    assert found["limits"]["members"] == Meta.limits.members
    assert (found["modes"], found["consent_channel"]) == (list(Meta.modes), Meta.channel)
    assert found["operations"] == {"add": "yes", "remove": "yes", "replace": "yes"}


@pytest.mark.parametrize(
    ("support", "words"),
    [(Support.VENDOR_LACKS, "no: the platform has no such call"), (Support.NOT_YET, "no: not implemented here yet")],
)
def test_a_missing_operation_says_whose_lack_it_is(
    monkeypatch: pytest.MonkeyPatch, support: Support, words: str
) -> None:
    """The vendor's, or ours."""
    monkeypatch.setattr(Meta, "operations", {**Meta.operations, Op.REPLACE: support})
    monkeypatch.setattr(Meta, "units", (("email",), ("first_name", "city")))
    monkeypatch.setattr(Meta, "retention_days", 180)
    text = call("show", "facebook").stdout
    assert f"replace {words}" in text
    assert "match units: email, first_name with city" in text
    assert "members are forgotten after 180 days" in text
    assert "together" in next(line for line in text.splitlines() if line.startswith("  city "))


def test_a_replace_in_two_steps_says_so() -> None:
    """Google has no call for it, and a sync has the mode all the same."""
    text = call("show", "google_ads").stdout
    assert "modes of a classic sync: mirror, replace" in text
    assert "replace yes: everybody is added, and a later run removes whoever else is in" in text


def test_an_unknown_type_gets_the_nearest() -> None:
    """As everywhere."""
    done = call("show", "mta")
    assert (done.exit_code, "did you mean `meta`?" in done.stderr) == (2, True)
