"""Commands that edit the project's files: init, enable, disable, add. None opens the warehouse or the network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dbt_segments.cli.options import place_options
from dbt_segments.cli.shell import running

if TYPE_CHECKING:
    from dbt_segments.toggle import Change


@click.command()
@click.option("--package", metavar="PLACE", help="The dbt package: a folder, or a git address and @REVISION.")
@place_options
def init(package: str | None, output: str, **project: Any) -> None:
    """Prepare a dbt project: package, on-run-end line, connections, .gitignore.

    What is there already stays, and a second run changes nothing. What cannot be edited is printed instead; then the
    exit code is 1.

    \b
    Example:
      dbt-segments init --project-dir shop
    """
    from dbt_segments import initial, listings
    from dbt_segments.settings import resolve_options

    with running():
        steps = initial.prepare(resolve_options(**project, output=output), package)
    click.echo(listings.steps_json(steps) if output == "json" else listings.steps_text(steps, initial.CI_HINT))
    sys.exit(1 if any(step.done == "refused" for step in steps) else 0)


@click.command()
@click.argument("segment")
@click.argument("destination")
@place_options
def enable(segment: str, destination: str, output: str, **project: Any) -> None:
    """Switch a segment's sync to a destination on, in its YAML file.

    A connection that the segment does not name yet is added to `destinations`. Comments and formatting are kept.

    \b
    Example:
      dbt-segments enable lapsed_buyers meta
    """
    from dbt_segments import toggle
    from dbt_segments.settings import resolve_options

    with running():
        change = toggle.enable(resolve_options(**project, output=output), segment, destination)
    _show(change, output)


@click.command()
@click.argument("segment")
@click.argument("destination")
@place_options
def disable(segment: str, destination: str, output: str, **project: Any) -> None:
    """Switch a segment's sync to a destination off, in its YAML file.

    Writes `enabled: false`. The audience stays as it is, with its members.

    \b
    Example:
      dbt-segments disable lapsed_buyers meta
    """
    from dbt_segments import toggle
    from dbt_segments.settings import resolve_options

    with running():
        change = toggle.disable(resolve_options(**project, output=output), segment, destination)
    _show(change, output)


@click.command()
@click.argument("segment")
@click.option("--to", "destination", required=True, metavar="CONNECTION", help="A connection of destinations.yml.")
@click.option("--mode", metavar="MODE", help="Of a classic sync, e.g. upsert or mirror.")
@click.option("--object", "object_", metavar="NAME", help="The destination's object, e.g. Contact.")
@click.option("--write", is_flag=True, help="Put it into the segment's YAML file.")
@place_options
def add(
    segment: str,
    destination: str,
    mode: str | None,
    object_: str | None,
    write: bool,
    output: str,
    **project: Any,
) -> None:
    """Propose a new sync of a segment: one-click, or with a key and a field mapping.

    \b
    Example:
      dbt-segments add lapsed_buyers --to crm --mode upsert
    """
    from dbt_segments import listings, propose
    from dbt_segments.settings import resolve_options

    options = resolve_options(**project, output=output)
    with running():
        proposal = propose.propose(options, segment, destination, mode=mode, object_=object_)
        change = proposal.write() if write else None
    click.echo(
        listings.proposal_json(proposal, change) if output == "json" else listings.proposal_text(proposal, change)
    )


def _show(change: Change, output: str) -> None:
    from dbt_segments import listings

    click.echo(listings.change_json(change) if output == "json" else listings.change_text(change))
