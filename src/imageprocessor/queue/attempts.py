"""The one task body: claim, load, process, store, finish.

Embedded workers call it; any other queue would too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import structlog

from imageprocessor.core.memory import THREAD_BYTES, give_back_memory, require_memory
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
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import variant_key

TimeLimit = Callable[[], AbstractContextManager[None]]
MAX_STORE_THREADS = 8  #: fewer than the connections that an S3 client keeps, which are 10

log = structlog.get_logger(__name__)


def run_job(
    service: Service,
    job_id: str,
    worker_id: str,
    time_limit: TimeLimit = nullcontext,
    threads: int = 1,
) -> None:
    """Run one attempt of the job *job_id*, if it is there to be had.

    And write down what came of it.

    *time_limit* bounds the work itself by raising DecodeTimeoutError in it; without one, who
    started this process must watch the time. *threads* is how many processors the work may use at
    once.

    Raises:
        DatabaseUnavailableError, StorageFullError: The outcome could not be written. The lease runs
            out and the job
            is tried again.
    """
    job = _claim(service, job_id, worker_id)
    if job is None:
        return
    with structlog.contextvars.bound_contextvars(
        job_id=job_id, image_id=job.image_id, request_id=job.request_id
    ):
        started = time.perf_counter()
        _run_attempt(service, job, time_limit, threads)
        log.info(
            "attempt_ended", attempt=job.attempts, seconds=round(time.perf_counter() - started, 3)
        )


def give_back(service: Service, worker_id: str, error: ImageProcessorError) -> None:
    """End the attempts that the worker *worker_id*, or any worker of the supervisor *worker_id*.

    Left unfinished.

    Raises:
        DatabaseUnavailableError, StorageFullError: Some may not have been given back; their leases
            run out.
    """
    with service.database.read() as connection:
        held = job_store.list_held_by(connection, worker_id)
    for job in held:
        fail_attempt(service, job, error)


def fail_attempt(service: Service, job: Job, error: ImageProcessorError) -> None:
    """Write that this attempt failed.

    The job is tried again later, or ends and leaves no bytes it does not need.
    """
    now = clock.utc_now()
    outcome = after_failure(job, error, now)
    event = EventType.FAILED if outcome.status is JobStatus.FAILED else EventType.RETRYING
    with service.database.write() as connection:
        ended = job_store.end_attempt(connection, job, outcome, error.code, str(error), now)
        if ended:
            job_store.add_event(connection, event, job, now, code=error.code, attempt=job.attempts)
    if ended:
        _log_failure(job, outcome.status, error)
    if ended and outcome.status is JobStatus.FAILED and not outcome.keeps_source:
        with suppress(StorageError):  # the sweep removes what is left over
            delete_variants(
                service, job
            )  # else they stay with the upload: another worker may be retrying already
            _delete_source(service, job)


def give_up(service: Service, job_id: str, worker_id: str, error: ImageProcessorError) -> bool:
    """End a job that waits and cannot succeed. False where it is not due, or a worker has it."""
    job = _claim(service, job_id, worker_id)
    if job:
        fail_attempt(service, job, error)
    return job is not None


def load_source(service: Service, job: Job) -> bytes:
    """Return the upload of *job*.

    Raises:
        SourceMissingError, SourceCorruptError: It is gone, or no longer what was received.
        StorageError: It cannot be read now.
    """
    try:
        data = service.staging.get(job.staging_key or "")
    except ObjectNotFoundError as error:
        raise SourceMissingError(
            "The upload is gone from staging: send the image again."
        ) from error
    if hashlib.sha256(data).hexdigest() != job.source_sha256:
        raise SourceCorruptError(
            "The upload in staging is not what was received: send the image again."
        )
    return data


def _claim(service: Service, job_id: str, worker_id: str) -> Job | None:
    now = clock.utc_now()
    lease = timedelta(seconds=service.settings.job_timeout_seconds + LEASE_MARGIN_SECONDS)
    with service.database.write() as connection:
        job = job_store.claim(connection, job_id, worker_id, now, lease)
        if job:
            job_store.add_event(
                connection,
                EventType.PROCESSING_STARTED,
                job,
                now,
                attempt=job.attempts,
                worker=worker_id,
            )
    return job


def _run_attempt(service: Service, job: Job, time_limit: TimeLimit, threads: int) -> None:
    try:
        with time_limit():
            source, settings = load_source(service, job), service.settings
            image = process(source, settings.image_sizes, settings.limits, threads=threads)
            keys = _store_variants(service, job, image)
    except ImageProcessorError as error:
        failure = _forget_frames(error)
    except MemoryError:
        limit = service.settings.job_memory_limit_mb
        failure = MemoryLimitError(
            f"The image needs more than {limit} MB: raise JOB_MEMORY_LIMIT_MB or send a smaller one."
        )
    except (
        Exception
    ) as error:  # the boundary: whatever goes wrong ends this attempt, not the worker
        log.exception("unexpected_error")
        failure = UnexpectedError(
            f"An unexpected fault ({type(error).__name__}) stopped the job: see the worker's log."
        )
    else:
        return _persist(job, lambda: _complete(service, job, keys, image.describe()))
    give_back_memory()  # perhaps there was too little of it
    return _persist(job, lambda: fail_attempt(service, job, failure))


def _forget_frames(error: ImageProcessorError) -> ImageProcessorError:
    """Return *error* without the frames it passed.

    They would keep the pixels until the garbage collector comes.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _store_variants(service: Service, job: Job, image: ProcessedImage) -> dict[str, str]:
    """Store all variants side by side, because each one waits for a disk or a network.

    Return their keys.
    """
    keys = {name: variant_key(job.bucket, name, job.image_id) for name in image.variants}
    with ThreadPoolExecutor(
        min(len(keys), MAX_STORE_THREADS)
    ) as stores:  # none goes on after this, however it ends
        for _ in stores.map(service.storage.put, keys.values(), _contents(image)):
            pass
    return keys


def _contents(image: ProcessedImage) -> Iterator[bytes]:
    """Yield the bytes of each variant while there is memory for a thread to store them."""
    for variant in image.variants.values():
        require_memory(THREAD_BYTES, "for a thread")
        yield variant.data


def _complete(service: Service, job: Job, keys: dict[str, str], generated: dict[str, Any]) -> None:
    now = clock.utc_now()
    with service.database.write() as connection:
        completed = job_store.complete(connection, job, keys, generated, now)
        if completed:
            job_store.add_event(connection, EventType.COMPLETED, job, now, attempt=job.attempts)
    if completed:
        with suppress(StorageError):  # the sweep removes an upload that no job waits for
            _delete_source(service, job)
    else:
        _give_way(service, job)


def _give_way(service: Service, job: Job) -> None:
    """Let go of a finished job that was deleted meanwhile.

    If its lease is another worker's, so are the bytes.
    """
    with service.database.write() as connection:
        released = job_store.release(connection, job)
    if released:
        purge(service, job)


def _log_failure(job: Job, status: JobStatus, error: ImageProcessorError) -> None:
    ids = {
        "job_id": job.job_id,
        "image_id": job.image_id,
        "request_id": job.request_id,
    }  # the supervisor binds none
    log.warning("attempt_failed", **ids, outcome=status.value, code=error.code, cause=str(error))


def _delete_source(service: Service, job: Job) -> None:
    if job.staging_key:
        service.staging.delete(job.staging_key)


def _persist(job: Job, write: Callable[[], None]) -> None:
    """Write the outcome, waiting for a busy database as long as the lease lasts."""
    for attempt in range(1, 100):
        try:
            return write()
        except DATABASE_FAULTS:
            pause = backoff(attempt)
            if job.lease_expires_at is None or clock.utc_now() + pause > job.lease_expires_at:
                raise
            time.sleep(pause.total_seconds())
    return None
