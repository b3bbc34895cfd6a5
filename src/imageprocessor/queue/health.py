"""Health checks of the service's parts, for probes and alarms."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from imageprocessor.errors import (
    DatabaseUnavailableError,
    ImageProcessorError,
    NoWorkerError,
    StorageError,
    find_class,
)
from imageprocessor.queue import rate_limits
from imageprocessor.queue.database import clock
from imageprocessor.queue.incoming import BLOCK_BYTES, IncomingFile
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import staging_key

PROBE_NAME = "health-probe"  #: part of the key of a probe, which is deleted at once
#: A worker that is there claims a job within seconds.
WAITING_GRACE = timedelta(seconds=10)
REMEMBERED_FAULTS = timedelta(hours=1)

Faults = dict[str, ImageProcessorError | None]


def check_health(service: Service) -> Faults:
    """Return what is wrong with each part of the service, or None.

    Unlike :func:`check_readiness`, this includes what keeps accepted jobs from being done.
    """
    faults = check_readiness(service)
    faults["queue"] = _find_fault(_check_broker, service)
    if faults["database"] is None:  # the next two read it
        faults["storage"] = faults["storage"] or _find_fault(_check_stored, service)
        faults["queue"] = faults["queue"] or _find_fault(_check_workers, service)
    return faults


def check_readiness(service: Service) -> Faults:
    """Return what is wrong with each part that an upload needs, or None.

    The queue is not one of them: while it is down, uploads are accepted and their jobs wait.
    """
    faults: Faults = {
        "database": _find_fault(_check_database, service),
        "storage": _find_fault(_check_storage, service),
    }
    if not any(faults.values()) and service.write_faults.is_probe_due():
        with suppress(ImageProcessorError), service.write_faults.watch():
            write_probe(service)
    fault = service.write_faults.fault
    part = "database" if isinstance(fault, DatabaseUnavailableError) else "storage"
    faults[part] = faults[part] or fault
    return faults


def write_probe(service: Service) -> None:
    """Write what an upload writes, in every allowed bucket, and delete it.

    Raises:
        StorageUnavailableError, StorageFullError, DatabaseUnavailableError: A write failed.
    """
    probe = f"{PROBE_NAME}-{uuid.uuid4().hex}"
    data = bytes(BLOCK_BYTES)  # a few bytes might fit where no upload does
    file = IncomingFile(service.incoming)
    try:
        file.collect(data)
        file.write_block()
    finally:
        file.remove()
    for bucket in service.settings.allowed_buckets or (PROBE_NAME,):
        key = staging_key(bucket, probe)
        service.staging.put(key, data)
        with suppress(StorageError):  # the sweep deletes it later
            service.staging.delete(key)
    window = service.settings.rate_limit_window
    with service.database.write() as connection:
        rate_limits.count_upload(connection, probe, clock.utc_now(), 1, window)
        rate_limits.forget_user(connection, probe)


def oldest_open_seconds(service: Service) -> float | None:
    """Return the age of the oldest job that has not ended: the one figure to alert on."""
    with service.database.read() as connection:
        created_at = job_store.find_oldest_open(connection)
    if created_at is None:
        return None
    return (clock.utc_now() - created_at).total_seconds()


def _find_fault(check: Callable[[Service], None], service: Service) -> ImageProcessorError | None:
    try:
        check(service)
    except ImageProcessorError as error:
        return error
    return None


def _check_database(service: Service) -> None:
    with service.database.write() as connection:
        job_store.change_nothing(connection)


def _check_storage(service: Service) -> None:
    service.ownership.verify()


def _check_stored(service: Service) -> None:
    """Raise the storage fault of a worker's attempt, unless a job has completed since."""
    since = clock.utc_now() - REMEMBERED_FAULTS
    with service.database.read() as connection:
        fault = job_store.find_storage_fault(connection, since)
    if fault is not None:
        code, message = fault
        raise find_class(code)(f"A worker's attempt failed: {message}")


def _check_broker(service: Service) -> None:
    service.dispatcher.check()


def _check_workers(service: Service) -> None:
    """Raise NoWorkerError if a job waits and no worker, on this host or another, takes jobs.

    No job is due while the workers are paused.
    """
    if service.dispatcher.count_workers() > 0:
        return
    now = clock.utc_now()
    with service.database.read() as connection:
        due = job_store.list_due(connection, now, 1, created_before=now - WAITING_GRACE)
        is_stuck = bool(due) and not job_store.is_any_processed(connection, now)
    if is_stuck:
        raise NoWorkerError(
            "Jobs wait, and no worker is running. Start `imageprocessor worker`, or "
            "`imageprocessor serve` with WORKER_CONCURRENCY above 0."
        )
