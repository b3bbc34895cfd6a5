"""The command line: it reads arguments and prints results; the rules are in other packages."""

from __future__ import annotations

import gc
import sys

from imageprocessor.errors import MissingExtraError


def main() -> None:
    """Run the command line and exit.

    The status is 0 (done), 1 (the work failed), 2 (wrong usage or settings) or 130 (interrupted).
    """
    # All that is imported stays, so the garbage collector need not search it. Searching takes an
    # eighth of the start: `--help` would miss its 0.30 s (0.31; `python -m benchmarks startup`).
    gc.disable()
    try:
        from imageprocessor.cli.app import run  # noqa: PLC0415 - the extra `cli` may be missing
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        sys.exit(f"error: {MissingExtraError('The command line', 'cli')}")
    gc.freeze()
    gc.enable()
    run()
