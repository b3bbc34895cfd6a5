"""The command line: reads arguments and prints results; the logic is in other packages."""

from __future__ import annotations

import atexit
import gc
import sys

from imageprocessor.collector import collector_paused
from imageprocessor.errors import MissingExtraError


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 (success), 1 (failure), 2 (wrong usage or settings) or 130 (interrupted).
    """
    try:
        # Without the pause, `--help` would exceed its budget of 0.30 s (0.31 s; `python -m
        # benchmarks startup`).
        with collector_paused():
            # The extra `cli` may be missing.
            from imageprocessor.cli.app import run  # noqa: PLC0415
            from imageprocessor.cli.output import replace_unknown_letters  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        sys.exit(f"error: {MissingExtraError('The command line', 'cli')}")
    # At exit, Python would search all modules for garbage, which takes a quarter of the CPU time of
    # `imageprocessor jobs list`.
    atexit.register(gc.freeze)
    replace_unknown_letters()
    run()
