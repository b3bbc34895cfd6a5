"""Where a route's blocking calls run: in the event loop, or in a thread.

A route that is a plain function runs in a thread of Starlette's pool as a whole. A coroutine calls
:func:`run_read` for one cheap query, and :func:`run_limited` for what writes to the storage.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread
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


def make_storage_limiter(settings: Settings) -> CapacityLimiter:
    """Return the limit on threads that wait for the storage.

    While the storage hangs, the other threads of the pool serve everything else.
    """
    on_one_disk = settings.sqlite_path is not None and settings.storage_backend == "local"
    return CapacityLimiter(MAX_DISK_THREADS if on_one_disk else MAX_STORAGE_THREADS)


async def run_limited(
    limiter: CapacityLimiter, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run *function*, which uses the storage, in a thread as soon as *limiter* permits.

    Raises:
        StorageUnavailableError: It did not permit within WAIT_SECONDS.
    """
    call = partial(function, *args, **kwargs)
    # The deadline bounds the wait for a thread only: run_sync shields the call itself from it, but
    # not from the cancellation of a request when the server stops.
    with move_on_after(WAIT_SECONDS):
        return await to_thread.run_sync(call, limiter=limiter)
    raise StorageUnavailableError(
        f"{limiter.total_tokens:g} requests wait for the storage already: try again later."
    )
