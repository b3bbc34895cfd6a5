"""The memory of a worker process: limited, and kept from one job to the next.

Requesting memory from the system again, page by page, takes a tenth of a job's time, and up to a
quarter in a virtual machine whose host reclaims free memory. To measure it, run
``python -m benchmarks pipeline``.
"""

from __future__ import annotations

import ctypes
import queue
import resource
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

#: glibc reads it when a process starts. Memory for an image then comes in pages of 2 MB, if Linux
#: permits, instead of 4 kB, which cost a tenth of a job's time. Other C libraries ignore it.
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
IDLE_SECONDS = 60.0  #: without a job, before kept memory is returned to the system

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1
_KEPT_SHARE = 8  # an image of 50 megapixels needs an eighth of the default, 3072 MB


def bound_memory(limit_mb: int, idle_seconds: float = IDLE_SECONDS) -> Callable[[], None]:
    """Limit this process's memory, and return a function to call after each job.

    Memory that a job frees is kept for the next job until none comes for *idle_seconds*. Allocating
    more than *limit_mb* raises MemoryError; on Linux only, as macOS has no such limit.
    """
    if sys.platform == "linux":
        size_bytes = limit_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))
    keep_memory(limit_mb)

    job_ends: queue.SimpleQueue[None] = queue.SimpleQueue()
    idle = threading.Thread(
        target=_trim_when_idle, args=(job_ends, idle_seconds), name="idle", daemon=True
    )
    idle.start()
    return partial(job_ends.put, None)


def keep_memory(limit_mb: int) -> None:
    """Let glibc keep freed memory, at most an eighth of *limit_mb*, for the next job.

    Other C libraries stay as they are. All threads then share one heap: a heap per thread would not
    be returned to the system, and each reserves up to 128 MB of address space, which counts
    against a worker's limit.
    """
    kept_bytes = (limit_mb << 20) // _KEPT_SHARE
    with suppress(AttributeError):  # no glibc
        libc = ctypes.CDLL(None)
        # A large block with a mapping of its own would be returned as soon as it is freed.
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, min(kept_bytes, _INT_MAX))


def trim_memory() -> None:
    """Return to the system the freed memory that glibc keeps."""
    with suppress(AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def _trim_when_idle(job_ends: queue.SimpleQueue[None], idle_seconds: float) -> None:
    while True:
        job_ends.get()
        with suppress(queue.Empty):
            while True:
                job_ends.get(timeout=idle_seconds)
        trim_memory()
