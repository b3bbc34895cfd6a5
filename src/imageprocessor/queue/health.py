"""Health checks of the service's parts, for probes and alarms."""

from __future__ import annotations

from collections.abc import Callable

from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service

PROBE_NAME = "health-probe"  #: part of a key that is looked up but never stored

Faults = dict[str, ImageProcessorError | None]


def check_health(service: Service) -> Faults:
    """Return what is wrong with each part of the service, or None."""
    faults = check_readiness(service)
    faults["queue"] = _find_fault(_check_broker, service)
    return faults


def check_readiness(service: Service) -> Faults:
    """Return what is wrong with each part that an upload needs, or None.

    The queue is not one of them: while it is down, uploads are accepted and their jobs wait.
    """
    return {
        "database": _find_fault(_check_database, service),
        "storage": _find_fault(_check_storage, service),
    }


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
    bucket = next(iter(service.settings.allowed_buckets), "any")
    service.storage.exists(f"{bucket}/{PROBE_NAME}")


def _check_broker(service: Service) -> None:
    service.dispatcher.check()
