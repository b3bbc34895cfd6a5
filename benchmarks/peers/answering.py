"""Drive a peer: for each line on its input it does the job once, and prints what that cost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

WIDTHS = (150, 600, 1200, 4096)
QUALITY = 85


def answer(job: Callable[[], int], cpu_seconds: Callable[[], float] = time.process_time) -> None:
    """Run *job*, which returns the bytes it made, for every line that comes.

    *cpu_seconds* are those used so far.
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
