"""Whether there is memory for what comes next. C code often fails without a word on it."""

from __future__ import annotations

import mmap


def require_memory(size_bytes: int, purpose: str) -> None:
    """Raise ``MemoryError`` unless that much could be had now: it is mapped, never touched, and given back.

    That costs microseconds and no memory. On Linux it counts against RLIMIT_AS, which is what bounds a worker.
    """
    try:
        mmap.mmap(-1, size_bytes).close()
    except OSError as error:
        raise MemoryError(f"There is too little memory {purpose}: {size_bytes} bytes are not to be had.") from error
