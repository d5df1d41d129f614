"""What we say inside a dbt command: through dbt's own events, which know `--quiet`, `--log-format` and the log file."""

from __future__ import annotations

from contextlib import suppress


def tell(text: str, level: str = "info") -> None:
    """Say it at a level of dbt's: debug, info, warn or error. Never raises."""
    with suppress(Exception):
        from dbt_common.events.base_types import EventLevel
        from dbt_common.events.functions import fire_event
        from dbt_common.events.types import Note

        note = Note(msg=f"dbt-segments: {text}")
        try:
            fire_event(note, level=EventLevel(level))
        except Exception:  # `--warn-error` makes dbt raise a warning instead of telling it
            fire_event(note, level=EventLevel.ERROR)
