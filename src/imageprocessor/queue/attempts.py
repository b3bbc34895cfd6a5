"""One attempt of a job: claim it, load its source, process it, store the variants, complete it.

``run_job`` does all of it, for Celery and any other queue. An embedded worker calls its parts
(``claim_next``, ``process_job``, ``finish_attempt``), so that it can process the next job while the
disk flushes the last one's variants.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

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
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import (
    LEASE_MARGIN_SECONDS,
    EventType,
    Job,
    JobStatus,
    after_failure,
    backoff,
)
from imageprocessor.queue.metrics.families import JOB_SECONDS, JOBS, STAGE_SECONDS
from imageprocessor.queue.process_memory import trim_memory
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import variant_key
from imageprocessor.storage.side_by_side import MAX_THREADS, open_store_pool

T = TypeVar("T")
TimeLimit = Callable[[], AbstractContextManager[None]]
Steps = dict[str, float]  #: the seconds of each step of an attempt, in their order

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claimed job, and the result of processing it, which is still to be stored."""

    job: Job
    started: float  #: by ``time.perf_counter``
    steps: Steps
    result: ProcessedImage | ImageProcessorError  #: the error: why the attempt failed


@dataclass(frozen=True, slots=True)
class Stored:
    """What a completed job's row says about its variants, which are all stored."""

    keys: dict[str, str]
    generated: dict[str, Any]
    steps: Steps


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

    def claim(connection: Connection, *lease: Any) -> Job | None:
        return job_store.claim(connection, job_id, *lease)

    job = _claim(service, worker_id, claim)
    if job is None:
        return

    steps: Steps = {}

    def process_and_store() -> Stored:
        with time_limit():
            image = _process_source(service, job, threads, steps)
            return _store_variants(service, job, image, pool, steps)

    with _log_context(job), open_store_pool() as pool:
        started = time.perf_counter()
        outcome = _catch_errors(service, process_and_store)
        _end_attempt(service, job, started, outcome)


def claim_next(service: Service, worker_id: str) -> Job | None:
    """Claim the job that is due first; return None if none is.

    Raises:
        DatabaseUnavailableError, StorageFullError: See :meth:`Database.write`.
    """
    return _claim(service, worker_id, job_store.claim_next)


def process_job(service: Service, job: Job, threads: int) -> Attempt:
    """Load and process the source of a claimed job, without storing anything."""
    with _log_context(job):
        started = time.perf_counter()
        steps: Steps = {}
        result = _catch_errors(service, lambda: _process_source(service, job, threads, steps))
        return Attempt(job, started, steps, result)


def finish_attempt(service: Service, attempt: Attempt, pool: Executor) -> None:
    """Store the variants, in the threads of *pool*, and the outcome of an attempt.

    Raises:
        DatabaseUnavailableError, StorageFullError: See :func:`run_job`.
    """
    job, result = attempt.job, attempt.result
    outcome: Stored | ImageProcessorError
    with _log_context(job):
        if isinstance(result, ProcessedImage):
            outcome = _catch_errors(
                service, lambda: _store_variants(service, job, result, pool, attempt.steps)
            )
        else:
            outcome = result
        _end_attempt(service, job, attempt.started, outcome)


def end_attempts(
    service: Service, worker_id: str, error: ImageProcessorError, overdue: str | None = None
) -> None:
    """End the attempts that *worker_id*, which is gone, left unfinished.

    See :func:`end_lost`. If the worker was killed because of the job *overdue*, only this one fails
    with *error*.

    Raises:
        DatabaseUnavailableError, StorageFullError: Some attempts may not have been ended; their
            leases will expire.
    """
    for job in _list_held(service, worker_id):
        if overdue is None:
            end_lost(service, job, error)
        elif job.job_id == overdue:
            fail_attempt(service, job, error)
        else:
            _release(service, job, job_store.release)


def release_attempts(service: Service, supervisor_id: str) -> None:
    """Release, uncounted, the jobs that the workers of *supervisor_id* left unfinished.

    Raises:
        DatabaseUnavailableError, StorageFullError: See :func:`end_attempts`.
    """
    for job in _list_held(service, supervisor_id):
        _release(service, job, job_store.release)


def end_lost(service: Service, job: Job, error: ImageProcessorError) -> None:
    """End the attempt of a job whose worker is gone.

    If the worker had begun another job since, only the finish of this one was pending: it is
    released, uncounted. Else the attempt fails with *error*. Of the jobs that one worker held, the
    one that it claimed first must be ended first.
    """
    if not _release(service, job, job_store.release_unfinished):
        fail_attempt(service, job, error)


def fail_waiting(service: Service, job_id: str, worker_id: str, error: ImageProcessorError) -> bool:
    """Fail a waiting job with *error*. Return False if it is not due or a worker holds it.

    A pause of the workers does not prevent it: it is when an operator repairs things.
    """

    def claim(connection: Connection, *lease: Any) -> Job | None:
        return job_store.claim(connection, job_id, *lease, ignores_pause=True)

    job = _claim(service, worker_id, claim)
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
    with service.database.write() as connection:
        ended = job_store.end_attempt(connection, job, outcome, error.code, str(error), now)
        if ended and final:
            ended_job = replace(
                job,
                status=JobStatus.FAILED,
                error_code=error.code,
                error=str(error),
                completed_at=now,
            )
            outbox.announce(
                connection,
                EventType.FAILED,
                ended_job,
                now,
                base_url=service.settings.public_base_url,
                previous_status=JobStatus.PROCESSING,
                code=error.code,
                attempt=job.attempts,
            )
        elif ended:
            outbox.add_event(
                connection,
                EventType.RETRYING,
                job,
                now,
                previous_status=JobStatus.PROCESSING,
                code=error.code,
                attempt=job.attempts,
            )
    if not ended:
        _release_deleted(service, job)
        return
    service.counts.add(JOBS, "failed" if final else "retrying", error.code)
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


def _claim(service: Service, worker_id: str, claim: Callable[..., Job | None]) -> Job | None:
    """Claim a job by *claim*. A power cut may undo it: then the attempt merely does not count."""
    now = clock.utc_now()
    lease = timedelta(seconds=service.settings.job_timeout_seconds + LEASE_MARGIN_SECONDS)
    with service.database.write(durable=False) as connection:
        job = claim(connection, worker_id, now, lease)
        if job:
            outbox.add_event(
                connection,
                EventType.PROCESSING_STARTED,
                job,
                now,
                previous_status=job_store.status_before_claim(job),
                attempt=job.attempts,
                worker=worker_id,
            )
    return job


def _catch_errors(service: Service, step: Callable[[], T]) -> T | ImageProcessorError:
    """Return the result of *step*, or the error with which the attempt fails."""
    failure: ImageProcessorError
    try:
        return step()
    except ImageProcessorError as error:
        # The frames it refers to keep the pixels alive until the garbage collector runs.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        failure = error
    except MemoryError:
        failure = MemoryLimitError(
            f"The image needs more than {service.settings.job_memory_limit_mb} MB. "
            "Raise JOB_MEMORY_LIMIT_MB or send a smaller image."
        )
    except Exception as error:  # a boundary: any error ends this attempt, not the worker
        log.exception("unexpected_error")
        failure = _describe_unexpected(error)
    trim_memory()  # a shortage of memory may be why the attempt failed
    return failure


def _describe_unexpected(error: Exception) -> UnexpectedError:
    return UnexpectedError(
        f"An unexpected error ({type(error).__name__}) stopped the job. See the worker's log."
    )


def _process_source(service: Service, job: Job, threads: int, steps: Steps) -> ProcessedImage:
    settings = service.settings
    started = time.perf_counter()
    source = load_source(service, job)
    _note_step(service, steps, "load", started)
    return process(
        source,
        settings.image_sizes,
        settings.limits,
        threads=threads,
        watermarks=settings.watermarks,
        on_step=partial(_note_step, service, steps),
    )


def _note_step(service: Service, steps: Steps, name: str, started: float) -> None:
    """Add the seconds of a step of an attempt, which has just ended, to *steps* and the metrics."""
    seconds = time.perf_counter() - started
    steps[name] = steps.get(name, 0.0) + seconds
    service.counts.observe(STAGE_SECONDS, seconds, name)


def _store_variants(
    service: Service, job: Job, image: ProcessedImage, pool: Executor, steps: Steps
) -> Stored:
    """Store all variants and their alternates.

    Side by side, because the disk flushes at once what several threads wait for: four variants of
    14 kB take 2.3 ms, one after another 9.2 ms.
    """
    started = time.perf_counter()
    service.ownership.ensure_verified()
    keys = {}
    for name, variant in image.files.items():
        size, _, _ = name.partition(".")
        keys[name] = variant_key(job.bucket, size, job.image_id, variant.format)
    objects = {keys[name]: variant.data for name, variant in image.files.items()}
    require_memory(THREAD_BYTES * min(len(objects), MAX_THREADS), "for threads")
    service.storage.put_all(objects, pool)
    _note_step(service, steps, "store", started)
    return Stored(keys, image.describe(), steps)


def _end_attempt(
    service: Service, job: Job, started: float, outcome: Stored | ImageProcessorError
) -> None:
    """Write the outcome; if the database rejects that of a completed job, the attempt fails."""
    if isinstance(outcome, Stored):
        stored = outcome
        try:
            _persist(job, lambda: _complete(service, job, stored))
        except DATABASE_FAULTS:
            raise
        except Exception as error:  # a boundary, as in `_catch_errors`
            log.exception("unexpected_error")
            outcome = _describe_unexpected(error)
    if isinstance(outcome, ImageProcessorError):
        failure = outcome
        _persist(job, lambda: fail_attempt(service, job, failure))
    seconds = round(time.perf_counter() - started, 3)
    log.info("attempt_ended", attempt=job.attempts, seconds=seconds)


def _complete(service: Service, job: Job, stored: Stored) -> None:
    started = time.perf_counter()
    now = clock.utc_now()
    with service.database.write() as connection:
        completed = job_store.complete(connection, job, stored.keys, stored.generated, now)
        if completed:
            completed_job = replace(
                job,
                status=JobStatus.COMPLETED,
                variant_keys=stored.keys,
                generated=stored.generated,
                completed_at=now,
            )
            outbox.announce(
                connection,
                EventType.COMPLETED,
                completed_job,
                now,
                base_url=service.settings.public_base_url,
                previous_status=JobStatus.PROCESSING,
                duration_seconds=_measure_attempt(job, now),
                attempt=job.attempts,
                steps={name: round(seconds, 4) for name, seconds in stored.steps.items()},
            )
    if completed:
        service.counts.observe(STAGE_SECONDS, time.perf_counter() - started, "complete")
        service.counts.add(JOBS, "completed", "")
        seconds = _measure_attempt(job, now)
        if seconds is not None:
            service.counts.observe(JOB_SECONDS, seconds)
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


def _release(service: Service, job: Job, release: Callable[[Connection, Job], bool]) -> bool:
    """Release a job by *release*; return False if that did not apply."""
    with service.database.write() as connection:
        released = release(connection, job)
        # Read it again: it may have been deleted, and no event may follow that one.
        if released and job_store.find_job(connection, job.job_id):
            outbox.add_event(
                connection,
                EventType.RELEASED,
                job,
                clock.utc_now(),
                previous_status=JobStatus.PROCESSING,
            )
    return released


def _list_held(service: Service, worker_id: str) -> list[Job]:
    with service.database.read() as connection:
        return job_store.list_held_by(connection, worker_id)


def _delete_source(service: Service, job: Job) -> None:
    """Delete the upload of a job that has ended. If a power cut undoes that, the sweep does it."""
    if job.staging_key:
        service.staging.delete(job.staging_key, durable=False)


def _log_context(job: Job) -> AbstractContextManager[None]:
    """Name the job in every line of the log until the end of the context."""
    return structlog.contextvars.bound_contextvars(
        job_id=job.job_id, image_id=job.image_id, request_id=job.request_id
    )


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
