"""An account that holds as many audiences as the platform allows: the sync fails at once and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbt_segments.sandbox import meta, tiktok
from dbt_segments.sandbox.server import build, serve
from tests.one_click import case_meta, case_tiktok
from tests.one_click.case import Case
from tests.one_click.test_platforms import ADA, Shop
from tests.projects import DuckDBWarehouse
from tests.world import make_world


@pytest.mark.parametrize(
    ("case", "constant", "limit"), [(case_meta.CASE, "_MAX_AUDIENCES", 500), (case_tiktok.CASE, "MAX_AUDIENCES", 400)]
)
def test_an_account_that_is_full(
    case: Case,
    constant: str,
    limit: int,
    tmp_path: Path,
    duckdb_warehouse: DuckDBWarehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refusal is final and names the limit; once there is room the next sync makes the audience."""
    module = {"meta": meta, "tiktok": tiktok}[case.name]
    assert getattr(module, constant) == limit
    with serve(sandbox=build((case.name,))) as serving, monkeypatch.context() as patch:
        patch.setattr(module, constant, 0)
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.connections = {case.name: case.connection(f"{serving.url}/{case.name}", tmp_path)}
        world.segments = {"vip": {"destinations": [case.name]}}
        Shop(world, case).have([ADA])
        result = world.sync()
        assert (result.status, result.retries, result.exit_code) == ("failed", 0, 1), result
        assert any(f"at most {limit} " in note for note in result.notes), result.notes
        patch.undo()
        assert world.sync().status == "success"
