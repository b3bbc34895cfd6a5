"""`imageprocessor`, but it exits, as in a power cut, when it first reaches the point CRASH_POINT.

It creates the file CRASH_MARKER first. Worker processes import this module again, so it works in
them, too.
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


def crash_at(when: str, module_name: str, name: str, marker: Path, *, overlaps: bool) -> None:
    """Make the function *name* end the process before or after it runs, but only once.

    Or make it hang. *overlaps*: only while the finish of a job is held back.
    """
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    @wraps(function)
    def crashing(*arguments: Any, **options: Any) -> Any:
        if when == HANG and mark_once(marker):
            time.sleep(FOREVER_SECONDS)
        if when == BEFORE:
            crash_once(marker)
        held = is_finish_held.is_set()
        result = function(*arguments, **options)
        if when == AFTER and (not overlaps or (held and result)):
            crash_once(marker)
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


def crash_once(marker: Path) -> None:
    if mark_once(marker):
        os._exit(137)


def mark_once(marker: Path) -> bool:
    """Create the *marker*; return False if it exists."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if point := os.environ.get("CRASH_POINT"):
    path = Path(os.environ["CRASH_MARKER"])
    overlaps = point in OVERLAP_POINTS
    crash_at(*POINTS[point], path, overlaps=overlaps)
    if overlaps:
        hold_finish(path)

if __name__ == "__main__":
    from imageprocessor.cli import main

    sys.exit(main())  # type: ignore[func-returns-value]
