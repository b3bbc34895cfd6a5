"""Reading and deleting images and their jobs.

What the caller may not see does not exist for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import UUID

from imageprocessor.errors import (
    ImageNotFoundError,
    InvalidIdError,
    JobFailedError,
    JobNotFoundError,
    JobNotReadyError,
    JobNotRetryableError,
    StorageError,
    TooManyIdsError,
    UnknownSizeError,
)
from imageprocessor.queue.access import Caller
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import variant_key

MAX_BATCH = 50
CANONICAL_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def parse_id(text: str) -> str:
    """Return the UUID in *text* in its canonical form.

    Raises:
        InvalidIdError: It is none.
    """
    if CANONICAL_ID.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise InvalidIdError(
            f"{text[:80]!r} is not an id: ids look like 3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13."
        ) from None


def read_job(service: Service, job_id: str, caller: Caller) -> Job:
    """Return a job in whatever state it is.

    Raises:
        InvalidIdError: *job_id* is no UUID.
        JobNotFoundError: There is none, its image was deleted, or it is not the caller's to see.
    """
    id_ = parse_id(job_id)
    with service.database.read() as connection:
        job = job_store.find_job(connection, id_)
    if job is None or not _may_read(service, job, caller):
        raise JobNotFoundError(f"There is no job {job_id}.")
    return job


def read_result(service: Service, job_id: str, caller: Caller) -> Job:
    """Return a job that is completed.

    Raises:
        JobNotReadyError: It has not ended.
        JobFailedError: It ended without a result.
        InvalidIdError, JobNotFoundError: As :func:`read_job`.
    """
    return _completed(read_job(service, job_id, caller))


def read_image(service: Service, image_id: str, caller: Caller, size: str | None = None) -> Job:
    """Return the completed job of an image, which has a variant *size* if one is named.

    Raises:
        InvalidIdError: *image_id* is no UUID.
        ImageNotFoundError: There is none, it was deleted, or it is not the caller's to see.
        JobNotReadyError, JobFailedError: As :func:`read_result`.
        UnknownSizeError: It has no variant *size*.
    """
    id_ = parse_id(image_id)
    with service.database.read() as connection:
        job = job_store.find_image(connection, id_)
    if job is None or not _may_read(service, job, caller):
        raise ImageNotFoundError(f"There is no image {image_id}.")
    sizes = _completed(job).variant_keys or {}
    if size is not None and size not in sizes:
        raise UnknownSizeError(
            f"There is no size {size[:40]!r}: this image has {', '.join(sizes)}."
        )
    return job


def read_images(
    service: Service, image_ids: Sequence[str], caller: Caller, size: str
) -> tuple[list[Job], list[str]]:
    """Return the completed jobs of *image_ids* in their order.

    And the ids that have no variant *size* to show.

    Raises:
        TooManyIdsError: More than 50 ids, or none.
        InvalidIdError: One is no UUID.
    """
    if not 0 < len(image_ids) <= MAX_BATCH:
        raise TooManyIdsError(
            f"image_ids has {len(image_ids)} ids: send 1 to {MAX_BATCH}, separated by commas."
        )
    wanted = [parse_id(image_id) for image_id in image_ids]
    with service.database.read() as connection:
        found = {job.image_id: job for job in job_store.find_images(connection, wanted)}
    ready = {
        image_id
        for image_id, job in found.items()
        if _may_read(service, job, caller) and _has_size(job, size)
    }
    return [found[id_] for id_ in wanted if id_ in ready], [
        id_ for id_ in wanted if id_ not in ready
    ]


def delete_image(service: Service, image_id: str, caller: Caller) -> None:
    """Delete an image, its variants and its upload. From the first commit on no read finds it.

    Raises:
        InvalidIdError: *image_id* is no UUID.
        ImageNotFoundError: There is none, it is deleted already, or it is not the caller's own.
    """
    now = clock.utc_now()
    with service.database.write() as connection:
        job = job_store.find_image(connection, parse_id(image_id))
        if job is None or not caller.owns(job):
            raise ImageNotFoundError(f"There is no image {image_id}.")
        deleted = job_store.mark_deleted(connection, job.image_id, now)
        if deleted is None:  # by another request, meanwhile
            raise ImageNotFoundError(f"There is no image {image_id}.")
        job_store.add_event(connection, EventType.DELETED, deleted, now, by=caller.user_id)
    # The row as the UPDATE found it: a worker may have claimed it since it was read. It, or the
    # sweep, cleans up then.
    if deleted.status is not JobStatus.PROCESSING:
        purge(service, deleted)


def purge(service: Service, job: Job) -> None:
    """Remove the bytes of a deleted image, then its row. What fails here the sweep finishes."""
    try:
        delete_variants(service, job)
        if job.staging_key:
            service.staging.delete(job.staging_key)
    except StorageError:
        return
    with service.database.write() as connection:
        job_store.remove(connection, job)


def delete_variants(service: Service, job: Job) -> None:
    """Remove the variants of a job that are, or may have been, stored."""
    keys = {
        variant_key(job.bucket, spec.name, job.image_id) for spec in service.settings.image_sizes
    }
    for key in keys.union((job.variant_keys or {}).values()):
        service.storage.delete(key)


def _may_read(service: Service, job: Job, caller: Caller) -> bool:
    return service.settings.public_reads or caller.owns(job)


def _has_size(job: Job, size: str) -> bool:
    return job.status is JobStatus.COMPLETED and size in (job.variant_keys or {})


def _completed(job: Job) -> Job:
    if job.status is JobStatus.FAILED:
        raise JobFailedError(
            job.error or "The job failed.", job_code=job.error_code or JobFailedError.code
        )
    if job.status is not JobStatus.COMPLETED:
        raise JobNotReadyError(f"Job {job.job_id} is {shown_status(job)}: ask again in a moment.")
    return job


def shown_status(job: Job) -> str:
    """Return the status as clients see it: a job that waits for another attempt is pending."""
    return JobStatus.PENDING.value if job.status is JobStatus.RETRYING else job.status.value


def retry_job(service: Service, job_id: str) -> Job:
    """Make a failed job pending again, with all its attempts, and wake a worker.

    Raises:
        InvalidIdError: *job_id* is no UUID.
        JobNotFoundError: There is none, or its image was deleted.
        JobNotRetryableError: It has not failed, or its upload is no longer kept.
    """
    with service.database.write() as connection:
        job = job_store.retry_failed(connection, parse_id(job_id))
        if job is None:
            raise _why_not_retryable(job_store.find_job(connection, parse_id(job_id)), job_id)
        job_store.add_event(connection, EventType.RETRY_REQUESTED, job, clock.utc_now())
    service.dispatcher.dispatch(job.job_id)
    return job


def _why_not_retryable(job: Job | None, job_id: str) -> JobNotFoundError | JobNotRetryableError:
    if job is None:
        return JobNotFoundError(f"There is no job {job_id}.")
    if job.status is not JobStatus.FAILED:
        return JobNotRetryableError(
            f"Job {job_id} is {job.status.value}: only a failed job can be tried again."
        )
    return JobNotRetryableError(
        f"The upload of job {job_id} is no longer kept ({job.error_code}): send the image again."
    )
