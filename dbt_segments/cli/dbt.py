"""Commands around dbt: build and run."""

from __future__ import annotations

import sys
from typing import Any

import click


class _Passing(click.Command):
    """A command that reads none of its words: they are dbt's. `--help` shows its own help, and dbt's below."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        if {"-h", "--help"} & set(args):
            click.echo(f"{self.get_help(ctx)}\n\nThe options of dbt:\n")
        return []


def _around(name: str, words: tuple[str, ...]) -> None:
    """Run the dbt command, sync what it built, and end with the exit code that says most."""
    from dbt.cli.exceptions import DbtUsageException
    from dbt.cli.main import dbtRunner

    from dbt_segments.plugin import wrapped
    from dbt_segments.report import worst

    with wrapped() as wrapper:
        done: Any = dbtRunner().invoke([name, *words])
    if isinstance(done.exception, DbtUsageException):  # dbt tells all others itself
        click.echo(f"error: {done.exception}", err=True)
    sys.exit(worst({0 if done.success else 2 if done.exception else 1, wrapper.exit_code}))


@click.command(cls=_Passing, add_help_option=False, options_metavar="[OPTIONS OF DBT]")
def build(words: tuple[str, ...]) -> None:
    """Run `dbt build`, then sync the segments that it built.

    All options are dbt's. The exit code is the worse of both.

    \b
    Example:
      dbt-segments build --select +lapsed_buyers
    """
    _around("build", words)


@click.command(cls=_Passing, add_help_option=False, options_metavar="[OPTIONS OF DBT]")
def run(words: tuple[str, ...]) -> None:
    """Run `dbt run`, then sync the segments that it built.

    All options are dbt's. The exit code is the worse of both.

    \b
    Example:
      dbt-segments run --select lapsed_buyers --target prod
    """
    _around("run", words)
