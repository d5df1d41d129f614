"""Our mark in a description that people write too: one word, `dbt-segments:<state id>:<sync id>:<nonce>`."""

from __future__ import annotations

import re

PREFIX = "dbt-segments:"
_ANY = re.compile(rf"(?<!\S){PREFIX}\S+\s*")


def marks_in(description: str) -> list[str]:
    """Every mark, in the order of the text."""
    return [word for word in description.split() if word.startswith(PREFIX)]


def carries(own: str, asked: str) -> bool:
    """Whether a description's mark is the one asked for; the last parts may be left out of what is asked."""
    return bool(asked) and (own == asked or own.startswith(asked.rstrip(":") + ":"))


def mark_of(description: str, asked: str = "") -> str:
    """The mark that was asked for, else the first one; empty where there is none."""
    found = marks_in(description)
    return next((one for one in found if carries(one, asked)), found[0] if found else "")


def with_mark(description: str, mark: str) -> str:
    """The words that people wrote, and our mark behind them in place of every other."""
    if marks_in(description) == [mark]:
        return description
    return f"{_ANY.sub('', description).strip()} {mark}".strip()
