"""Measuring how long the storage takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from imageprocessor.queue.metrics.counts import Counts
from imageprocessor.queue.metrics.families import STORAGE_SECONDS
from imageprocessor.storage.protocol import Storage

OPERATIONS = ("put", "adopt", "put_all", "get", "delete", "exists")


def time_operations(storage: Storage, backend: str, counts: Counts) -> None:
    """Count the seconds of each operation of *storage*, failed ones included.

    Its methods are replaced, instead of wrapping the object, because its class matters elsewhere.
    """
    for name in OPERATIONS:
        setattr(storage, name, _time(getattr(storage, name), backend, counts))


def _time(method: Callable[..., Any], backend: str, counts: Counts) -> Callable[..., Any]:
    operation = method.__name__

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            counts.observe(STORAGE_SECONDS, time.perf_counter() - started, backend, operation)

    return run
