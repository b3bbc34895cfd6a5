"""A job, its states, and its outcome when an attempt fails.

Pure: no database access, no clock of its own. The state transitions::

    pending → processing → completed | failed | retrying
    retrying → processing
    processing → pending (its worker was stopped, or died on the next job)
    failed → pending (an operator)
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from imageprocessor.errors import ImageProcessorError, StorageError
from imageprocessor.queue.database import clock

FIRST_BACKOFF_SECONDS = 1.0
FIRST_STORAGE_BACKOFF_SECONDS = 10.0  # three retries outlast half a minute without storage
MAX_BACKOFF_SECONDS = 60.0
LEASE_MARGIN_SECONDS = 15


class JobStatus(StrEnum):
    """The state of a job."""

    PENDING = "pending"  #: waits for a worker
    PROCESSING = "processing"  #: a worker holds its lease
    COMPLETED = "completed"  #: every variant is stored and readable
    FAILED = "failed"  #: ended without a result
    RETRYING = "retrying"  #: waits for its next attempt


OPEN_STATUSES = (JobStatus.PENDING, JobStatus.PROCESSING, JobStatus.RETRYING)
CLAIMABLE_STATUSES = (JobStatus.PENDING, JobStatus.RETRYING)


class EventType(StrEnum):
    """The kinds of events in the audit trail."""

    UPLOAD_INITIATED = "upload_initiated"
    PROCESSING_STARTED = "processing_started"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"  #: an attempt failed, another will follow
    #: its worker was stopped, or died on the next job; the attempt does not count
    RELEASED = "released"
    RETRY_REQUESTED = "retry_requested"  #: an operator retries a failed job
    DELETED = "deleted"
    BATCH_COMPLETED = "batch_completed"  #: every job of a batch has ended, or was deleted
    # Actions, which concern no job: see `outbox.add_action`.
    PAUSED = "paused"
    RESUMED = "resumed"
    JOBS_RETRIED = "jobs_retried"  #: all failed ones that met a condition
    WEBHOOK_REPLAYED = "webhook_replayed"
    WEBHOOK_ENABLED = "webhook_enabled"
    WEBHOOK_DISABLED = "webhook_disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of ``processing_jobs``. It refers to its bytes by storage key, not by URL or path."""

    job_id: str
    image_id: str
    user_id: str
    status: JobStatus
    bucket: str
    context: dict[str, Any]  #: what the client sent as ``metadata``
    source_sha256: str
    created_at: datetime
    max_retries: int
    #: `ProcessedImage.describe()`; an earlier version may have stored fewer fields
    generated: dict[str, Any] | None = None
    staging_key: str | None = None
    #: by the name of each file: a size, or an alternate as "medium.webp"
    variant_keys: Mapping[str, str] | None = None
    attempts: int = 0
    worker_id: str | None = None
    lease_token: str | None = None
    lease_expires_at: datetime | None = None
    next_attempt_at: datetime | None = None
    error_code: str | None = None
    error: str | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    batch_id: str | None = None
    webhook: str | None = None  #: the endpoint that the upload named
    started_at: datetime | None = None
    completed_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def sizes(self) -> dict[str, str]:
        """The keys of the variants, without their alternates, by size."""
        keys = self.variant_keys or {}
        return {name: key for name, key in keys.items() if "." not in name}

    def describe_file(self, name: str) -> dict[str, Any]:
        """Return what is known about a file of a completed job: its format, width and so on."""
        size, _, output = name.partition(".")
        variant: dict[str, Any] = (self.generated or {})["variants"][size]
        if not output:
            return variant
        (alternate,) = (each for each in variant["alternates"] if each["format"] == output)
        return dict(alternate)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Job:
        """Return the job in *row*. Only this method reads the table's columns."""
        same: dict[str, Any] = {name: row[name] for name in _SAME_NAMED}
        times: dict[str, Any] = {}
        for name in _TIMES:
            if row[name]:
                times[name] = clock.from_text(row[name])
        details = json.loads(row["processing_metadata"])
        paths = row["processed_paths"]
        variant_keys = json.loads(paths) if paths else None
        return cls(
            **same,
            **times,
            status=JobStatus(row["status"]),
            bucket=row["storage_bucket"],
            context=details["context"],
            generated=details.get("generated"),
            staging_key=row["staging_path"],
            variant_keys=variant_keys,
            attempts=row["attempt_count"],
            error=row["last_error"],
        )

    def to_row(self) -> dict[str, Any]:
        """Return the columns of this job: the reverse of :meth:`from_row`."""
        row: dict[str, Any] = {name: getattr(self, name) for name in _SAME_NAMED}
        for name in _TIMES:
            time = getattr(self, name)
            row[name] = clock.to_text(time) if time else None
        details = {"context": self.context}
        if self.generated:
            details["generated"] = self.generated
        row["processing_metadata"] = json.dumps(details)
        keys = self.variant_keys
        row["processed_paths"] = json.dumps(dict(keys)) if keys else None
        row["status"] = self.status.value
        row["storage_bucket"] = self.bucket
        row["staging_path"] = self.staging_key
        row["attempt_count"] = self.attempts
        row["last_error"] = self.error
        return row


_SAME_NAMED = (
    "job_id",
    "image_id",
    "user_id",
    "source_sha256",
    "max_retries",
    "worker_id",
    "lease_token",
    "error_code",
    "request_id",
    "idempotency_key",
    "batch_id",
    "webhook",
)
_TIMES = (
    "created_at",
    "started_at",
    "completed_at",
    "deleted_at",
    "next_attempt_at",
    "lease_expires_at",
)


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """The outcome of a failed attempt: a retry at a given time, or final failure."""

    status: JobStatus
    next_attempt_at: datetime | None
    keeps_source: bool


def after_failure(job: Job, error: ImageProcessorError, now: datetime) -> FailedAttempt:
    """Return the outcome for a job whose attempt failed with *error*.

    Invalid input fails at once and its source is not kept; transient errors are retried.
    """
    if not error.retryable or job.attempts > job.max_retries:
        return FailedAttempt(JobStatus.FAILED, None, keeps_source=error.retryable)
    is_storage = isinstance(error, StorageError)
    first_wait = FIRST_STORAGE_BACKOFF_SECONDS if is_storage else FIRST_BACKOFF_SECONDS
    next_attempt_at = now + backoff(job.attempts, first_wait)
    return FailedAttempt(JobStatus.RETRYING, next_attempt_at, keeps_source=True)


def backoff(attempts: int, first_seconds: float = FIRST_BACKOFF_SECONDS) -> timedelta:
    """Return the wait before the next attempt: doubling up to 60 s, minus jitter of up to half."""
    longest = min(MAX_BACKOFF_SECONDS, first_seconds * 2 ** (attempts - 1))
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
    return timedelta(seconds=longest * jitter)
