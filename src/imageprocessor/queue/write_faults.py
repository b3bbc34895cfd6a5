"""Whether uploads can be written now, judged by the latest ones in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from imageprocessor.errors import (
    DatabaseUnavailableError,
    ImageProcessorError,
    StorageFullError,
    StorageUnavailableError,
)

MANY_FAULTS = 3
PROBE_EVERY_SECONDS = 10.0


class WriteFaults:
    """The failed writes since the last one that succeeded.

    After three in a row, ``fault`` is the last of them, and :meth:`is_probe_due` asks for a write
    every 10 s: the proxy may send no more uploads, whose success would show that writes work again.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: ImageProcessorError | None = None
        self._probe_at = 0.0  # on the monotonic clock
        self._lock = threading.Lock()

    @property
    def fault(self) -> ImageProcessorError | None:
        """Why writes fail, or None."""
        return self._last if self._count >= MANY_FAULTS else None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note whether the writes of the body succeed; any other error says nothing about that."""
        try:
            yield
        except (StorageUnavailableError, StorageFullError, DatabaseUnavailableError) as error:
            self._note(error)
            raise
        self._count = 0

    def is_probe_due(self) -> bool:
        """Return whether to try a write; if so, the next one is due in 10 s."""
        with self._lock:
            now = time.monotonic()
            if self.fault is None or now < self._probe_at:
                return False
            self._probe_at = now + PROBE_EVERY_SECONDS
            return True

    def _note(self, error: ImageProcessorError) -> None:
        with self._lock:
            self._count += 1
            # A copy: the error itself refers to the upload's bytes.
            self._last = type(error)(str(error))
            if self._count == MANY_FAULTS:
                self._probe_at = time.monotonic() + PROBE_EVERY_SECONDS
