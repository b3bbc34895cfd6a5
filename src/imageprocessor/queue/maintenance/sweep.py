"""Puts right what crashes leave behind: lost jobs, half-done deletions, files that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from imageprocessor.errors import WorkerLostError
from imageprocessor.queue import rate_limits
from imageprocessor.queue.attempts import fail_attempt
from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.images import delete_variants, purge
from imageprocessor.queue.jobs import inventory, job_store
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import image_id_of
from imageprocessor.storage.protocol import StoredObject

WAKE_UP_GRACE = timedelta(seconds=10)  #: a worker should have begun by then
UPLOAD_GRACE = timedelta(
    hours=2
)  #: from an upload's first byte to its row: one hour, one more for a clock set forward
OBJECT_GRACE = timedelta(hours=24)
OBJECTS_A_QUERY = 500

Step = tuple[str, Callable[[Service], Iterable[Any]], Callable[[Service, Any], object]]

log = structlog.get_logger(__name__)


def sweep(
    service: Service, steps: Sequence[Step] | None = None, *, dry_run: bool = False
) -> dict[str, int]:
    """Mend what can be mended, and return how many things each of the *steps* (default: all) found.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: The rest is left for the next sweep.
    """
    counts = {}
    for name, find, mend in steps or (*STEPS, *UPLOAD_STEPS, *IMAGE_STEPS):
        counts[name] = 0
        for thing in find(service):
            counts[name] += 1
            if not dry_run:
                mend(service, thing)
    if any(counts.values()):
        log.info("swept", dry_run=dry_run, **counts)
    return counts


def find_misdated(service: Service) -> list[Job]:
    """Return the jobs whose times a clock that was set back has left in the future."""
    with service.database.read() as connection:
        return job_store.list_misdated(connection, clock.utc_now())


def reset_timestamps(service: Service, job: Job) -> None:
    """Date a job as the clock is now."""
    with service.database.write() as connection:
        job_store.reset_timestamps(connection, job, clock.utc_now())


def find_lost_jobs(service: Service) -> list[Job]:
    """Return the jobs in the hands of supervisors that are dead, and those whose lease is over."""
    dead = presence.list_dead(workers_directory(service.settings))
    with service.database.read() as connection:
        held = [
            job
            for supervisor_id in dead
            for job in job_store.list_held_by(connection, supervisor_id)
        ]
        return [*held, *job_store.list_expired(connection, clock.utc_now())]


def end_lost(service: Service, job: Job) -> None:
    """End the attempt of a job whose worker is gone."""
    fail_attempt(service, job, WorkerLostError("The worker ended during the job."))


def find_overlooked(service: Service) -> list[str]:
    """Return waiting jobs whose wake-up may be lost, no more than the dispatcher has room for."""
    room, now = service.dispatcher.count_room(), clock.utc_now()
    with service.database.read() as connection:
        return (
            job_store.list_due(connection, now, room, created_before=now - WAKE_UP_GRACE)
            if room
            else []
        )


def find_dead_supervisors(service: Service) -> list[str]:
    """Return the supervisors that are dead and hold no job any more."""
    dead = presence.list_dead(workers_directory(service.settings))
    with service.database.read() as connection:
        return [
            supervisor_id
            for supervisor_id in dead
            if not job_store.list_held_by(connection, supervisor_id)
        ]


def forget_supervisor(service: Service, supervisor_id: str) -> None:
    """Remove what a dead supervisor left in the workers' directory."""
    presence.forget(workers_directory(service.settings), supervisor_id)


def find_deleted(service: Service) -> list[Job]:
    """Return the images whose deletion was cut off."""
    with service.database.read() as connection:
        return job_store.list_deleted(connection)


def find_old_sources(service: Service) -> list[Job]:
    """Return the failed jobs that have kept their upload for FAILED_SOURCE_HOURS."""
    before = clock.utc_now() - timedelta(hours=service.settings.failed_source_hours)
    with service.database.read() as connection:
        return job_store.list_failed_with_source(connection, before)


def drop_source(service: Service, job: Job) -> None:
    """Forget, then delete the upload of a failed job, and what its attempts stored.

    Not if it is tried again now.
    """
    with service.database.write() as connection:
        forgotten = job_store.forget_source(connection, job)
    if forgotten:
        delete_variants(service, job)
        service.staging.delete(job.staging_key or "")


def find_old_windows(service: Service) -> list[str]:
    """Return the starts of the rate-limit windows that are over."""
    with service.database.read() as connection:
        return rate_limits.list_old_windows(
            connection, clock.utc_now(), service.settings.rate_limit_window
        )


def drop_window(service: Service, window_start: str) -> None:
    """Forget what everybody uploaded in a window that is over."""
    with service.database.write() as connection:
        rate_limits.delete_window(connection, window_start)


def find_orphaned_uploads(service: Service) -> Iterator[StoredObject]:
    """Yield the unknown uploads, but none from before this database took its first.

    They are another's.

    A wrong DATABASE_URL or DATABASE_PATH leads to an empty database, to which everything is
    unknown.
    """
    with service.database.read() as connection:
        beginning = inventory.find_beginning(connection)
    if beginning:
        ours = (
            stored
            for stored in service.staging.list()
            if stored.modified_at > beginning - UPLOAD_GRACE
        )
        yield from find_unknown_uploads(service, ours)


def find_orphaned_images(service: Service) -> Iterator[StoredObject]:
    """Yield the unknown variants of images that this database once had.

    Others are another's: only `fsck` tells.
    """
    for some in _batches(find_unknown_images(service)):
        with service.database.read() as connection:
            met = inventory.list_known_images(
                connection, [str(image_id_of(stored.key)) for stored in some]
            )
        yield from (stored for stored in some if image_id_of(stored.key) in met)


def find_unknown_uploads(
    service: Service, listed: Iterable[StoredObject] | None = None
) -> Iterator[StoredObject]:
    """Yield the *listed* uploads (default: all staged ones) that no job waits for."""
    objects = service.staging.list() if listed is None else listed
    for some in _batches(_list_before(objects, clock.utc_now() - UPLOAD_GRACE)):
        with service.database.read() as connection:
            known = inventory.list_staged(connection, [stored.key for stored in some])
        yield from (stored for stored in some if stored.key not in known)


def find_unknown_images(
    service: Service, listed: Iterable[StoredObject] | None = None
) -> Iterator[StoredObject]:
    """Yield the *listed* variants (default: all) that no row answers for.

    Other objects are not ours.
    """
    objects = service.storage.list() if listed is None else listed
    old = _list_before(objects, clock.utc_now() - OBJECT_GRACE)
    for some in _batches(stored for stored in old if image_id_of(stored.key)):
        owners = {stored.key: str(image_id_of(stored.key)) for stored in some}
        with service.database.read() as connection:
            owned = inventory.list_owned(connection, owners)
        yield from (stored for stored in some if stored.key not in owned)


def find_abandoned_files(service: Service) -> Iterator[Path]:
    """Yield the unfinished files of uploads and writes that broke off."""
    before = clock.utc_now() - UPLOAD_GRACE
    for path in (path for folder in service.drafts for path in folder.iterdir()):
        with suppress(FileNotFoundError):  # finished and renamed meanwhile
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                yield path


STEPS: tuple[Step, ...] = (
    ("misdated_jobs", find_misdated, reset_timestamps),
    ("lost_jobs", find_lost_jobs, end_lost),
    (
        "overlooked_jobs",
        find_overlooked,
        lambda service, job_id: service.dispatcher.dispatch(job_id),
    ),
    ("dead_supervisors", find_dead_supervisors, forget_supervisor),
    ("deleted_images", find_deleted, purge),
    ("old_sources", find_old_sources, drop_source),
    ("old_windows", find_old_windows, drop_window),
)
UPLOAD_STEPS: tuple[Step, ...] = (
    (
        "orphaned_uploads",
        find_orphaned_uploads,
        lambda service, stored: service.staging.delete(stored.key),
    ),
    ("abandoned_files", find_abandoned_files, lambda _, path: path.unlink(missing_ok=True)),
)
IMAGE_STEPS: tuple[Step, ...] = (
    (
        "orphaned_images",
        find_orphaned_images,
        lambda service, stored: service.storage.delete(stored.key),
    ),
)


def _list_before(objects: Iterable[StoredObject], before: datetime) -> Iterator[StoredObject]:
    return (stored for stored in objects if stored.modified_at < before)


def _batches(objects: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    rest = iter(objects)
    while some := list(islice(rest, OBJECTS_A_QUERY)):
        yield some
