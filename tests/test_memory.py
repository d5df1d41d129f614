"""Memory is bounded by the batch and the limits, not by the audience."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import measure


@pytest.mark.slow
def test_four_times_the_members_take_no_more_memory(tmp_path: Path) -> None:
    """The peak at 4 M members is at most 1.15 times that at 1 M, for a first sync, a no-op and a change."""
    small = measure(1_000_000, tmp_path / "small")
    large = measure(4_000_000, tmp_path / "large")
    ratios = {few.what: many.peak_mb / few.peak_mb for few, many in zip(small, large, strict=True)}
    assert {what: ratio for what, ratio in ratios.items() if ratio > 1.15} == {}
