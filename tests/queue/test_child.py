from __future__ import annotations

import sys

import pytest

from benchmarks.memory import peaks_after


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of another process")
def test_memory_of_a_worker_does_not_grow_with_its_jobs() -> None:
    """`python -m benchmarks memory` goes on to two thousand."""
    few, many = peaks_after(24, 120)
    assert many < 1.05 * few
