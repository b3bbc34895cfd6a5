"""Drive a peer: for each line of input, run the job once and print its cost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

WIDTHS = (150, 600, 1200, 4096)
QUALITY = 85


def answer(job: Callable[[], int], cpu_seconds: Callable[[], float] = time.process_time) -> None:
    """Run *job*, which returns the number of bytes it produced, for every line of input.

    *cpu_seconds* returns the CPU seconds used so far.
    """
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        made = job()
        costs = {
            "wall_seconds": time.perf_counter() - wall,
            "cpu_seconds": cpu_seconds() - cpu,
            "bytes": made,
        }
        sys.stdout.write(json.dumps(costs) + "\n")
        sys.stdout.flush()
