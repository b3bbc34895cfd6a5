"""Memory: a check that there is enough before C code runs, which often fails without an error."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

THREAD_BYTES = 16 << 20
"""What a thread needs to start: a stack of 8 MiB on Linux, and what Python adds.

Python waits forever for a thread that fails to start.
"""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_INT_MAX = 2**31 - 1
_KEPT_SHARE = 8  # of 3072 MB, the default, what a picture of 50 megapixels needs


def require_memory(size_bytes: int, purpose: str) -> None:
    """Raise ``MemoryError`` unless that much can be allocated now.

    It is mapped, never touched, and unmapped, which takes microseconds and no memory. On Linux it
    counts against RLIMIT_AS, which is what bounds a worker.
    """
    try:
        mmap.mmap(-1, size_bytes).close()
    except OSError as error:
        raise MemoryError(
            f"Cannot allocate {size_bytes} bytes {purpose}. "
            "Process fewer images at once, or raise the memory limit."
        ) from error


def keep_memory(limit_mb: int) -> None:
    """Let glibc keep what is freed, an eighth of *limit_mb* at most.

    Until :func:`give_back_memory`.

    Other C libraries have their own ways. All threads share one heap: one of a thread's own is not
    given back, and reserves up to 128 MB of address space, which counts against a worker's limit.

    To get memory anew, page by page, takes a tenth of a job, and up to a quarter where the host of
    a virtual machine takes back what is free. Measured: `python -m benchmarks pipeline`.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(
            _M_MMAP_MAX, 0
        )  # mapped by itself, what is large would be given back at once
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, min((limit_mb << 20) // _KEPT_SHARE, _INT_MAX))


def give_back_memory() -> None:
    """Give the system what glibc keeps."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
