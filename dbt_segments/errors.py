"""Every error this package raises on purpose; the class says what the caller should do.

    SegmentsError
      ConfigError          2   fix the file that it names and run again
        SettingsError          vars, destinations.yml, profile
        ManifestError          manifest.json or the `meta` in it
        MissingSecretError     an environment variable that destinations.yml asks for
      WarehouseError       3   the warehouse was lost in mid-run (2 when there was no connection at the start)
        StatementError     1   it refused a statement for its SQL or for the data that it read
      LockedError          3   another run holds the audience or the database file
      StateError           2   the state is missing, foreign or damaged; says how to repair it
      DestinationError     1
        AuthError          1   the credentials were refused; never retried
        GoneError          1   the audience no longer exists, these credentials cannot see it, or it has expired
        RefusedError       1   the whole request was refused; sending it again will not help
        TransientError     3   429, 5xx, time-outs, after the retry budget; the next run may succeed
          UnknownError     3   the request may or may not have been applied
      SnapshotError        1   sent but not recorded; the next run repairs it

Exit codes extend dbt's own: 0 done, 1 ran to the end but something needs reading, 2 did not start or a bug,
3 every failure may pass by itself. A member that is refused is a value (`Outcome.refused`), never an exception.

No message holds a raw identifier or a secret. Of a vendor's answer only its codes are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class SegmentsError(Exception):
    """Base of all errors here: `message` says where and what, `hint` what to do next."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One mistake in a file: where it is, what is wrong, what to write instead.

    file    path as the user knows it, relative to the project where it lies inside
    model   dbt model, source or connection name; empty where the whole file is meant
    key     dotted path below `dbt_segments` or below the connection; empty where it has none
    hint    the remedy, often the nearest spelling; empty where there is none
    """

    file: str
    model: str
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.model, self.key) if part)
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(SegmentsError):
    """One or more mistakes in what the user wrote; `problems` lists them all."""

    exit_code = 2

    def __init__(self, message: str = "", *, hint: str | None = None, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message or "\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = problems


class SettingsError(ConfigError):
    """vars, destinations.yml or the dbt profile cannot be used as they are."""


class ManifestError(ConfigError):
    """manifest.json is missing, too old, or its `meta` is wrong."""


class MissingSecretError(SettingsError):
    """destinations.yml asks for an environment variable that is not set."""


class WarehouseError(SegmentsError):
    """The warehouse was lost, or refused a statement for what may pass by itself."""

    exit_code = 3


class StatementError(WarehouseError):
    """The warehouse refused a statement for its SQL or for the data that it read: it will the next time, too."""

    exit_code = 1


class LockedError(SegmentsError):
    """Another run holds what this one needs; waiting longer or running later helps."""

    exit_code = 3


class StateError(SegmentsError):
    """The state cannot be trusted or found; nothing was sent."""

    exit_code = 2


class DestinationError(SegmentsError):
    """A destination did not do what was asked; `code` is the vendor's own, e.g. "190/463"."""

    exit_code = 1

    def __init__(self, message: str, *, code: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class AuthError(DestinationError):
    """The credentials or permissions were refused."""


class GoneError(DestinationError):
    """The audience was deleted, is no longer shared, or its id is wrong; or the platform has ended it.

    ended  the platform's word for an audience that is still shown and that ads can use no more
    """

    def __init__(self, message: str, *, code: str = "", hint: str | None = None, ended: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.ended = ended


class RefusedError(DestinationError):
    """The whole request was refused and nothing of it was applied.

    divisible  a single bad member may be the cause, so halves of the batch are worth a try
    owed       the platform will take the same removal later (an audience that would become too small)
    """

    def __init__(
        self, message: str, *, code: str = "", hint: str | None = None, divisible: bool = False, owed: bool = False
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.divisible = divisible
        self.owed = owed


class TransientError(DestinationError):
    """The request was refused for now and was not applied."""

    exit_code = 3


class UnknownError(TransientError):
    """No answer, or one that proves nothing: the request may have been applied."""


class SnapshotError(SegmentsError):
    """Members were sent but their outcome could not be recorded; the next run sends them again."""

    exit_code = 1
