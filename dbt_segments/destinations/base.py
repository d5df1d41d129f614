"""What a destination is: declarations first, then flows.

A flow is a generator: it yields a `Call`, receives the `Reply`, and returns a value. It opens no socket, reads no
clock and keeps no state, so a test plays it with plain values; `send.play` plays it over HTTP with authentication,
pace and retries. An error of the destination is thrown into the flow at the `yield`, so that "create, on conflict
update" reads as it sounds.
"""

from __future__ import annotations

import builtins
import enum
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from dbt_segments.errors import DestinationError

if TYPE_CHECKING:
    from dbt_segments.destinations.auth import Auth
    from dbt_segments.identifiers.rules import Rule
    from dbt_segments.values import Identifier

T = TypeVar("T")
# In dbt's own folder, beside profiles.yml.
DEFAULT_TOKEN_FILE = "~/.dbt/dbt_segments_tokens.json"  # noqa: S105


class Op(enum.Enum):
    """What can be asked of an audience."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"


class Support(enum.Enum):
    """Whether an operation is there, and if not, whose lack it is."""

    FULL = "full"
    VENDOR_LACKS = "the platform has no such call"
    NOT_YET = "not implemented here yet"


@dataclass(frozen=True)
class Limits:
    """What one request may hold and how fast requests may follow each other.

    members         rows in one request
    body_bytes      size of the whole body; None: not documented
    requests_per_s  per account; None: not documented
    concurrency     requests in flight per audience; 1 keeps batches in order
    """

    members: int
    body_bytes: int | None = None
    requests_per_s: float | None = None
    concurrency: int = 2


@dataclass(frozen=True)
class Call:
    """One HTTP request, before authentication.

    path         below the connection's base URL, or an absolute URL that an earlier reply named
    form         sent form-encoded; `body` is sent as it is (JSON text in UTF-8, or bytes); never both
    safe         may be repeated without harm when its fate is unknown
    private      its path may be a secret: a plan shows the host only
    timeout_s    None: the connection's own
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    body: str | bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    safe: bool = True
    private: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer; `json` is None where the body is empty or is no JSON (`Destination.fault` decides)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)
    empty: bool = False


Flow = Generator[Call, Reply, T]


@dataclass(frozen=True)
class Fault:
    """What a reply that is no success means: the error to raise, and whether and when to try again.

    retry    the same call may succeed in this run
    wait_s   what the platform asks for; None: back off blindly
    max_tries  bound of its own: tries in all, so 2 is one more; None: the sender's
    longest_wait_s  what a `Retry-After` is cut down to; None: it is kept in full
    renew    a fresh token may help: refresh once, then it is final
    """

    error: DestinationError
    retry: bool = False
    wait_s: float | None = None
    max_tries: int | None = None
    longest_wait_s: float | None = None
    renew: bool = False


@dataclass(frozen=True)
class Audience:
    """The list inside a destination.

    mark   what its description says of us; empty: not ours, or no such field
    ended  the platform's word for a list that is still shown and that ads can use no more; empty: they can
    """

    id: str
    name: str = ""
    mark: str = ""
    account: str = ""
    ended: str = ""


@dataclass(frozen=True)
class Target:
    """What a sync writes to a destination of records.

    segment  the segment's name, or that of the entity where the sync sends all of it
    object   the kind of record there, in its own words; empty where it has only one
    mode     upsert, update, create, mirror, append, delete, replace
    keys     fields that tell records apart, in order
    fields   fields of values, in order
    types    field -> text, integer, number, boolean or json (an array or object)
    """

    sync_id: str
    segment: str
    object: str
    mode: str
    keys: tuple[str, ...]
    fields: tuple[str, ...]
    types: Mapping[str, str]


@dataclass(frozen=True)
class Batch:
    """One request's members, already encoded.

    op       what to do with them
    rows     one JSON value per member, joined by commas; never Python objects
    count    how many rows
    number   counts from 1 within the run and operation; `last` is true on the final one
    total    rows of this operation in this run
    id       the same for the same members in the same generation: idempotency key, session id
    fields   the identifiers that these rows hold, in row order; of Row.SINGLE one
    target   of a destination of records
    run_id   the run that sends it
    """

    op: Op
    rows: str = field(repr=False)
    count: int
    number: int
    last: bool
    total: int
    id: str
    session: int
    fields: tuple[str, ...] = ()
    target: Target | None = None
    run_id: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: every member is in exactly one of accepted, refused, submitted.

    refused        row index within the batch -> the platform's reason code; the rest is accepted
    passing        those of them that the platform may take the next time, unchanged
    unattributed   refusals that the platform counts without naming rows
    job            handle of an accepted job that has not finished: all members are submitted
    done           False: the job (see `Destination.poll`) still runs
    lost           why a job has no outcome: it failed, or its status is gone; it may have done anything
    counted        of an ended job: how many members the platform says that it had; None: it does not say
    audience       the one that this batch made, where it came with its first members
    warnings       what the platform says against members that it took, for people; never a value
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    passing: frozenset[int] = frozenset()
    unattributed: int = 0
    job: str | None = None
    done: bool = True
    lost: str | None = None
    counted: int | None = None
    audience: Audience | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """What a platform says of an audience; None where it says nothing (yet).

    lower, upper  people, as an estimate; equal where the platform gives one number
    match_rate    share of what was uploaded that the platform knows, 0 to 1, where it says so itself
    status        its state in plain words; `processing` where figures are not settled yet
    ended         as of `Audience`
    wrong         what somebody has to look at, for people, where the platform could not use what was sent; else empty
    """

    lower: int | None = None
    upper: int | None = None
    status: str = ""
    match_rate: float | None = None
    ended: str = ""
    wrong: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that `doctor` looked at. `good` is None where the platform does not say.

    what  credentials, account, scopes, terms, token, or another word of the platform's
    said  what was found, without a secret
    hint  the remedy where it is not good
    """

    what: str
    good: bool | None
    said: str
    hint: str = ""


def _one_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ConnectionSettings(BaseModel):
    """Settings common to every HTTP destination; each type adds its own in the vendor's words.

    suppress  dbt models of keys that no sync of the connection may send
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str | None = None
    token_url: str | None = None
    api_version: str | None = None
    timeout_s: float = Field(default=60.0, gt=0, le=600)
    max_concurrency: int | None = Field(default=None, ge=1, le=32)
    requests_per_s: float | None = Field(default=None, gt=0)
    allow_private: bool = False
    suppress: Annotated[tuple[str, ...], BeforeValidator(_one_as_list, json_schema_input_type=str | list[str])] = ()
    # Relative paths of settings begin here, as those of dbt's own files do: the project's folder.
    _folder: Path = PrivateAttr(default_factory=Path)

    def below(self, folder: Path) -> Self:
        """The same, with relative paths below this folder."""
        placed = self.model_copy()
        placed._folder = folder
        return placed


class RefreshSettings(ConnectionSettings):
    """Settings of platforms whose access tokens are fetched with a refresh token.

    token_file  where refresh tokens are kept that the platform issues in place of the one named here
    """

    client_id: str
    client_secret: SecretStr | None = None
    refresh_token: SecretStr
    token_file: str = DEFAULT_TOKEN_FILE


class TokenSettings(ConnectionSettings):
    """Settings of platforms that take a fixed access token, or else what fetches one, as in `RefreshSettings`."""

    access_token: SecretStr | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    refresh_token: SecretStr | None = None
    token_file: str = DEFAULT_TOKEN_FILE

    @field_validator("client_id", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        exchange = (self.client_id, self.client_secret, self.refresh_token)
        if (self.access_token is None) == (None in exchange) or (self.access_token and any(exchange)):
            raise ValueError("give `access_token`, or `client_id`, `client_secret` and `refresh_token`")
        return self


class Row(enum.Enum):
    """How SQL writes one member.

    POSITIONAL  a JSON array in the order of `Destination.identifiers`; absent cells are "". Of identifiers
                that share a field the first value is in the member's row, each further one in a row of its own
    KEYED       a JSON object, absent identifiers left out
    SINGLE      one match unit a row: {"type": <field>, "value": ...}; a batch holds one type only
    RECORD      {"op": ..., "key": {field: value}, "values": {field: value}}, in the order of the mapping; `values` is
                null where the record is to be deleted. For destinations of records
    """

    POSITIONAL = "positional"
    KEYED = "keyed"
    SINGLE = "single"
    RECORD = "record"


# What the row of a record asks for, by the sync's mode.
WORDS: Mapping[str, str] = {
    "upsert": "upsert",
    "update": "update",
    "create": "create",
    "mirror": "upsert",
    "append": "insert",
    "delete": "delete",
    "replace": "insert",
}


@dataclass(frozen=True)
class Accepts:
    """One identifier that a destination takes: its name there, and the rule that makes the text that is sent.

    trait    it identifies nobody: the connection's settings say which column holds it (see `Destination.traits`), and
             it is never chosen from the entity's identifiers
    instead  of a trait: what the settings may say in place of a column, for people
    """

    field: str
    rule: Rule
    trait: bool = False
    instead: str = ""


class Destination:
    """Base of all destinations; one instance serves one connection. It holds settings, never state.

    units     match units: tuples of identifier names that match alone (one name) or only together (several).
              Names that are in no unit travel with a member but never stand alone.
    words     fields of a row that hold words of the API and never a member's value, so that a plan may show them
    on_request  identifiers that are sent only where `identifiers` of the sync names them, as they travel in clear and
              matching gains little
    records   it holds records, written by a mapping, and no audiences
    modes     of a classic sync that this destination takes
    channel   key of the entity's `consent` that governs syncs to it; None: consent does not, suppression does
    forgets_after_days  identifier name -> days after which the platform forgets it; such a unit is never a
              removal's only one. Members are asserted again before `retention_days`.
    sweeps    its `replace` is a mirror that sends everybody, and `sweep` once all of them are acknowledged
    undeletable  `delete` takes away what ads target, and the list stays: whoever is in it is taken out before
    made_with_members  an audience comes with its first members: there is no `create`, and `push` makes it where
              `audience.id` is empty, with the name and the mark of that audience, and gives it back in the outcome
    attends   what ads target is a thing of its own, made from the audience: see `attend`
    minimum   matched people below which the platform does not use an audience
    settles_h hours until sizes and match rates of what was sent mean something
    window_h  hours of which the platform asks for no more than one update of an audience; it enforces nothing
    longest_name  characters of an audience's name
    token_endpoint  where tokens are fetched, if that is another host than `base_url`
    sunset    the day (ISO) on which `version` ends, where the platform says so
    proves    what an accepted batch proves, for people
    unsure    what the platform's documents leave open, for people
    """

    type: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    base_url: ClassVar[str]
    token_endpoint: ClassVar[str] = ""
    version: ClassVar[str] = ""
    settings_model: ClassVar[builtins.type[ConnectionSettings]]
    identifiers: ClassVar[Mapping[str, Accepts]]
    units: ClassVar[Sequence[tuple[str, ...]]]
    row: ClassVar[Row]
    words: ClassVar[frozenset[str]] = frozenset()
    on_request: ClassVar[frozenset[str]] = frozenset()
    records: ClassVar[bool] = False
    limits: ClassVar[Limits]
    operations: ClassVar[Mapping[Op, Support]]
    one_click: ClassVar[bool] = False
    modes: ClassVar[tuple[str, ...]] = ("mirror",)
    channel: ClassVar[str | None] = "ads"
    has_mark: ClassVar[bool] = True
    sweeps: ClassVar[bool] = False
    undeletable: ClassVar[bool] = False
    made_with_members: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    forgets_after_days: ClassVar[Mapping[str, int]] = {}
    retention_days: ClassVar[int | None] = None
    session_s: ClassVar[float | None] = None
    minimum: ClassVar[int | None] = None
    settles_h: ClassVar[int | None] = None
    window_h: ClassVar[int | None] = None
    longest_name: ClassVar[int | None] = None
    sunset: ClassVar[str | None] = None
    proves: ClassVar[str] = ""
    unsure: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    # -- the connection ---------------------------------------------------------------------------------------

    def root(self) -> str:
        """Base URL with the API version, no trailing slash."""
        base = (self.settings.base_url or self.base_url).rstrip("/")
        return f"{base}/{self.settings.api_version or self.version}"

    def auth(self) -> Auth:
        """How calls are authenticated."""
        raise NotImplementedError

    def account(self) -> str:
        """The account that rate limits and audience ids belong to; never a secret."""
        raise NotImplementedError

    def held(self) -> str | None:
        """A reason to hold every sync of this connection, with the remedy (terms not accepted); None: go."""
        return None

    def warnings(self) -> tuple[str, ...]:
        """What is allowed but probably not meant in the settings; told with every plan and sync."""
        return ()

    def transport(self) -> Any:
        """An `httpx.BaseTransport` that plays its calls in place of the network (files); None: the network."""
        return None

    def pace(self, reply: Reply) -> float | None:
        """Seconds to wait before the next call to this account, read from a reply's headers; None: none asked."""
        return None

    def fault(self, call: Call, reply: Reply) -> Fault | None:
        """Classify a reply; None means success. The only judge of what an HTTP answer means."""
        raise NotImplementedError

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Why it cannot do what a sync of records asks for (an object, a field); None: it can."""
        return None

    # -- rows -------------------------------------------------------------------------------------------------

    @classmethod
    def offers(cls, settings: Any) -> Collection[str]:
        """The identifiers that a connection with these settings takes; what it does not name is as if not there."""
        return [name for name, accepts in cls.identifiers.items() if not accepts.trait]

    @classmethod
    def traits(cls, settings: Any) -> tuple[Identifier, ...]:
        """What the settings want sent of each member beside identifiers, from columns of segment or entity."""
        return ()

    def constants(self) -> str:
        """What the settings say of every member alike; where it changes everybody is sent again."""
        return ""

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """SQL of one member as JSON text, for SQL that runs over many.

        cells  identifier -> SQL of its value as JSON text, null where the member lacks it; in the order of
               `identifiers`. Of Row.SINGLE exactly one
        """
        if self.row is Row.POSITIONAL:
            every = ", ',', ".join(f"coalesce({cell}, '\"\"')" for cell in cells.values())
            return f"concat('[', {every}, ']')"
        if self.row is Row.SINGLE:
            ((name, cell),) = cells.items()
            return f"""concat('{{"type":"{self.identifiers[name].field}","value":', {cell}, '}}')"""
        pairs = (f"""'"{self.identifiers[name].field}":' || {cell}""" for name, cell in cells.items())
        return f"concat('{{', concat_ws(',', {', '.join(pairs)}), '}}')"

    def head(self, target: Target, op: Op) -> Mapping[str, str]:
        """Constants at the head of each record's row; the first says what is asked for."""
        return {"op": "delete" if op is Op.REMOVE else WORDS[target.mode]}

    # -- flows ------------------------------------------------------------------------------------------------

    def find(self, mark: str, name: str) -> Flow[list[Audience]]:
        """Every audience that carries `mark`, or the name, ours or not, ended or not; the caller decides.

        mark  whole, or only its first parts: "dbt-segments:" means every mark of ours
        """
        raise NotImplementedError

    def get(self, audience_id: str) -> Flow[Audience]:
        """One audience, ended or not; raises GoneError where it is not there."""
        raise NotImplementedError

    def create(self, name: str, mark: str) -> Flow[Audience]:
        """Make an audience of the recommended type, with our mark in its description."""
        raise NotImplementedError

    def adopt(self, audience: Audience, mark: str) -> Flow[Audience]:
        """Write our mark into an existing audience's description."""
        raise NotImplementedError

    def push(self, audience: Audience, batch: Batch) -> Flow[Outcome]:
        """Add, remove or replace one batch."""
        raise NotImplementedError

    def clock(self, audience: Audience) -> Flow[datetime]:
        """What time it is at the platform; aware. Of those that `sweeps`."""
        raise NotImplementedError

    def sweep(self, audience: Audience, before: datetime) -> Flow[Outcome]:
        """Take out whoever was put in last before a moment; may be asked for again with the same moment.

        before  by the platform's clock, aware, UTC; members of ours were put in after it
        """
        raise NotImplementedError

    def attend(self, audience: Audience) -> Flow[str | None]:
        """Make what the platform wants besides the audience, unless it is there; None: it is.

        Played after members were sent and at most once a run, until it is there. Else it says, for people, what it
        waits for.
        """
        raise NotImplementedError

    def is_attended(self, audience: Audience) -> Flow[bool]:
        """Whether what `attend` made is still there, or another one in its place; played with every run that sends."""
        raise NotImplementedError

    def poll(self, audience: Audience, job: str) -> Flow[Outcome]:
        """The outcome of a submitted job; `done=False` while it runs. Asynchronous destinations only."""
        raise NotImplementedError

    def size(self, audience: Audience) -> Flow[Size]:
        """What the platform says of the audience's size."""
        raise NotImplementedError

    def delete(self, audience: Audience) -> Flow[None]:
        """Delete the audience itself; done where it is gone already."""
        raise NotImplementedError

    def check(self) -> Flow[list[Finding]]:
        """What `doctor` can find out about the connection without changing anything."""
        raise NotImplementedError


def secret(value: SecretStr | None) -> str:
    """The text of a secret, or an empty text."""
    return value.get_secret_value() if value is not None else ""


class RecordDestination(Destination):
    """Base of destinations that hold records, not audiences: a mapping says what is written, a key what it is found by.

    There is nothing to find, make or mark: `audience.id` is the sync's id, and `batch.target` says the rest.
    """

    identifiers: ClassVar[Mapping[str, Accepts]] = {}
    units: ClassVar[Sequence[tuple[str, ...]]] = (("key",),)
    row: ClassVar[Row] = Row.RECORD
    records: ClassVar[bool] = True
    operations: ClassVar[Mapping[Op, Support]] = {Op.ADD: Support.FULL, Op.REMOVE: Support.FULL}
    modes: ClassVar[tuple[str, ...]] = ("upsert", "update", "create", "mirror", "append", "delete")
    channel: ClassVar[str | None] = None
    has_mark: ClassVar[bool] = False
