"""Commands beside a dbt project: destinations try, sandbox, demo."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from dbt_segments.errors import SettingsError


@click.group()
def destinations() -> None:
    """Look at what destinations would receive.

    \b
    Example:
      echo '{"identifier": "email", "value": "Ada@Example.com"}' | dbt-segments destinations try meta
    """


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
@click.option("--port", type=click.IntRange(0, 65535), default=8199, show_default=True, help="0 takes a free one.")
@click.option("--state", type=click.Path(dir_okay=False), metavar="FILE", help="Keep members in this file.")
def sandbox(port: int, state: str | None) -> None:
    """Run ad platforms as a local server with memory.

    For development targets. Prints its address, shows its audiences there, and serves until Ctrl-C.

    \b
    Example:
      dbt-segments sandbox --port 8199 --state sandbox.json
    """
    from dbt_segments.sandbox import server

    try:
        server.run(ready=click.echo, port=port, state_file=state)
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
