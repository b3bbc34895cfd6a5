"""Pausing the garbage collector while modules load."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import modules, or build what lasts as long as the process, in this context.

    Modules are never freed, so a search for garbage among them finds nothing, during the imports,
    afterwards and at exit: what exists at the end of the context is left out of later searches.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
