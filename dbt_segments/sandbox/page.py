"""The page at `/`: audiences, how many people are in them, records, and the last calls. No script, no outside asset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbt_segments.sandbox.app import Sandbox

_LAST = 50
_CALL = ("No.", "Time (UTC)", "Platform", "Method", "Path", "Operation", "Rows", "Result")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1a1a1a; background: #fff }
main { overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem }
caption { text-align: left; font-weight: 600; font-size: 1.15rem; padding: .5rem 0 }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #ccc; vertical-align: top;
         overflow-wrap: break-word }
th { white-space: nowrap }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; padding-right: 1.5rem }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #16181c } th, td { border-color: #444 } }
"""


def render(sandbox: Sandbox) -> str:
    """The whole page as HTML."""
    for platform in sandbox.platforms.values():
        platform.expire()
    audiences = [
        (platform.name, one.account, one.id, one.name, one.description, "deleted" if one.deleted else one.members.count)
        for platform in sandbox.platforms.values()
        for one in platform.audiences.values()
    ]
    records = [
        (name, place, count)
        for name, platform in sandbox.platforms.items()
        for place, count in platform.report().get("records", {}).items()
    ]
    calls = [
        (
            *(call["n"], _time(call["at"]), call["platform"], call["method"], call["path"]),
            *(call["op"], call["rows"], _result(call)),
        )
        for call in list(sandbox.calls)[-_LAST:][::-1]
    ]
    violations = [(name, text) for name, one in sandbox.platforms.items() for text in one.violations]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dbt-segments sandbox</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        "<h1>dbt-segments sandbox</h1>"
        f"<p>{escape(', '.join(sandbox.platforms))}: {len(audiences)} audiences, {sandbox.made} calls. "
        "Reload for news; <code>/_sandbox/state</code> has it as JSON.</p>"
        + _table("Audiences", ("Platform", "Account", "Id", "Name", "Description", "People"), audiences)
        + (_table("Records", ("Platform", "Path", "Records"), records) if records else "")
        + _table(f"Last {_LAST} calls", _CALL, calls)
        + (_table("Sent against the rules", ("Platform", "What"), violations) if violations else "")
        + "</main></body></html>"
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    rows = list(rows)
    numbers = [isinstance(cell, int) for cell in rows[0]] if rows else [False] * len(heads)
    classes = [' class="n"' if number else "" for number in numbers]
    head = "".join(f'<th scope="col"{css}>{escape(one)}</th>' for one, css in zip(heads, classes, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    empty = f'<tr><td colspan="{len(heads)}">none yet</td></tr>'
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body or empty}</tbody></table>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    # Paths and marks may break between their parts, words in no place.
    return f"<td>{escape(str(value)).replace('/', '/<wbr>').replace(':', ':<wbr>')}</td>"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%H:%M:%S")


def _result(call: dict[str, Any]) -> str:
    parts = (str(call["status"] or "no answer"), call["code"], f"({call['fault']})" if call["fault"] else "")
    return " ".join(part for part in parts if part)
