"""Reading and retrying jobs. A job that the caller may not see is reported as missing."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from imageprocessor.errors import (
    InvalidIdError,
    JobFailedError,
    JobNotFoundError,
    JobNotReadyError,
    JobNotRetryableError,
)
from imageprocessor.queue.access import Caller, may_read
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.service import Service

CANONICAL_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def read_job(service: Service, job_id: str, caller: Caller) -> Job:
    """Return a job in any state.

    Raises:
        InvalidIdError: *job_id* is not a UUID.
        JobNotFoundError: The job does not exist, its image was deleted, or it is not visible to the
            caller.
    """
    canonical_id = parse_id(job_id)
    with service.database.read() as connection:
        job = job_store.find_job(connection, canonical_id)
    if job is None or not may_read(service, caller, job):
        raise JobNotFoundError(f"There is no job {job_id}.")
    return job


def read_history(service: Service, any_id: str) -> tuple[Job | None, list[dict[str, Any]]]:
    """Return a job, by its own id or its image's, and its audit trail, oldest first.

    Each event has the seconds since the one before as ``seconds_later``; None for the first. The
    audit trail outlives the image; for a deleted image, the job is None.

    Raises:
        InvalidIdError: *any_id* is not a UUID.
        JobNotFoundError: No job or image ever had this id.
    """
    id_ = parse_id(any_id)
    with service.database.read() as connection:
        job = job_store.find_job(connection, id_) or job_store.find_image(connection, id_)
        job_id = job.job_id if job else outbox.find_deleted_job(connection, id_)
        events = outbox.list_events(connection, job_id or id_)
    if job is None and not events:
        raise JobNotFoundError(f"There is no job, image or batch {id_}.")
    return job, _add_seconds(events)


def _add_seconds(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of a job, each with the seconds since the one before.

    They are negative if the clock was set back.

    >>> times = "2024-11-08T14:00:00.000000Z", "2024-11-08T14:00:01.500000Z"
    >>> _add_seconds([{"created_at": time} for time in times])[1]
    {'created_at': '2024-11-08T14:00:01.500000Z', 'seconds_later': 1.5}
    """
    timed = []
    before: datetime | None = None
    for event in events:
        moment = clock.from_text(event["created_at"])
        seconds = (moment - before).total_seconds() if before else None
        timed.append({**event, "seconds_later": seconds})
        before = moment
    return timed


def retry_job(service: Service, job_id: str, by: str | None = None) -> Job:
    """Make a failed job pending again, with its full number of attempts, and wake a worker.

    *by*: the admin who retries it, by their user id; None: an operator on the machine.

    Raises:
        InvalidIdError: *job_id* is not a UUID.
        JobNotFoundError: The job does not exist or its image was deleted.
        JobNotRetryableError: The job has not failed or its upload is no longer kept.
    """
    canonical_id = parse_id(job_id)
    with service.database.write() as connection:
        job = job_store.retry_failed(connection, canonical_id)
        if job is None:
            raise _explain_refusal(job_store.find_job(connection, canonical_id), job_id)
        now = clock.utc_now()
        outbox.add_event(
            connection,
            EventType.RETRY_REQUESTED,
            job,
            now,
            previous_status=JobStatus.FAILED,
            by=by,
        )
    service.dispatcher.dispatch(job.job_id)
    return job


def check_completed(job: Job) -> None:
    """Raise JobFailedError if the job failed, JobNotReadyError if it has not ended."""
    if job.status is JobStatus.FAILED:
        raise JobFailedError(
            job.error or "The job failed.",
            job_code=job.error_code or JobFailedError.code,
            job_id=job.job_id,
        )
    if job.status is not JobStatus.COMPLETED:
        raise JobNotReadyError(f"Job {job.job_id} is {public_status(job)}. Ask again in a moment.")


def public_status(job: Job) -> str:
    """Return the status shown to clients: a job that waits for its next attempt is pending."""
    if job.status is JobStatus.RETRYING:
        return JobStatus.PENDING.value
    return job.status.value


def parse_id(text: str) -> str:
    """Return the UUID in *text* in its canonical form.

    Raises:
        InvalidIdError: *text* is not a UUID.
    """
    if CANONICAL_ID.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise InvalidIdError(
            f"{text[:80]!r} is not an id: ids look like 3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13."
        ) from None


def _explain_refusal(job: Job | None, job_id: str) -> JobNotFoundError | JobNotRetryableError:
    if job is None:
        return JobNotFoundError(f"There is no job {job_id}.")
    if job.status is not JobStatus.FAILED:
        return JobNotRetryableError(
            f"Job {job_id} is {job.status.value}: only a failed job can be retried."
        )
    return JobNotRetryableError(
        f"The upload of job {job_id} is no longer kept ({job.error_code}). Send the image again."
    )
