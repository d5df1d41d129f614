"""The command `dbt-segments`: parse, call one function, print, exit. Whatever is heavy is imported in a command.

Results go to stdout, progress and errors to stderr. Exit codes are those of `errors.py`; a usage error is 2 as well.
"""

from __future__ import annotations

import click

from dbt_segments import __version__
from dbt_segments.cli import dbt, edit, look, project, state, tools
from dbt_segments.cli.shell import Main


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dbt-segments")
def main() -> None:
    """Send dbt models to ad platforms and other tools as audiences, and keep them equal to the model.

    \b
    Example:
      dbt build && dbt-segments sync --select lapsed_buyers
    """


for command in (
    edit.init,
    project.validate,
    project.plan,
    project.sync,
    project.status,
    project.doctor,
    dbt.build,
    dbt.run,
    look.list_,
    look.history,
    look.rejects,
    look.audiences,
    edit.enable,
    edit.disable,
    edit.add,
    state.state,
    tools.destinations,
    tools.schema,
    tools.sandbox,
    tools.demo,
):
    main.add_command(command)
