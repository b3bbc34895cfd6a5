"""Compares database and storage: each row needs its bytes, and each stored object needs a row.

The service may run meanwhile: what looks wrong is checked again before it is reported. Memory does
not grow with the number of objects, because the listing of the storage goes to a temporary file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imageprocessor.errors import (
    JobError,
    ObjectNotFoundError,
    SourceCorruptError,
    SourceMissingError,
)
from imageprocessor.queue.attempts import fail_waiting, load_source
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.figures import find_error
from imageprocessor.queue.jobs.inventory import iterate_jobs
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.jobs.storage_ownership import StorageOwnership
from imageprocessor.queue.maintenance.catalogue import Catalogue, open_catalogue
from imageprocessor.queue.maintenance.progress import Report, counted, ignore
from imageprocessor.queue.maintenance.sweep import (
    drop_source,
    find_abandoned_files,
    find_unknown_images,
    find_unknown_uploads,
)
from imageprocessor.queue.service import Service
from imageprocessor.storage.protocol import Storage, StoredObject

WORKER_ID = "fsck"
RESTORE = "Restore it from a backup, or delete the image and have it uploaded again."
REMOVED = "It was removed."
TO_REMOVE = "--repair removes it."
MAY_BE_FOREIGN = (
    "According to the storage's marker, it may belong to another database. "
    "Check DATABASE_URL or DATABASE_PATH; if that is right, remove it by hand."
)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A difference between database and storage."""

    kind: str
    where: str  #: a storage key, a file's path, or the wrong statistics
    remedy: str  #: what was done, or what to do
    repaired: bool = False
    job_id: str | None = None


def find_discrepancies(
    service: Service, *, repair: bool = False, report: Report = ignore
) -> Iterator[Discrepancy]:
    """Yield each discrepancy; with *repair*, repair it first if that is possible.

    An object without a row is removed after the sweep's grace period, if the storage's marker shows
    that it is this database's: a mistyped DATABASE_URL must not cost all images. A job whose upload
    is missing or altered ends as failed; if it had failed before, it can no longer be retried. An
    image whose variants are missing is only reported. Wrong statistics are counted again. Jobs that
    are accepted meanwhile may be left out. *report* is called with the number of objects and jobs
    so far.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: One of them failed; the rest was not
            compared.
    """
    with open_catalogue() as catalogue:
        images = counted(service.storage.list(), "images listed", report)
        unknown = find_unknown_images(service, catalogue.record(images))
        yield from _check_unknown(
            "variant_without_row", service.storage, unknown, service.ownership, repair=repair
        )
        uploads = counted(service.staging.list(), "uploads listed", report)
        yield from _check_unknown(
            "upload_without_row",
            service.staging,
            find_unknown_uploads(service, uploads),
            service.staging_ownership,
            repair=repair,
        )
        for job in counted(iterate_jobs(service.database), "jobs checked", report):
            if job.deleted_at is None and job.status is JobStatus.COMPLETED:
                yield from _check_variants(service, catalogue, job)
            elif job.deleted_at is None and job.staging_key:
                yield from _check_upload(service, job, repair=repair)
    for path in find_abandoned_files(service):
        if repair:
            path.unlink(missing_ok=True)
        remedy = REMOVED if repair else TO_REMOVE
        yield Discrepancy("abandoned_file", str(path), remedy, repaired=repair)
    if error := find_error(service.database, repair=repair):
        remedy = "The jobs were counted again." if repair else "--repair counts the jobs again."
        yield Discrepancy("statistics_wrong", error, remedy, repaired=repair)


def _check_unknown(
    kind: str,
    storage: Storage,
    unknown: Iterable[StoredObject],
    ownership: StorageOwnership,
    *,
    repair: bool,
) -> Iterator[Discrepancy]:
    claims = ownership.list_claims()
    for stored in unknown:
        if not any(claim.covers(stored) for claim in claims):
            yield Discrepancy(kind, stored.key, MAY_BE_FOREIGN)
            continue
        if repair:
            storage.delete(stored.key)
        remedy = REMOVED if repair else TO_REMOVE
        yield Discrepancy(kind, stored.key, remedy, repaired=repair)


def _check_variants(service: Service, catalogue: Catalogue, job: Job) -> Iterator[Discrepancy]:
    for name, key in (job.variant_keys or {}).items():
        expected = job.describe_file(name)["size_bytes"]
        if catalogue.find_size(key) == expected:
            continue
        # Check again: it may have been stored, or deleted, since the storage was listed.
        found = _measure(service.storage, key)
        if found != expected and _read_again(service, job):
            kind = "variant_missing" if found is None else "variant_of_other_size"
            yield Discrepancy(kind, key, RESTORE, job_id=job.job_id)


def _measure(storage: Storage, key: str) -> int | None:
    try:
        return len(storage.get(key))
    except ObjectNotFoundError:
        return None


def _check_upload(service: Service, job: Job, *, repair: bool) -> Iterator[Discrepancy]:
    try:
        load_source(service, job)
    except SourceMissingError as error:
        yield from _end_without_upload(service, job, "upload_missing", error, repair=repair)
    except SourceCorruptError as error:
        yield from _end_without_upload(service, job, "upload_altered", error, repair=repair)


def _end_without_upload(
    service: Service, job: Job, kind: str, error: JobError, *, repair: bool
) -> Iterator[Discrepancy]:
    current = _read_again(service, job)
    if current is None or current.staging_key is None:  # the job ended meanwhile
        return
    failed = current.status is JobStatus.FAILED
    end = f"the job ends as failed ({error.code})"
    if failed:
        end = "the job can no longer be retried"

    repaired = False
    if repair and failed:
        drop_source(service, current)
        repaired = True
    elif repair:
        repaired = fail_waiting(service, current.job_id, WORKER_ID, error)

    if repaired:
        remedy = f"Done: {end}."
    elif repair:
        status = current.status.value
        remedy = f"The job is {status}. Once its next attempt detects this, {end}."
    else:
        remedy = f"With --repair, {end}."
    yield Discrepancy(kind, current.staging_key, remedy, repaired, current.job_id)


def _read_again(service: Service, job: Job) -> Job | None:
    with service.database.read() as connection:
        return job_store.find_job(connection, job.job_id)
