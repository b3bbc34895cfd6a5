"""`imageprocessor`, but it exits, as in a power cut, when it first reaches the point CRASH_POINT.

It does so only while the file CRASH_TRAP exists, which it renames to CRASH_MARKER first. Worker
processes import this module again, so it works in them, too.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from tests.chaos.points import AFTER, BEFORE, HANG, OVERLAP_POINTS, POINTS, WORKER

FOREVER_SECONDS = 3600
is_finish_held = threading.Event()


def crash_at(
    when: str, module_name: str, name: str, trap: Path, marker: Path, *, overlaps: bool
) -> None:
    """Make the function *name* end the process before or after it runs, once for each trap.

    Or make it hang. *overlaps*: only while the finish of a job is held back.
    """
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    results: list[Any] = []

    @wraps(function)
    def crashing(*arguments: Any, **options: Any) -> Any:
        if when == HANG and spring(trap, marker):
            time.sleep(FOREVER_SECONDS)
        if when == BEFORE:
            crash_if_set(trap, marker)
        result = function(*arguments, **options)
        if result:
            results.append(result)
        if overlaps:
            if len(results) == 2 and trap.exists():  # for the second job
                is_finish_held.wait()
                crash_if_set(trap, marker)
        elif when == AFTER:
            crash_if_set(trap, marker)
        return result

    setattr(owner, last, crashing)


def hold_finish(marker: Path) -> None:
    """Hold back the finish of the first job until the process has crashed on the next one."""
    worker = importlib.import_module(WORKER)
    finish: Callable[..., None] = worker.finish_attempt

    def hold(*arguments: Any) -> None:
        if not marker.exists():
            is_finish_held.set()
            time.sleep(FOREVER_SECONDS)
        finish(*arguments)

    worker.finish_attempt = hold  # type: ignore[attr-defined]


def crash_if_set(trap: Path, marker: Path) -> None:
    if spring(trap, marker):
        os._exit(137)


def spring(trap: Path, marker: Path) -> bool:
    """Rename the *trap* to *marker*; return False if no trap is set."""
    try:
        trap.rename(marker)
    except FileNotFoundError:
        return False
    return True


if point := os.environ.get("CRASH_POINT"):
    files = Path(os.environ["CRASH_TRAP"]), Path(os.environ["CRASH_MARKER"])
    overlaps = point in OVERLAP_POINTS
    crash_at(*POINTS[point], *files, overlaps=overlaps)
    if overlaps:
        hold_finish(files[1])

if __name__ == "__main__":
    from imageprocessor.cli import main

    sys.exit(main())  # type: ignore[func-returns-value]
