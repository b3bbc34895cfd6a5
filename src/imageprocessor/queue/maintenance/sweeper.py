"""Repeats the sweep, in threads of a process that decodes nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import structlog

from imageprocessor.errors import DatabaseUnavailableError, StorageError
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.maintenance.sweep import IMAGE_STEPS, STEPS, UPLOAD_STEPS, Step, sweep
from imageprocessor.queue.service import Service

SWEEP_EVERY_SECONDS = 5.0
UPLOADS_EVERY_SECONDS = 3600.0
IMAGES_EVERY_SECONDS = 86_400.0
END_WITHIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps *service* every 5 s until :meth:`stop` is called; uploads hourly, images once a day.

    Every 5 s, this also stores the figures about jobs, so that a request for them reads few events.

    The first sweep of the images comes at a random time of the day. S3 lists a thousand objects per
    request: not every restart should list all images, nor should all hosts do so at once.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()

    def run(self) -> None:
        """Sweep until stopped.

        Lost jobs are found even during a long listing. On stop, a listing has 5 s to end.
        """
        first_images_sweep = random.uniform(0, IMAGES_EVERY_SECONDS)  # noqa: S311 - no secret
        listings = [
            self._start(UPLOAD_STEPS, 0.0, UPLOADS_EVERY_SECONDS),
            self._start(IMAGE_STEPS, first_images_sweep, IMAGES_EVERY_SECONDS),
        ]
        self._repeat(STEPS, 0.0, SWEEP_EVERY_SECONDS)
        for listing in listings:
            # An interrupted listing does no harm: the next one finds the orphans that are left.
            listing.join(END_WITHIN_SECONDS)

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()

    def _start(
        self, steps: Sequence[Step], first_after_seconds: float, every_seconds: float
    ) -> threading.Thread:
        thread = threading.Thread(
            target=self._repeat,
            args=(steps, first_after_seconds, every_seconds),
            name="listing sweeper",
            daemon=True,
        )
        thread.start()
        return thread

    def _repeat(
        self, steps: Sequence[Step], first_after_seconds: float, every_seconds: float
    ) -> None:
        pause_seconds = first_after_seconds
        while not self._stopping.wait(pause_seconds):
            try:
                if steps is STEPS:
                    store_snapshot(self._service.database)
                sweep(self._service, steps)
            except (DatabaseUnavailableError, StorageError) as error:
                log.warning("sweep_interrupted", cause=str(error))
            except Exception:  # keep sweeping, or lost jobs would stay lost
                log.exception("sweep_failed")
            pause_seconds = every_seconds
