"""One attempt of a job: claim it, load its source, process it, store the variants, complete it.

Embedded and Celery workers both call ``run_job``, as would any other queue.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime, timedelta
from typing import Any

import structlog

from imageprocessor.core.memory import THREAD_BYTES, require_memory
from imageprocessor.core.pipeline import ProcessedImage, process
from imageprocessor.errors import (
    ImageProcessorError,
    MemoryLimitError,
    ObjectNotFoundError,
    SourceCorruptError,
    SourceMissingError,
    StorageError,
    UnexpectedError,
)
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.images import delete_variants, purge
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import (
    LEASE_MARGIN_SECONDS,
    EventType,
    Job,
    JobStatus,
    after_failure,
    backoff,
)
from imageprocessor.queue.process_memory import trim_memory
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import variant_key

TimeLimit = Callable[[], AbstractContextManager[None]]

MAX_STORE_THREADS = 8  #: below the 10 connections that an S3 client keeps

log = structlog.get_logger(__name__)


def run_job(
    service: Service,
    job_id: str,
    worker_id: str,
    time_limit: TimeLimit = nullcontext,
    threads: int = 1,
) -> None:
    """Run one attempt of the job *job_id* and store its outcome; do nothing if it is not due.

    *time_limit* limits the processing by raising DecodeTimeoutError in it; without one, the parent
    of this process must enforce the time limit. *threads* is how many CPUs the attempt may use.

    Raises:
        DatabaseUnavailableError, StorageFullError: The outcome could not be written. The lease
            will expire and the job will be retried.
    """
    job = _claim(service, job_id, worker_id)
    if job is None:
        return
    with structlog.contextvars.bound_contextvars(
        job_id=job_id, image_id=job.image_id, request_id=job.request_id
    ):
        started = time.perf_counter()
        _run_attempt(service, job, time_limit, threads)
        seconds = round(time.perf_counter() - started, 3)
        log.info("attempt_ended", attempt=job.attempts, seconds=seconds)


def fail_attempts(service: Service, worker_id: str, error: ImageProcessorError) -> None:
    """Fail, with *error*, the attempts that the worker or supervisor *worker_id* left unfinished.

    Raises:
        DatabaseUnavailableError, StorageFullError: Some attempts may not have been ended; their
            leases will expire.
    """
    with service.database.read() as connection:
        held = job_store.list_held_by(connection, worker_id)
    for job in held:
        fail_attempt(service, job, error)


def fail_waiting(service: Service, job_id: str, worker_id: str, error: ImageProcessorError) -> bool:
    """Fail a waiting job with *error*. Return False if it is not due or a worker holds it."""
    job = _claim(service, job_id, worker_id)
    if job is None:
        return False
    fail_attempt(service, job, error)
    return True


def fail_attempt(service: Service, job: Job, error: ImageProcessorError) -> None:
    """Record that this attempt failed: the job is retried later or ends as failed.

    A job that ends keeps only the bytes that a retry needs.
    """
    now = clock.utc_now()
    outcome = after_failure(job, error, now)
    final = outcome.status is JobStatus.FAILED
    event = EventType.FAILED if final else EventType.RETRYING
    with service.database.write() as connection:
        ended = job_store.end_attempt(connection, job, outcome, error.code, str(error), now)
        if ended:
            job_store.add_event(
                connection,
                event,
                job,
                now,
                previous_status=JobStatus.PROCESSING,
                code=error.code,
                attempt=job.attempts,
            )
    if not ended:
        _release_deleted(service, job)
        return
    log.warning(
        "attempt_failed",
        # Not bound to the logger when a supervisor ends the attempt.
        job_id=job.job_id,
        image_id=job.image_id,
        request_id=job.request_id,
        outcome=outcome.status.value,
        code=error.code,
        cause=str(error),
    )
    # If the upload is kept, another worker may already be retrying the job: keep the variants, too.
    if final and not outcome.keeps_source:
        with suppress(StorageError):  # the sweep deletes leftovers
            delete_variants(service, job)
            _delete_source(service, job)


def load_source(service: Service, job: Job) -> bytes:
    """Return the source of *job*: the staged upload.

    Raises:
        SourceMissingError: The upload is missing from staging.
        SourceCorruptError: The staged upload differs from what was received.
        StorageError: The upload cannot be read now.
    """
    try:
        data = service.staging.get(job.staging_key or "")
    except ObjectNotFoundError as error:
        raise SourceMissingError(
            "The upload is missing from staging. Send the image again."
        ) from error
    if hashlib.sha256(data).hexdigest() != job.source_sha256:
        raise SourceCorruptError(
            "The upload in staging differs from what was received. Send the image again."
        )
    return data


def _claim(service: Service, job_id: str, worker_id: str) -> Job | None:
    now = clock.utc_now()
    lease = timedelta(seconds=service.settings.job_timeout_seconds + LEASE_MARGIN_SECONDS)
    started = EventType.PROCESSING_STARTED
    with service.database.write() as connection:
        job = job_store.claim(connection, job_id, worker_id, now, lease)
        if job:
            job_store.add_event(
                connection,
                started,
                job,
                now,
                previous_status=job_store.status_before_claim(job),
                attempt=job.attempts,
                worker=worker_id,
            )
    return job


def _run_attempt(service: Service, job: Job, time_limit: TimeLimit, threads: int) -> None:
    settings = service.settings
    failure: ImageProcessorError
    try:
        with time_limit():
            source = load_source(service, job)
            image = process(source, settings.image_sizes, settings.limits, threads=threads)
            keys = _store_variants(service, job, image)
    except ImageProcessorError as error:
        # The frames it refers to keep the pixels alive until the garbage collector runs.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        failure = error
    except MemoryError:
        failure = MemoryLimitError(
            f"The image needs more than {settings.job_memory_limit_mb} MB. "
            "Raise JOB_MEMORY_LIMIT_MB or send a smaller image."
        )
    except Exception as error:  # a boundary: any error ends this attempt, not the worker
        log.exception("unexpected_error")
        failure = UnexpectedError(
            f"An unexpected error ({type(error).__name__}) stopped the job. See the worker's log."
        )
    else:
        _persist(job, lambda: _complete(service, job, keys, image.describe()))
        return
    trim_memory()  # a shortage of memory may be why the attempt failed
    _persist(job, lambda: fail_attempt(service, job, failure))


def _store_variants(service: Service, job: Job, image: ProcessedImage) -> dict[str, str]:
    """Store all variants concurrently, as each waits for I/O; return their keys."""
    service.ownership.ensure_verified()
    keys = {name: variant_key(job.bucket, name, job.image_id) for name in image.variants}
    thread_count = min(len(keys), MAX_STORE_THREADS)
    # The pool's context waits for all threads, even on an error.
    with ThreadPoolExecutor(thread_count) as pool:
        stored = pool.map(service.storage.put, keys.values(), _iterate_contents(image))
        for _ in stored:  # raises the error of a put and cancels those not yet started
            pass
    return keys


def _iterate_contents(image: ProcessedImage) -> Iterator[bytes]:
    """Yield each variant's bytes; raise MemoryError if no memory is left for a thread."""
    for variant in image.variants.values():
        require_memory(THREAD_BYTES, "for a thread")
        yield variant.data


def _complete(service: Service, job: Job, keys: dict[str, str], generated: dict[str, Any]) -> None:
    now = clock.utc_now()
    with service.database.write() as connection:
        completed = job_store.complete(connection, job, keys, generated, now)
        if completed:
            job_store.add_event(
                connection,
                EventType.COMPLETED,
                job,
                now,
                previous_status=JobStatus.PROCESSING,
                duration_seconds=_measure_attempt(job, now),
                attempt=job.attempts,
            )
    if completed:
        with suppress(StorageError):  # the sweep deletes an upload that no job needs
            _delete_source(service, job)
    else:
        _release_deleted(service, job)


def _measure_attempt(job: Job, now: datetime) -> float | None:
    """Return the seconds since a job was claimed."""
    if job.started_at is None:
        return None
    return round((now - job.started_at).total_seconds(), 3)


def _release_deleted(service: Service, job: Job) -> None:
    """Release a job whose image was deleted during the attempt, and delete its bytes.

    Do nothing if another worker holds the lease now, and owns the bytes.
    """
    with service.database.write() as connection:
        released = job_store.release(connection, job)
    if released:
        purge(service, job)


def _delete_source(service: Service, job: Job) -> None:
    if job.staging_key:
        service.staging.delete(job.staging_key)


def _persist(job: Job, write: Callable[[], None]) -> None:
    """Write the outcome; if the database is busy, retry until the lease expires."""
    for attempt in itertools.count(1):
        try:
            write()
        except DATABASE_FAULTS:
            pause = backoff(attempt)
            expires_at = job.lease_expires_at
            if expires_at is None or clock.utc_now() + pause > expires_at:
                raise
            time.sleep(pause.total_seconds())
        else:
            return
