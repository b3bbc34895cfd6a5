"""The memory of a worker process: bounded, and kept from one job for the next.

Getting memory from the system anew, page by page, takes a tenth of a job, and up to a quarter where
the host of a virtual machine takes back what is free. Measure: ``python -m benchmarks pipeline``.
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

#: glibc reads it when a process starts: memory for an image then comes in pages of 2 MB, where
#: Linux permits, not in pages of 4 kB, which takes a tenth of a job. Other C libraries ignore it.
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
IDLE_SECONDS = 60.0  #: without a job, until the memory that is kept for it is given back

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1
_KEPT_SHARE = 8  # an eighth of 3072 MB, the default, is what an image of 50 megapixels needs


def bound_memory(limit_mb: int, idle_seconds: float = IDLE_SECONDS) -> Callable[[], None]:
    """Limit this process's memory, and return a function to call after each job.

    Memory that a job leaves is kept for the next, until none comes for *idle_seconds*. What needs
    more than *limit_mb* gets a MemoryError. Linux only: macOS has no such limit.
    """
    if sys.platform == "linux":
        size_bytes = limit_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))
    keep_memory(limit_mb)

    job_ends: queue.SimpleQueue[None] = queue.SimpleQueue()
    idle = threading.Thread(
        target=_give_back_when_idle, args=(job_ends, idle_seconds), name="idle", daemon=True
    )
    idle.start()
    return partial(job_ends.put, None)


def keep_memory(limit_mb: int) -> None:
    """Let glibc keep freed memory, at most an eighth of *limit_mb*, for the next job.

    Other C libraries have their own ways. All threads share one heap: one of a thread's own is not
    given back, and reserves up to 128 MB of address space, which counts against a worker's limit.
    """
    kept_bytes = (limit_mb << 20) // _KEPT_SHARE
    with suppress(AttributeError):  # no glibc
        libc = ctypes.CDLL(None)
        # A large block that is mapped by itself would be given back as soon as it is freed.
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, min(kept_bytes, _INT_MAX))


def give_back_memory() -> None:
    """Return the freed memory that glibc keeps to the system."""
    with suppress(AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def _give_back_when_idle(job_ends: queue.SimpleQueue[None], idle_seconds: float) -> None:
    while True:
        job_ends.get()
        with suppress(queue.Empty):
            while True:
                job_ends.get(timeout=idle_seconds)
        give_back_memory()
