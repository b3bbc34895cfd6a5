"""A bound on the threads that wait for the storage.

While it hangs, there are some left for everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue.service import Service

MAX_STORAGE_THREADS = 20
#: where all is on one disk: of an upload's three flushes one waits for that of the upload before
MAX_DISK_THREADS = 4
TURN_SECONDS = 5.0  #: how long a request waits for one of them

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turns:
    """What the requests of one process share."""

    free: asyncio.Semaphore
    threads: ThreadPoolExecutor


@contextmanager
def open_turns(service: Service) -> Iterator[Turns]:
    """Have the threads until the end of the context.

    One that waits for the storage then ends when that answers.

    On one disk SQLite's one writer decides how many uploads there are in a second: more threads
    than keep it busy take the interpreter from each other and from the event loop (eight clients: 5
    % fewer uploads with 20 than with 4).
    """
    on_disk = service.database.reads_inline and service.settings.storage_backend == "local"
    threads = ThreadPoolExecutor(MAX_DISK_THREADS if on_disk else MAX_STORAGE_THREADS, "storage")
    try:
        yield Turns(asyncio.Semaphore(MAX_STORAGE_THREADS), threads)
    finally:
        threads.shutdown(wait=False)


async def in_turn(turns: Turns, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *function*, which speaks to the storage, in a thread, when it is its turn.

    Raises:
        StorageUnavailableError: Others keep the storage busy, or wait for it in vain.
    """
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await turns.free.acquire()
    except TimeoutError:
        raise StorageUnavailableError(
            f"{MAX_STORAGE_THREADS} requests wait for the storage already: try again later."
        ) from None
    call = partial(
        copy_context().run, function, *args, **kwargs
    )  # with the request's id for the log
    try:
        return await asyncio.get_running_loop().run_in_executor(turns.threads, call)
    finally:
        turns.free.release()
