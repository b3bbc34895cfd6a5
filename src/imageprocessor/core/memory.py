"""Memory: a check that there is enough before C code runs, which often fails without an error."""

from __future__ import annotations

import mmap

THREAD_BYTES = 16 << 20
"""What a thread needs to start: a stack of 8 MiB on Linux, and what Python adds.

Python waits forever for a thread that fails to start.
"""


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
