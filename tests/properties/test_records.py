"""The histories of records notice a CRM that does not hold what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dbt_segments.sandbox.platform import Answer, Request
from tests.projects import DuckDBWarehouse
from tests.properties.history import SMALL, run
from tests.properties.outcome import Mismatch
from tests.scripted.records import RecordsPlatform

pytestmark = pytest.mark.slow
_WRONG = r": record \d+ is |: too many records"


def _keeps_who_left(row: dict[str, Any]) -> dict[str, Any]:
    """A delete changes nothing."""
    return {**row, "op": "upsert", "values": {}} if row["op"] == "delete" else row


def _cuts_spaces(row: dict[str, Any]) -> dict[str, Any]:
    """A value loses the spaces around it."""
    values = {name: value.strip() if value else value for name, value in row.get("values", {}).items()}
    return {**row, "values": values} if row["op"] != "delete" else row


def _forgets_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A null leaves the former value."""
    values = {name: value for name, value in row.get("values", {}).items() if value is not None}
    return {**row, "values": values} if row["op"] != "delete" else row


@pytest.mark.parametrize("wrong", [_keeps_who_left, _cuts_spaces, _forgets_nulls])
def test_a_wrong_crm_is_noticed(tmp_path: Path, wrong: Any) -> None:
    """In one of a few histories."""
    answer = RecordsPlatform.answer

    def answer_wrongly(platform: RecordsPlatform, request: Request) -> Answer:
        body = request.fields()
        body["rows"] = [wrong(row) for row in body["rows"]]
        with mock.patch.object(Request, "fields", lambda one: body):
            return answer(platform, request)

    with mock.patch.object(RecordsPlatform, "answer", answer_wrongly), pytest.raises(Mismatch, match=_WRONG):
        for seed in range(8):
            warehouse = DuckDBWarehouse(tmp_path / f"{seed}.duckdb")
            run(tmp_path / f"shop{seed}", warehouse, "records_mirror", seed, SMALL)
