"""Repairs what crashes leave behind: lost jobs, partial deletions, files without a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from imageprocessor.errors import WorkerLostError
from imageprocessor.queue import attempts, rate_limits
from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.images import delete_variants, purge
from imageprocessor.queue.jobs import inventory, job_store
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import image_id_of
from imageprocessor.storage.protocol import StoredObject

WAKE_UP_GRACE = timedelta(seconds=10)  #: a worker should have claimed the job by then
#: an upload takes up to one hour from first byte to row; one more for a clock set forward
UPLOAD_GRACE = timedelta(hours=2)
OBJECT_GRACE = timedelta(hours=24)
OBJECTS_PER_QUERY = 500

Find = Callable[[Service], Iterable[Any]]
Repair = Callable[[Service, Any], object]
Step = tuple[str, Find, Repair]  #: a name, what finds the items to repair, and what repairs one

log = structlog.get_logger(__name__)


def sweep(
    service: Service, steps: Sequence[Step] | None = None, *, dry_run: bool = False
) -> dict[str, int]:
    """Run *steps* (default: all), and return how many items to repair each of them found.

    *dry_run*: only count.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: One of them failed; the next sweep does
            the rest.
    """
    counts = {}
    for name, find, repair in steps or (*STEPS, *UPLOAD_STEPS, *IMAGE_STEPS):
        counts[name] = 0
        for item in find(service):
            counts[name] += 1
            if not dry_run:
                repair(service, item)
    if any(counts.values()):
        log.info("sweep_completed", dry_run=dry_run, **counts)
    return counts


def find_misdated(service: Service) -> list[Job]:
    """Return the jobs whose times are in the future because a clock was set back."""
    with service.database.read() as connection:
        return job_store.list_misdated(connection, clock.utc_now())


def reset_timestamps(service: Service, job: Job) -> None:
    """Reset a job's times to the current time."""
    with service.database.write() as connection:
        job_store.reset_timestamps(connection, job, clock.utc_now())


def find_lost_jobs(service: Service) -> list[Job]:
    """Return the jobs held by dead supervisors, and those whose lease has expired."""
    dead = presence.list_dead(workers_directory(service.settings))
    lost: list[Job] = []
    with service.database.read() as connection:
        for supervisor_id in dead:
            lost += job_store.list_held_by(connection, supervisor_id)
        lost += job_store.list_expired(connection, clock.utc_now())
    return lost


def end_lost(service: Service, job: Job) -> None:
    """End the attempt of a job whose worker is gone."""
    attempts.end_lost(service, job, WorkerLostError("The worker ended during the job."))


def find_overlooked(service: Service) -> list[str]:
    """Return waiting jobs whose wake-up may be lost, at most as many as the dispatcher takes."""
    room = service.dispatcher.count_redispatchable()
    if room == 0:
        return []
    now = clock.utc_now()
    with service.database.read() as connection:
        return job_store.list_due(connection, now, room, created_before=now - WAKE_UP_GRACE)


def wake_again(service: Service, job_id: str) -> None:
    """Send another wake-up for a job."""
    service.dispatcher.dispatch(job_id)


def find_dead_supervisors(service: Service) -> list[str]:
    """Return the dead supervisors that no longer hold a job."""
    dead = presence.list_dead(workers_directory(service.settings))
    with service.database.read() as connection:
        return [id_ for id_ in dead if not job_store.list_held_by(connection, id_)]


def forget_supervisor(service: Service, supervisor_id: str) -> None:
    """Remove a dead supervisor's files from the workers' directory."""
    presence.forget(workers_directory(service.settings), supervisor_id)


def find_deleted(service: Service) -> list[Job]:
    """Return the images whose deletion was interrupted."""
    with service.database.read() as connection:
        return job_store.list_deleted(connection)


def find_old_sources(service: Service) -> list[Job]:
    """Return the failed jobs that have kept their upload for FAILED_SOURCE_HOURS."""
    before = clock.utc_now() - timedelta(hours=service.settings.failed_source_hours)
    with service.database.read() as connection:
        return job_store.list_failed_with_source(connection, before)


def drop_source(service: Service, job: Job) -> None:
    """Delete a failed job's upload and the variants that it stored, unless it was retried.

    The row is updated first, so that no retry finds a row whose bytes are gone.
    """
    with service.database.write() as connection:
        forgotten = job_store.forget_source(connection, job)
    if forgotten:
        delete_variants(service, job)
        service.staging.delete(job.staging_key or "")


def find_old_windows(service: Service) -> list[str]:
    """Return the start times of the expired rate-limit windows."""
    window = service.settings.rate_limit_window
    with service.database.read() as connection:
        return rate_limits.list_old_windows(connection, clock.utc_now(), window)


def drop_window(service: Service, window_start: str) -> None:
    """Delete the counts of an expired rate-limit window."""
    with service.database.write() as connection:
        rate_limits.delete_window(connection, window_start)


def find_orphaned_uploads(service: Service) -> Iterator[StoredObject]:
    """Yield the unknown uploads, except those older than this database's first upload.

    Older ones belong to another database: if DATABASE_URL or DATABASE_PATH leads to an empty one
    by mistake, every upload is unknown.
    """
    with service.database.read() as connection:
        beginning = inventory.find_beginning(connection)
    if beginning is None:
        return
    since = beginning - UPLOAD_GRACE
    ours = (stored for stored in service.staging.list() if stored.modified_at > since)
    yield from find_unknown_uploads(service, ours)


def find_orphaned_images(service: Service) -> Iterator[StoredObject]:
    """Yield the unknown variants of images that this database once had.

    Images unknown to this database may belong to another service; `fsck` reports them.
    """
    for batch in _batches(find_unknown_images(service)):
        image_ids = [str(image_id_of(stored.key)) for stored in batch]
        with service.database.read() as connection:
            known = inventory.list_known_images(connection, image_ids)
        for stored in batch:
            if image_id_of(stored.key) in known:
                yield stored


def find_unknown_uploads(
    service: Service, listed: Iterable[StoredObject] | None = None
) -> Iterator[StoredObject]:
    """Yield the *listed* uploads (default: all in staging) that no job needs."""
    if listed is None:
        listed = service.staging.list()
    before = clock.utc_now() - UPLOAD_GRACE
    old = (stored for stored in listed if stored.modified_at < before)
    for batch in _batches(old):
        keys = [stored.key for stored in batch]
        with service.database.read() as connection:
            known = inventory.list_staged(connection, keys)
        for stored in batch:
            if stored.key not in known:
                yield stored


def find_unknown_images(
    service: Service, listed: Iterable[StoredObject] | None = None
) -> Iterator[StoredObject]:
    """Yield the *listed* variants (default: all) that belong to no row.

    Objects that are not variants are skipped: they are not ours.
    """
    if listed is None:
        listed = service.storage.list()
    before = clock.utc_now() - OBJECT_GRACE
    old = (stored for stored in listed if stored.modified_at < before)
    variants = (stored for stored in old if image_id_of(stored.key))
    for batch in _batches(variants):
        owners = {stored.key: str(image_id_of(stored.key)) for stored in batch}
        with service.database.read() as connection:
            owned = inventory.list_owned(connection, owners)
        for stored in batch:
            if stored.key not in owned:
                yield stored


def find_abandoned_files(service: Service) -> Iterator[Path]:
    """Yield the temporary files of interrupted uploads and writes."""
    before = clock.utc_now() - UPLOAD_GRACE
    for folder in filter(Path.exists, service.drafts):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # finished and renamed meanwhile
                if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                    yield path


def delete_upload(service: Service, stored: StoredObject) -> None:
    """Delete an upload from staging."""
    service.staging.delete(stored.key)


def delete_file(_: Service, path: Path) -> None:
    """Delete a temporary file."""
    path.unlink(missing_ok=True)


def delete_variant(service: Service, stored: StoredObject) -> None:
    """Delete a variant from the storage."""
    service.storage.delete(stored.key)


STEPS: tuple[Step, ...] = (
    ("misdated_jobs", find_misdated, reset_timestamps),
    ("lost_jobs", find_lost_jobs, end_lost),
    ("overlooked_jobs", find_overlooked, wake_again),
    ("dead_supervisors", find_dead_supervisors, forget_supervisor),
    ("deleted_images", find_deleted, purge),
    ("old_sources", find_old_sources, drop_source),
    ("old_windows", find_old_windows, drop_window),
)
UPLOAD_STEPS: tuple[Step, ...] = (
    ("orphaned_uploads", find_orphaned_uploads, delete_upload),
    ("abandoned_files", find_abandoned_files, delete_file),
)
IMAGE_STEPS: tuple[Step, ...] = (("orphaned_images", find_orphaned_images, delete_variant),)


def _batches(objects: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    rest = iter(objects)
    while batch := list(islice(rest, OBJECTS_PER_QUERY)):
        yield batch
