"""Repairs what crashes leave behind: lost jobs, partial deletions, files without a row.

Host steps concern what only this host sees. One host at a time runs the global steps, see `leases`;
several do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

import structlog

from imageprocessor.errors import WorkerLostError
from imageprocessor.queue import attempts, rate_limits
from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.images import delete_variants, purge
from imageprocessor.queue.incoming import MAX_BODY_SECONDS
from imageprocessor.queue.jobs import batch_store, inventory, job_store, webhook_deliveries
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.jobs.storage_ownership import StorageOwnership
from imageprocessor.queue.jobs.webhooks import list_endpoints
from imageprocessor.queue.maintenance.leases import Lease
from imageprocessor.queue.maintenance.old_events import delete_events, find_old_events
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import image_id_of
from imageprocessor.storage.protocol import StoredObject

WAKE_UP_GRACE = timedelta(seconds=10)  #: a worker should have claimed the job by then
#: from an upload's first byte to its row; one hour more for a clock set forward
UPLOAD_GRACE = timedelta(seconds=MAX_BODY_SECONDS, hours=1)
OBJECT_GRACE = timedelta(hours=24)
DELIVERIES_DAYS = 30  #: for which deliveries that have ended are kept
OBJECTS_PER_QUERY = 500
JOBS_PER_SWEEP = 1000  #: repaired by one step; the next sweep, seconds later, does more

#: Takes the service; the orphan steps also take the listed objects, by default all.
Find = Callable[..., Iterable[Any]]
Repair = Callable[[Service, Any], object]
Step = tuple[str, Find, Repair]  #: a name, what finds the items to repair, and what repairs one

log = structlog.get_logger(__name__)


def sweep(
    service: Service,
    steps: Sequence[Step] | None = None,
    *,
    dry_run: bool = False,
    lease: Lease | None = None,
) -> dict[str, int]:
    """Run *steps* (default: all), and return how many items to repair each of them found.

    *dry_run*: only count. *lease*: keep it meanwhile; if it is lost, leave the rest to its holder.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: One of them failed; the next sweep does
            the rest.
    """
    counts = {}
    for name, find, repair in steps or ALL_STEPS:
        counts[name] = 0
        for item in find(service):
            if lease and not lease.hold():
                break
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
    """Return the jobs held by dead supervisors of this host."""
    dead = presence.list_dead(workers_directory(service.settings))
    if not dead:
        return []
    with service.database.read() as connection:
        held = [job_store.list_held_by(connection, supervisor_id) for supervisor_id in dead]
    return list(chain.from_iterable(held))


def find_expired_jobs(service: Service) -> list[Job]:
    """Return the jobs whose lease has expired."""
    with service.database.read() as connection:
        return job_store.list_expired(connection, clock.utc_now())


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
    """Return the dead supervisors of this host that no longer hold a job."""
    dead = presence.list_dead(workers_directory(service.settings))
    if not dead:
        return []
    with service.database.read() as connection:
        return [id_ for id_ in dead if not job_store.list_held_by(connection, id_)]


def forget_supervisor(service: Service, supervisor_id: str) -> None:
    """Remove a dead supervisor's files from the workers' directory."""
    presence.forget(workers_directory(service.settings), supervisor_id)


def find_deleted(service: Service) -> list[Job]:
    """Return the images whose deletion was interrupted, at most JOBS_PER_SWEEP."""
    with service.database.read() as connection:
        deleted = job_store.list_deleted(connection, JOBS_PER_SWEEP)
    if deleted:
        service.database.flush()  # a power cut must not undo the deletion of a row alone
    return deleted


def find_old_sources(service: Service) -> list[Job]:
    """Return the failed jobs that have kept their upload for FAILED_SOURCE_HOURS.

    At most JOBS_PER_SWEEP.
    """
    before = clock.utc_now() - timedelta(hours=service.settings.failed_source_hours)
    with service.database.read() as connection:
        return job_store.list_failed_with_source(connection, before, JOBS_PER_SWEEP)


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
    """Return the start time of the oldest rate-limit window if it has expired."""
    window = service.settings.rate_limit_window
    with service.database.read() as connection:
        start = rate_limits.find_old_window(connection, clock.utc_now(), window)
    return [] if start is None else [start]


def drop_window(service: Service, window_start: str) -> None:
    """Delete counts of an expired rate-limit window; the next sweep deletes what is left."""
    with service.database.write() as connection:
        rate_limits.delete_counts(connection, window_start)


def find_old_batches(service: Service) -> list[str]:
    """Return the batches completed before AUDIT_RETENTION_DAYS, at most JOBS_PER_SWEEP."""
    days = service.settings.audit_retention_days
    if days == 0:
        return []
    before = clock.utc_now() - timedelta(days=days)
    with service.database.read() as connection:
        return batch_store.list_old(connection, before, JOBS_PER_SWEEP)


def drop_batch(service: Service, batch_id: str) -> None:
    """Delete a batch. Its jobs and images stay."""
    with service.database.write() as connection:
        batch_store.delete_batch(connection, batch_id)


def find_misdated_deliveries(service: Service) -> list[list[str]]:
    """Return, of each endpoint, deliveries that wait too long because a clock was set back.

    At most JOBS_PER_SWEEP of each kind.
    """
    now = clock.utc_now()
    found = []
    with service.database.read() as connection:
        for endpoint in list_endpoints(connection):
            ids = webhook_deliveries.list_misdated(connection, endpoint.name, now, JOBS_PER_SWEEP)
            if ids:
                found.append(ids)
    return found


def make_deliveries_due(service: Service, delivery_ids: list[str]) -> None:
    """Make waiting deliveries due at once."""
    with service.database.write() as connection:
        webhook_deliveries.make_due(connection, delivery_ids, clock.utc_now())


def find_old_deliveries(service: Service) -> list[datetime]:
    """Return the time before which ended deliveries are deleted, if there are any.

    They are kept for 30 days, but not longer than the audit trail.
    """
    days = min(DELIVERIES_DAYS, service.settings.audit_retention_days or DELIVERIES_DAYS)
    before = clock.utc_now() - timedelta(days=days)
    with service.database.read() as connection:
        has_any = webhook_deliveries.has_ended_before(connection, before)
    return [before] if has_any else []


def delete_deliveries(service: Service, before: datetime) -> None:
    """Delete some deliveries that ended before a time; the next sweep deletes what is left."""
    with service.database.write() as connection:
        webhook_deliveries.delete_ended(connection, before)


def find_orphaned_uploads(
    service: Service, listed: Iterable[StoredObject] | None = None
) -> Iterator[StoredObject]:
    """Yield the unknown uploads (see `find_unknown_uploads`) that are this database's."""
    unknown = find_unknown_uploads(service, listed)
    return _select_own(service.staging_ownership, unknown)


def find_orphaned_images(
    service: Service, listed: Iterable[StoredObject] | None = None
) -> Iterator[StoredObject]:
    """Yield the unknown variants (see `find_unknown_images`) that are this database's."""
    unknown = find_unknown_images(service, listed)
    return _select_own(service.ownership, unknown)


def _select_own(
    ownership: StorageOwnership, unknown: Iterable[StoredObject]
) -> Iterator[StoredObject]:
    """Yield the *unknown* objects that are this database's, as the storage's marker says.

    If DATABASE_URL or DATABASE_PATH leads to an empty database by mistake, every object is unknown.
    """
    claims = ownership.list_claims()
    kept = 0
    for stored in unknown:
        if any(claim.covers(stored) for claim in claims):
            yield stored
        else:
            kept += 1
    if kept:
        log.warning(
            "unknown_objects_kept",
            count=kept,
            remedy="They may belong to another database. Run: imageprocessor fsck",
        )


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
        unknown = [stored for stored in batch if stored.key not in known]
        if unknown:
            service.database.flush()  # a power cut must not revive a job without its upload
        yield from unknown


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


HOST_STEPS: tuple[Step, ...] = (
    ("lost_jobs", find_lost_jobs, end_lost),
    ("dead_supervisors", find_dead_supervisors, forget_supervisor),
)
GLOBAL_STEPS: tuple[Step, ...] = (
    ("misdated_jobs", find_misdated, reset_timestamps),
    ("misdated_deliveries", find_misdated_deliveries, make_deliveries_due),
    ("expired_jobs", find_expired_jobs, end_lost),
    ("overlooked_jobs", find_overlooked, wake_again),
    ("deleted_images", find_deleted, purge),
    ("old_sources", find_old_sources, drop_source),
    ("old_windows", find_old_windows, drop_window),
    ("old_batches", find_old_batches, drop_batch),
    ("old_event_batches", find_old_events, delete_events),
    ("old_deliveries", find_old_deliveries, delete_deliveries),
)
FILE_STEP: Step = ("abandoned_files", find_abandoned_files, delete_file)
UPLOAD_STEP: Step = ("orphaned_uploads", find_orphaned_uploads, delete_upload)
IMAGE_STEP: Step = ("orphaned_images", find_orphaned_images, delete_variant)
ALL_STEPS = (*HOST_STEPS, *GLOBAL_STEPS, FILE_STEP, UPLOAD_STEP, IMAGE_STEP)


def _batches(objects: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    rest = iter(objects)
    while batch := list(islice(rest, OBJECTS_PER_QUERY)):
        yield batch
