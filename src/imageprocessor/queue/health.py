"""Health checks of the service's parts, for probes and alarms."""

from __future__ import annotations

from collections.abc import Callable

from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service


def check_health(service: Service) -> dict[str, str]:
    """Return ``ok`` or an error message for each part of the service."""
    checks = check_readiness(service)
    checks["queue"] = service.dispatcher.check()
    return checks


def check_readiness(service: Service) -> dict[str, str]:
    """Return ``ok`` or an error message for each part that an upload needs.

    The queue is not one of them: while it is down, uploads are accepted and their jobs wait.
    """
    return {
        "database": _describe(_check_database, service),
        "storage": _describe(_check_storage, service),
    }


def oldest_open_seconds(service: Service) -> float | None:
    """Return the age of the oldest job that has not ended: the one figure to alert on."""
    with service.database.read() as connection:
        created_at = job_store.find_oldest_open(connection)
    if created_at is None:
        return None
    return (clock.utc_now() - created_at).total_seconds()


def _describe(check: Callable[[Service], None], service: Service) -> str:
    try:
        check(service)
    except ImageProcessorError as error:
        return str(error)
    return "ok"


def _check_database(service: Service) -> None:
    with service.database.write() as connection:
        job_store.change_nothing(connection)


def _check_storage(service: Service) -> None:
    service.ownership.verify()
