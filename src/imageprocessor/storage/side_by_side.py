"""Storing several objects at once, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imageprocessor.storage.protocol import Storage

MAX_THREADS = 8  #: below the 10 connections that an S3 client keeps


def run_side_by_side(calls: Iterable[Callable[[], None]]) -> None:
    """Run *calls* in threads, and wait for them.

    After an error, no other call is started; the error is raised once those running have ended.
    """
    with ThreadPoolExecutor(MAX_THREADS, "store") as pool:
        futures: list[Future[None]] = [pool.submit(call) for call in calls]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def put_side_by_side(storage: Storage, objects: Mapping[str, bytes | Path]) -> None:
    """Do :meth:`Storage.put_all` by ``put`` and ``adopt``."""
    calls: list[Callable[[], None]] = []
    for key, source in objects.items():
        if isinstance(source, Path):
            calls.append(partial(storage.adopt, key, source))
        else:
            calls.append(partial(storage.put, key, source))
    run_side_by_side(calls)
