"""The `dbt_segments` block of a model's `meta`, as the user writes it.

These classes know the shape of one block and nothing beyond it: what exists elsewhere in the project, and what a
destination takes, is checked in `manifest` and `validate`. Every unknown key is an error, with the nearest spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from dbt_segments.values import Hold


def _one_as_list(value: Any) -> Any:
    """A bare text is short for a list of it."""
    return [value] if isinstance(value, str) else value


# A destination has a channel of its own, which an item may override.
Channel = Literal["ads", "email", "sms", "phone", "mail", "push"]
Policy = Literal["hold", "warn", "ignore"]
# What becomes of a sync whose audience was deleted at the platform, and of an audience whose sync is off or gone.
Gone = Literal["fail", "recreate", "adopt"]
Orphan = Literal["keep", "empty", "delete"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_one_as_list, json_schema_input_type=str | list[str])]
# A word that can stand in a table's name and before a dot.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _check_schedule(text: str) -> str:
    from dbt_segments import cadence  # brings a cron parser that nothing else here needs

    wrong = cadence.check(text)
    if wrong:
        raise ValueError(wrong)
    return text


def _digits_as_text(value: Any) -> Any:
    """Platform ids are long numbers that users write without quotes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _short_for(key: str, block: type[BaseModel]) -> BeforeValidator:
    """A bare text is short for a block with only `key`."""
    return BeforeValidator(
        lambda value: {key: value} if isinstance(value, str) else value, json_schema_input_type=str | block
    )


def _none_as_empty(value: Any) -> Any:
    """YAML reads a key with nothing behind it as null; a list that is being filled is such a key."""
    return () if value is None else value


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class HoldBlock(_Block):
    """Thresholds of the guard; a key that is left out keeps the project's value."""

    remove_fraction: float | None = Field(default=None, ge=0, le=1)
    remove_members: int | None = Field(default=None, ge=0)
    change_fraction: float | None = Field(default=None, ge=0, le=1)
    change_members: int | None = Field(default=None, ge=0)
    empty: Policy | None = None
    tests: Policy | None = None
    freshness: Policy | None = None

    def over(self, base: Hold) -> Hold:
        """`base` with the keys that are given here."""
        return replace(base, **self.model_dump(exclude_none=True))


class IdentifierBlock(_Block):
    """Where one identifier comes from."""

    column: Text
    country: Text | None = None
    os: Literal["ios", "android"] | None = None
    form: Literal["auto", "hashed", "raw"] = "auto"


class RelatedBlock(_Block):
    """A many-to-one relation: `on` is a column of the entity, `key` one of the other model."""

    model: Text
    on: Text
    key: Text

    @model_validator(mode="before")
    @classmethod
    def _read_on(cls, data: Any) -> Any:
        """YAML 1.1 reads the key `on` as true, and dbt writes that into the manifest as "true"."""
        if isinstance(data, Mapping) and "on" not in data:
            return {"on" if key in (True, "true", "True") else key: value for key, value in data.items()}
        return data


class DestinationItem(_Block):
    """One audience of a segment: a connection and what differs from the one-click defaults."""

    to: Text
    id: Text | None = None
    audience_name: Text | None = None
    audience_id: Annotated[Text | None, BeforeValidator(_digits_as_text, json_schema_input_type=str | int | None)] = (
        None
    )
    identifiers: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    schedule: Annotated[Text, AfterValidator(_check_schedule)] = "daily"
    removals: bool = True
    enabled: bool = True
    channel: Channel | None = None
    import_sizes: bool | None = None
    gone: Gone | None = None
    orphan: Orphan | None = None
    suppress: Texts = ()
    hold: HoldBlock = HoldBlock()


class FieldBlock(_Block):
    """What fills a destination's field: a column, `relation.column`, or a constant."""

    column: Text | None = None
    value: Any = None

    @model_validator(mode="after")
    def _one_of(self) -> FieldBlock:
        if len(self.model_fields_set) != 1:
            raise ValueError("must say either `column` or `value`")
        return self


class SyncItem(DestinationItem):
    """A classic sync: a mode, and a mapping where the destination has objects with fields."""

    object: Text | None = None
    mode: Literal["upsert", "update", "create", "mirror", "append", "delete", "replace"]
    key: dict[str, Text] = Field(default_factory=dict)
    fields_: dict[str, Annotated[FieldBlock, _short_for("column", FieldBlock)]] = Field(
        default_factory=dict, alias="fields"
    )


class EntityBlock(_Block):
    """What a member is."""

    name: Word
    kind: Literal["person", "company", "other"] = "person"
    key: Text
    identifiers: dict[str, Annotated[IdentifierBlock, _short_for("column", IdentifierBlock)]] = Field(
        default_factory=dict
    )
    consent: dict[Text, Text] = Field(default_factory=dict)
    suppress: Texts = ()
    related: dict[Word, RelatedBlock] = Field(default_factory=dict)
    syncs: Annotated[tuple[SyncItem, ...], BeforeValidator(_none_as_empty)] = ()


class SegmentBlock(_Block):
    """A model whose rows are members."""

    entity: Text
    name: Text | None = None
    label: Text | None = None
    renamed_from: Texts = ()
    suppress: Texts = ()
    destinations: Annotated[
        tuple[Annotated[DestinationItem, _short_for("to", DestinationItem)], ...], BeforeValidator(_none_as_empty)
    ] = ()
    syncs: Annotated[tuple[SyncItem, ...], BeforeValidator(_none_as_empty)] = ()


class Meta(_Block):
    """The whole block; a model may be an entity, a segment, or both."""

    entity: EntityBlock | None = None
    segment: SegmentBlock | None = None
