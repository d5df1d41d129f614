"""Commands on the state itself: state gc."""

from __future__ import annotations

from typing import Any

import click

from dbt_segments.cli.options import Command, lock_option, place_options
from dbt_segments.cli.project import request
from dbt_segments.cli.shell import running


@click.group()
def state() -> None:
    """Look after the state's tables.

    \b
    Example:
      dbt-segments state gc --dry-run
    """


@state.command("gc", cls=Command)
@place_options
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@lock_option
def gc(output: str, dry_run: bool, lock_timeout: float, **project: Any) -> None:
    """Drop tables that killed runs left, and log rows older than `retention`.

    What recovery needs is never touched: audiences, pointers in use, open batches.

    \b
    Example:
      dbt-segments state gc --dry-run
    """
    from dbt_segments import pipeline, report

    with running() as progress:
        found = pipeline.collect(request(project, output, lock_timeout_s=lock_timeout), progress, dry_run=dry_run)
    show = report.rubbish_json if output == "json" else report.rubbish_text
    click.echo(show(found, dry_run=dry_run))
