"""Commands on a dbt project: validate, plan, sync, status, doctor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dbt_segments.cli.options import Command, project_options, sync_options
from dbt_segments.cli.shell import running

if TYPE_CHECKING:
    from dbt_segments.pipeline import Request


def request(project: dict[str, Any], output: str, **what: Any) -> Request:
    """The shared options and what the command itself was told, as the pipeline wants them."""
    from dbt_segments.pipeline import Request
    from dbt_segments.settings import resolve_options

    return Request(options=resolve_options(**project, output=output), **what)


@click.command(cls=Command)
@project_options
@click.option("--fix", is_flag=True, help="Write the lines -- depends_on that models lack.")
def validate(output: str, fix: bool, **project: Any) -> None:
    """Check segments, entities and destinations without a warehouse.

    \b
    Example:
      dbt parse && dbt-segments validate
    """
    from dbt_segments import pipeline, report
    from dbt_segments.validate import warnings

    with running():
        if fix:
            registry, problems, fixed = pipeline.fix(request(project, output))
        else:
            (registry, problems), fixed = pipeline.validate(request(project, output)), []
    show = report.problems_json if output == "json" else report.problems_text
    click.echo(show(registry, problems, list(warnings(registry))))
    for item in fixed:
        click.echo(f"{item.file}: wrote {' '.join(item.lines)}", err=True)
    if fixed:
        click.echo("hint: run `dbt parse`, so that dbt reads them", err=True)
    sys.exit(2 if problems else 0)


@click.command(cls=Command)
@project_options
@sync_options
@click.option(
    "--show-requests", type=click.IntRange(min=0), default=0, metavar="N", help="Show N masked requests each."
)
def plan(
    output: str,
    now: bool,
    full: bool,
    lock_timeout: float,
    allow_removals: tuple[str, ...],
    lift_refusals: tuple[str, ...],
    show_requests: int,
    **project: Any,
) -> None:
    """Show what a sync would add, change and remove; send nothing.

    \b
    Example:
      dbt-segments plan --select lapsed_buyers --show-requests 1
    """
    from dbt_segments import pipeline, report

    what: dict[str, Any] = {"now": now, "full": full, "lock_timeout_s": lock_timeout}
    what |= {"allow_removals": allow_removals, "lift_refusals": lift_refusals}
    with running() as progress:
        planned = pipeline.plan(request(project, output, **what, show_requests=show_requests), progress)
    show = report.plan_json if output == "json" else report.plan_text
    click.echo(show(planned.run, planned.requests))
    sys.exit(report.exit_code(planned.run))


@click.command(cls=Command)
@project_options
@sync_options
def sync(
    output: str,
    now: bool,
    full: bool,
    lock_timeout: float,
    allow_removals: tuple[str, ...],
    lift_refusals: tuple[str, ...],
    **project: Any,
) -> None:
    """Send what changed since the last acknowledgement.

    \b
    Example:
      dbt-segments sync --select lapsed_buyers

    Exit codes: 0 all done; 1 something needs reading; 2 did not start, or a bug; 3 every failure may pass by itself.
    """
    from dbt_segments import pipeline, report

    what: dict[str, Any] = {"now": now, "full": full, "lock_timeout_s": lock_timeout}
    what |= {"allow_removals": allow_removals, "lift_refusals": lift_refusals}
    with running() as progress:
        run = pipeline.sync(request(project, output, **what), progress)
    click.echo(report.results_json(run) if output == "json" else report.run_text(run))
    sys.exit(report.exit_code(run))


@click.command(cls=Command)
@project_options
@click.option("--refresh", is_flag=True, help="Ask the platforms for sizes that were not asked for today.")
def status(output: str, refresh: bool, **project: Any) -> None:
    """Show audiences, members, sizes, last and next runs, and the size of the state.

    \b
    Example:
      dbt-segments status --output json
    """
    from dbt_segments import pipeline, report

    with running() as progress:
        found = pipeline.status(request(project, output), progress, refresh=refresh)
    show = report.status_json if output == "json" else report.status_text
    click.echo(show(found.syncs, found.state, found.orphans))


@click.command(cls=Command)
@click.argument("connections", nargs=-1, metavar="[CONNECTION]...")
@project_options
def doctor(output: str, connections: tuple[str, ...], **project: Any) -> None:
    """Check connections and ask their platforms; change nothing.

    Those that selected syncs use, or the named ones: settings, API version and its last day, and as far as the platform
    says so credentials, permissions, access to the account, terms, and the token's end. Names come before --select.

    \b
    Example:
      dbt-segments doctor meta

    Exit codes: 0 nothing is wrong (there may be warnings); 1 something is; 2 the project cannot be read.
    """
    from dbt_segments import doctor as doctors
    from dbt_segments import listings
    from dbt_segments.settings import resolve_options

    with running():
        found = doctors.examine(resolve_options(**project, output=output), connections)
    click.echo(listings.checkups_json(found) if output == "json" else listings.checkups_text(found))
    sys.exit(doctors.exit_code(found))
