"""SQL on jobs; `inventory` compares them with stored objects.

Every change of state is one conditional UPDATE: if it matches no row, another process was first.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from imageprocessor.errors import StorageFullError, StorageUnavailableError
from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.tables import (
    IS_DELETED,
    IS_OPEN,
    IS_PROCESSING,
    IS_VISIBLE,
    IS_WAITING,
    KEEPS_SOURCE,
    NOT_PAUSED,
)
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import (
    CLAIMABLE_STATUSES,
    MAX_BACKOFF_SECONDS,
    FailedAttempt,
    Job,
    JobStatus,
)

NEWEST_JOBS = 20  #: read to find out whether workers can store variants
STORAGE_CODES = {StorageUnavailableError.code, StorageFullError.code}
CLOCK_TOLERANCE = timedelta(minutes=1)  #: how much the clocks of several hosts may differ
LONGEST_WAIT = timedelta(seconds=MAX_BACKOFF_SECONDS) + CLOCK_TOLERANCE

VISIBLE = select(jobs).where(IS_VISIBLE)
NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_expires_at": None, "worker_id": None}
NEVER_TRIED: dict[str, Any] = {
    "status": JobStatus.PENDING,
    "attempt_count": 0,
    "next_attempt_at": None,
    "completed_at": None,
    "error_code": None,
    "last_error": None,
}

# Run by every status check, upload and job, so built only once: see `prepared`.
FIND_JOB = VISIBLE.where(jobs.c.job_id == bindparam("job_id"))
FIND_IMAGE = VISIBLE.where(jobs.c.image_id == bindparam("image_id"))
FIND_REPEATED = VISIBLE.where(
    jobs.c.user_id == bindparam("user_id"),
    jobs.c.idempotency_key == bindparam("idempotency_key"),
)
INSERT_JOB = insert(jobs)
ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")
_DUE = select(jobs.c.job_id).where(IS_WAITING).limit(ONE).offset(ZERO)
_DUE = _DUE.with_for_update(skip_locked=True)
FIRST_RETRY = _DUE.where(jobs.c.next_attempt_at <= bindparam("now"))
FIRST_RETRY = FIRST_RETRY.order_by(jobs.c.next_attempt_at)
FIRST_NEW = _DUE.where(jobs.c.next_attempt_at.is_(None))
FIRST_NEW = FIRST_NEW.order_by(jobs.c.next_attempt_at, jobs.c.created_at)  # see `list_due`
FIRST_DUE = func.coalesce(FIRST_RETRY.scalar_subquery(), FIRST_NEW.scalar_subquery())
ONE_MORE = jobs.c.attempt_count + ONE
CLAIM_NEXT = update(jobs).where(jobs.c.job_id == FIRST_DUE, NOT_PAUSED)
CLAIM_NEXT = CLAIM_NEXT.values(attempt_count=ONE_MORE).returning(*jobs.c)
COMPLETE = update(jobs).where(
    jobs.c.job_id == bindparam("held_job"),
    IS_PROCESSING,
    jobs.c.lease_token == bindparam("held_lease"),
    IS_VISIBLE,
)
COMPLETE = COMPLETE.returning(jobs.c.job_id)


def insert_job(connection: Connection, job: Job) -> None:
    """Store a new job."""
    prepared.execute(connection, INSERT_JOB, job.to_row())


def change_nothing(connection: Connection) -> None:
    """Take the locks of a write but change nothing; fail if an upload could not be stored."""
    connection.execute(update(jobs).where(false()).values(user_id=""))


def find_job(connection: Connection, job_id: str) -> Job | None:
    """Return the job, or None if it does not exist or its image is deleted."""
    row = prepared.fetch_first(connection, FIND_JOB, {"job_id": job_id})
    return Job.from_row(row) if row else None


def find_image(connection: Connection, image_id: str) -> Job | None:
    """Return the job of an image, or None if the image does not exist or is deleted."""
    row = prepared.fetch_first(connection, FIND_IMAGE, {"image_id": image_id})
    return Job.from_row(row) if row else None


def find_repeated(connection: Connection, user_id: str, idempotency_key: str) -> Job | None:
    """Return the job of the user's earlier upload with that Idempotency-Key, or None."""
    key = {"user_id": user_id, "idempotency_key": idempotency_key}
    row = prepared.fetch_first(connection, FIND_REPEATED, key)
    return Job.from_row(row) if row else None


def find_images(connection: Connection, image_ids: Sequence[str]) -> list[Job]:
    """Return the jobs of those images that exist and are not deleted, in any order."""
    return _fetch_all(connection, VISIBLE.where(jobs.c.image_id.in_(image_ids)))


def find_jobs(connection: Connection, job_ids: Sequence[str]) -> list[Job]:
    """Return those of the jobs that exist and are not deleted, in any order."""
    return _fetch_all(connection, VISIBLE.where(jobs.c.job_id.in_(job_ids)))


def list_open(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Return the ids of those of the jobs that have neither ended nor been deleted."""
    query = select(jobs.c.job_id).where(jobs.c.job_id.in_(job_ids), IS_OPEN)
    return set(connection.scalars(query))


def list_due(
    connection: Connection, now: datetime, limit: int, *, created_before: datetime | None = None
) -> list[str]:
    """Return the ids of jobs that a worker may claim: retries first, then the oldest new ones.

    None while the workers are paused.

    Two queries, because each then reads only the first *limit* entries of an index, however many
    jobs wait. *created_before* excludes newer jobs that were never tried, because a worker may be
    about to claim them. It does not exclude jobs created after *now*: there the clock was set back.
    """
    due_at, created_at = jobs.c.next_attempt_at, jobs.c.created_at
    waiting = select(jobs.c.job_id).where(IS_WAITING, NOT_PAUSED).limit(limit)

    retries = waiting.where(due_at <= clock.to_text(now)).order_by(due_at)

    # Also by `due_at`, which is null: otherwise PostgreSQL sorts all rows and ignores the index.
    new = waiting.where(due_at.is_(None)).order_by(due_at, created_at)
    if created_before is not None:
        before = created_at < clock.to_text(created_before)
        new = new.where(or_(before, created_at > clock.to_text(now)))

    ids = [*connection.scalars(retries), *connection.scalars(new)]
    return ids[:limit]


def claim(
    connection: Connection,
    job_id: str,
    worker_id: str,
    now: datetime,
    lease: timedelta,
    *,
    ignores_pause: bool = False,
) -> Job | None:
    """Give the job to *worker_id* and count the attempt; return None if it cannot be claimed.

    None can while the workers are paused, unless the caller *ignores_pause*.

    The attempt is counted here, before any byte is decoded, so that an image that kills its worker
    runs out of attempts. If another worker is claiming the job at this moment, this call returns
    None instead of waiting (PostgreSQL). ``next_attempt_at`` stays: it shows whether the job was
    pending or retrying (see :func:`status_before_claim`).
    """
    no_wait = jobs.c.next_attempt_at.is_(None)
    is_due = jobs.c.next_attempt_at <= clock.to_text(now)
    claimable = select(jobs.c.job_id).where(
        jobs.c.job_id == job_id,
        jobs.c.status.in_(CLAIMABLE_STATUSES),
        jobs.c.deleted_at.is_(None),
        or_(no_wait, is_due),
    )
    if not ignores_pause:
        claimable = claimable.where(NOT_PAUSED)
    locked = claimable.with_for_update(skip_locked=True)
    statement = update(jobs).where(jobs.c.job_id == locked.scalar_subquery())
    values = _make_lease(worker_id, now, lease)
    return _change(connection, statement.values(attempt_count=ONE_MORE, **values))


def claim_next(
    connection: Connection, worker_id: str, now: datetime, lease: timedelta
) -> Job | None:
    """Claim the job that is due first, in the order of :func:`list_due`; return None without one.

    See :func:`claim`. On PostgreSQL, a job that another worker is claiming is passed over.
    """
    values = _make_lease(worker_id, now, lease)
    row = prepared.fetch_first(connection, CLAIM_NEXT, {**values, "now": clock.to_text(now)})
    return Job.from_row(row) if row else None


def status_before_claim(job: Job) -> JobStatus:
    """Return the status that a job had before it was claimed."""
    return JobStatus.PENDING if job.next_attempt_at is None else JobStatus.RETRYING


def complete(
    connection: Connection, job: Job, keys: dict[str, str], generated: dict[str, Any], now: datetime
) -> bool:
    """Make all variants of the job visible at once.

    Return False if its lease is no longer ours or its image was deleted.
    """
    values = {
        **NO_LEASE,
        "status": JobStatus.COMPLETED,
        "staging_path": None,
        "processed_paths": json.dumps(keys),
        "processing_metadata": json.dumps({"context": job.context, "generated": generated}),
        "next_attempt_at": None,
        "completed_at": clock.to_text(now),
        "error_code": None,
        "last_error": None,
    }
    lease = {"held_job": job.job_id, "held_lease": job.lease_token}
    return prepared.fetch_first(connection, COMPLETE, {**values, **lease}) is not None


def end_attempt(
    connection: Connection, job: Job, outcome: FailedAttempt, code: str, message: str, now: datetime
) -> bool:
    """Store the outcome of a failed attempt.

    Return False if the job's lease is no longer ours or its image was deleted.
    """
    due_at = outcome.next_attempt_at
    has_ended = outcome.status is JobStatus.FAILED
    values = {
        "status": outcome.status,
        "staging_path": job.staging_key if outcome.keeps_source else None,
        "next_attempt_at": clock.to_text(due_at) if due_at else None,
        "completed_at": clock.to_text(now) if has_ended else None,
        "error_code": code,
        "last_error": escape(message),
    }
    return _end_lease(connection, job, values, jobs.c.deleted_at.is_(None))


def release(connection: Connection, job: Job, *conditions: ColumnElement[bool]) -> bool:
    """Make a claimed job pending again; the attempt does not count.

    Return False if its lease is no longer ours, or if it does not meet the *conditions*.
    """
    values = {
        "status": JobStatus.PENDING,
        "attempt_count": jobs.c.attempt_count - 1,
        "next_attempt_at": None,
    }
    return _end_lease(connection, job, values, *conditions)


def release_unfinished(connection: Connection, job: Job) -> bool:
    """Release a job whose worker has claimed another since, because only its finish was pending.

    Return False if the worker has not, or if the job's lease is no longer ours.
    """
    later = jobs.alias()
    is_held = later.c.status == literal_column(f"'{JobStatus.PROCESSING}'")
    has_later = exists().where(
        is_held, later.c.worker_id == job.worker_id, later.c.started_at > jobs.c.started_at
    )
    return release(connection, job, has_later)


def retry_failed(connection: Connection, job_id: str) -> Job | None:
    """Make a failed job pending again and reset its attempts.

    Return None if it has not failed or its source is gone.
    """
    statement = update(jobs).where(
        jobs.c.job_id == job_id,
        jobs.c.status == JobStatus.FAILED,
        jobs.c.staging_path.is_not(None),
        jobs.c.deleted_at.is_(None),
    )
    return _change(connection, statement.values(NEVER_TRIED))


def retry_all_failed(connection: Connection, job_ids: Collection[str]) -> list[Job]:
    """Make those of the jobs pending again that :func:`retry_failed` would; return them.

    On PostgreSQL, jobs that another transaction is changing are passed over.
    """
    retryable = select(jobs.c.job_id).where(
        jobs.c.job_id.in_(job_ids),
        jobs.c.status == JobStatus.FAILED,
        jobs.c.staging_path.is_not(None),
        jobs.c.deleted_at.is_(None),
    )
    locked = retryable.with_for_update(skip_locked=True)
    statement = update(jobs).where(jobs.c.job_id.in_(locked)).values(NEVER_TRIED)
    return _fetch_all(connection, statement.returning(*jobs.c))


def mark_deleted(connection: Connection, image_id: str, now: datetime) -> Job | None:
    """Mark the image as deleted, which hides it from every read.

    Return None if it does not exist or is already deleted.
    """
    statement = update(jobs).where(jobs.c.image_id == image_id, jobs.c.deleted_at.is_(None))
    values = {"deleted_at": clock.to_text(now), "idempotency_key": None}
    return _change(connection, statement.values(values))


def list_deleted(connection: Connection, limit: int) -> list[Job]:
    """Return the jobs of deleted images that still have a row and that no worker is processing.

    Those deleted first come first.
    """
    query = select(jobs).where(IS_DELETED, jobs.c.status != JobStatus.PROCESSING)
    return _fetch_all(connection, query.order_by(jobs.c.deleted_at).limit(limit))


def remove(connection: Connection, job: Job) -> None:
    """Delete the row of a deleted image whose bytes are gone. Its events stay."""
    statement = delete(jobs).where(jobs.c.job_id == job.job_id, jobs.c.deleted_at.is_not(None))
    connection.execute(statement)


def list_held_by(connection: Connection, worker_id: str) -> list[Job]:
    """Return the jobs held by a worker, or by all workers of the supervisor *worker_id*.

    Those claimed first come first, as :func:`attempts.end_lost` needs them.
    """
    is_worker = jobs.c.worker_id == worker_id
    is_child = jobs.c.worker_id.startswith(f"{worker_id}:", autoescape=True)
    query = select(jobs).where(IS_PROCESSING, or_(is_worker, is_child))
    return _fetch_all(connection, query.order_by(jobs.c.started_at))


def list_expired(connection: Connection, now: datetime) -> list[Job]:
    """Return the jobs whose lease expired before their worker reported an outcome.

    Those claimed first come first, as :func:`attempts.end_lost` needs them.
    """
    has_expired = jobs.c.lease_expires_at < clock.to_text(now)
    query = select(jobs).where(IS_PROCESSING, has_expired)
    return _fetch_all(connection, query.order_by(jobs.c.started_at))


def list_misdated(connection: Connection, now: datetime) -> list[Job]:
    """Return the jobs whose times are in the future because the clock was set back.

    Their attempt started after *now*, or their retry is further away than the longest back-off.
    """
    began_later = jobs.c.started_at > clock.to_text(now + CLOCK_TOLERANCE)
    waits_too_long = jobs.c.next_attempt_at > clock.to_text(now + LONGEST_WAIT)
    return [
        *_fetch_all(connection, select(jobs).where(IS_PROCESSING, began_later)),
        *_fetch_all(connection, select(jobs).where(IS_WAITING, waits_too_long)),
    ]


def reset_timestamps(connection: Connection, job: Job, now: datetime) -> None:
    """Restart a misdated attempt's lease *now*, as long as before; make a misdated retry due."""
    if job.started_at and job.lease_expires_at:
        lease = job.lease_expires_at - job.started_at
        values = {
            "started_at": clock.to_text(now),
            "lease_expires_at": clock.to_text(now + lease),
        }
    else:
        values = {"next_attempt_at": clock.to_text(now)}
    # Only if the job has not changed since it was read.
    statement = update(jobs).where(
        jobs.c.job_id == job.job_id,
        jobs.c.status == job.status,
        jobs.c.lease_token.is_not_distinct_from(job.lease_token),
    )
    connection.execute(statement.values(values))


def list_failed_with_source(connection: Connection, before: datetime, limit: int) -> list[Job]:
    """Return the jobs that failed before *before* and still keep their upload, oldest first."""
    ended_at = jobs.c.completed_at
    query = select(jobs).where(KEEPS_SOURCE, ended_at < clock.to_text(before))
    return _fetch_all(connection, query.order_by(ended_at).limit(limit))


def forget_source(connection: Connection, job: Job) -> bool:
    """Record that a failed job's upload is no longer kept.

    Return False if the job was retried in the meantime.
    """
    failed_at = clock.to_text(job.completed_at) if job.completed_at else None
    statement = update(jobs).where(
        jobs.c.job_id == job.job_id,
        jobs.c.status == JobStatus.FAILED,
        jobs.c.staging_path.is_not(None),
        jobs.c.completed_at == failed_at,  # otherwise it was retried and failed again
    )
    result = connection.execute(statement.values(staging_path=None))
    return result.rowcount == 1


def find_storage_fault(connection: Connection, since: datetime) -> tuple[str, str] | None:
    """Return code and message of a worker's storage fault, if no job has completed meanwhile.

    Attempts that began before *since* do not count. This reads a few entries of two indexes,
    however many jobs there are.
    """
    columns = (jobs.c.status, jobs.c.error_code, jobs.c.last_error, jobs.c.started_at)
    query = select(*columns, jobs.c.completed_at).limit(NEWEST_JOBS)
    ended = query.where(jobs.c.completed_at > "").order_by(jobs.c.completed_at.desc())
    attempted = list(connection.execute(ended))
    completed = [row.completed_at for row in attempted if row.status == JobStatus.COMPLETED]
    after = max([clock.to_text(since), *completed])

    retries = query.where(IS_WAITING, jobs.c.next_attempt_at > "")
    attempted += connection.execute(retries.order_by(jobs.c.next_attempt_at))
    attempted += connection.execute(query.where(IS_PROCESSING, IS_VISIBLE))
    for row in attempted:
        if row.error_code in STORAGE_CODES and row.started_at > after:
            return row.error_code, row.last_error
    return None


def is_any_processed(connection: Connection, now: datetime) -> bool:
    """Return whether a worker holds a lease that has not expired."""
    has_lease = jobs.c.lease_expires_at > clock.to_text(now)
    query = select(jobs.c.job_id).where(IS_PROCESSING, has_lease)
    return connection.scalar(query.limit(1)) is not None


def count_open(connection: Connection) -> int:
    """Return the number of unfinished jobs."""
    query = select(func.count()).select_from(jobs).where(IS_OPEN)
    return connection.scalar(query) or 0


def count_by_status(connection: Connection) -> dict[str, int]:
    """Return the number of jobs in each status, without deleted ones."""
    query = select(jobs.c.status, func.count()).where(jobs.c.deleted_at.is_(None))
    rows = connection.execute(query.group_by(jobs.c.status))
    found = {status: count for status, count in rows}  # noqa: C416 - rows, not tuples
    return {status.value: found.get(status, 0) for status in JobStatus}


def find_oldest_open(connection: Connection) -> datetime | None:
    """Return when the oldest unfinished job was created, or None."""
    created_at = connection.scalar(select(func.min(jobs.c.created_at)).where(IS_OPEN))
    return clock.from_text(created_at) if created_at else None


def _make_lease(worker_id: str, now: datetime, lease: timedelta) -> dict[str, Any]:
    """Return the columns that a claim sets, except the number of attempts."""
    return {
        "status": JobStatus.PROCESSING,
        "worker_id": worker_id,
        "lease_token": str(uuid.uuid4()),
        "lease_expires_at": clock.to_text(now + lease),
        "started_at": clock.to_text(now),
    }


def _end_lease(
    connection: Connection, job: Job, values: Mapping[str, Any], *conditions: ColumnElement[bool]
) -> bool:
    """End the lease and set *values*. Return False if the lease is no longer ours."""
    statement = update(jobs).where(
        jobs.c.job_id == job.job_id,
        jobs.c.status == JobStatus.PROCESSING,
        jobs.c.lease_token == job.lease_token,
        *conditions,
    )
    result = connection.execute(statement.values({**NO_LEASE, **values}))
    return result.rowcount == 1


def escape(text: str) -> str:
    """Escape what PostgreSQL cannot store as text: NUL, and what UTF-8 cannot encode."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _change(connection: Connection, statement: Any) -> Job | None:
    """Run an UPDATE of at most one job; return the updated job, or None if no row matched."""
    row = connection.execute(statement.returning(*jobs.c)).mappings().first()
    return Job.from_row(dict(row)) if row else None


def _fetch_all(connection: Connection, query: Executable) -> list[Job]:
    rows = connection.execute(query).mappings()
    return [Job.from_row(dict(row)) for row in rows]
