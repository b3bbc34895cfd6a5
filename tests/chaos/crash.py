"""`imageprocessor` that ends, as if by a power cut, when it first reaches the point CRASH_POINT.

The file CRASH_MARKER then exists. Worker processes import this module anew, so it works in them,
too.
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


def lay_trap(when: str, module_name: str, name: str, marker: Path) -> None:
    """Replace the function *name* by one that ends the process before or after it, once."""
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    @wraps(function)
    def trap(*arguments: Any, **options: Any) -> Any:
        if when == BEFORE:
            crash_once(marker)
        result = function(*arguments, **options)
        crash_once(marker)
        return result

    setattr(owner, last, trap)


def crash_once(marker: Path) -> None:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(137)


if point := os.environ.get("CRASH_POINT"):
    lay_trap(*POINTS[point], Path(os.environ["CRASH_MARKER"]))

if __name__ == "__main__":
    from imageprocessor.cli import main

    sys.exit(main())  # type: ignore[func-returns-value]
