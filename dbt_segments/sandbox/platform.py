"""What every platform of the sandbox is: audiences of people, and answers to requests in the platform's own words."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import unquote

from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec, Members, People

DAY_S = 86_400


class Clock:
    """The sandbox's time, in seconds since 1970; `advance` moves it, nothing sleeps."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._ahead_s = 0.0

    def now(self) -> float:
        return self._source() + self._ahead_s

    def today(self) -> int:
        """Days since 1970."""
        return int(self.now() // DAY_S)

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds


@dataclass
class Request:
    """One HTTP request. `op` is what the platform takes it for: add, remove, replace, find, get, create, ...

    path   as the platform knows it
    asked  as the caller wrote it: what it signed, where calls are signed
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    op: str = ""
    skip: int = 0
    asked: str = ""
    _fields: dict[str, Any] | None = field(default=None, repr=False)

    def fields(self) -> dict[str, Any]:
        """The fields of a form or of a JSON object; raises ValueError where the body is neither."""
        if self._fields is None:
            self._fields = self._parse()
        return self._fields

    def _parse(self) -> dict[str, Any]:
        if not self.body:
            return {}
        kind = self.headers.get("content-type", "").split(";")[0].strip()
        if kind == "application/x-www-form-urlencoded":
            pairs = [pair.partition("=") for pair in self.body.decode("ascii").split("&")]
            return {_unquote(name): _unquote(value) for name, _, value in pairs}
        if kind == "application/json":
            data = json.loads(self.body)
            if isinstance(data, dict):
                return data
        raise ValueError("the body is neither a form nor a JSON object")


def _unquote(text: str) -> str:
    """Form text as it was; what JSON is full of goes first, all at once, since a body has 100,000 escapes."""
    text = text.replace("+", " ")
    for escape, char in (("%22", '"'), ("%2C", ","), ("%5B", "["), ("%5D", "]"), ("%3A", ":")):
        text = text.replace(escape, char)
    return unquote(text, errors="strict") if "%" in text else text


@dataclass
class Answer:
    """A reply: `body` is JSON, or text as it is. `note` goes into the call log: counts and ids, never members."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)


class Refusal(Exception):
    """A request that the platform does not do; carries the answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass
class Audience:
    """One list. `form` is the kind of rows it holds where a platform does not let them mix."""

    id: str
    account: str
    name: str
    members: Members
    created: float
    description: str = ""
    deleted: bool = False
    retention_days: int | None = None
    form: str = ""
    traits: dict[str, Any] = field(default_factory=dict)


class Platform(ABC):
    """One platform. Subclasses route requests; this keeps what all of them have.

    codec       the match keys
    forgets     match key -> days after which the platform no longer connects it with a person
    policy      switches that tests may set; unknown names are refused
    violations  what a careful sender would never have sent, without the values; tests expect none
    """

    name: str
    codec: Codec
    forgets: ClassVar[Mapping[str, int]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.people = People()
        self.audiences: dict[str, Audience] = {}
        self.policy: dict[str, Any] = {"latency_s": 0.0, "minimum_members": 0, **self.defaults}
        self.violations: list[str] = []
        self.made = 0

    @abstractmethod
    def classify(self, request: Request) -> str:
        """What the request is about; an empty text where that cannot be said."""

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """Do what the request says; `request.skip` rows are taken as invalid. May raise Refusal."""

    @abstractmethod
    def fail(self, fault: Fault, request: Request) -> Answer:
        """The platform's words for status, throttle, expired_token, too_small and gone."""

    @abstractmethod
    def usage(self, percent: int, request: Request) -> dict[str, str]:
        """Headers that say how much of the allowance is used up."""

    def report(self) -> dict[str, Any]:
        """More that a platform has to tell tests, by its own names."""
        return {}

    def violation(self, text: str) -> None:
        """Note what a careful sender would not have sent."""
        if len(self.violations) < 100 and text not in self.violations:
            self.violations.append(text)

    def new_members(self) -> Members:
        """An empty set of people of this platform."""
        return Members(self.people, {self.codec.codes[name]: days for name, days in self.forgets.items()})

    def expire(self) -> None:
        """Let audiences with a retention forget, as of now."""
        for audience in self.audiences.values():
            if audience.retention_days is not None:
                audience.members.expire(self.clock.today() - audience.retention_days)

    # -- what is kept in a file -------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Everything that outlives the server; sessions and jobs do not."""
        decode = self.codec.decode
        return {
            "made": self.made,
            "policy": self.policy,
            "people": [[person, *decode(key)] for key, person in self.people.owners.items()],
            "audiences": [
                {
                    **{name: getattr(audience, name) for name in _KEPT},
                    "rows": [[decode(key) for key in keys] for _, keys in audience.members.records()],
                }
                for audience in self.audiences.values()
            ],
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """The opposite of `dump`; members count as given today."""
        self.reset()
        encode = self.codec.encode
        self.made = data["made"]
        self.policy.update(data["policy"])
        for person, field_name, value in data["people"]:
            self.people.seed(person, [encode(field_name, value)])
        for kept in data["audiences"]:
            audience = Audience(members=self.new_members(), **{name: kept[name] for name in _KEPT})
            for row in kept["rows"]:
                audience.members.add([encode(*pair) for pair in row], self.clock.today())
            self.audiences[audience.id] = audience


_KEPT = ("id", "account", "name", "created", "description", "deleted", "retention_days", "form", "traits")
