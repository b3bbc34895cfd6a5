"""Whether there is enough memory for what comes next: C code often fails without a word."""

from __future__ import annotations

import mmap

THREAD_BYTES = 16 << 20
"""For a thread to begin: a stack of 8 MiB on Linux, and what Python needs.

One that fails is waited for forever.
"""


def require_memory(size_bytes: int, purpose: str) -> None:
    """Raise ``MemoryError`` unless that much could be had now.

    It is mapped, never touched, and given back.

    That costs microseconds and no memory. On Linux it counts against RLIMIT_AS, which is what
    bounds a worker.
    """
    try:
        mmap.mmap(-1, size_bytes).close()
    except OSError as error:
        raise MemoryError(
            f"There is too little memory {purpose}: {size_bytes} bytes are not to be had."
        ) from error
