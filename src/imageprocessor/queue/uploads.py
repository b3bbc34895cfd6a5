"""Accepting an upload: from the received file to a durable job, which a 202 may confirm."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from imageprocessor.core.limits import check_animation
from imageprocessor.core.validate import validate
from imageprocessor.errors import (
    DatabaseUnavailableError,
    IdempotencyKeyReusedError,
    ImageProcessorError,
    InputError,
    InvalidBucketError,
    RateLimitedError,
    RequestError,
    SpentTicketError,
    StorageError,
    UnknownWebhookError,
)
from imageprocessor.queue import rate_limits
from imageprocessor.queue.client_metadata import parse_context
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.jobs.webhooks import ENDPOINT_NAME, find_endpoint
from imageprocessor.queue.metrics.families import UPLOAD_BYTES, UPLOADS
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import check_bucket, staging_key

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """A received upload: the file and the form's other fields."""

    file: bytes | Path  #: in memory, or in the service's folder ``incoming``
    sha256: str
    bucket: str
    metadata: str = ""
    webhook: str = ""  #: the name of an endpoint, or empty


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of an upload and the ids of the request."""

    user_id: str
    idempotency_key: str | None = None
    request_id: str | None = None
    image_id: str | None = None  #: that a ticket is for, with its idempotency key


def check_quota(service: Service, sender: Sender) -> Quota:
    """Return the sender's quota in this window, before the request body is read.

    Raises:
        RateLimitedError: The quota is used up and the request does not repeat an accepted
            Idempotency-Key.
    """
    quota = read_quota(service, sender)
    if quota.remaining == 0 and not _find_repeated(service, sender):
        rate_limits.require_remaining(quota)
    return quota


def submit(service: Service, upload: Upload, sender: Sender) -> tuple[Job, Quota]:
    """Check the upload, make it durable, count it and queue its job, in this order.

    A refused upload leaves nothing behind.

    Raises:
        InputError: The header does not belong to an acceptable image.
        InvalidBucketError, InvalidMetadataError, UnknownWebhookError: Another field of the form is
            not acceptable.
        RateLimitedError: The sender's quota in this window is used up.
        IdempotencyKeyReusedError: The key was already used with another payload.
        SpentTicketError: So was the ticket, or its image was deleted.
        StorageFullError, StorageUnavailableError, DatabaseUnavailableError: The upload was not
            accepted; try again later.
    """
    check_bucket_name(service, upload.bucket)
    job = make_job(service, upload, parse_context(upload.metadata), sender)
    key = job.staging_key
    assert key is not None
    if isinstance(upload.file, Path):
        size_bytes = upload.file.stat().st_size
        service.staging.adopt(key, upload.file)
    else:
        size_bytes = len(upload.file)
        service.staging.put(key, upload.file)
    return queue_staged(service, job, size_bytes, sender)


def queue_staged(service: Service, job: Job, size_bytes: int, sender: Sender) -> tuple[Job, Quota]:
    """Count a staged upload and queue its job; a refused upload leaves nothing in staging.

    Raises:
        UnknownWebhookError, RateLimitedError, IdempotencyKeyReusedError, SpentTicketError,
        DatabaseUnavailableError: See :func:`submit`.
    """
    key = job.staging_key
    assert key is not None
    try:
        accepted, quota = _queue_once(service, job, sender)
    except ImageProcessorError:
        _unstage(service, job.job_id, key)
        raise
    if accepted is job:
        service.dispatcher.dispatch(job.job_id)
        count_accepted(service, size_bytes)
    else:
        _unstage(service, job.job_id, key)
        service.counts.add(UPLOADS, "repeated")
    return accepted, quota


def count_accepted(service: Service, size_bytes: int) -> None:
    """Count a file that was accepted."""
    service.counts.add(UPLOADS, "accepted")
    service.counts.observe(UPLOAD_BYTES, size_bytes)


@contextmanager
def counting_refusals(service: Service) -> Iterator[None]:
    """Count an upload, or a batch, if the body raises an error that refuses it."""
    try:
        yield
    except ImageProcessorError as error:
        service.counts.add(UPLOADS, describe_refusal(type(error)))
        raise


def describe_refusal(error: type[ImageProcessorError]) -> str:
    """Return the outcome of an upload that *error* refuses."""
    if issubclass(error, RateLimitedError):
        return "rate_limited"
    return "refused" if issubclass(error, InputError | RequestError) else "failed"


def check_bucket_name(service: Service, bucket: str) -> None:
    """Raise InvalidBucketError if *bucket* is not a valid name, or not allowed."""
    check_bucket(bucket)
    allowed = service.settings.allowed_buckets
    if allowed and bucket not in allowed:
        raise InvalidBucketError(
            f"bucket {bucket!r} is not one of the allowed buckets. "
            "Ask the service's operator for their names."
        )


def make_job(service: Service, upload: Upload, context: dict[str, Any], sender: Sender) -> Job:
    """Check the file of *upload* and return its job.

    Raises:
        InputError: The header does not belong to an acceptable image.
    """
    settings = service.settings
    info = validate(upload.file, settings.limits)
    if any(spec.animation == "keep" for spec in settings.image_sizes):
        check_animation(info.frames, info.width * info.height, settings.limits)
    job_id = make_id()
    image_id = sender.image_id or str(uuid.uuid4())
    key = staging_key(upload.bucket, job_id)
    webhook = upload.webhook or None
    return Job(
        job_id=job_id,
        image_id=image_id,
        user_id=sender.user_id,
        status=JobStatus.PENDING,
        bucket=upload.bucket,
        context=context,
        source_sha256=upload.sha256,
        staging_key=key,
        created_at=clock.utc_now(),
        max_retries=settings.max_retries,
        request_id=sender.request_id,
        idempotency_key=sender.idempotency_key,
        webhook=webhook,
    )


def _queue_once(service: Service, job: Job, sender: Sender) -> tuple[Job, Quota]:
    """Queue the job and return it, or return the sender's earlier job with the same key."""
    try:
        return _queue(service, job, sender)
    except (IntegrityError, RateLimitedError):
        # The cause may be a concurrent upload with the same key, which is committed by now.
        return _queue(service, job, sender)


def _queue(service: Service, job: Job, sender: Sender) -> tuple[Job, Quota]:
    if repeated := _find_repeated(service, sender):
        _check_same_payload(repeated, job)
        return _confirm(service, repeated, sender)
    settings = service.settings
    with service.database.write() as connection:
        require_webhook(connection, job.webhook)
        _require_not_deleted(connection, sender)
        quota = rate_limits.count_upload(
            connection,
            job.user_id,
            job.created_at,
            settings.rate_limit_max_uploads,
            settings.rate_limit_window,
        )
        store_job(connection, job, settings.public_base_url)
    return job, quota


def find_accepted(service: Service, sender: Sender) -> tuple[Job, Quota] | None:
    """Return the job that the sender's ticket was spent on, or None.

    Raises:
        SpentTicketError: Its image was deleted.
    """
    if repeated := _find_repeated(service, sender):
        service.counts.add(UPLOADS, "repeated")
        return _confirm(service, repeated, sender)
    with service.database.read() as connection:
        _require_not_deleted(connection, sender)
    return None


def _confirm(service: Service, repeated: Job, sender: Sender) -> tuple[Job, Quota]:
    """Return a job that a 202 will confirm again; the request that queued it may still wait."""
    service.database.flush()
    return repeated, read_quota(service, sender)


def _require_not_deleted(connection: Connection, sender: Sender) -> None:
    """Raise SpentTicketError if the image of the sender's ticket was deleted."""
    if sender.image_id and outbox.find_deleted_job(connection, sender.image_id):
        raise SpentTicketError(
            f"The image {sender.image_id} was uploaded with this ticket and deleted. "
            "Ask for a new ticket."
        )


def store_job(connection: Connection, job: Job, base_url: str) -> None:
    """Store the job of an upload, and announce it; *base_url*: see :func:`outbox.announce`."""
    job_store.insert_job(connection, job)
    outbox.announce(
        connection,
        EventType.UPLOAD_INITIATED,
        job,
        job.created_at,
        base_url=base_url,
        previous_status=None,
        request_id=job.request_id,
        by=job.user_id,
        bucket=job.bucket,
    )


def require_webhook(connection: Connection, name: str | None) -> None:
    """Raise UnknownWebhookError if *name* is not that of an endpoint, or it is disabled."""
    if name is None:
        return
    endpoint = find_endpoint(connection, name) if ENDPOINT_NAME.fullmatch(name) else None
    if endpoint is None or endpoint.disabled_at:
        raise UnknownWebhookError(
            f"There is no webhook {name[:80]!r} that is enabled. Ask the service's operator for "
            "its name, or leave out the field 'webhook'."
        )


def _find_repeated(service: Service, sender: Sender) -> Job | None:
    if sender.idempotency_key is None:
        return None
    with service.database.read() as connection:
        return job_store.find_repeated(connection, sender.user_id, sender.idempotency_key)


def _check_same_payload(first: Job, second: Job) -> None:
    first_payload = (first.source_sha256, first.bucket, first.context, first.webhook)
    second_payload = (second.source_sha256, second.bucket, second.context, second.webhook)
    if first_payload == second_payload:
        return
    if first.image_id == second.image_id:
        raise SpentTicketError(
            f"Another file was uploaded with this ticket, as image {first.image_id}. "
            "Ask for a new ticket."
        )
    raise make_reuse_error(first.idempotency_key)


def make_reuse_error(idempotency_key: str | None) -> IdempotencyKeyReusedError:
    """Return the error for an Idempotency-Key that was used with another payload."""
    return IdempotencyKeyReusedError(
        f"Idempotency-Key {idempotency_key!r} was already used with another payload. "
        "Use a new key for a new upload."
    )


def read_quota(service: Service, sender: Sender) -> Quota:
    """Return the sender's quota in this window."""
    settings = service.settings
    with service.database.read() as connection:
        return rate_limits.read_quota(
            connection,
            sender.user_id,
            clock.utc_now(),
            settings.rate_limit_max_uploads,
            settings.rate_limit_window,
        )


def _unstage(service: Service, job_id: str, key: str) -> None:
    """Delete the staged upload of *job_id*, unless the job was queued after all.

    A lost connection can hide that the commit succeeded, so check the database first.
    """
    # If this fails, the sweep deletes the upload, as no job needs it.
    with suppress(DatabaseUnavailableError, StorageError):
        with service.database.read() as connection:
            queued = job_store.find_job(connection, job_id)
        if queued is None:
            service.staging.delete(key)
