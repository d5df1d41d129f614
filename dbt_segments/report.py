"""Results as text for people and as JSON for scripts: functions of values, which print nothing.

The JSON is an interface (docs/reference): keys are added, never renamed. The text is for reading and may change.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Protocol

from dbt_segments import __version__
from dbt_segments.errors import Problem, SegmentsError
from dbt_segments.values import Counts, Registry, RunResult, SyncResult

RESULTS_FILE = "dbt_segments_results.json"

Cells = tuple[str, ...]

_ORPHAN = ("sync_id", "destination", "audience_id", "audience_name", "standing")
_INDENT = "  "
_NUMBERS = (1, 2, 3)  # the columns of a row that hold numbers
_WARNING = "warning: "
SMALL = "warning: below_minimum"
_SHARED = "suppressed_shared"
_NOT_DUE = "not_due"
_WAITS = "not due: "
_CODE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")


class StatusLine(Protocol):
    """What `status` knows of one sync; times are None where there is none."""

    @property
    def sync_id(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def audience_id(self) -> str | None: ...
    @property
    def audience_name(self) -> str | None: ...
    @property
    def members(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def unconfirmed(self) -> int: ...
    @property
    def last_status(self) -> str | None: ...
    @property
    def last_finished_at(self) -> datetime | str | None: ...
    @property
    def next_due(self) -> datetime | str | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def size_lower(self) -> int | None: ...
    @property
    def size_upper(self) -> int | None: ...
    @property
    def match_rate(self) -> float | None: ...
    @property
    def sized_at(self) -> datetime | str | None: ...


class OrphanLine(Protocol):
    """An audience whose sync is switched off or gone."""

    @property
    def sync_id(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def audience_id(self) -> str | None: ...
    @property
    def audience_name(self) -> str | None: ...
    @property
    def standing(self) -> str: ...


class SizeLine(Protocol):
    """One table of the state; None where the warehouse does not say."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def rows(self) -> int | None: ...
    @property
    def bytes(self) -> int | None: ...


class StateLines(Protocol):
    """The state's schema and its tables."""

    @property
    def schema(self) -> str: ...
    @property
    def tables(self) -> Sequence[SizeLine]: ...


class RubbishLines(Protocol):
    """What goes, or went: tables, and rows by log; `kept` is what the warehouse would not drop, with its words."""

    @property
    def tables(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Mapping[str, int]: ...
    @property
    def kept(self) -> Mapping[str, str]: ...


def exit_code(run: RunResult) -> int:
    """The code of a whole run: 2 a bug, 1 something needs reading, 3 every failure may pass by itself, 0 all done."""
    return worst({sync.exit_code or int(sync.status in ("failed", "held")) for sync in run.syncs})


def worst(codes: Collection[int]) -> int:
    """The exit code that says most: 2 before 1 before 3."""
    return next((code for code in (2, 1, 3) if code in codes), 0)


# -- JSON -----------------------------------------------------------------------------------------------------


def results(run: RunResult, error: SegmentsError | None = None) -> dict[str, Any]:
    """A run as plain values, in the documented shape; with the error that kept it from starting, if one did."""
    told = {"error": {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}} if error else {}
    return {
        "run_id": run.run_id,
        "started_at": run.started_at,
        "elapsed_s": round(run.elapsed_s, 3),
        "syncs": [_result(sync) for sync in run.syncs],
        **told,
    }


def results_json(run: RunResult, error: SegmentsError | None = None) -> str:
    """`sync --output json`, and the text of target/dbt_segments_results.json."""
    return _json(results(run, error))


def plan_json(run: RunResult, requests: Mapping[str, Sequence[str]]) -> str:
    """The rows of `results_json` with the counts that would be; `requests` (masked) only where they were asked for."""
    plan = results(run)
    if requests:
        plan["requests"] = {sync_id: list(texts) for sync_id, texts in requests.items()}
    return _json(plan)


def status_json(lines: Iterable[StatusLine], state: StateLines, orphans: Iterable[OrphanLine] = ()) -> str:
    """`{"syncs": [...], "orphans": [...], "state": {...}}`; times are ISO 8601 in UTC or null."""
    kept = [{name: getattr(one, name) for name in _ORPHAN} for one in orphans]
    tables = [{name: getattr(table, name) for name in ("name", "kind", "rows", "bytes")} for table in state.tables]
    synced = [_status(line) for line in lines]
    return _json({"syncs": synced, "orphans": kept, "state": {"schema": state.schema, "tables": tables}})


def rubbish_json(found: RubbishLines, *, dry_run: bool) -> str:
    """`{"dry_run", "tables": [...], "rows": {log: rows}, "kept": {table: why}}`."""
    return _json({"dry_run": dry_run, "tables": list(found.tables), "rows": dict(found.rows), "kept": dict(found.kept)})


def problems_json(registry: Registry, problems: Iterable[Problem], warnings: Iterable[Problem] = ()) -> str:
    """`{"problems": [{"file", "model", "key", "message", "hint"}], "warnings", "segments", "entities", "syncs"}`."""
    named = ("file", "model", "key", "message", "hint")
    found, warned = (
        [{name: getattr(problem, name) for name in named} for problem in some] for some in (problems, warnings)
    )
    return _json({"problems": found, "warnings": warned, **_sizes(registry)})


def _result(sync: SyncResult) -> dict[str, Any]:
    counts = sync.counts
    return {
        "sync_id": sync.sync_id,
        "segment": sync.segment,
        "entity": sync.entity,
        "destination": sync.destination,
        "type": sync.type,
        "status": sync.status,
        "reason": sync.reason,
        "audience_id": sync.audience_id,
        "audience_name": sync.audience_name,
        "members": counts.members,
        "added": counts.added,
        "changed": counts.changed,
        "removed": counts.removed,
        "unchanged": counts.unchanged,
        "rejected": counts.rejected,
        "unusable": counts.unusable,
        "refused": counts.refused,
        "pending": counts.pending,
        "unconfirmed": sync.unconfirmed,
        "requests": sync.requests,
        "retries": sync.retries,
        "bytes_sent": sync.bytes_sent,
        "elapsed_s": round(sync.elapsed_s, 3),
        "notes": list(sync.notes),
    }


def _status(line: StatusLine) -> dict[str, Any]:
    return {
        "sync_id": line.sync_id,
        "destination": line.destination,
        "audience_id": line.audience_id,
        "audience_name": line.audience_name,
        "members": line.members,
        "pending": line.pending,
        "unconfirmed": line.unconfirmed,
        "last_status": line.last_status or None,
        "last_finished_at": iso(line.last_finished_at),
        "next_due": iso(line.next_due),
        "notes": list(line.notes),
        "size_lower": line.size_lower,
        "size_upper": line.size_upper,
        "match_rate": line.match_rate,
        "sized_at": iso(line.sized_at),
    }


def _sizes(registry: Registry) -> dict[str, int]:
    return {word: len(getattr(registry, word)) for word in ("segments", "entities", "syncs")}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


# -- text -----------------------------------------------------------------------------------------------------


def run_text(run: RunResult) -> str:
    """What a sync did: one aligned row per sync, its reasons below it, a sum where there are several."""
    syncs, common = _without_common(run.syncs)
    lines = _with_notes(syncs, table([_row(sync) for sync in syncs], right=_NUMBERS), {})
    return "\n".join([*lines, *common, *([] if len(run.syncs) == 1 else [sum_text(run)])])


def plan_text(run: RunResult, requests: Mapping[str, Sequence[str]]) -> str:
    """What a sync would do, as `run_text`; `requests` (masked) stand below their sync. The last line says: not sent."""
    syncs, common = _without_common(run.syncs)
    lines = _with_notes(syncs, table([_row(sync, planned=True) for sync in syncs], right=_NUMBERS), requests)
    return "\n".join([*lines, *common, sum_text(run, planned=True)])


def rubbish_text(found: RubbishLines, *, dry_run: bool) -> str:
    """What goes or went, one line each, and the sum."""
    lines = [f"table {name}" for name in found.tables]
    lines += [f"{count_of(count, 'row')} of {log}" for log, count in found.rows.items()]
    lines += [f"kept table {name}: {why}" for name, why in found.kept.items()]
    tables, rows = count_of(len(found.tables), "table"), count_of(sum(found.rows.values()), "row")
    if not found.tables and not found.rows:
        return "\n".join([*lines, "nothing to collect"])
    return "\n".join([*lines, f"{tables} and {rows} {'would go' if dry_run else 'are gone'}"])


def status_text(lines: Sequence[StatusLine], state: StateLines, orphans: Sequence[OrphanLine] = ()) -> str:
    """One aligned row per sync under a heading, notes below their row; the last line is the size of the state."""
    return "\n".join([*_status_lines(lines), *_orphan_lines(orphans), _state_line(state)])


def _orphan_lines(orphans: Sequence[OrphanLine]) -> list[str]:
    if not orphans:
        return []
    named = [f"{_INDENT}{one.sync_id}: {one.audience_name or '-'} ({one.audience_id})" for one in orphans]
    head = f"{count_of(len(orphans), 'audience')} that nothing is sent to: dbt-segments audiences prune"
    return [head, *named]


def _state_line(state: StateLines) -> str:
    rows = [table.rows for table in state.tables if table.rows is not None]
    sizes = [table.bytes for table in state.tables if table.bytes is not None]
    parts = [count_of(len(state.tables), "table")]
    parts += [f"about {count_of(sum(rows), 'row')}"] if rows else []
    parts += [f"{sum(sizes) / 1e6:,.1f} MB"] if sizes else []
    return f"state {state.schema}: {', '.join(parts)}"


def _status_lines(lines: Sequence[StatusLine]) -> list[str]:
    if not lines:
        return ["no syncs"]
    cells = [_status_cells(line) for line in lines]
    size, rate = ("size" if any(row[3] for row in cells) else "", "matched" if any(row[4] for row in cells) else "")
    heading = ("sync", "audience", "members", size, rate, "pending", "last", "finished", "next due")
    head, *below = table([heading, *cells], right=(2, 3, 4, 5))
    notes = [[_INDENT + note for note in line.notes] for line in lines]
    return [head, *(text for row, told in zip(below, notes, strict=True) for text in (row, *told))]


def problems_text(registry: Registry, problems: Sequence[Problem], warnings: Iterable[Problem] = ()) -> str:
    """Each warning and problem on a line of its own; last the problems' number, or that what is declared is right."""
    warned = [f"warning: {one}" for one in warnings]
    if problems:
        return "\n".join([*warned, *map(str, problems), count_of(len(problems), "problem")])
    sizes = _sizes(registry)
    entities = count_of(sizes["entities"], "entity", "entities")
    declared = f"{count_of(sizes['segments'], 'segment')}, {entities}, {count_of(sizes['syncs'], 'sync')}"
    return "\n".join([*warned, f"{declared}: all right"])


def bug_text(error: BaseException) -> str:
    """Where an unexpected error arose. Its text is left out: a driver's message may quote a member's values."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        kind = type(current)
        frames = "".join(traceback.format_tb(current.__traceback__))
        chain.append(f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\n".join(
        [*reversed(chain), f"error: this is a bug in dbt-segments {__version__}; please report the above"]
    )


def _row(sync: SyncResult, *, planned: bool = False) -> Cells:
    """name, added, removed, changed, words, time; numbers are left out where nothing was or would be sent."""
    counts, sends = sync.counts, sync.status in ("success", "partial")
    if sync.status == "noop":
        numbers, words = ("", "", ""), [f"up to date, {count_of(counts.unchanged, 'member')}", *_others(counts)]
    elif sync.reason == _NOT_DUE:
        numbers, words = ("", "", ""), [": ".join(("not due", *sync.notes[:1]))]
    else:
        counted = sends or counts.added or counts.removed or counts.changed
        numbers = _numbers(counts) if counted else ("", "", "")
        words = [*([] if sends else [sync.status]), *_others(counts, unchanged=planned)]
    time = "" if planned or sync.status == "skipped" else _seconds(sync.elapsed_s)
    return (_title(sync), *numbers, ", ".join(words), time)


def _numbers(counts: Counts) -> tuple[str, str, str]:
    return (f"+{counts.added:,}", f"-{counts.removed:,}", f"~{counts.changed:,}" if counts.changed else "")


def _others(counts: Counts, *, unchanged: bool = False) -> list[str]:
    """Members that are neither added, changed nor removed; the unchanged only where they are news."""
    words = (*(["unchanged"] if unchanged else []), "rejected", "unusable", "refused", "pending")
    numbers = ((getattr(counts, word), word) for word in words)
    return [f"{number:,} {word}" for number, word in numbers if number]


def _without_common(syncs: Sequence[SyncResult]) -> tuple[list[SyncResult], list[str]]:
    """The syncs without the notes that several of them have, and one line in the place of each."""
    kept, common = list(syncs), []
    shared = [(sync, note) for sync in syncs for note in sync.notes if note.startswith(_SHARED)]
    if len(shared) > 1:
        kept = [_without(sync, _SHARED) for sync in kept]
        numbers = ", ".join(f"{_title(sync)} {note.split()[1]}" for sync, note in shared)
        common.append(f"{_SHARED}: members share an identifier with someone who refused it: {numbers}")
    small = [sync for sync in syncs if any(note.startswith(SMALL) for note in sync.notes)]
    if len(small) > 1:
        kept = [_without(sync, SMALL) for sync in kept]
        named = ", ".join(dict.fromkeys(sync.segment for sync in small))
        common.append(f"{SMALL}: {len(small)} audiences have fewer members than their platform uses, of {named}")
    told_once = (note for sync in kept for note in sync.notes if note.startswith((_WARNING, _WAITS)))
    for note in dict.fromkeys(told_once):
        told = [sync for sync in kept if note in sync.notes]
        if len(told) > 1:
            kept = [_without(sync, note) for sync in kept]
            named = ", ".join(dict.fromkeys(sync.segment for sync in told))
            common.append(f"{note} ({len(told)} syncs, of {named})")
    return kept, common


def _without(sync: SyncResult, note: str) -> SyncResult:
    return replace(sync, notes=tuple(one for one in sync.notes if not one.startswith(note)))


def _title(sync: SyncResult) -> str:
    return f"{sync.segment} -> {sync.destination}"


def _with_notes(
    syncs: Sequence[SyncResult], rows: Sequence[str], requests: Mapping[str, Sequence[str]]
) -> Iterable[str]:
    for sync, row in zip(syncs, rows, strict=True):
        yield row
        due = sync.reason != _NOT_DUE
        if sync.reason and due:
            yield _INDENT + _words(sync.reason)
        yield from (_INDENT + line for note in (sync.notes if due else sync.notes[1:]) for line in note.splitlines())
        yield from (_INDENT * 2 + line for text in requests.get(sync.sync_id, ()) for line in text.splitlines())


def sum_text(run: RunResult, *, planned: bool = False) -> str:
    """One line for the whole run."""
    named = {"success": "to send" if planned else "sent", "noop": "up to date"}
    order = ("success", "partial", "noop", "skipped", "held", "failed")
    numbers = ((sum(sync.status == status for sync in run.syncs), named.get(status, status)) for status in order)
    parts = ", ".join(f"{number:,} {word}" for number, word in numbers if number)
    text = count_of(len(run.syncs), "sync") + (f": {parts}" if parts else "")
    return f"{text}; nothing was sent" if planned else f"{text}; {_seconds(run.elapsed_s)}"


def _status_cells(line: StatusLine) -> Cells:
    audience = line.audience_name or line.audience_id or "-"
    return (
        line.sync_id,
        f"{line.destination}: {audience}",
        f"{line.members:,}",
        _size(line.size_lower, line.size_upper),
        f"{line.match_rate:.0%}" if line.match_rate is not None else "",
        f"{line.pending:,}",
        line.last_status or "never",
        when(line.last_finished_at),
        when(line.next_due),
    )


def _size(lower: int | None, upper: int | None) -> str:
    """People, as a platform estimates them: one number, or a range."""
    known = [f"{number:,}" for number in (lower, upper) if number is not None]
    return " to ".join(dict.fromkeys(known))


def table(rows: Sequence[Cells], right: tuple[int, ...] = ()) -> list[str]:
    """Rows with their columns aligned, those of `right` to the right; a column that is empty throughout is left out."""
    used = [index for index, column in enumerate(zip(*rows, strict=True)) if any(column)]
    widths = {index: max(len(row[index]) for row in rows) for index in used}

    def cell(row: Cells, index: int) -> str:
        gap = "" if index == 0 else "  " if index in right and index - 1 in right else "   "
        return gap + (row[index].rjust(widths[index]) if index in right else row[index].ljust(widths[index]))

    return ["".join(cell(row, index) for index in used).rstrip() for row in rows]


def _words(reason: str) -> str:
    """A reason's code as words; a reason that is a sentence already stays."""
    return reason.replace("_", " ") if _CODE.fullmatch(reason) else reason


def count_of(count: int, one: str, many: str = "") -> str:
    """A number with its word."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _seconds(elapsed_s: float) -> str:
    return f"{elapsed_s:,.1f} s"


def _moment(value: datetime | str) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def iso(value: datetime | str | None) -> str | None:
    """ISO 8601 in UTC; None for none."""
    return _moment(value).isoformat(timespec="seconds") if value else None


def when(value: datetime | str | None) -> str:
    """A time for people, to the minute; "-" for none."""
    return f"{_moment(value):%Y-%m-%d %H:%M} UTC" if value else "-"
