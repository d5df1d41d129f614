"""The `dbt_segments` block: what is read, and how mistakes are told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dbt_segments.meta import HoldBlock, Meta
from dbt_segments.spelling import Mistake, mistakes, nearest, suggest
from dbt_segments.values import Hold

ENTITY: dict[str, Any] = {"name": "customer", "key": "customer_id"}
SEGMENT: dict[str, Any] = {"entity": "customer"}


def wrong(raw: dict[str, Any]) -> list[Mistake]:
    with pytest.raises(ValidationError) as caught:
        Meta.model_validate(raw)
    return list(mistakes(caught.value, Meta))


def test_short_forms_are_the_long_ones() -> None:
    """A bare text is a column, or a connection."""
    short = Meta.model_validate(
        {
            "entity": {**ENTITY, "identifiers": {"email": "mail"}},
            "segment": {**SEGMENT, "destinations": ["meta"]},
        }
    )
    long = Meta.model_validate(
        {
            "entity": {**ENTITY, "identifiers": {"email": {"column": "mail"}}},
            "segment": {**SEGMENT, "destinations": [{"to": "meta"}]},
        }
    )
    assert short == long


def test_a_list_with_nothing_behind_it_is_empty() -> None:
    """`destinations:` alone, which YAML reads as null, drops no segment."""
    meta = Meta.model_validate({"segment": {**SEGMENT, "destinations": None, "syncs": None}})
    assert meta.segment is not None
    assert (meta.segment.destinations, meta.segment.syncs) == ((), ())


def test_key_on_survives_yaml() -> None:
    """`on` of a relation is read although YAML 1.1 makes it true and dbt writes "true"."""
    for key in ("on", True, "true"):
        block = {**ENTITY, "related": {"rep": {"model": "employees", key: "rep_id", "key": "id"}}}
        entity = Meta.model_validate({"entity": block}).entity
        assert entity is not None
        assert entity.related["rep"].on == "rep_id"


@pytest.mark.parametrize(
    ("raw", "key", "message", "hint"),
    [
        ({"sgment": {}}, "sgment", "unknown key", "did you mean `segment`?"),
        ({"entity": {**ENTITY, "knd": "person"}}, "entity.knd", "unknown key", "did you mean `kind`?"),
        (
            {"entity": {**ENTITY, "identifiers": {"phone": {"column": "p", "contry": "c"}}}},
            "entity.identifiers.phone.contry",
            "unknown key",
            "did you mean `country`?",
        ),
        (
            {"entity": {**ENTITY, "kind": "persn"}},
            "entity.kind",
            "must be 'person', 'company' or 'other'",
            "did you mean `person`?",
        ),
        ({"entity": {"name": "customer"}}, "entity.key", "is required", ""),
        ({"entity": {**ENTITY, "key": 5}}, "entity.key", "must be text", "put it in quotes"),
        (
            {"segment": {**SEGMENT, "destinations": ["meta", {"to": "meta", "audience_nam": "x"}]}},
            "segment.destinations[1].audience_nam",
            "unknown key",
            "did you mean `audience_name`?",
        ),
        (
            {"segment": {**SEGMENT, "syncs": [{"to": "x", "mode": "mirror", "fields": {"a": {"valu": 1}}}]}},
            "segment.syncs[0].fields.a.valu",
            "unknown key",
            "did you mean `value`?",
        ),
        (
            {"segment": {**SEGMENT, "destinations": [{"to": "x", "identifiers": []}]}},
            "segment.destinations[0].identifiers",
            "must not be empty",
            "",
        ),
    ],
)
def test_a_mistake_has_its_key_and_the_nearest_spelling(raw: dict[str, Any], key: str, message: str, hint: str) -> None:
    """Each mistake is told once, by its path, with a remedy where one is near."""
    assert [(item.key, item.message, item.hint) for item in wrong(raw)] == [(key, message, hint)]


def test_schedules_are_words_or_cron_lines() -> None:
    """A schedule that would never run is refused before anything runs."""
    for good in ("every run", "hourly", "daily", "manual", "30 6 * * 1"):
        Meta.model_validate({"segment": {**SEGMENT, "destinations": [{"to": "x", "schedule": good}]}})
    for bad in ("dayly", "0 25 * * *", "* * * * * *", "0 0 30 2 *"):
        found = wrong({"segment": {**SEGMENT, "destinations": [{"to": "x", "schedule": bad}]}})
        assert [item.key for item in found] == ["segment.destinations[0].schedule"]


def test_audience_ids_may_be_written_as_numbers() -> None:
    """A platform's long id is taken digit by digit."""
    meta = Meta.model_validate(
        {"segment": {**SEGMENT, "destinations": [{"to": "x", "audience_id": 120210000000000001}]}}
    )
    assert meta.segment is not None
    assert meta.segment.destinations[0].audience_id == "120210000000000001"


def test_every_mistake_is_found_in_one_go() -> None:
    """One reading tells of all of them."""
    found = wrong({"entity": {"nam": "x", "kind": "it", "key": None}, "segment": {"destinations": [{}]}})
    assert {item.key for item in found} == {
        "entity.name",
        "entity.nam",
        "entity.kind",
        "entity.key",
        "segment.entity",
        "segment.destinations[0].to",
    }


def test_hold_keeps_what_it_does_not_mention() -> None:
    """Thresholds override singly."""
    base = Hold(remove_members=7, tests="warn")
    assert HoldBlock(remove_fraction=0.5).over(base) == Hold(remove_fraction=0.5, remove_members=7, tests="warn")


def test_the_json_schema_allows_short_forms() -> None:
    """Editors accept `destinations: [meta]` as well as objects."""
    schema = Meta.model_json_schema()
    items = schema["$defs"]["SegmentBlock"]["properties"]["destinations"]["items"]
    assert {"type": "string"} in items["anyOf"]
    assert schema["$defs"]["DestinationItem"]["additionalProperties"] is False


def test_spelling_helps_only_where_something_is_near() -> None:
    """A far word gets the whole list instead of a wild guess."""
    assert nearest("Emial", ["email", "phone"]) == "did you mean `email`?"
    assert nearest("zzz", ["email", "phone"]) == ""
    assert suggest("zzz", ["email", "phone"]) == "known: email, phone"
