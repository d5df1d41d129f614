"""Memory is bounded by the batch and the limits, not by the audience."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import measure


@pytest.mark.slow
def test_four_times_the_members_take_no_more_memory(tmp_path: Path) -> None:
    """The peak at 4 M members (first sync, no-op and a change) is at most 1.15 times that at 1 M."""
    small = measure(1_000_000, tmp_path / "small")
    large = measure(4_000_000, tmp_path / "large")
    assert max(m.peak_mb for m in large) <= 1.15 * max(m.peak_mb for m in small)
