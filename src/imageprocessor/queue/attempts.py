"""One attempt of a job: claim it, load its upload, process, store the variants, finish.

Embedded workers and Celery's both call ``run_job``; any other queue would, too.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
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
from imageprocessor.queue.process_memory import give_back_memory
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
    """Run one attempt of the job *job_id* and store its outcome; do nothing if it is not due.

    *time_limit* bounds the work itself by raising DecodeTimeoutError in it; without one, the parent
    of this process must watch the time. *threads* is how many processors the work may use at once.

    Raises:
        DatabaseUnavailableError, StorageFullError: The outcome could not be written. The lease
            expires, and the job is tried again.
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


def give_back(service: Service, worker_id: str, error: ImageProcessorError) -> None:
    """End the attempts that the worker, or the supervisor, *worker_id* left unfinished.

    Raises:
        DatabaseUnavailableError, StorageFullError: Some may not have been given back; their leases
            expire.
    """
    with service.database.read() as connection:
        held = job_store.list_held_by(connection, worker_id)
    for job in held:
        fail_attempt(service, job, error)


def give_up(service: Service, job_id: str, worker_id: str, error: ImageProcessorError) -> bool:
    """End a waiting job that cannot succeed. Return False if it is not due or a worker has it."""
    job = _claim(service, job_id, worker_id)
    if job is None:
        return False
    fail_attempt(service, job, error)
    return True


def fail_attempt(service: Service, job: Job, error: ImageProcessorError) -> None:
    """Record that this attempt failed: the job is tried again later, or it ends.

    A job that ends keeps only the bytes that a retry needs.
    """
    now = clock.utc_now()
    outcome = after_failure(job, error, now)
    final = outcome.status is JobStatus.FAILED
    event = EventType.FAILED if final else EventType.RETRYING
    with service.database.write() as connection:
        ended = job_store.end_attempt(connection, job, outcome, error.code, str(error), now)
        if ended:
            job_store.add_event(connection, event, job, now, code=error.code, attempt=job.attempts)
    if not ended:
        return
    log.warning(
        "attempt_failed",
        # The supervisor, who ends attempts too, has not bound them.
        job_id=job.job_id,
        image_id=job.image_id,
        request_id=job.request_id,
        outcome=outcome.status.value,
        code=error.code,
        cause=str(error),
    )
    # A job that keeps its upload may be retried by another worker already: so keep the variants.
    if final and not outcome.keeps_source:
        with suppress(StorageError):  # the sweep removes what is left over
            delete_variants(service, job)
            _delete_source(service, job)


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
    started = EventType.PROCESSING_STARTED
    with service.database.write() as connection:
        job = job_store.claim(connection, job_id, worker_id, now, lease)
        if job:
            job_store.add_event(
                connection, started, job, now, attempt=job.attempts, worker=worker_id
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
        # Without the frames that it passed, which keep the pixels until the garbage collector runs.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        failure = error
    except MemoryError:
        failure = MemoryLimitError(
            f"The image needs more than {settings.job_memory_limit_mb} MB: "
            "raise JOB_MEMORY_LIMIT_MB or send a smaller one."
        )
    except Exception as error:  # the boundary: whatever fails ends this attempt, not the worker
        log.exception("unexpected_error")
        failure = UnexpectedError(
            f"An unexpected fault ({type(error).__name__}) stopped the job: see the worker's log."
        )
    else:
        _persist(job, lambda: _complete(service, job, keys, image.describe()))
        return
    give_back_memory()  # perhaps there was too little of it
    _persist(job, lambda: fail_attempt(service, job, failure))


def _store_variants(service: Service, job: Job, image: ProcessedImage) -> dict[str, str]:
    """Store all variants side by side, as each waits for a disk or a network; return their keys."""
    keys = {name: variant_key(job.bucket, name, job.image_id) for name in image.variants}
    thread_count = min(len(keys), MAX_STORE_THREADS)
    # No thread outlives the pool's context, however it ends.
    with ThreadPoolExecutor(thread_count) as pool:
        stored = pool.map(service.storage.put, keys.values(), _iterate_contents(image))
        for _ in stored:  # raises what a put raised, and cancels those that have not begun
            pass
    return keys


def _iterate_contents(image: ProcessedImage) -> Iterator[bytes]:
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
        return
    # The image was deleted meanwhile; or the lease is another worker's now, and so are the bytes.
    with service.database.write() as connection:
        released = job_store.release(connection, job)
    if released:
        purge(service, job)


def _delete_source(service: Service, job: Job) -> None:
    if job.staging_key:
        service.staging.delete(job.staging_key)


def _persist(job: Job, write: Callable[[], None]) -> None:
    """Write the outcome; while the database is busy, try again as long as the lease lasts."""
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
