"""Commands that look: list, history, rejects, audiences. Only `adopt` and `prune` write and need the network."""

from __future__ import annotations

import sys
from typing import Any

import click

from dbt_segments.cli.options import Command, limit_option, lock_option, place_options, project_options
from dbt_segments.cli.shell import running


@click.command("list", cls=Command)
@project_options
def list_(output: str, **project: Any) -> None:
    """Show every segment at every connection, and audiences that nothing is sent to.

    \b
    Example:
      dbt-segments list
    """
    from dbt_segments import inventory, listings
    from dbt_segments.settings import resolve_options

    with running():
        found = inventory.overview(resolve_options(**project, output=output))
    click.echo(listings.overview_json(found) if output == "json" else listings.overview_text(found))


@click.command(cls=Command)
@project_options
@limit_option(20)
def history(output: str, limit: int, **project: Any) -> None:
    """Show past runs of syncs, newest first.

    \b
    Example:
      dbt-segments history --select lapsed_buyers --limit 5
    """
    from dbt_segments import inventory, listings
    from dbt_segments.settings import resolve_options

    with running():
        found = inventory.history(resolve_options(**project, output=output), limit)
    click.echo(listings.log_json(found, "runs") if output == "json" else listings.history_text(found))


@click.command(cls=Command)
@project_options
@limit_option(50)
def rejects(output: str, limit: int, **project: Any) -> None:
    """Show whom a destination refused or could not match, newest first.

    Members are named by the entity's own key, never by an identifier. Who is not sent for want of consent, or is
    suppressed, is no reject: a run counts them as refused.

    \b
    Example:
      dbt-segments rejects --select lapsed_buyers
    """
    from dbt_segments import inventory, listings
    from dbt_segments.settings import resolve_options

    with running():
        found = inventory.rejects(resolve_options(**project, output=output), limit)
    click.echo(listings.log_json(found, "rejects") if output == "json" else listings.rejects_text(found))


@click.group()
def audiences() -> None:
    """List the audiences that the state knows, take one over, or clear away those that nothing is sent to.

    \b
    Example:
      dbt-segments audiences list
    """


@audiences.command("list", cls=Command)
@project_options
def audiences_list(output: str, **project: Any) -> None:
    """Show every audience of the state, those of deleted segments too.

    \b
    Example:
      dbt-segments audiences list
    """
    from dbt_segments import inventory, listings
    from dbt_segments.settings import resolve_options

    with running():
        found = inventory.audiences(resolve_options(**project, output=output))
    click.echo(listings.audiences_json(found) if output == "json" else listings.audiences_text(found))


@audiences.command("adopt")
@click.argument("sync_id")
@click.option("--id", "audience_id", metavar="AUDIENCE", help="The audience's id at the platform.")
@click.option("--name", metavar="NAME", help="The only audience of that name.")
@click.option("--by-mark", is_flag=True, help="The audience whose description carries this sync's mark.")
@click.option("--without-history", is_flag=True, help="Also where the mark is that of another state, which is lost.")
@lock_option
@place_options
def adopt(
    sync_id: str,
    audience_id: str | None,
    name: str | None,
    by_mark: bool,
    without_history: bool,
    lock_timeout: float,
    output: str,
    **project: Any,
) -> None:
    """Let a sync manage an audience that exists already.

    Members that are in it stay, and are left alone. Members that a lost state had sent can then only be removed at
    the platform.

    \b
    Example:
      dbt-segments audiences adopt shop.lapsed_buyers.meta --id 23850000000000001
    """
    if [by_mark, name is not None, audience_id is not None].count(True) != 1:
        raise click.UsageError("say one of --id, --name and --by-mark")
    from dbt_segments import adopt as adopting
    from dbt_segments import listings
    from dbt_segments.settings import resolve_options

    with running() as progress:
        done = adopting.adopt(
            resolve_options(**project, output=output),
            sync_id,
            audience_id,
            name=name,
            without_history=without_history,
            lock_timeout_s=lock_timeout,
            tell=lambda text: progress("", text),
        )
    click.echo(listings.adopted_json(done) if output == "json" else listings.adopted_text(done))


@audiences.command("prune")
@click.argument("sync_ids", nargs=-1, metavar="[SYNC_ID]...")
@click.option("--plan", "only_plan", is_flag=True, help="Only show what would be done; so without --yes.")
@click.option("--yes", is_flag=True, help="Do it.")
@click.option("--policy", type=click.Choice(["keep", "empty", "delete"]), help="Instead of the configured one.")
@lock_option
@place_options
def prune(
    sync_ids: tuple[str, ...],
    only_plan: bool,
    yes: bool,
    policy: Any,
    lock_timeout: float,
    output: str,
    **project: Any,
) -> None:
    """Empty or delete audiences whose sync is switched off or gone.

    What becomes of each is `orphan` of its destination item, or the project's `orphans`: keep (the default), empty (our
    members are taken out) or delete (the audience itself; one that was adopted is emptied). Names narrow it.

    \b
    Example:
      dbt-segments audiences prune --policy empty

    Exit codes: 0 all done, or only shown; 1 something failed and may be tried again.
    """
    if yes and only_plan:
        raise click.UsageError("say either --plan or --yes")
    from dbt_segments import listings
    from dbt_segments import prune as pruning
    from dbt_segments.settings import resolve_options

    with running() as progress:
        found = pruning.prune(
            resolve_options(**project, output=output),
            sync_ids,
            policy,
            act=yes,
            lock_timeout_s=lock_timeout,
            tell=progress,
        )
    click.echo(listings.pruned_json(found) if output == "json" else listings.pruned_text(found, acted=yes))
    sys.exit(int(any(one.done == "failed" for one in found)))
