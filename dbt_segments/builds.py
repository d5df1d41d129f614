"""What dbt built and tested last, and whether that allows a sync.

Two witnesses: the state table `model_builds`, which the macro `on_run_end` fills, and dbt's own `run_results.json`,
which holds the newest command only: after `dbt run; dbt test` there is no model in it, and `compile`, `docs generate`,
`show` and `clone` write models as successes without building anything (tried with dbt 1.10 to 1.12).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dbt_segments.errors import ManifestError, StateError
from dbt_segments.values import Hold, Model, Registry, Sync

# The meaning of a row of `model_builds`; `macros/_protocol.sql` has the same number.
PROTOCOL = 1

COLUMNS = (
    "invocation_id",
    "unique_id",
    "resource_type",
    "command",
    "status",
    "is_empty",
    "is_sample",
    "built_at",
    "protocol",
)

# The macro records the same ones. `test` builds nothing, but its failures count; `clone` and `compile` build nothing.
_COMMANDS = frozenset({"run", "build", "retry", "seed", "snapshot", "test"})
_KINDS = ("model.", "seed.", "snapshot.", "test.")

# dbt v2 says "reused" of a model that it did not build again because nothing had changed.
_BUILT = frozenset({"success", "pass", "warn", "no-op", "reused"})
_TESTED = frozenset({"pass", "warn", "success", "reused"})


@dataclass(frozen=True)
class Build:
    """The result of one node in one dbt command.

    status    in dbt's words: success, error, skipped, partial success, pass, fail, warn, ...
    built_at  aware, UTC: when the command ended, by the clock of the machine that ran dbt
    empty     under `--empty`: tables without rows, and tests that saw none
    sample    under `--sample` or event-time bounds: a part of the rows
    """

    unique_id: str
    status: str
    built_at: datetime
    empty: bool = False
    sample: bool = False
    invocation_id: str = ""
    command: str = ""

    @property
    def is_test(self) -> bool:
        return self.unique_id.startswith("test.")

    @property
    def is_whole(self) -> bool:
        return not (self.empty or self.sample)


def latest_sql(relation: str) -> str:
    """Query for the rows of `model_builds` that `latest` may need, in the order of COLUMNS.

    relation  the table, rendered and quoted
    """
    columns = ",\n    ".join(COLUMNS)
    return f"""
with ranked as (
  select
    {columns},
    row_number() over (
      partition by unique_id, is_empty or is_sample
      order by built_at desc, invocation_id desc
    ) as age
  from {relation}
)
select
    {columns}
from ranked
where age = 1
"""


def from_rows(rows: Iterable[Sequence[Any]]) -> tuple[Build, ...]:
    """Builds from rows of `model_builds`, each in the order of COLUMNS.

    Raises StateError when the newest row was written by a macro of another protocol.
    """
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    if named:
        _check_protocol(max(named, key=lambda row: (row["built_at"], row["protocol"]))["protocol"])
    return tuple(
        Build(
            unique_id=row["unique_id"],
            status=row["status"],
            built_at=_utc(row["built_at"]),
            empty=bool(row["is_empty"]),
            sample=bool(row["is_sample"]),
            invocation_id=row["invocation_id"],
            command=row["command"],
        )
        for row in named
    )


def read_run_results(path: Path, *, target: str = "", default_target: str = "") -> tuple[Build, ...]:
    """Builds and tests of the newest dbt command, from run_results.json.

    target          the dbt target of this sync; a file of another target says nothing about it. Empty: not checked
    default_target  the target of a command without `--target`, which leaves no trace in the file

    Empty when the file is not there, or its command builds and tests nothing. Raises ManifestError when it is damaged:
    dbt was stopped while it wrote, and what it built is not known.
    """
    content = _read_json(path)
    if content is None:
        return ()
    try:
        arguments = content.get("args") or {}
        if arguments.get("which") not in _COMMANDS:
            return ()
        if target and (arguments.get("target") or default_target or target) != target:
            return ()
        metadata = content["metadata"]
        part = any(arguments.get(name) for name in ("sample", "event_time_start", "event_time_end"))
        return tuple(
            Build(
                unique_id=result["unique_id"],
                status=result["status"],
                built_at=_utc(datetime.fromisoformat(metadata["generated_at"].replace("Z", "+00:00"))),
                empty=bool(arguments.get("empty")),
                sample=part,
                invocation_id=metadata.get("invocation_id") or "",
                command=arguments["which"],
            )
            for result in content["results"]
            if result["unique_id"].startswith(_KINDS)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error


def read_freshness(path: Path) -> dict[str, str]:
    """Source -> "pass", "warn", "error" or "runtime error", from sources.json; empty when it is not there."""
    content = _read_json(path)
    try:
        return {result["unique_id"]: result["status"] for result in content["results"]} if content else {}
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error


def latest(builds: Iterable[Build]) -> dict[str, Build]:
    """Node -> its newest build. A test that ran on empty or sampled tables proves nothing and is passed over."""
    newest: dict[str, Build] = {}
    for build in builds:
        if build.is_test and not build.is_whole:
            continue
        known = newest.get(build.unique_id)
        if known is None or build.built_at >= known.built_at:
            newest[build.unique_id] = build
    return newest


def gate(
    sync: Sync, registry: Registry, builds: Mapping[str, Build], freshness: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Reasons to hold the sync, and warnings; each is `code: text`.

    builds     node -> its newest build, from `latest`
    freshness  source -> status, from `read_freshness`

    Looked at are the segment, its entity, related and suppression models, their tests, and the sources above them.
    A model without any record is a warning and no hold: it may have been built before the hook line was there, or by a
    dbt that runs elsewhere, and a sync must be able to start. A segment that was built after its parent failed is not
    held for the parent: dbt built it on the parent's last good table, as the user told it to.
    """
    return weigh(_models_of(sync), sync.hold, registry, builds, freshness)


def weigh(
    models: Sequence[Model],
    hold: Hold,
    registry: Registry,
    builds: Mapping[str, Build],
    freshness: Mapping[str, str] | None = None,
) -> tuple[list[str], list[str]]:
    """Reasons not to trust these models' rows, and warnings, as `gate` gives them."""
    holds = [reason for model in models if model.unique_id in builds for reason in _unbuilt(builds[model.unique_id])]
    warnings = _unknown(models, builds)
    for policy, reasons in (
        (hold.tests, list(_failed_tests(models, builds))),
        (hold.freshness, list(_stale_sources(models, registry, freshness or {}))),
    ):
        if policy == "hold":
            holds += reasons
        elif policy == "warn":
            warnings += reasons
    return holds, warnings


def _models_of(sync: Sync) -> list[Model]:
    """Every model whose rows decide who is a member, once each."""
    entity = sync.entity
    models = [sync.segment.model, entity.model]
    models += [related.model for related in entity.related]
    models += [*entity.suppress, *sync.segment.suppress, *sync.suppress]
    return list({model.unique_id: model for model in models}.values())


def _unbuilt(build: Build) -> Iterator[str]:
    """Why the newest build of a model is not good enough."""
    where = f"{build.unique_id} in dbt {build.command} {build.invocation_id}".rstrip()
    if build.status == "partial success":
        yield f"build_partial: {where}: some of its batches failed"
    elif build.status == "skipped":
        yield f"build_skipped: {where}: something that it depends on failed"
    elif build.status not in _BUILT:
        yield f"build_failed: {where}: {build.status}"
    if build.empty:
        yield f"built_empty: {where}: built with --empty; build it again without"
    if build.sample:
        yield f"built_sample: {where}: built from a part of the rows (--sample or event times); build it again without"


def _unknown(models: Sequence[Model], builds: Mapping[str, Build]) -> list[str]:
    """One warning when nothing is known at all, else one per model that dbt builds and nobody saw built."""
    if not builds:
        hook = 'on-run-end: "{{ dbt_segments.on_run_end() }}"'
        return [f"builds_unknown: no record of any dbt run; add {hook} to dbt_project.yml, so that failures hold syncs"]
    return [
        f"build_unknown: {model.unique_id} has no recorded build"
        for model in models
        if model.resource_type in ("model", "snapshot") and model.unique_id not in builds
    ]


def _failed_tests(models: Sequence[Model], builds: Mapping[str, Build]) -> Iterator[str]:
    for model in models:
        for unique_id in model.tests:
            build = builds.get(unique_id)
            if build and build.status not in _TESTED:
                code = "test_skipped" if build.status == "skipped" else "test_failed"
                where = f"{unique_id} on {model.name} in dbt {build.command} {build.invocation_id}".rstrip()
                yield f"{code}: {where}: {build.status}"


def _stale_sources(models: Sequence[Model], registry: Registry, freshness: Mapping[str, str]) -> Iterator[str]:
    for unique_id in sorted(_ancestors(models, registry)):
        if freshness.get(unique_id) in ("error", "runtime error"):
            yield f"source_stale: {unique_id}: {freshness[unique_id]} in the last dbt source freshness"


def _ancestors(models: Sequence[Model], registry: Registry) -> set[str]:
    """The models and everything above them."""
    seen: set[str] = set()
    waiting = [model.unique_id for model in models]
    while waiting:
        unique_id = waiting.pop()
        if unique_id not in seen:
            seen.add(unique_id)
            if unique_id in registry.models:
                waiting += registry.models[unique_id].depends_on
    return seen


def _check_protocol(found: int) -> None:
    if found == PROTOCOL:
        return
    hint = "run `dbt deps` to update the dbt package" if found < PROTOCOL else "run `pip install -U dbt-segments`"
    raise StateError(
        f"model_builds was written by the dbt package's protocol {found}, and this program knows {PROTOCOL}", hint=hint
    )


def _read_json(path: Path) -> Any:
    """The file's content; None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ManifestError:
    return ManifestError(f"{path.name} is damaged, so what dbt built is not known", hint="run dbt again")


def _utc(moment: datetime) -> datetime:
    """The same moment, aware; a naive one is in UTC already."""
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
