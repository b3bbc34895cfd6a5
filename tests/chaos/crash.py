"""`imageprocessor`, but it exits, as in a power cut, when it first reaches the point CRASH_POINT.

It does so only while the file CRASH_TRAP exists, which it renames to CRASH_MARKER first. Worker
processes import this module again, so it works in them, too.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from tests.chaos.points import BEFORE, POINTS


def crash_at(when: str, module_name: str, name: str, trap: Path, marker: Path) -> None:
    """Make the function *name* end the process before or after it runs, once for each trap."""
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    @wraps(function)
    def crashing(*arguments: Any, **options: Any) -> Any:
        if when == BEFORE:
            crash_if_set(trap, marker)
        result = function(*arguments, **options)
        crash_if_set(trap, marker)
        return result

    setattr(owner, last, crashing)


def crash_if_set(trap: Path, marker: Path) -> None:
    try:
        trap.rename(marker)
    except FileNotFoundError:
        return
    os._exit(137)


if point := os.environ.get("CRASH_POINT"):
    files = Path(os.environ["CRASH_TRAP"]), Path(os.environ["CRASH_MARKER"])
    crash_at(*POINTS[point], *files)

if __name__ == "__main__":
    from imageprocessor.cli import main

    sys.exit(main())  # type: ignore[func-returns-value]
