"""Storing several objects at once, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imageprocessor.storage.protocol import Storage

MAX_THREADS = 8  #: below the 10 connections that an S3 client keeps


def open_store_pool() -> ThreadPoolExecutor:
    """Return the threads for :meth:`Storage.put_all`."""
    return ThreadPoolExecutor(MAX_THREADS, "store")


def run_side_by_side(calls: Iterable[Callable[[], None]], pool: Executor) -> None:
    """Run *calls* in the threads of *pool*, and wait for them.

    After an error, no other call is started; the error is raised once those running have ended.
    """
    futures: list[Future[None]] = []
    try:
        for call in calls:
            futures.append(pool.submit(call))  # noqa: PERF401 - those submitted before an error count
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def put_side_by_side(storage: Storage, objects: Mapping[str, bytes | Path], pool: Executor) -> None:
    """Do :meth:`Storage.put_all` by ``put`` and ``adopt``."""
    calls: list[Callable[[], None]] = []
    for key, source in objects.items():
        if isinstance(source, Path):
            calls.append(partial(storage.adopt, key, source))
        else:
            calls.append(partial(storage.put, key, source))
    run_side_by_side(calls, pool)
