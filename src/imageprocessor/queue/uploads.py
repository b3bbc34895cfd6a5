"""Taking an upload: from a received file to a 202, which is a promise."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

from imageprocessor.core.validate import validate
from imageprocessor.errors import (
    DatabaseUnavailableError,
    IdempotencyKeyReusedError,
    ImageProcessorError,
    InvalidBucketError,
    RateLimitedError,
    StorageError,
)
from imageprocessor.queue import rate_limits
from imageprocessor.queue.client_metadata import parse_context
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import check_bucket, staging_key

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """What arrived.

    The picture, in memory or as a file in the service's ``incoming``, and the form's other fields.
    """

    picture: bytes | Path
    sha256: str
    bucket: str
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent it, and what the request said of itself."""

    user_id: str
    idempotency_key: str | None = None
    request_id: str | None = None


def check_quota(service: Service, sender: Sender) -> Quota:
    """Return what the sender has left in this window, before a body is read.

    Raises:
        RateLimitedError: Nothing. A request that repeats an accepted Idempotency-Key is let through
            all the same.
    """
    with service.database.read() as connection:
        quota = rate_limits.read_quota(
            connection, sender.user_id, clock.utc_now(), *_rate_limit(service)
        )
    if quota.remaining == 0 and not _find_repeated(service, sender):
        rate_limits.refuse_spent(quota)
    return quota


def submit(service: Service, upload: Upload, sender: Sender) -> tuple[Job, Quota]:
    """Check the upload, make it durable, count it and queue its job, in this order.

    Refused: nothing is left.

    Raises:
        InputError: The header is not one of an acceptable image.
        InvalidBucketError, InvalidMetadataError: The form's other fields are not acceptable.
        RateLimitedError: The sender's window is full.
        IdempotencyKeyReusedError: The key came before with another payload.
        StorageFullError, StorageUnavailableError, DatabaseUnavailableError: Nothing was taken; try
            again later.
    """
    job = _new_job(service, upload, sender)
    staged = staging_key(job.bucket, job.job_id)
    if isinstance(upload.picture, Path):
        service.staging.adopt(staged, upload.picture)
    else:
        service.staging.put(staged, upload.picture)
    try:
        accepted, quota = _queue_once(service, job, sender)
    except ImageProcessorError:
        _take_back(service, job, staged)
        raise
    if accepted is job:
        service.dispatcher.dispatch(job.job_id)
    else:
        _take_back(service, job, staged)
    return accepted, quota


def _take_back(service: Service, job: Job, staged: str) -> None:
    """Remove the staged upload of a job that was not queued.

    A lost connection may hide that it was: look first.
    """
    with suppress(
        DatabaseUnavailableError, StorageError
    ):  # the sweep removes what no job waits for
        with service.database.read() as connection:
            queued = job_store.find_job(connection, job.job_id)
        if queued is None:
            service.staging.delete(staged)


def _new_job(service: Service, upload: Upload, sender: Sender) -> Job:
    _check_allowed(service, upload.bucket)
    context = parse_context(upload.metadata)
    validate(upload.picture, service.settings.limits)
    job_id, image_id = _make_ids()
    return Job(
        job_id=job_id,
        image_id=image_id,
        user_id=sender.user_id,
        status=JobStatus.PENDING,
        bucket=upload.bucket,
        context=context,
        source_sha256=upload.sha256,
        staging_key=staging_key(upload.bucket, job_id),
        created_at=clock.utc_now(),
        max_retries=service.settings.max_retries,
        request_id=sender.request_id,
        idempotency_key=sender.idempotency_key,
    )


def _make_ids() -> tuple[str, str]:
    """Return two random UUIDs, for one system call."""
    random = os.urandom(32)
    return str(uuid.UUID(bytes=random[:16], version=4)), str(
        uuid.UUID(bytes=random[16:], version=4)
    )


def _check_allowed(service: Service, bucket: str) -> None:
    allowed = service.settings.allowed_buckets
    check_bucket(bucket)
    if allowed and bucket not in allowed:
        raise InvalidBucketError(
            f"bucket {bucket!r} is not one of the allowed buckets: {', '.join(allowed)}."
        )


def _queue_once(service: Service, job: Job, sender: Sender) -> tuple[Job, Quota]:
    try:
        return _queue(service, job, sender)
    except (
        IntegrityError,
        RateLimitedError,
    ):  # perhaps because of an upload with the same key, by now committed
        return _queue(service, job, sender)


def _queue(service: Service, job: Job, sender: Sender) -> tuple[Job, Quota]:
    if repeated := _find_repeated(service, sender):
        _check_same_payload(repeated, job)
        with service.database.read() as connection:
            return repeated, rate_limits.read_quota(
                connection, job.user_id, job.created_at, *_rate_limit(service)
            )
    with service.database.write() as transaction:
        quota = rate_limits.take_upload(
            transaction, job.user_id, job.created_at, *_rate_limit(service)
        )
        job_store.insert_job(transaction, job)
        told = {"request_id": job.request_id, "by": job.user_id, "bucket": job.bucket}
        job_store.add_event(transaction, EventType.UPLOAD_INITIATED, job, job.created_at, **told)
    return job, quota


def _find_repeated(service: Service, sender: Sender) -> Job | None:
    if sender.idempotency_key is None:
        return None
    with service.database.read() as connection:
        return job_store.find_repeated(connection, sender.user_id, sender.idempotency_key)


def _check_same_payload(first: Job, second: Job) -> None:
    payloads = [(job.source_sha256, job.bucket, job.context) for job in (first, second)]
    if payloads[0] != payloads[1]:
        raise IdempotencyKeyReusedError(
            f"Idempotency-Key {first.idempotency_key!r} came before with another payload: "
            "use a new key for a new upload."
        )


def _rate_limit(service: Service) -> tuple[int, Any]:
    return service.settings.rate_limit_max_uploads, service.settings.rate_limit_window
