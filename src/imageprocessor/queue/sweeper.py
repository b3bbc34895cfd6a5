"""Sweeps again and again, in a thread of a process that decodes nothing."""

from __future__ import annotations

import threading
import time

import structlog

from imageprocessor.errors import DatabaseUnavailableError, StorageError
from imageprocessor.queue.service import Service
from imageprocessor.queue.sweep import sweep

SWEEP_EVERY_SECONDS = 5.0
ORPHANS_EVERY_SECONDS = 3600.0

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps *service* every 5 s until :meth:`stop` is called, and once an hour through all files."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()

    def run(self) -> None:
        """Sweep until stopped."""
        orphans_due = time.monotonic()
        while not self._stopping.is_set():
            orphans = time.monotonic() >= orphans_due
            self._sweep(orphans=orphans)
            if orphans:
                orphans_due = time.monotonic() + ORPHANS_EVERY_SECONDS
            self._stopping.wait(SWEEP_EVERY_SECONDS)

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()

    def _sweep(self, *, orphans: bool) -> None:
        try:
            sweep(self._service, orphans=orphans)
        except (DatabaseUnavailableError, StorageError) as error:
            log.warning("sweep_cut_short", cause=str(error))
        except Exception:  # the boundary: without the sweep, what crashes leave behind would stay
            log.exception("sweep_failed")
