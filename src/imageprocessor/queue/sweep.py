"""Puts right what crashes leave behind: lost jobs, half-done deletions, files that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from imageprocessor.errors import WorkerLostError
from imageprocessor.queue import clock, job_store, presence, rate_limits
from imageprocessor.queue.dispatch import workers_directory
from imageprocessor.queue.images import delete_variants, purge
from imageprocessor.queue.jobs import Job
from imageprocessor.queue.service import Service
from imageprocessor.queue.tables import processing_jobs as jobs
from imageprocessor.queue.task import fail_attempt
from imageprocessor.storage.keys import image_id_of

WAKE_UP_GRACE = timedelta(seconds=10)  #: a worker should have begun by then
UPLOAD_GRACE = timedelta(hours=1)  #: an upload may take this long from its first byte to its row
OBJECT_GRACE = timedelta(hours=24)
KEYS_A_QUERY = 500

log = structlog.get_logger(__name__)


def sweep(service: Service, *, orphans: bool = True, dry_run: bool = False) -> dict[str, int]:
    """Mend what can be mended, and return how many things each step found. *orphans*: also look through all files.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: The rest is left for the next sweep.
    """
    counts = {}
    for name, find, mend in (*STEPS, *(ORPHAN_STEPS if orphans else ())):
        found = list(find(service))
        counts[name] = len(found)
        for thing in found if not dry_run else ():
            mend(service, thing)
    if any(counts.values()):
        log.info("swept", dry_run=dry_run, **counts)
    return counts


def find_lost_jobs(service: Service) -> Iterator[Job]:
    """Yield the jobs in the hands of supervisors that are dead, and those whose lease is over."""
    with service.database.read() as connection:
        for supervisor_id in presence.list_dead(workers_directory(service.settings)):
            yield from job_store.list_held_by(connection, supervisor_id)
        yield from job_store.list_expired(connection, clock.utc_now())


def end_lost(service: Service, job: Job) -> None:
    """End the attempt of a job whose worker is gone."""
    fail_attempt(service, job, WorkerLostError("The worker ended during the job."))


def find_overlooked(service: Service) -> list[str]:
    """Return waiting jobs whose wake-up may be lost, no more than the dispatcher has room for."""
    room, now = service.dispatcher.count_room(), clock.utc_now()
    with service.database.read() as connection:
        return job_store.list_due(connection, now, room, created_before=now - WAKE_UP_GRACE) if room else []


def find_dead_supervisors(service: Service) -> Iterator[str]:
    """Yield the supervisors that are dead and hold no job any more."""
    with service.database.read() as connection:
        for supervisor_id in presence.list_dead(workers_directory(service.settings)):
            if not job_store.list_held_by(connection, supervisor_id):
                yield supervisor_id


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
    """Forget, then delete the upload of a failed job, and what its attempts stored; not if it is tried again now."""
    with service.database.write() as connection:
        forgotten = job_store.forget_source(connection, job)
    if forgotten:
        delete_variants(service, job)
        service.staging.delete(job.staging_key or "")


def find_old_windows(service: Service) -> list[str]:
    """Return the starts of the rate-limit windows that are over."""
    with service.database.read() as connection:
        return rate_limits.list_old_windows(connection, clock.utc_now(), service.settings.rate_limit_window)


def drop_window(service: Service, window_start: str) -> None:
    """Forget what everybody uploaded in a window that is over."""
    with service.database.write() as connection:
        rate_limits.delete_window(connection, window_start)


def find_unknown_uploads(service: Service) -> Iterator[str]:
    """Yield the staged uploads that no job waits for."""
    keys = _list_before(service.staging.list(), clock.utc_now() - UPLOAD_GRACE)
    for some in _batches(keys):
        with service.database.read() as connection:
            yield from set(some) - job_store.list_known(connection, jobs.c.staging_path, some)


def find_unknown_images(service: Service) -> Iterator[str]:
    """Yield the stored variants whose image has no row. Objects that are not named like a variant are not ours."""
    keys = _list_before(service.storage.list(), clock.utc_now() - OBJECT_GRACE)
    owners = {key: image_id for key in keys if (image_id := image_id_of(key))}
    for some in _batches(owners):
        with service.database.read() as connection:
            known = job_store.list_known(connection, jobs.c.image_id, [owners[key] for key in some])
        yield from (key for key in some if owners[key] not in known)


def find_abandoned_files(service: Service) -> Iterator[Path]:
    """Yield the unfinished files of uploads and writes that broke off."""
    before = clock.utc_now() - UPLOAD_GRACE
    for path in (path for folder in service.drafts for path in folder.iterdir()):
        with suppress(FileNotFoundError):  # finished and renamed meanwhile
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                yield path


Step = tuple[str, Callable[[Service], Iterable[Any]], Callable[[Service, Any], object]]

STEPS: tuple[Step, ...] = (
    ("lost_jobs", find_lost_jobs, end_lost),
    ("overlooked_jobs", find_overlooked, lambda service, job_id: service.dispatcher.dispatch(job_id)),
    ("dead_supervisors", find_dead_supervisors, forget_supervisor),
    ("deleted_images", find_deleted, purge),
    ("old_sources", find_old_sources, drop_source),
    ("old_windows", find_old_windows, drop_window),
)
ORPHAN_STEPS: tuple[Step, ...] = (
    ("unknown_uploads", find_unknown_uploads, lambda service, key: service.staging.delete(key)),
    ("unknown_images", find_unknown_images, lambda service, key: service.storage.delete(key)),
    ("abandoned_files", find_abandoned_files, lambda _, path: path.unlink(missing_ok=True)),
)


def _list_before(objects: Iterable[Any], before: datetime) -> list[str]:
    return [stored.key for stored in objects if stored.modified_at < before]


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    keys = list(keys)
    return (keys[start : start + KEYS_A_QUERY] for start in range(0, len(keys), KEYS_A_QUERY))
