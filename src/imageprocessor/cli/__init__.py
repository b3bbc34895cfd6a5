"""The command line: a terminal in, a terminal out. It translates, and holds no rule of its own."""

from __future__ import annotations

import gc
import sys

from imageprocessor.errors import MissingExtraError


def main() -> None:
    """Run the command line and exit.

    0 done, 1 the work failed, 2 wrong usage or settings, 130 interrupted.
    """
    # what is imported stays: looking through it while it grows takes a tenth of the start
    gc.disable()
    try:
        from imageprocessor.cli.app import run  # noqa: PLC0415 - without the extra `cli` it says how to install it
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.exit(f"error: {MissingExtraError('The command line', 'cli')}")
    gc.freeze()
    gc.enable()
    run()
