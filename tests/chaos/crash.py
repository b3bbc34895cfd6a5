"""`imageprocessor`, but it exits, as in a power cut, when it first reaches the point CRASH_POINT.

It creates the file CRASH_MARKER first. Worker processes import this module again, so it works in
them, too.
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


def crash_at(when: str, module_name: str, name: str, marker: Path) -> None:
    """Make the function *name* end the process before or after it runs, but only once."""
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    @wraps(function)
    def crashing(*arguments: Any, **options: Any) -> Any:
        if when == BEFORE:
            crash_once(marker)
        result = function(*arguments, **options)
        crash_once(marker)
        return result

    setattr(owner, last, crashing)


def crash_once(marker: Path) -> None:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(137)


if point := os.environ.get("CRASH_POINT"):
    crash_at(*POINTS[point], Path(os.environ["CRASH_MARKER"]))

if __name__ == "__main__":
    from imageprocessor.cli import main

    sys.exit(main())  # type: ignore[func-returns-value]
