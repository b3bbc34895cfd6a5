"""All SQL on jobs and their events.

Every change of state is one conditional UPDATE: no row means somebody else won.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    RowMapping,
    bindparam,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    update,
)

from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import (
    CLAIMABLE_STATUSES,
    OPEN_STATUSES,
    EventType,
    FailedAttempt,
    Job,
    JobStatus,
)

VISIBLE = select(jobs).where(jobs.c.deleted_at.is_(None))
# Built once: building a statement costs three times what running it does.
FIND_JOB = VISIBLE.where(jobs.c.job_id == bindparam("job_id"))
FIND_IMAGE = VISIBLE.where(jobs.c.image_id == bindparam("image_id"))
FIND_IDEMPOTENT = VISIBLE.where(
    jobs.c.user_id == bindparam("user_id"), jobs.c.idempotency_key == bindparam("idempotency_key")
)
INSERT_JOB = insert(jobs)
INSERT_EVENT = insert(events)
CHANGE_NOTHING = update(jobs).where(false()).values(user_id="")
NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_expires_at": None, "worker_id": None}


def insert_job(connection: Connection, job: Job) -> None:
    """Store a new job."""
    prepared.execute(connection, INSERT_JOB, job.to_row())


def change_nothing(connection: Connection) -> None:
    """Take the locks that a write takes: it fails where an upload could not be written down."""
    connection.execute(CHANGE_NOTHING)


def find_job(connection: Connection, job_id: str) -> Job | None:
    """Return the job, or None where there is none or its image is deleted."""
    return _find(connection, FIND_JOB, job_id=job_id)


def find_image(connection: Connection, image_id: str) -> Job | None:
    """Return the job of an image, or None where there is none or it is deleted."""
    return _find(connection, FIND_IMAGE, image_id=image_id)


def find_repeated(connection: Connection, user_id: str, idempotency_key: str) -> Job | None:
    """Return the job of the user's upload with that Idempotency-Key, or None if there is none."""
    return _find(connection, FIND_IDEMPOTENT, user_id=user_id, idempotency_key=idempotency_key)


def find_images(connection: Connection, image_ids: Sequence[str]) -> list[Job]:
    """Return the jobs of those images that exist and are not deleted, in no order."""
    query = VISIBLE.where(jobs.c.image_id.in_(image_ids))
    return [_job(row) for row in connection.execute(query).mappings()]


def list_jobs(connection: Connection, status: JobStatus | None, limit: int) -> list[Job]:
    """Return the newest jobs, of one status or of any."""
    query = VISIBLE.order_by(jobs.c.created_at.desc()).limit(limit)
    if status:
        query = query.where(jobs.c.status == status)
    return [_job(row) for row in connection.execute(query).mappings()]


def list_due(
    connection: Connection, now: datetime, limit: int, *, created_before: datetime | None = None
) -> list[str]:
    """Return the ids of jobs that wait for a worker now.

    Those tried before, then the others, oldest first.

    Two queries, because each of them reads the first *limit* entries of an index, however many jobs
    wait. Of those not tried before, *created_before* leaves out what a worker may be just about to
    take. What was created after *now* is no such job: the clock was set back.
    """
    waiting = select(jobs.c.job_id).where(jobs.c.deleted_at.is_(None)).limit(limit)
    due = jobs.c.next_attempt_at
    again = waiting.where(jobs.c.status == JobStatus.RETRYING, due <= clock.to_text(now)).order_by(
        due
    )
    # Ordered by `due` too, which is null: else PostgreSQL sorts all of them rather than follow the
    # index.
    first = waiting.where(jobs.c.status == JobStatus.PENDING, due.is_(None)).order_by(
        due, jobs.c.created_at
    )
    if created_before is not None:
        created_at = jobs.c.created_at
        first = first.where(
            or_(created_at < clock.to_text(created_before), created_at > clock.to_text(now))
        )
    return [*connection.scalars(again), *connection.scalars(first)][:limit]


def claim(
    connection: Connection, job_id: str, worker_id: str, now: datetime, lease: timedelta
) -> Job | None:
    """Give the job to *worker_id* and count the attempt, or return None where it is not to be had.

    The attempt is counted here, before any byte is decoded, so that an image that kills its worker
    comes to an end. Where another worker is claiming the job at this moment, this one passes on
    instead of waiting (PostgreSQL).
    """
    claimable = (
        select(jobs.c.job_id)
        .where(jobs.c.job_id == job_id, *_claimable(now))
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(jobs)
        .where(jobs.c.job_id == claimable.scalar_subquery())
        .values(
            status=JobStatus.PROCESSING,
            attempt_count=jobs.c.attempt_count + 1,
            worker_id=worker_id,
            lease_token=str(uuid.uuid4()),
            lease_expires_at=clock.to_text(now + lease),
            started_at=clock.to_text(now),
            next_attempt_at=None,
        )
        .returning(*jobs.c)
    )
    return _one(connection, statement)


def complete(
    connection: Connection, job: Job, keys: dict[str, str], generated: dict[str, Any], now: datetime
) -> bool:
    """Make all variants of the job visible at once.

    False where its lease is no longer ours, or it was deleted.
    """
    return _end(
        connection,
        job,
        jobs.c.deleted_at.is_(None),
        status=JobStatus.COMPLETED,
        staging_path=None,
        processed_paths=json.dumps(keys),
        processing_metadata=json.dumps({"context": job.context, "generated": generated}),
        completed_at=clock.to_text(now),
        error_code=None,
        last_error=None,
    )


def end_attempt(
    connection: Connection, job: Job, outcome: FailedAttempt, code: str, message: str, now: datetime
) -> bool:
    """Write what a failed attempt means. False where the job's lease is no longer ours."""
    return _end(
        connection,
        job,
        status=outcome.status,
        staging_path=job.staging_key if outcome.keeps_source else None,
        next_attempt_at=clock.to_text(outcome.next_attempt_at) if outcome.next_attempt_at else None,
        completed_at=clock.to_text(now) if outcome.status is JobStatus.FAILED else None,
        error_code=code,
        last_error=_storable(message),
    )


def release(connection: Connection, job: Job) -> bool:
    """Put the job back as it was before its claim.

    Its worker was stopped, the attempt does not count.
    """
    return _end(connection, job, status=JobStatus.PENDING, attempt_count=jobs.c.attempt_count - 1)


def retry_failed(connection: Connection, job_id: str) -> Job | None:
    """Make a failed job pending again, with all its attempts.

    None where it is not failed or its source is gone.
    """
    statement = (
        update(jobs)
        .where(jobs.c.job_id == job_id, jobs.c.status == JobStatus.FAILED)
        .where(jobs.c.staging_path.is_not(None), jobs.c.deleted_at.is_(None))
        .values(
            status=JobStatus.PENDING,
            attempt_count=0,
            completed_at=None,
            error_code=None,
            last_error=None,
        )
        .returning(*jobs.c)
    )
    return _one(connection, statement)


def mark_deleted(connection: Connection, image_id: str, now: datetime) -> Job | None:
    """Hide the image from every read from now on.

    None where it is not there, or was deleted before.
    """
    statement = (
        update(jobs)
        .where(jobs.c.image_id == image_id, jobs.c.deleted_at.is_(None))
        .values(deleted_at=clock.to_text(now), idempotency_key=None)
        .returning(*jobs.c)
    )
    return _one(connection, statement)


def list_deleted(connection: Connection) -> list[Job]:
    """Return the deleted images whose rows remain and that no worker has in hand."""
    any_time = jobs.c.deleted_at > ""  # IS NOT NULL would not use the index
    query = select(jobs).where(any_time, jobs.c.status != JobStatus.PROCESSING)
    return [_job(row) for row in connection.execute(query).mappings()]


def remove(connection: Connection, job: Job) -> None:
    """Delete the row of an image whose bytes are gone. Its events stay."""
    connection.execute(
        delete(jobs).where(jobs.c.job_id == job.job_id, jobs.c.deleted_at.is_not(None))
    )


def list_held_by(connection: Connection, worker_id: str) -> list[Job]:
    """Return the jobs that the worker *worker_id*, or any worker of the supervisor *worker_id*.

    Has in hand.
    """
    mine = or_(
        jobs.c.worker_id == worker_id, jobs.c.worker_id.startswith(f"{worker_id}:", autoescape=True)
    )
    query = select(jobs).where(jobs.c.status == JobStatus.PROCESSING, mine)
    return [_job(row) for row in connection.execute(query).mappings()]


def list_expired(connection: Connection, now: datetime) -> list[Job]:
    """Return the jobs whose lease has ended without a word from their worker."""
    query = select(jobs).where(
        jobs.c.status == JobStatus.PROCESSING, jobs.c.lease_expires_at < clock.to_text(now)
    )
    return [_job(row) for row in connection.execute(query).mappings()]


def list_failed_with_source(connection: Connection, before: datetime) -> list[Job]:
    """Return the jobs that failed before *before* and still keep their upload."""
    query = select(jobs).where(
        jobs.c.status == JobStatus.FAILED,
        jobs.c.staging_path.is_not(None),
        jobs.c.completed_at < clock.to_text(before),
    )
    return [_job(row) for row in connection.execute(query).mappings()]


def forget_source(connection: Connection, job: Job) -> bool:
    """Note that a failed job's upload is no longer kept.

    False where the job was tried again meanwhile.
    """
    statement = (
        update(jobs)
        .where(
            jobs.c.job_id == job.job_id,
            jobs.c.status == JobStatus.FAILED,
            jobs.c.staging_path.is_not(None),
        )
        .where(jobs.c.completed_at == job.to_row()["completed_at"])  # else it has failed anew since
        .values(staging_path=None)
    )
    return connection.execute(statement).rowcount == 1


def add_event(
    connection: Connection, event_type: EventType, job: Job, now: datetime, **details: Any
) -> None:
    """Write a line of the audit trail."""
    row = {
        "id": str(uuid.uuid4()),
        "event_type": event_type,
        "image_id": job.image_id,
        "job_id": job.job_id,
        "metadata": json.dumps(details),
        "created_at": clock.to_text(now),
    }
    prepared.execute(connection, INSERT_EVENT, row)


def list_events(connection: Connection, id_: str) -> list[dict[str, Any]]:
    """Return the audit trail of a job, by its own or its image's id, oldest first.

    It outlives the image.
    """
    query = (
        select(events)
        .where(or_(events.c.job_id == id_, events.c.image_id == id_))
        .order_by(events.c.created_at)
    )
    return [
        {**row, "metadata": json.loads(row["metadata"])}
        for row in connection.execute(query).mappings()
    ]


def count_by_status(connection: Connection) -> dict[str, int]:
    """Return how many jobs there are in each status, deleted ones left out."""
    query = (
        select(jobs.c.status, func.count())
        .where(jobs.c.deleted_at.is_(None))
        .group_by(jobs.c.status)
    )
    counts: dict[str, int] = {status: count for status, count in connection.execute(query)}  # noqa: C416 - rows, not tuples
    return {status.value: counts.get(status, 0) for status in JobStatus}


def list_processing_times(
    connection: Connection, since: datetime
) -> list[tuple[datetime, datetime]]:
    """Return when each job completed since *since* was started and completed."""
    query = select(jobs.c.started_at, jobs.c.completed_at).where(
        jobs.c.status == JobStatus.COMPLETED, jobs.c.completed_at >= clock.to_text(since)
    )
    return [
        (clock.from_text(start), clock.from_text(end)) for start, end in connection.execute(query)
    ]


def find_oldest_open(connection: Connection) -> datetime | None:
    """Return when the oldest job that has not ended was created."""
    query = select(func.min(jobs.c.created_at)).where(
        jobs.c.status.in_(OPEN_STATUSES), jobs.c.deleted_at.is_(None)
    )
    created_at = connection.scalar(query)
    return clock.from_text(created_at) if created_at else None


def _claimable(now: datetime) -> tuple[ColumnElement[bool], ...]:
    due = or_(jobs.c.next_attempt_at.is_(None), jobs.c.next_attempt_at <= clock.to_text(now))
    return jobs.c.status.in_(CLAIMABLE_STATUSES), jobs.c.deleted_at.is_(None), due


def _end(connection: Connection, job: Job, *conditions: ColumnElement[bool], **values: Any) -> bool:
    statement = (
        update(jobs)
        .where(jobs.c.job_id == job.job_id, jobs.c.status == JobStatus.PROCESSING)
        .where(jobs.c.lease_token == job.lease_token, *conditions)
        .values(**NO_LEASE, **values)
    )
    return connection.execute(statement).rowcount == 1


def _storable(text: str) -> str:
    """Write as escapes what PostgreSQL cannot keep in a text: NUL, and what no UTF-8 stands for."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _find(connection: Connection, statement: Executable, **parameters: str) -> Job | None:
    row = prepared.fetch_first(connection, statement, parameters)
    return Job.from_row(row) if row else None


def _one(connection: Connection, statement: Executable) -> Job | None:
    row = connection.execute(statement).mappings().first()
    return _job(row) if row else None


def _job(row: RowMapping) -> Job:
    return Job.from_row(row)  # type: ignore[arg-type]
