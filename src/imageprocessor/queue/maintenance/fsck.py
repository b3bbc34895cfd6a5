"""Compares rows with stored bytes, both ways.

What a row names must be there, what is there must have a row.

The service may run meanwhile: what looks wrong is looked at once more before it is told. Memory is
bounded however
many objects there are: the listing of the storage goes to a temporary file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from imageprocessor.errors import (
    JobError,
    ObjectNotFoundError,
    SourceCorruptError,
    SourceMissingError,
)
from imageprocessor.queue.attempts import give_up, load_source
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.inventory import READABLE, UPLOAD_KEPT, find_beginning, iterate_jobs
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.sweep import (
    UPLOAD_GRACE,
    drop_source,
    find_abandoned_files,
    find_unknown_images,
    find_unknown_uploads,
)
from imageprocessor.queue.service import Service
from imageprocessor.storage.protocol import Storage, StoredObject

CATALOGUE_CACHE_KIB = 32 * 1024
WORKER_ID = "fsck"
RESTORE = "Put it back from a backup; or delete the image, and have it sent again."
REMOVED, TO_REMOVE = "It was removed.", "--repair removes it."
ANOTHERS = "It is older than this database: is DATABASE_URL, or DATABASE_PATH, right? If so, remove it by hand."


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Something that rows and storage do not agree on."""

    kind: str
    where: str  #: a storage key, or a file's path
    remedy: str  #: what was done, or what is to do
    mended: bool = False
    job_id: str | None = None


def reconcile(service: Service, *, repair: bool = False) -> Iterator[Discrepancy]:
    """Yield what is wrong.

    With *repair*, mend it first where that is possible, and tell what was done.

    What has no row is removed once it is as old as the sweep's graces, unless it was there before
    this database took
    its first upload: a mistyped DATABASE_URL must not cost all images. A job whose upload is gone
    or altered ends as failed; one that has failed before forgets its upload. An image whose
    variants are gone is only reported.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: What was not compared yet was not
            compared.
    """
    with service.database.read() as connection:
        beginning = find_beginning(connection)
    with closing(
        sqlite3.connect("")
    ) as catalogue:  # a file without a name, gone with the connection
        unknown = find_unknown_images(service, _record(catalogue, service.storage.list()))
        yield from _orphans(
            "variant_without_row", service.storage, unknown, beginning, repair=repair
        )
        yield from _check_variants(service, catalogue)
    unknown = find_unknown_uploads(service)
    yield from _orphans("upload_without_row", service.staging, unknown, beginning, repair=repair)
    yield from _check_uploads(service, repair=repair)
    for path in find_abandoned_files(service):
        if repair:
            path.unlink(missing_ok=True)
        yield Discrepancy(
            "abandoned_file", str(path), REMOVED if repair else TO_REMOVE, mended=repair
        )


def _record(
    catalogue: sqlite3.Connection, listed: Iterable[StoredObject]
) -> Iterator[StoredObject]:
    catalogue.execute(f"PRAGMA cache_size=-{CATALOGUE_CACHE_KIB}")
    catalogue.execute(
        "CREATE TABLE stored (key TEXT PRIMARY KEY, size_bytes INTEGER) WITHOUT ROWID"
    )
    for stored in listed:
        catalogue.execute(
            "INSERT OR REPLACE INTO stored VALUES (?, ?)", (stored.key, stored.size_bytes)
        )
        yield stored


def _orphans(
    kind: str,
    storage: Storage,
    unknown: Iterable[StoredObject],
    beginning: datetime | None,
    *,
    repair: bool,
) -> Iterator[Discrepancy]:
    for stored in unknown:
        if beginning is None or stored.modified_at < beginning - UPLOAD_GRACE:
            yield Discrepancy(kind, stored.key, ANOTHERS)
            continue
        if repair:
            storage.delete(stored.key)
        yield Discrepancy(kind, stored.key, REMOVED if repair else TO_REMOVE, mended=repair)


def _check_variants(service: Service, catalogue: sqlite3.Connection) -> Iterator[Discrepancy]:
    for job in iterate_jobs(service.database, *READABLE):
        for key, size_bytes in _list_expected(job):
            listed = catalogue.execute(
                "SELECT size_bytes FROM stored WHERE key = ?", (key,)
            ).fetchone()
            if listed != (size_bytes,) and (kind := _look_again(service, job, key, size_bytes)):
                yield Discrepancy(kind, key, RESTORE, job_id=job.job_id)


def _list_expected(job: Job) -> Iterator[tuple[str, int]]:
    described = (job.generated or {})["variants"]
    for name, key in (job.variant_keys or {}).items():
        yield key, described[name]["size_bytes"]


def _look_again(service: Service, job: Job, key: str, size_bytes: int) -> str | None:
    """Return what is wrong with a variant that was not as expected when the storage was listed.

    If it still is.
    """
    found = _measure(service.storage, key)
    if found == size_bytes or _read_again(service, job) is None:  # stored since, or deleted
        return None
    return "variant_missing" if found is None else "variant_of_other_size"


def _measure(storage: Storage, key: str) -> int | None:
    try:
        return len(storage.get(key))
    except ObjectNotFoundError:
        return None


def _check_uploads(service: Service, *, repair: bool) -> Iterator[Discrepancy]:
    for job in iterate_jobs(service.database, *UPLOAD_KEPT):
        try:
            load_source(service, job)
        except (SourceMissingError, SourceCorruptError) as error:
            now = _read_again(service, job)
            if now and now.staging_key:  # else it ended since
                mended = repair and _end(service, now, error)
                remedy = _describe_end(now, error, repair=repair, mended=mended)
                kind = (
                    "upload_missing" if isinstance(error, SourceMissingError) else "upload_altered"
                )
                yield Discrepancy(kind, now.staging_key, remedy, mended, now.job_id)


def _end(service: Service, job: Job, error: JobError) -> bool:
    if job.status is JobStatus.FAILED:
        drop_source(service, job)
        return True
    return give_up(service, job.job_id, WORKER_ID, error)


def _describe_end(job: Job, error: JobError, *, repair: bool, mended: bool) -> str:
    failed = job.status is JobStatus.FAILED
    end = (
        "the job can no longer be tried again"
        if failed
        else f"the job ends as failed ({error.code})"
    )
    if repair and not mended:
        return f"The job is {job.status.value}: its next attempt finds this out, and {end}."
    return f"Done: {end}." if mended else f"With --repair, {end}."


def _read_again(service: Service, job: Job) -> Job | None:
    with service.database.read() as connection:
        return job_store.find_job(connection, job.job_id)
