"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

_LISTS = ("-s", "--select", "--exclude")


class Command(click.Command):
    """A command whose `--select` and `--exclude` take several words, as dbt's do. Its arguments stand before them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeat_options(args)))


def _repeat_options(args: Sequence[str]) -> Iterator[str]:
    """`-s a b` as `-s a -s b`."""
    option, has_value = "", False
    for word in args:
        if word.startswith("-"):
            name, joined, _ = word.partition("=")
            option, has_value = (name if name in _LISTS else ""), bool(joined)
        elif option and has_value:
            yield option
        else:
            has_value = True
        yield word


_FOLDER = click.Path(file_okay=False, path_type=Path)


def place_options(function: Function) -> Function:
    """Which project, and how to print; they arrive as keyword arguments of these names."""
    return _with(
        function,
        click.option("--project-dir", type=_FOLDER, help="Folder of dbt_project.yml."),
        click.option("--profiles-dir", type=_FOLDER, help="Folder of profiles.yml and destinations.yml."),
        click.option("--target", "-t", help="Target of the dbt profile."),
        click.option("--vars", metavar="YAML", help="Project variables, e.g. '{dbt_segments: {targets: [dev]}}'."),
        output_option,
    )


def project_options(function: Function) -> Function:
    """The options that every command on a project's syncs shares: the place, and the selection."""
    narrowed = _with(
        function,
        click.option(
            "--select", "-s", multiple=True, help="Segments to include, as dbt selects models; several words."
        ),
        click.option("--exclude", multiple=True, help="Segments to leave out; several words."),
        click.option("--selector", metavar="NAME", help="A selector of selectors.yml, instead of these two."),
        click.option("--state", type=_FOLDER, help="Folder of an earlier manifest, for state: selectors."),
    )
    return place_options(narrowed)


def output_option(function: Function) -> Function:
    """`--output`, for commands that print facts."""
    return click.option("--output", type=click.Choice(["text", "json"]), default="text", help="What to print.")(
        function
    )


def _with(function: Function, *options: Callable[[Function], Function]) -> Function:
    for option in reversed(options):
        function = option(function)
    return function


def sync_options(function: Function) -> Function:
    """How a run goes; `lock_option` is one of them."""
    return _with(
        function,
        click.option("--now", is_flag=True, help="Whether it is due or not."),
        click.option("--full", is_flag=True, help="Send every member again, not only what changed."),
        lock_option,
        click.option(
            "--allow-removals",
            multiple=True,
            metavar="ID",
            help="Release the thresholds of this sync id or segment, in this run only. May be repeated.",
        ),
        click.option(
            "--lift-refusals",
            multiple=True,
            metavar="ID",
            help="Release a sync id or segment whose consent or suppress was taken away. May be repeated.",
        ),
    )


def lock_option(function: Function) -> Function:
    """`--lock-timeout`, for commands that write to the state."""
    return click.option(
        "--lock-timeout",
        type=click.FloatRange(min=0),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for another run.",
    )(function)


def limit_option(default: int) -> Callable[[Function], Function]:
    """`--limit`, for commands that print a log."""
    return click.option(
        "--limit", type=click.IntRange(min=1), default=default, show_default=True, metavar="N", help="How many rows."
    )
