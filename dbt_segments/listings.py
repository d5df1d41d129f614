"""Lists as text for people and as JSON for scripts; `report` does the same for runs. Prints nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from dbt_segments import doctor
from dbt_segments.adopt import Adopted
from dbt_segments.doctor import Checkup
from dbt_segments.initial import Step
from dbt_segments.inventory import ListedAudience, ListedSync, Log, Overview
from dbt_segments.propose import Proposal
from dbt_segments.prune import Pruned
from dbt_segments.report import count_of, iso, table, when
from dbt_segments.toggle import Change

_NEXT = "next: dbt parse, then dbt-segments validate"
_LIMITS = {
    "members": "members a request",
    "body_bytes": "bytes a request",
    "requests_per_s": "requests a second",
    "concurrency": "requests at once for an audience",
}
_STANDINGS = {"on": "on", "off": "switched off", "deleted": "not in the project", "over": "audience is no more"}


def to_json(value: Any) -> str:
    """Plain values as JSON; times are ISO 8601 in UTC."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return iso(value) if isinstance(value, datetime) else str(value)


# -- list -----------------------------------------------------------------------------------------------------


def overview_json(found: Overview) -> str:
    """`{"connections": [...], "segments": [...], "syncs": [...], "kept": [...]}`."""
    return to_json(
        {
            "connections": list(found.connections),
            "segments": [{"segment": name, "entity": entity} for name, entity in found.segments.items()],
            "syncs": [asdict(sync) for sync in found.syncs],
            "kept": [asdict(audience) for audience in found.kept],
        }
    )


def overview_text(found: Overview) -> str:
    """A row for each segment, a column for each connection; below, the audiences that no running sync has."""
    if not found.segments:
        return "no segments"
    cells = {(sync.segment, sync.destination): "" for sync in found.syncs}
    for sync in found.syncs:
        place = (sync.segment, sync.destination)
        cells[place] += ("; " if cells[place] else "") + _cell(sync)
    rows = [("segment", *found.connections)]
    rows += [(name, *(cells.get((name, other), "-") for other in found.connections)) for name in found.segments]
    lines = table(rows)
    if found.kept:
        lines += ["", "audiences that nothing is sent to:", *audience_lines(found.kept)]
    return "\n".join(lines)


def _cell(sync: ListedSync) -> str:
    """`on, success`; a classic sync says its mode; one without an audience says so once it has run."""
    words = [*([] if sync.one_click else [f"classic {sync.mode}"]), "on" if sync.enabled else "off"]
    words.append(sync.last_status or "never")
    if sync.one_click and sync.last_status and not sync.audience_id:
        words.append("no audience")
    if not sync.usable:
        words.append("connection unusable")
    return ", ".join(words)


# -- audiences ------------------------------------------------------------------------------------------------


def audiences_json(found: Sequence[ListedAudience]) -> str:
    """`{"audiences": [...]}`."""
    return to_json({"audiences": [asdict(one) for one in found]})


def audiences_text(found: Sequence[ListedAudience]) -> str:
    """A row for each audience of the state."""
    return "\n".join(audience_lines(found)) if found else "no audiences"


def audience_lines(found: Iterable[ListedAudience]) -> list[str]:
    """The rows of `audiences_text`, under their heading."""
    rows = [("sync", "audience", "id", "account", "recorded", "sync is", "last run")]
    for one in found:
        name = f"{one.destination}: {one.audience_name or '-'}"
        recorded = f"{one.event} {when(one.recorded_at)}"
        last = f"{one.last_status} {when(one.last_finished_at)}" if one.last_status else "never"
        standing = _STANDINGS[one.standing]
        rows.append((one.sync_id, name, one.audience_id or "-", one.account or "-", recorded, standing, last))
    return table(rows)


def pruned_json(found: Sequence[Pruned]) -> str:
    """`{"audiences": [...]}`: a row for each audience that nothing is sent to."""
    return to_json({"audiences": [asdict(one) for one in found]})


def pruned_text(found: Sequence[Pruned], *, acted: bool) -> str:
    """What becomes, or became, of each audience that nothing is sent to."""
    if not found:
        return "every audience has its sync"
    rows = [("sync", "audience", "id", "sync is", "ours", "policy", "done" if acted else "")]
    for one in found:
        name, standing = f"{one.destination}: {one.audience_name or '-'}", _STANDINGS[one.standing]
        done = one.done if acted else ""
        rows.append((one.sync_id, name, one.audience_id, standing, f"{one.members:,}", one.action, done))
    head, *below = table(rows, right=(4,))
    lines = [head]
    for row, one in zip(below, found, strict=True):
        lines += [row, *([f"  {one.note}"] if one.note else [])]
    todo = not acted and any(one.action != "keep" for one in found)
    return "\n".join([*lines, *(["nothing was done: --yes does it"] if todo else [])])


# -- logs -----------------------------------------------------------------------------------------------------


def log_json(found: Log, name: str) -> str:
    """`{<name>: [...], "total": n}`."""
    return to_json({name: [dict(row) for row in found.rows], "total": found.total})


def history_text(found: Log) -> str:
    """A row for each run of a sync, its reason at the end."""
    rows = [("finished", "sync", "status", "added", "removed", "changed", "reason")]
    for row in found.rows:
        numbers = (f"+{row['added'] or 0:,}", f"-{row['removed'] or 0:,}", f"~{row['changed'] or 0:,}")
        rows.append((when(row["finished_at"]), row["sync_id"], row["status"], *numbers, row["reason"] or ""))
    return _log_text(rows, found, "run", right=(3, 4, 5))


def rejects_text(found: Log) -> str:
    """A row for each reject: the entity's key, why, and what becomes of it."""
    rows = [("recorded", "sync", "key", "reason", "class")]
    for row in found.rows:
        sync_id, key, reason, kind = (row[name] or "-" for name in ("sync_id", "key", "reason", "class"))
        rows.append((when(row["recorded_at"]), sync_id, key, reason, kind))
    return _log_text(rows, found, "reject")


def _log_text(rows: Sequence[tuple[str, ...]], found: Log, word: str, right: tuple[int, ...] = ()) -> str:
    if not found.rows:
        return f"no {word}s"
    shown = f"{len(found.rows):,} of " if len(found.rows) < found.total else ""
    return "\n".join([*table(rows, right=right), f"{shown}{count_of(found.total, word)}"])


# -- destinations ---------------------------------------------------------------------------------------------


def types_text(types: Sequence[Mapping[str, Any]]) -> str:
    """A row for each type."""
    rows = [("type", "what", "version", "one-click"), *((_type_row(one)) for one in types)]
    return "\n".join(table(rows))


def _type_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (one["type"], one["title"] or "-", one["version"] or "-", "yes" if one["one_click"] else "no")


def type_text(one: Mapping[str, Any]) -> str:
    """All that a destination declares, in sections."""
    version = f", {one['version']}" if one["version"] else ""
    kind = "one-click ad platform" if one["one_click"] else "classic"
    lines = [f"{one['type']}: {one['title'] or one['type']}{version} ({kind})", "", "settings of a connection"]
    lines += _below([("setting", "default", "means"), *(_setting_row(item) for item in one["settings"])])
    if one["identifiers"]:
        lines += ["", "identifiers"]
        heading = ("identifier", "field", "rule", "is sent", "matches")
        lines += _below([heading, *(_identifier_row(item) for item in one["identifiers"])])
        units = (" with ".join(unit) for unit in one["units"])
        lines += ["", f"match units: {', '.join(units)}"]
    limits = (f"{one['limits'][name]:,} {word}" for name, word in _LIMITS.items() if one["limits"][name] is not None)
    lines += [f"limits: {', '.join(limits)}"]
    lines += [f"modes of a classic sync: {', '.join(one['modes'])}"]
    lines += [f"operations: {', '.join(f'{op} {word}' for op, word in one['operations'].items())}"]
    if one["retention_days"]:
        lines += [f"members are forgotten after {count_of(one['retention_days'], 'day')}"]
    return "\n".join(lines)


def _below(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return ["  " + line for line in table(rows)]


def _setting_row(item: Mapping[str, Any]) -> tuple[str, ...]:
    default = "required" if item["required"] else "-" if item["default"] is None else str(item["default"]).lower()
    words = [*(["secret"] if item["secret"] else []), *([item["description"]] if item["description"] else [])]
    return (item["setting"], default, ", ".join(words))


def _identifier_row(item: Mapping[str, Any]) -> tuple[str, ...]:
    rule = " ".join([item["rule"], *(f"({option})" for option in item["options"])])
    matches = item["matches"]
    if item["forgotten_after_days"]:
        matches += f", forgotten after {count_of(item['forgotten_after_days'], 'day')}"
    return (item["identifier"], item["field"], rule, "as SHA-256" if item["hashed"] else "in clear", matches)


# -- edits ----------------------------------------------------------------------------------------------------


def change_json(change: Change) -> str:
    """`{"file", "segment", "destination", "changed", "lines"}`."""
    return to_json(asdict(change))


def change_text(change: Change) -> str:
    """What the file says now, and that dbt has to read it."""
    if not change.changed:
        return f"{change.file}: {change.segment} -> {change.destination}: it is so already"
    lines = (f"  {line}" for line in change.lines)
    return "\n".join([f"{change.file}: {change.segment}:", *lines, _NEXT])


def proposal_json(proposal: Proposal, change: Change | None) -> str:
    """`{"segment", "kind", "item", "left", "file", "written"}`."""
    return to_json(
        {
            "segment": proposal.opened.segment.name,
            "kind": proposal.kind,
            "item": proposal.item,
            "left": list(proposal.left),
            "file": proposal.opened.declared.file,
            "written": change is not None,
        }
    )


def proposal_text(proposal: Proposal, change: Change | None) -> str:
    """The lines to write, or that were written, and what could be mapped besides."""
    left = [f"could be mapped too: {', '.join(proposal.left)}"] if proposal.left else []
    if change is not None:
        return "\n".join([change_text(change), *left])
    head = f"{proposal.opened.declared.file}: {proposal.opened.segment.name}: below `segment` (--write puts it there):"
    return "\n".join([head, *(f"  {line}" for line in proposal.lines), *left])


def adopted_json(done: Adopted) -> str:
    """`{"sync_id", "destination", "account", "audience_id", "audience_name", "mark", "changed"}`."""
    return to_json(asdict(done))


def adopted_text(done: Adopted) -> str:
    """Which audience the sync manages."""
    word = "manages from now on" if done.changed else "manages already"
    return f"{done.sync_id} {word}: {done.audience_name} ({done.audience_id}) of account {done.account}"


def steps_json(steps: Sequence[Step]) -> str:
    """`{"steps": [{"file", "what", "done", "why", "lines"}]}`."""
    return to_json({"steps": [asdict(step) for step in steps]})


def steps_text(steps: Sequence[Step], hint: str) -> str:
    """A line for each file, the lines that are left to the user, and what to do in CI."""
    lines = []
    for step in steps:
        lines.append(f"{step.file}: {step.what} {step.done}" + (f": {step.why}" if step.why else ""))
        lines += [f"    {line}" for line in step.lines]
    return "\n".join([*lines, "next: dbt deps, then declare an entity and a segment", hint])


# -- doctor ---------------------------------------------------------------------------------------------------


def checkups_json(found: Sequence[Checkup]) -> str:
    """`{"connections": [{"connection", "type", "version", "overridden", "sunset", "findings": [...]}]}`."""
    return to_json({"connections": [{**asdict(one), "findings": _findings(one)} for one in found]})


def _findings(one: Checkup) -> list[dict[str, Any]]:
    return [{"level": doctor.level(finding), **asdict(finding)} for finding in one.findings]


def checkups_text(found: Sequence[Checkup]) -> str:
    """A block for each connection; what needs a remedy says it below."""
    if not found:
        return "no connection is in use"
    lines: list[str] = []
    for one in found:
        version = f", {one.version}" if one.version else ""
        lines.append(f"{one.connection} ({one.type or 'of no known type'}{version})")
        rows = table([(doctor.level(finding), finding.what, finding.said) for finding in one.findings])
        for row, finding in zip(rows, one.findings, strict=True):
            lines += [f"  {row}", *([f"    {finding.hint}"] if finding.hint else [])]
    levels: list[str] = [doctor.level(finding) for one in found for finding in one.findings]
    wrong, warnings = count_of(levels.count("wrong"), "finding"), count_of(levels.count("warning"), "warning")
    return "\n".join([*lines, f"{count_of(len(found), 'connection')}, {wrong} wrong, {warnings}"])
