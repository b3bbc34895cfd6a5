"""Sweeps again and again, in threads of a process that decodes nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import structlog

from imageprocessor.errors import DatabaseUnavailableError, StorageError
from imageprocessor.queue.maintenance.sweep import IMAGE_STEPS, STEPS, UPLOAD_STEPS, Step, sweep
from imageprocessor.queue.service import Service

SWEEP_EVERY_SECONDS = 5.0
UPLOADS_EVERY_SECONDS = 3600.0
IMAGES_EVERY_SECONDS = 86_400.0
END_WITHIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps *service* every 5 s until :meth:`stop` is called.

    Through all uploads once an hour, all images once a day.

    Images are first looked through at a random moment of the day: S3 lists a thousand at a time,
    which neither every restart nor all hosts at once shall ask of it.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()

    def run(self) -> None:
        """Sweep until stopped.

        A listing may take long: lost jobs are found meanwhile, and the end waits 5 s for it.
        """
        listings = [
            self._start(UPLOAD_STEPS, 0.0, UPLOADS_EVERY_SECONDS),
            self._start(IMAGE_STEPS, random.uniform(0, IMAGES_EVERY_SECONDS), IMAGES_EVERY_SECONDS),  # noqa: S311 - no secret
        ]
        self._repeat(STEPS, 0.0, SWEEP_EVERY_SECONDS)
        for listing in listings:
            listing.join(END_WITHIN_SECONDS)  # what it deletes it would delete the next time, too

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()

    def _start(self, *arguments: Any) -> threading.Thread:
        thread = threading.Thread(
            target=self._repeat, args=arguments, name="listing sweeper", daemon=True
        )
        thread.start()
        return thread

    def _repeat(
        self, steps: Sequence[Step], first_after_seconds: float, every_seconds: float
    ) -> None:
        pause = first_after_seconds
        while not self._stopping.wait(pause):
            self._sweep(steps)
            pause = every_seconds

    def _sweep(self, steps: Sequence[Step]) -> None:
        try:
            sweep(self._service, steps)
        except (DatabaseUnavailableError, StorageError) as error:
            log.warning("sweep_cut_short", cause=str(error))
        except Exception:  # the boundary: without the sweep, what crashes leave behind would stay
            log.exception("sweep_failed")
