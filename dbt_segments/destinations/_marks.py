"""Our mark in an audience's description: `dbt-segments:<state id>:<sync id>:<nonce>`, one word among the user's own."""

from __future__ import annotations

import re

MARK = "dbt-segments:"
_ANY_MARK = re.compile(rf"(?<!\S){MARK}\S+\s*")


def mark_in(description: str, asked: str = "") -> str:
    """The mark of a description, of several the one asked for; empty where there is none."""
    marks = [word for word in description.split() if word.startswith(MARK)]
    return next((one for one in marks if carries(one, asked)), marks[0] if marks else "")


def carries(own: str, mark: str) -> bool:
    """Whether a description's mark is the one asked for; the last parts may be left out of what is asked."""
    return bool(mark) and (own == mark or own.startswith(mark.rstrip(":") + ":"))


def marked(description: str, mark: str) -> str:
    """The description with our mark behind people's own words; an older mark of ours goes."""
    return f"{_ANY_MARK.sub('', description).strip()} {mark}".strip()
