"""Failures on request: what a platform does when it does not do what it was asked.

A fault is a JSON object; it waits in a queue for a request that it matches.

    match    {"path": regex, "method": "POST", "op": "add", "platform": "meta"}; each key is optional
    after    let this many matching requests pass first (0)
    times    then fail this many (1); -1: from then on always
    kind     what happens:
        status         an error of HTTP `status` (500), with `code`, `subcode`, `transient`, `retry_after` (seconds)
        throttle       the platform's own "too many calls", asking for `minutes` (1)
        usage          the request succeeds and its headers say that `percent` (95) of the allowance is used up
        reset_before   the connection is cut and nothing was applied
        reset_after    the request is applied, then the connection is cut in the body of the answer
        slow           applied at once, answered after `seconds`
        hang           never answered; applied only with `applied: true`
        expired_token  the token was good until now
        partial        `rows` (1) rows are counted as invalid and not applied; which ones is not said
        too_small      the audience would become too small
        gone           the audience is not there for this token
        duplicate      delivered twice
        html, truncated, empty   status 200 with a page, half of the JSON, or nothing
    applied  whether status, html, truncated or empty come after the request was applied (false)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = frozenset(
    (
        "status",
        "throttle",
        "usage",
        "reset_before",
        "reset_after",
        "slow",
        "hang",
        "expired_token",
        "partial",
        "too_small",
        "gone",
        "duplicate",
        "html",
        "truncated",
        "empty",
    )
)
_PARAMETERS = frozenset(
    (
        "status",
        "code",
        "subcode",
        "transient",
        "retry_after",
        "minutes",
        "percent",
        "seconds",
        "rows",
        "applied",
        "message",
    )
)
_MATCHES = frozenset(("path", "method", "op", "platform"))


class FaultError(ValueError):
    """A fault that cannot be read; the message says why."""


@dataclass
class Fault:
    """One failure to come. `kind` and `with_` are as in the module's table; `after` and `times` count down."""

    kind: str
    match: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    after: int = 0
    with_: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Fault:
        """Raises FaultError for anything that is not in the module's table."""
        match = dict(data.get("match") or {})
        parameters = {name: value for name, value in data.items() if name not in ("kind", "match", "times", "after")}
        unknown = sorted((parameters.keys() - _PARAMETERS) | (match.keys() - _MATCHES))
        if unknown or data.get("kind") not in KINDS:
            raise FaultError(f"unknown in a fault: {', '.join(unknown) or 'kind ' + repr(data.get('kind'))}")
        if "path" in match:
            re.compile(match["path"])
        return cls(data["kind"], match, int(data.get("times", 1)), int(data.get("after", 0)), parameters)

    def get(self, name: str, default: Any) -> Any:
        """A parameter of this kind."""
        return self.with_.get(name, default)

    def matches(self, platform: str, method: str, path: str, op: str) -> bool:
        """Whether a request is one of those that this fault waits for."""
        return (
            self.match.get("platform", platform) == platform
            and self.match.get("method", method).upper() == method
            and self.match.get("op", op) == op
            and re.search(self.match.get("path", ""), path) is not None
        )


class Faults:
    """The queue. One request meets at most one fault: the first that matches and whose turn has come."""

    def __init__(self) -> None:
        self._queue: list[Fault] = []

    def add(self, data: Mapping[str, Any] | list[Mapping[str, Any]]) -> None:
        """One fault or several, all or none."""
        self._queue += [Fault.read(one) for one in (data if isinstance(data, list) else [data])]

    def clear(self) -> None:
        """Forget those that have not happened."""
        self._queue.clear()

    def waiting(self) -> list[dict[str, Any]]:
        """Those that have not happened, or not often enough."""
        return [
            {"kind": one.kind, "match": dict(one.match), "times": one.times, "after": one.after, **one.with_}
            for one in self._queue
        ]

    def meet(self, platform: str, method: str, path: str, op: str) -> Fault | None:
        """The fault that this request meets, if any; counts down."""
        for one in self._queue:
            if not one.matches(platform, method, path, op):
                continue
            if one.after > 0:
                one.after -= 1
                continue
            one.times -= 1
            if one.times == 0:
                self._queue.remove(one)
            return one
        return None
