"""Repeats the sweep, in threads of a process that decodes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Any

import structlog

from imageprocessor.errors import DatabaseUnavailableError, StorageError
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.jobs.job_store import CLOCK_TOLERANCE
from imageprocessor.queue.maintenance.leases import Lease, read_progress, set_progress
from imageprocessor.queue.maintenance.sweep import (
    FILE_STEP,
    GLOBAL_STEPS,
    HOST_STEPS,
    IMAGE_STEP,
    UPLOAD_STEP,
    Step,
    sweep,
)
from imageprocessor.queue.service import Service
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import Storage

SWEEP_EVERY_SECONDS = 5.0
FILES_EVERY_SECONDS = 3600.0
PAGE_EVERY_SECONDS = 60.0
PAGE_OBJECTS = 10_000  #: ten requests to S3
UPLOADS_EVERY = timedelta(hours=1)
IMAGES_EVERY = timedelta(days=1)
NEGLECTED_AFTER = timedelta(days=1)
END_WITHIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps *service* until :meth:`stop` is called: jobs every 5 s, this host's files every hour.

    The process that holds the lease also runs the global steps, and stores the figures about jobs,
    so that a request for them reads few events. And it lists the storage, a page a minute: all
    images once a day, uploads on S3 once an hour. S3 charges for each thousand objects listed, so
    the position is kept in the database, and no restart begins anew.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lease = Lease(service.database, "sweep")
        self._stopping = threading.Event()

    def run(self) -> None:
        """Sweep until stopped.

        Lost jobs are found even during a long listing. On stop, a listing has 5 s to end.
        """
        others = [
            self._start(self._sweep_files, 0.0, FILES_EVERY_SECONDS),
            self._start(self._sweep_pages, PAGE_EVERY_SECONDS, PAGE_EVERY_SECONDS),
        ]
        self._repeat(self._sweep_jobs, 0.0, SWEEP_EVERY_SECONDS)
        with suppress(*DATABASE_FAULTS):  # then it expires
            self._lease.release()
        for thread in others:
            # An interrupted listing does no harm: the next one finds the orphans that are left.
            thread.join(END_WITHIN_SECONDS)

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()

    def _sweep_jobs(self) -> None:
        sweep(self._service, HOST_STEPS)
        if self._lease.hold():
            store_snapshot(self._service.database)
            sweep(self._service, GLOBAL_STEPS, lease=self._lease)

    def _sweep_files(self) -> None:
        steps = [FILE_STEP]
        if isinstance(self._service.staging, LocalStorage):
            steps.append(UPLOAD_STEP)
        sweep(self._service, steps)

    def _sweep_pages(self) -> None:
        if not self._lease.is_held:
            return
        if not isinstance(self._service.staging, LocalStorage):
            sweep_page(self._service, UPLOAD_STEP, self._service.staging, UPLOADS_EVERY)
        sweep_page(self._service, IMAGE_STEP, self._service.storage, IMAGES_EVERY)

    def _start(
        self, action: Callable[[], object], first_after_seconds: float, every_seconds: float
    ) -> threading.Thread:
        thread = threading.Thread(
            target=self._repeat,
            args=(action, first_after_seconds, every_seconds),
            name="listing sweeper",
            daemon=True,
        )
        thread.start()
        return thread

    def _repeat(
        self, action: Callable[[], object], first_after_seconds: float, every_seconds: float
    ) -> None:
        pause_seconds = first_after_seconds
        while not self._stopping.wait(pause_seconds):
            try:
                action()
            except (DatabaseUnavailableError, StorageError) as error:
                log.warning("sweep_interrupted", cause=str(error))
            except Exception:  # keep sweeping, or lost jobs would stay lost
                log.exception("sweep_failed")
            pause_seconds = every_seconds


def sweep_page(service: Service, step: Step, storage: Storage, every: timedelta) -> None:
    """List the next PAGE_OBJECTS objects of *storage*, if that is due, and run *step* on them.

    Once all are listed, the next page, which is the first one again, is due *every* later.

    If nobody has listed for a day, nothing is due yet: this database may be an old copy, to which
    the newest images are unknown, and the operator should have time to notice. So a service that
    just started, or whose clock was set back, waits for *every*, too.
    """
    name, find, repair = step
    now = clock.utc_now()
    with service.database.read() as connection:
        due_at, position = read_progress(connection, name)
    if due_at is None or not now - NEGLECTED_AFTER <= due_at <= now + every + CLOCK_TOLERANCE:
        due_at = now + every
        with service.database.write() as connection:
            set_progress(connection, name, due_at, position)
    if due_at > now:
        return

    listed = list(islice(storage.list(start_after=position), PAGE_OBJECTS))

    def find_listed(service: Service) -> Any:
        return find(service, listed)

    sweep(service, [(name, find_listed, repair)])
    if len(listed) == PAGE_OBJECTS:
        due_at, position = now, listed[-1].key
    else:
        due_at, position = now + every, ""
    with service.database.write() as connection:
        set_progress(connection, name, due_at, position)
