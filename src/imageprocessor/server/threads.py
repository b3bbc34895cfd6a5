"""Running a route's blocking calls in the event loop or in a thread.

A route that is a plain function runs entirely in a thread of Starlette's pool. A coroutine calls
:func:`run_read` for one cheap query and uses :class:`StorageThreads` to write to the storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool

from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue.service import Service

MAX_STORAGE_THREADS = 20
WAIT_SECONDS = 5.0  #: how long a request waits for one of these threads

P = ParamSpec("P")
T = TypeVar("T")


async def run_read(
    service: Service, read: Callable[Concatenate[Service, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a single-row read inline on SQLite, in a thread elsewhere."""
    if service.database.reads_inline:
        return read(service, *args, **kwargs)
    return await run_in_threadpool(read, service, *args, **kwargs)


class StorageThreads:
    """A pool of threads for storage calls, separate from Starlette's pool.

    If the storage hangs, Starlette's pool still serves everything else.

    ``anyio.CapacityLimiter`` would need less code, but costs 5 % of the uploads per second
    (``python -m benchmarks service``, upload of 100 KB).
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(MAX_STORAGE_THREADS, "storage")
        self._places = asyncio.Semaphore(MAX_STORAGE_THREADS)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function*, which uses the storage, in one of the threads.

        Raises:
            StorageUnavailableError: No thread became free within WAIT_SECONDS.
        """
        await self._take_place()
        # Copy the request's context so that the thread's log lines have the request's id.
        call = partial(copy_context().run, function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self._places.release()

    async def _take_place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()  # at once, so without a timeout
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise StorageUnavailableError(
                f"{MAX_STORAGE_THREADS} requests already wait for the storage. Try again later."
            ) from None

    def close(self) -> None:
        """Close the pool without waiting for threads that are blocked on the storage."""
        self._executor.shutdown(wait=False)
