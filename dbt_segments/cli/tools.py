"""Commands beside a dbt project: destinations, schema, sandbox, demo."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from dbt_segments.cli.options import output_option
from dbt_segments.errors import SettingsError


@click.group()
def destinations() -> None:
    """Look at destination types, and at what they would receive.

    \b
    Example:
      dbt-segments destinations show meta
    """


@destinations.command("list")
@output_option
def list_(output: str) -> None:
    """Show every destination type.

    \b
    Example:
      dbt-segments destinations list
    """
    from dbt_segments import catalogue, listings

    found = catalogue.types()
    click.echo(listings.to_json({"destinations": found}) if output == "json" else listings.types_text(found))


@destinations.command()
@click.argument("type_", metavar="TYPE")
@output_option
def show(type_: str, output: str) -> None:
    """Show a type's settings, identifiers, limits and operations.

    \b
    Example:
      dbt-segments destinations show meta
    """
    from dbt_segments import catalogue, listings

    found = catalogue.describe(type_)
    click.echo(listings.to_json(found) if output == "json" else listings.type_text(found))


@destinations.command("try")
@click.argument("type_", metavar="TYPE")
@click.option("--default-country", metavar="CC", help="Country of phones and postal codes without one, e.g. DE.")
def try_(type_: str, default_country: str | None) -> None:
    """Show what a platform would receive for each value on stdin.

    Reads JSON lines {"identifier", "value", "country"} (country optional), prints one JSON line for each.

    \b
    Example:
      echo '{"identifier": "email", "value": "Ada@Example.com"}' | dbt-segments destinations try meta
    """
    from dbt_segments.destinations import registry
    from dbt_segments.identifiers.attempt import attempt

    taken = registry.get(type_).identifiers
    rules = {name: accepts.rule for name, accepts in taken.items()}
    fields = {accepts.field.lower(): name for name, accepts in taken.items()}
    for answer in attempt(_json_objects(sys.stdin.buffer), rules, default_country, fields):
        click.echo(json.dumps(answer, ensure_ascii=False))


def _json_objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """One object per line, empty lines left out; an error tells the line's number, never its text."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise SettingsError(
                f"stdin, line {number}: not a JSON object", hint='as in {"identifier": ..., "value": ...}'
            )
        yield value


@click.command()
@click.argument("file", type=click.Choice(["meta", "destinations", "vars"]), default="meta")
def schema(file: str) -> None:
    """Print a JSON Schema, with which editors complete and check a file.

    meta is for dbt's properties files (models/*.yml), destinations for destinations.yml, vars for dbt_project.yml.

    \b
    Example:
      dbt-segments schema meta > .dbt_segments.schema.json
    """
    from dbt_segments import jsonschemas

    click.echo(json.dumps(jsonschemas.SCHEMAS[file](), indent=2))


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8199, show_default=True, help="0 takes a free one.")
@click.option("--state", type=click.Path(dir_okay=False), metavar="FILE", help="Keep members in this file.")
def sandbox(port: int, state: str | None) -> None:
    """Run ad platforms, and a receiver of webhooks, as a local server with memory.

    For development targets. Prints its address, shows its audiences and records there, and serves until Ctrl-C.

    \b
    Example:
      dbt-segments sandbox --port 8199 --state sandbox.json
    """
    from dbt_segments.sandbox import server

    try:
        server.run(click.echo, port, server.build(tuple(server.platforms())), state)
    except OSError as error:
        raise SettingsError(f"sandbox: {error.strerror}", hint="choose another --port or --state") from None
    except ValueError as error:
        raise SettingsError(f"sandbox: {error}", hint="choose another --state") from None


@click.command()
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where to build; kept.")
def demo(folder: Path | None) -> None:
    """Sync a sample project on DuckDB to a local sandbox.

    \b
    Example:
      dbt-segments demo
    """
    from dbt_segments import demo as demo_

    sys.exit(demo_.run(folder, echo=click.echo))
