"""What every command shares: errors become messages and exit codes, stdout holds results only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

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
            from dbt_segments.report import bug_text

            click.echo(bug_text(error), err=True)
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


@contextlib.contextmanager
def running() -> Iterator[Callable[[str, str], None]]:
    """Progress on stderr. What dbt or a driver prints meanwhile goes there too, so that stdout holds results only."""
    from dbt_segments.progress import Progress

    with Progress(sys.stderr) as progress, contextlib.redirect_stdout(sys.stderr):
        yield progress
