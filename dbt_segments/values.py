"""Frozen values that the stages exchange. No behaviour beyond what a value can say about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dbt_segments.errors import Problem

Kind = Literal["person", "company", "other"]
# The source that holds a record's segments; only syncs of a whole entity have it.
MEMBERSHIP = "segment_membership"
Status = Literal["success", "partial", "failed", "held", "skipped", "noop"]


@dataclass(frozen=True)
class Model:
    """A model, seed, snapshot or source of the dbt project, as the manifest knows it.

    relation    rendered and quoted for the warehouse, e.g. `"db"."schema"."customers"`
    file        path relative to the project, for messages
    columns     names that the YAML or the catalog declares; None when nothing is known
    types       column -> type where the catalog knows it
    tests       unique_ids of the data tests attached to it, severity error only
    depends_on  unique_ids of its direct parents
    """

    unique_id: str
    name: str
    resource_type: str
    package: str
    relation: str
    file: str
    materialized: str = ""
    columns: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identifier:
    """One typed identifier of an entity and the columns that feed it.

    name     as in the identifier table of docs/reference: email, phone, maid, ...
    country  the column that says which country a national phone number or postal code belongs to
    os       "ios" or "android", for mobile advertising ids
    form     auto: a 64-digit hexadecimal text counts as hashed; hashed: all else is refused; raw: nothing is
    """

    name: str
    column: str
    country: str | None = None
    os: str | None = None
    form: Literal["auto", "hashed", "raw"] = "auto"


@dataclass(frozen=True)
class Related:
    """A many-to-one relation of an entity: `entity.on = model.key`."""

    name: str
    model: Model
    on: str
    key: str


@dataclass(frozen=True)
class Entity:
    """What a member is, with the columns that identify and the models that refuse it.

    consent   channel, connection or type of destination -> boolean column; false refuses, null is "not known" and not
              sent either
    suppress  models whose first column, or column named like the key, holds keys that must never be sent
    """

    name: str
    kind: Kind
    model: Model
    key: str
    identifiers: tuple[Identifier, ...] = ()
    consent: Mapping[str, str] = field(default_factory=dict)
    suppress: tuple[Model, ...] = ()
    related: tuple[Related, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A dbt model whose rows are members; `label` names the audience when it is first created.

    whole  it is no segment of its own, but all records of the entity
    """

    name: str
    label: str
    model: Model
    entity: Entity
    renamed_from: tuple[str, ...] = ()
    suppress: tuple[Model, ...] = ()
    whole: bool = False

    @property
    def owner(self) -> str:
        """Whose its frozen sets are."""
        return f"entity.{self.entity.name}" if self.whole else self.model.unique_id


@dataclass(frozen=True)
class Connection:
    """One entry of destinations.yml; `settings` is the destination's own validated settings model.

    problems  its mistakes: then there are no settings, and the type may be empty; nothing can be sent over it
    """

    name: str
    type: str
    settings: Any = field(repr=False)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Mapped:
    """A destination's field and what fills it: a column, `relation.column`, or a constant."""

    field: str
    source: str | None = None
    value: Any = None


@dataclass(frozen=True)
class Hold:
    """Thresholds of the guard; fractions are of the members that the destination acknowledged."""

    remove_fraction: float = 0.30
    remove_members: int = 50
    change_fraction: float = 0.50
    change_members: int = 50
    empty: Literal["hold", "warn", "ignore"] = "hold"
    tests: Literal["hold", "warn", "ignore"] = "hold"
    freshness: Literal["hold", "warn", "ignore"] = "hold"


@dataclass(frozen=True)
class Sync:
    """One segment to one audience of one connection.

    id             `id:` of the YAML, or <package>.<model>.<connection>[.<object>]; the state's key
    former_ids     the ids it had before the model was renamed (`renamed_from`)
    identifiers    those the entity has and the destination takes, in the destination's order
    audience_name  used when the audience is created; frozen from then on
    audience_id    an existing audience to use instead; None: created or found by our mark
    schedule       "every run", "hourly", "daily", "manual" or a cron line
    channel        key of `Entity.consent` that governs it; None: suppression alone does
    suppress       models of keys that this sync must never send, beside those of its entity and segment
    import_sizes   the platform is asked for the audience's size
    gone           what happens where its audience was deleted: fail, recreate, adopt
    orphan         what `audiences prune` does with its audience while it is switched off: keep, empty, delete
    keys           fields by which a destination of records finds them
    mapped         fields that it writes there
    """

    id: str
    segment: Segment
    connection: Connection
    one_click: bool
    identifiers: tuple[Identifier, ...]
    audience_name: str
    mode: str = "mirror"
    keys: tuple[Mapped, ...] = ()
    mapped: tuple[Mapped, ...] = ()
    audience_id: str | None = None
    object: str | None = None
    schedule: str = "daily"
    removals: bool = True
    channel: str | None = "ads"
    enabled: bool = True
    import_sizes: bool = True
    suppress: tuple[Model, ...] = ()
    gone: str = "fail"
    orphan: str = "keep"
    hold: Hold = Hold()
    former_ids: tuple[str, ...] = ()

    @property
    def entity(self) -> Entity:
        return self.segment.entity


@dataclass(frozen=True)
class Registry:
    """Everything the project declares. `models` holds every node by unique_id, for the gate on builds and tests."""

    project: str
    entities: tuple[Entity, ...]
    segments: tuple[Segment, ...]
    syncs: tuple[Sync, ...]
    models: Mapping[str, Model] = field(default_factory=dict)
    invocation_id: str = ""
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Members by what happens to them. Members, never identifiers.

    rejected  refused as rows: null or unknown keys, conflicts, refusals of the destination
    unusable  no identifier that the destination could match on
    refused   consent, suppression
    pending   wait for a job, a removal or a later run
    """

    members: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    rejected: int = 0
    unusable: int = 0
    refused: int = 0
    pending: int = 0


@dataclass(frozen=True)
class SyncResult:
    """One row of `sync --output json` and of the state table `sync_runs`.

    unconfirmed  members in jobs of this run that had not ended; removals of who is unusable or refused are among them
    notes        for people
    """

    sync_id: str
    segment: str
    entity: str
    destination: str
    type: str
    status: Status
    reason: str = ""
    audience_id: str | None = None
    audience_name: str | None = None
    counts: Counts = Counts()
    unconfirmed: int = 0
    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0
    elapsed_s: float = 0.0
    exit_code: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """One invocation: many syncs."""

    run_id: str
    started_at: str
    elapsed_s: float
    syncs: tuple[SyncResult, ...]
