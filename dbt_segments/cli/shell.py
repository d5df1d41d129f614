"""What every command shares: errors become messages and exit codes, stdout holds results only."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from dbt_segments import __version__
from dbt_segments.errors import ConfigError, SegmentsError

_INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


class Main(click.Group):
    """The group that turns errors into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business
        except SegmentsError as error:
            fail(error)
        except KeyboardInterrupt:
            click.echo("error: interrupted", err=True)
            click.echo("hint: the next run finishes what was under way", err=True)
            sys.exit(_INTERRUPTED)
        except Exception as error:
            click.echo(bug(error), err=True)
            sys.exit(2)


def fail(error: SegmentsError) -> NoReturn:
    """Say what is wrong and what to do next; end with the error's own code."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if not problems:
        click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def bug(error: BaseException) -> str:
    """Where an unexpected error arose. Its text is left out: a driver's message may quote a member's values."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        kind = type(current)
        frames = "".join(traceback.format_tb(current.__traceback__))
        chain.append(f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\n".join(
        [*reversed(chain), f"error: this is a bug in dbt-segments {__version__}; please report the above"]
    )


@contextlib.contextmanager
def running() -> Iterator[Callable[[str, str], None]]:
    """Progress on stderr. What dbt or a driver prints meanwhile goes there too, so that stdout holds results only."""
    from dbt_segments.progress import Progress

    with Progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):
        yield progress
