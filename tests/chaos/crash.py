"""`imageprocessor`, but it exits, as in a power cut, when it reaches a point.

The file CRASH_TRAP contains the name of the point. It is renamed to CRASH_MARKER first, so that
this happens once. Worker processes import this module again, so it works in them, too.
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

from tests.chaos.points import AFTER, AFTER_RESULT, BEFORE, HANG, OVERLAP_POINTS, POINTS, WORKER

FOREVER_SECONDS = 3600
is_finish_held = threading.Event()


class Trap:
    """The files that say at which point to exit, and that it has happened."""

    def __init__(self, file: Path, marker: Path) -> None:
        self.file, self.marker = file, marker

    @property
    def point(self) -> str | None:
        """The point at which to exit, or None."""
        try:
            return self.file.read_text()
        except FileNotFoundError:
            return None

    def spring(self, point: str) -> bool:
        """Return whether it was set for *point*, and remove it."""
        if self.point != point:
            return False
        try:
            self.file.rename(self.marker)
        except FileNotFoundError:  # another process was faster
            return False
        return True

    def exit_if_set(self, point: str) -> None:
        if self.spring(point):
            os._exit(137)


def crash_at(point: str, trap: Trap) -> None:
    """Make the function of *point* end the process before or after it runs, or hang.

    At an overlap point, it does so for the second job, while the finish of the first is held back.
    """
    when, module_name, name = POINTS[point]
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)
    results: list[Any] = []  # while the trap is set

    @wraps(function)
    def crashing(*arguments: Any, **options: Any) -> Any:
        if when == HANG and trap.spring(point):
            time.sleep(FOREVER_SECONDS)
        if when == BEFORE:
            trap.exit_if_set(point)
        result = function(*arguments, **options)
        if point in OVERLAP_POINTS:
            if result and trap.point == point:
                results.append(result)
            if len(results) == 2:
                is_finish_held.wait()
                trap.exit_if_set(point)
        elif when == AFTER or (when == AFTER_RESULT and result):
            trap.exit_if_set(point)
        return result

    setattr(owner, last, crashing)


def hold_finish(trap: Trap) -> None:
    """While the trap is set for an overlap point, hold back the finish of a job."""
    worker = importlib.import_module(WORKER)
    finish: Callable[..., None] = worker.finish_attempt

    def hold(*arguments: Any) -> None:
        if trap.point in OVERLAP_POINTS:
            is_finish_held.set()
            time.sleep(FOREVER_SECONDS)
        finish(*arguments)

    worker.finish_attempt = hold  # type: ignore[attr-defined]


if "CRASH_TRAP" in os.environ:
    trap = Trap(Path(os.environ["CRASH_TRAP"]), Path(os.environ["CRASH_MARKER"]))
    for point in POINTS:
        crash_at(point, trap)
    hold_finish(trap)

if __name__ == "__main__":
    from imageprocessor.cli import main

    sys.exit(main())  # type: ignore[func-returns-value]
