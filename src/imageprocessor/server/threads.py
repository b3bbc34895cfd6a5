"""Where a route's blocking calls run: in the event loop, or in a thread.

A route that is a plain function runs in a thread of Starlette's pool as a whole. A coroutine calls
:func:`run_read` for one cheap query, and :class:`StorageThreads` for what writes to the storage.
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
from imageprocessor.settings import Settings

MAX_STORAGE_THREADS = 20
#: Where all is on one disk: SQLite's one writer sets the pace, and more threads than keep it busy
#: only take the interpreter from each other (8 clients: 5 % fewer uploads with 20 than with 4).
MAX_DISK_THREADS = 4
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
    """The threads of this process that use the storage.

    While the storage hangs, the other threads of the pool serve everything else.

    ``anyio.CapacityLimiter`` would bound them in fewer lines, but takes 5 % of an upload's requests
    a second: a thread that is free waits for the event loop before it begins the next call
    (``python -m benchmarks service``, upload of 100 KB).
    """

    def __init__(self, settings: Settings) -> None:
        on_one_disk = settings.sqlite_path is not None and settings.storage_backend == "local"
        self.count = MAX_DISK_THREADS if on_one_disk else MAX_STORAGE_THREADS
        self._executor = ThreadPoolExecutor(self.count, "storage")
        self._places = asyncio.Semaphore(MAX_STORAGE_THREADS)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function*, which uses the storage, in one of the threads.

        Raises:
            StorageUnavailableError: Others occupied them all for WAIT_SECONDS.
        """
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise StorageUnavailableError(
                f"{MAX_STORAGE_THREADS} requests wait for the storage already: try again later."
            ) from None
        # With the request's context: its id is in the log lines.
        call = partial(copy_context().run, function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self._places.release()

    def close(self) -> None:
        """Return at once: a thread that waits for the storage ends when that answers."""
        self._executor.shutdown(wait=False)
