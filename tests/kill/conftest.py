"""Worlds whose runs are processes that can be killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kill.harness import furnish
from tests.projects import Warehouse
from tests.world import World, make_world, sandbox


@pytest.fixture
def world(tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with _furnished(tmp_path, warehouse) as made:
        yield made


@pytest.fixture
def on_duckdb(tmp_path: Path, duckdb_warehouse: Warehouse) -> Iterator[World]:
    with _furnished(tmp_path, duckdb_warehouse) as made:
        yield made


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_warehouse: Warehouse) -> Iterator[World]:
    with _furnished(tmp_path, postgres_warehouse) as made:
        yield made


@contextmanager
def _furnished(folder: Path, warehouse: Warehouse) -> Iterator[World]:
    with sandbox() as serving:
        made = make_world(folder / "shop", warehouse, serving)
        furnish(made)
        yield made
