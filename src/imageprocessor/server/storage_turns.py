"""A bound on the threads that wait for the storage: while it hangs, there are some left for everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool

from imageprocessor.errors import StorageUnavailableError

MAX_STORAGE_THREADS = 20  #: half of the threads that all requests of a process share
TURN_SECONDS = 5.0  #: how long a request waits for one of them

P = ParamSpec("P")
T = TypeVar("T")


def make_turns() -> asyncio.Semaphore:
    """Return what the requests of one process share."""
    return asyncio.Semaphore(MAX_STORAGE_THREADS)


async def in_turn(turns: asyncio.Semaphore, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *function*, which speaks to the storage, in a thread, when it is its turn.

    Raises:
        StorageUnavailableError: Others keep the storage busy, or wait for it in vain.
    """
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await turns.acquire()
    except TimeoutError:
        raise StorageUnavailableError(
            f"{MAX_STORAGE_THREADS} requests wait for the storage already: try again later."
        ) from None
    try:
        return await run_in_threadpool(function, *args, **kwargs)
    finally:
        turns.release()
