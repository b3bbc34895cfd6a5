"""Reading and deleting images. An image that the caller may not see is reported as missing."""

from __future__ import annotations

from collections.abc import Sequence

from imageprocessor.errors import (
    ImageNotFoundError,
    StorageError,
    TooManyIdsError,
    UnknownSizeError,
)
from imageprocessor.queue.access import Caller, may_read
from imageprocessor.queue.database import clock
from imageprocessor.queue.job_control import check_completed, parse_id
from imageprocessor.queue.jobs import job_store, outbox, webhook_deliveries
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import variant_key

MAX_BATCH = 50


def read_image(service: Service, image_id: str, caller: Caller, size: str | None = None) -> Job:
    """Return the completed job of an image with a variant *size*, if given.

    Raises:
        InvalidIdError: *image_id* is not a UUID.
        ImageNotFoundError: The image does not exist, was deleted, or is not visible to the caller.
        JobNotReadyError, JobFailedError: See :func:`job_control.check_completed`.
        UnknownSizeError: The image has no variant *size*.
    """
    job = find_image(service, image_id, caller)
    check_completed(job)
    sizes = job.sizes
    if size is not None and size not in sizes:
        raise UnknownSizeError(
            f"This image has no size {size[:40]!r}. Its sizes are {', '.join(sizes)}."
        )
    return job


def find_image(service: Service, image_id: str, caller: Caller) -> Job:
    """Return the job of an image, completed or not.

    Raises:
        InvalidIdError: *image_id* is not a UUID.
        ImageNotFoundError: The image does not exist, was deleted, or is not visible to the caller.
    """
    canonical_id = parse_id(image_id)
    with service.database.read() as connection:
        job = job_store.find_image(connection, canonical_id)
    if job is None or not may_read(service, caller, job):
        raise ImageNotFoundError(f"There is no image {image_id}.")
    return job


def find_file(job: Job, size: str, output: str | None) -> str:
    """Return the name of a completed job's file with that size and format.

    Raises:
        UnknownSizeError: The variant *size*, which exists, has no such format.
    """
    if output is None:
        return size
    formats = {}
    for name in job.variant_keys or {}:
        if name.partition(".")[0] == size:
            formats[job.describe_file(name)["format"]] = name
    if output not in formats:
        raise UnknownSizeError(
            f"Size {size!r} of this image has no format {output[:40]!r}. "
            f"It has {', '.join(formats)}."
        )
    return formats[output]


def read_images(
    service: Service, image_ids: Sequence[str], caller: Caller, size: str
) -> tuple[list[Job], list[str]]:
    """Return the completed jobs of *image_ids*, in that order, and the ids without *size*.

    Raises:
        TooManyIdsError: *image_ids* has no ids or more than 50.
        InvalidIdError: One of *image_ids* is not a UUID.
    """
    if not 0 < len(image_ids) <= MAX_BATCH:
        raise TooManyIdsError(f"image_ids has {len(image_ids)} ids. Send 1 to {MAX_BATCH}.")
    canonical_ids = [parse_id(image_id) for image_id in image_ids]
    with service.database.read() as connection:
        found = job_store.find_images(connection, canonical_ids)
    readable: dict[str, Job] = {}
    for job in found:
        has_size = job.status is JobStatus.COMPLETED and size in job.sizes
        if has_size and may_read(service, caller, job):
            readable[job.image_id] = job
    in_order = [readable[image_id] for image_id in canonical_ids if image_id in readable]
    missing = [image_id for image_id in canonical_ids if image_id not in readable]
    return in_order, missing


def delete_image(service: Service, image_id: str, caller: Caller) -> None:
    """Delete an image, its variants and its upload. No read finds it after the first commit.

    Raises:
        InvalidIdError: *image_id* is not a UUID.
        ImageNotFoundError: The image does not exist, was deleted, or does not belong to the caller.
    """
    canonical_id = parse_id(image_id)
    now = clock.utc_now()
    with service.database.write() as connection:
        job = job_store.find_image(connection, canonical_id)
        if job is None or not caller.owns(job):
            raise ImageNotFoundError(f"There is no image {image_id}.")
        deleted = job_store.mark_deleted(connection, canonical_id, now)
        if deleted is None:  # another request was faster
            raise ImageNotFoundError(f"There is no image {image_id}.")
        webhook_deliveries.drop_context(connection, canonical_id)
        outbox.announce(
            connection,
            EventType.DELETED,
            deleted,
            now,
            base_url=service.settings.public_base_url,
            previous_status=deleted.status,
            by=caller.user_id,
        )
    # `deleted` is the row as the UPDATE found it: a worker may have claimed the job since the read.
    # Then that worker, or the sweep, deletes the bytes.
    if deleted.status is not JobStatus.PROCESSING:
        purge(service, deleted)


def purge(service: Service, job: Job) -> None:
    """Delete the bytes of a deleted image, then its row. The sweep finishes whatever fails here."""
    try:
        delete_variants(service, job)
        if job.staging_key:
            service.staging.delete(job.staging_key)
    except StorageError:
        return
    with service.database.write() as connection:
        job_store.remove(connection, job)


def delete_variants(service: Service, job: Job) -> None:
    """Delete all files of a job that are, or may be, stored."""
    keys = set((job.variant_keys or {}).values())
    for spec in service.settings.image_sizes:
        for output in spec.files.values():
            keys.add(variant_key(job.bucket, spec.name, job.image_id, output))
    for key in keys:
        service.storage.delete(key)
