"""Checking for free memory before calling C code, which often fails without a clear error."""

from __future__ import annotations

import mmap

THREAD_BYTES = 16 << 20
"""The memory that a new thread needs: a stack of 8 MiB on Linux, and what Python adds.

Check it first: Python waits forever for a thread that fails to start.
"""


def require_memory(size_bytes: int, purpose: str) -> None:
    """Raise ``MemoryError`` if *size_bytes* cannot be allocated now.

    The memory is mapped and unmapped without being touched, which takes microseconds and uses no
    physical memory. On Linux it counts against RLIMIT_AS, the limit on a worker.
    """
    try:
        mmap.mmap(-1, size_bytes).close()
    except OSError as error:
        raise MemoryError(
            f"Cannot allocate {size_bytes} bytes {purpose}. "
            "Process fewer images at once or raise the memory limit."
        ) from error
