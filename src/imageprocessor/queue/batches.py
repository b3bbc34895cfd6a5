"""Accepting a batch: several images in one request, stored and queued together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from imageprocessor.errors import (
    BatchNotFoundError,
    BatchRefusedError,
    DatabaseUnavailableError,
    FileTooLargeError,
    ImageProcessorError,
    InputError,
    InvalidItemsError,
    InvalidMetadataError,
    RateLimitedError,
    StorageError,
    find_class,
)
from imageprocessor.queue import rate_limits
from imageprocessor.queue.access import Caller
from imageprocessor.queue.client_metadata import parse_context
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.job_control import parse_id, public_status
from imageprocessor.queue.jobs import batch_store, outbox
from imageprocessor.queue.jobs.batch_store import Batch, Outcome
from imageprocessor.queue.jobs.description import BATCH_ENDINGS
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.metrics.families import UPLOADS
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import (
    Sender,
    Upload,
    check_bucket_name,
    count_accepted,
    describe_refusal,
    make_job,
    make_reuse_error,
    read_quota,
    require_webhook,
    store_job,
)

MAX_FILENAME_CHARACTERS = 255
STATUSES = ("pending", "processing", *BATCH_ENDINGS)  #: of a file of a batch


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file of a batch, as received."""

    filename: str | None  #: as the client sent it
    content: bytes | Path | None  #: None: it is larger than allowed
    size_bytes: int
    sha256: str  #: of what was kept of it


@dataclass(frozen=True, slots=True)
class BatchUpload:
    """A received batch: the files and the form's other fields."""

    files: Sequence[ReceivedFile]
    bucket: str
    metadata: str = ""  #: for all files
    webhook: str = ""  #: the name of an endpoint, or empty
    items: str = ""  #: JSON: a list with an object for each file
    is_atomic: bool = False


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A batch, and the state of each of its files."""

    batch: Batch
    jobs: Mapping[str, Job]  #: by id, without those of deleted images

    def describe_status(self, outcome: Outcome) -> str:
        """Return the status of a file of the batch, as clients see it."""
        if outcome.job_id is None:
            return "refused"
        job = self.jobs.get(outcome.job_id)
        return public_status(job) if job else "deleted"

    def count_statuses(self) -> dict[str, int]:
        """Return the number of files in each status."""
        found = Counter(self.describe_status(outcome) for outcome in self.batch.outcomes)
        return {status: found[status] for status in STATUSES}


def check_quota(service: Service, sender: Sender) -> Quota:
    """Return the sender's quota in this window, before the request body is read.

    Raises:
        RateLimitedError: See :func:`uploads.check_quota`.
    """
    quota = read_quota(service, sender)
    if quota.remaining == 0 and not _find_repeated(service, sender):
        rate_limits.require_remaining(quota)
    return quota


def submit_batch(service: Service, upload: BatchUpload, sender: Sender) -> tuple[Batch, Quota]:
    """Check the files, make the accepted ones durable, count them and queue their jobs.

    A refused file leaves nothing behind; its outcome says why it was refused. If the sender's
    quota ends within the batch, the files after that are refused.

    Raises:
        InvalidBucketError, InvalidMetadataError, InvalidItemsError, UnknownWebhookError: Another
            field of the form is not acceptable.
        BatchRefusedError: The batch is atomic, and a file was refused.
        IdempotencyKeyReusedError: The key was already used with another payload.
        StorageFullError, StorageUnavailableError, DatabaseUnavailableError: The batch was not
            accepted; try again later.
    """
    check_bucket_name(service, upload.bucket)
    contexts = _parse_contexts(upload)
    draft = _check_files(service, upload, contexts, sender)
    if repeated := _find_repeated(service, sender):
        service.counts.add(UPLOADS, "repeated")
        return _repeat(service, repeated, draft.batch, sender)
    if upload.is_atomic:
        _require_all(draft.batch)
    try:
        service.staging.put_all(draft.sources)
        accepted, quota = _queue_once(service, draft, sender, is_atomic=upload.is_atomic)
    except ImageProcessorError:
        _unstage(service, draft, kept=None)
        raise
    _unstage(service, draft, kept=accepted)
    if accepted.batch_id != draft.batch.batch_id:
        service.counts.add(UPLOADS, "repeated")
        return accepted, quota
    for file, outcome in zip(upload.files, accepted.outcomes, strict=True):
        if outcome.job_id:
            service.dispatcher.dispatch(outcome.job_id)
            count_accepted(service, file.size_bytes)
        else:
            service.counts.add(UPLOADS, describe_refusal(find_class(outcome.error_code)))
    return accepted, quota


def read_batch(service: Service, batch_id: str, caller: Caller) -> BatchProgress:
    """Return a batch and the states of its files.

    Raises:
        InvalidIdError: *batch_id* is not a UUID.
        BatchNotFoundError: The batch does not exist, is no longer kept, or does not belong to the
            caller.
    """
    canonical_id = parse_id(batch_id)
    with service.database.read() as connection:
        found = batch_store.find_batch(connection, canonical_id)
    if found is None or not caller.owns(found[0]):
        raise BatchNotFoundError(f"There is no batch {batch_id}.")
    batch, jobs = found
    return BatchProgress(batch, {job.job_id: job for job in jobs})


@dataclass(frozen=True, slots=True)
class _Draft:
    """A batch before it is counted: the outcomes of the check, and what is to be stored."""

    batch: Batch
    jobs: Mapping[str, Job]  #: of the files that may be accepted, by id
    sources: Mapping[str, bytes | Path]  #: these files, by staging key


def _parse_contexts(upload: BatchUpload) -> list[dict[str, Any]]:
    """Return the context of each file: `metadata`, and over it that of the file's item."""
    shared = parse_context(upload.metadata)
    if not upload.items.strip():
        return [shared] * len(upload.files)
    items = _parse_items(upload.items, len(upload.files))
    contexts = []
    for index, item in enumerate(items):
        merged = {**shared, **item}
        try:
            contexts.append(parse_context(json.dumps(merged, ensure_ascii=False)))
        except InvalidMetadataError as error:
            raise InvalidItemsError(f"items[{index}]: {error}") from None
        except RecursionError:
            raise InvalidItemsError(f"items[{index}] is nested too deep. Flatten it.") from None
    return contexts


def _parse_items(text: str, count: int) -> list[dict[str, Any]]:
    """Return the metadata of each item."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidItemsError(
            f"items is not valid JSON ({error}). Send an array with an object for each file."
        ) from None
    if not isinstance(items, list) or len(items) != count:
        found = f"has {len(items)} entries" if isinstance(items, list) else "is not an array"
        raise InvalidItemsError(
            f"items {found}, but the form has {count} files. Send an object for each file, in the "
            "same order."
        )
    metadata = []
    for index, item in enumerate(items):
        is_valid = isinstance(item, dict) and item.keys() <= {"metadata"}
        value = item.get("metadata", {}) if is_valid else None
        if not isinstance(value, dict):
            raise InvalidItemsError(
                f"items[{index}] is not an object whose only key is metadata, itself an object. "
                'Send {"metadata": {…}}, or {} for a file without any.'
            )
        metadata.append(value)
    return metadata


def _check_files(
    service: Service, upload: BatchUpload, contexts: Sequence[dict[str, Any]], sender: Sender
) -> _Draft:
    batch_id = make_id()
    outcomes: list[Outcome] = []
    jobs: dict[str, Job] = {}
    sources: dict[str, bytes | Path] = {}
    for file, context in zip(upload.files, contexts, strict=True):
        try:
            content = _require_content(service, file)
            single = Upload(content, file.sha256, upload.bucket, webhook=upload.webhook)
            job = make_job(service, single, context, replace(sender, idempotency_key=None))
        except InputError as error:
            outcomes.append(_refuse(file.filename, error))
            continue
        job = replace(job, batch_id=batch_id)
        assert job.staging_key
        jobs[job.job_id] = job
        sources[job.staging_key] = content
        outcomes.append(Outcome(file.filename, job.job_id, job.image_id))
    batch = Batch(
        batch_id=batch_id,
        user_id=sender.user_id,
        bucket=upload.bucket,
        outcomes=tuple(outcomes),
        payload_sha256=_hash_payload(upload, contexts),
        created_at=clock.utc_now(),
        webhook=upload.webhook or None,
        idempotency_key=sender.idempotency_key,
    )
    return _Draft(batch, jobs, sources)


def _require_content(service: Service, file: ReceivedFile) -> bytes | Path:
    if file.content is None:
        raise FileTooLargeError(
            f"The file has {file.size_bytes} bytes; the limit is "
            f"{service.settings.limits.max_bytes}. Send a smaller or more compressed file."
        )
    return file.content


def _refuse(filename: str | None, error: ImageProcessorError) -> Outcome:
    return Outcome(filename, error_code=error.code, error=str(error))


def _hash_payload(upload: BatchUpload, contexts: Sequence[dict[str, Any]]) -> str:
    """Return the SHA-256 of all that makes the payload: two with the same one are the same."""
    files = [(file.sha256, file.size_bytes) for file in upload.files]
    fields = [upload.bucket, upload.webhook, upload.is_atomic]
    payload = json.dumps([files, contexts, fields], sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()


def _require_all(batch: Batch) -> None:
    """Raise BatchRefusedError if a file of the batch was refused."""
    refused = [outcome for outcome in batch.outcomes if outcome.job_id is None]
    if refused:
        raise BatchRefusedError(
            f"{len(refused)} of {len(batch.outcomes)} files were refused, and the batch is atomic: "
            "none was accepted. Correct those in items, or send the batch without atomic=true.",
            batch.outcomes,
        )


def _queue_once(
    service: Service, draft: _Draft, sender: Sender, *, is_atomic: bool
) -> tuple[Batch, Quota]:
    """Queue the batch and return it, or return the sender's earlier batch with the same key."""
    try:
        return _queue(service, draft, is_atomic=is_atomic)
    except (IntegrityError, BatchRefusedError):
        # The cause may be a concurrent batch with the same key, which is committed by now.
        repeated = _find_repeated(service, sender)
        if repeated is None:
            raise
        return _repeat(service, repeated, draft.batch, sender)


def _queue(service: Service, draft: _Draft, *, is_atomic: bool) -> tuple[Batch, Quota]:
    now = draft.batch.created_at
    with service.database.write() as connection:
        require_webhook(connection, draft.batch.webhook)
        batch, quota = _count(service, connection, draft.batch, now)
        if is_atomic:
            _require_all(batch)
        batch_store.insert_batch(connection, batch)
        accepted = [outcome.job_id for outcome in batch.outcomes if outcome.job_id]
        for job_id in accepted:
            store_job(connection, draft.jobs[job_id], service.settings.public_base_url)
        if not accepted:
            outbox.complete_batch(connection, batch.batch_id, now)
    return batch, quota


def _count(
    service: Service, connection: Connection, batch: Batch, now: datetime
) -> tuple[Batch, Quota]:
    """Count an upload for each file; refuse those after the end of the quota."""
    settings = service.settings
    limit, window = settings.rate_limit_max_uploads, settings.rate_limit_window
    outcomes = []
    error: RateLimitedError | None = None
    for outcome in batch.outcomes:
        if outcome.job_id and error is None:
            try:
                rate_limits.count_upload(connection, batch.user_id, now, limit, window)
            except RateLimitedError as limited:
                error = limited
        if outcome.job_id and error:
            outcomes.append(_refuse(outcome.filename, error))
        else:
            outcomes.append(outcome)
    quota = rate_limits.read_quota(connection, batch.user_id, now, limit, window)
    return replace(batch, outcomes=tuple(outcomes)), quota


def _find_repeated(service: Service, sender: Sender) -> Batch | None:
    if sender.idempotency_key is None:
        return None
    with service.database.read() as connection:
        return batch_store.find_repeated(connection, sender.user_id, sender.idempotency_key)


def _repeat(service: Service, first: Batch, second: Batch, sender: Sender) -> tuple[Batch, Quota]:
    """Return the earlier batch with the same key, if the payload is the same."""
    if first.payload_sha256 != second.payload_sha256:
        raise make_reuse_error(first.idempotency_key)
    service.database.flush()  # a 207 will confirm it; the first request may still be waiting
    return first, read_quota(service, sender)


def _unstage(service: Service, draft: _Draft, *, kept: Batch | None) -> None:
    """Delete the staged files, except those of the batch *kept*.

    If that is not known, because of an error, check the database first: a lost connection can hide
    that the commit succeeded.
    """
    # If this fails, the sweep deletes the files, as no job needs them.
    with suppress(DatabaseUnavailableError, StorageError):
        if kept is None:
            with service.database.read() as connection:
                queued = batch_store.find_batch(connection, draft.batch.batch_id)
            kept = queued[0] if queued else None
        kept_ids = {outcome.job_id for outcome in kept.outcomes} if kept else set()
        for job in draft.jobs.values():
            if job.job_id not in kept_ids and job.staging_key:
                service.staging.delete(job.staging_key)
