"""Figures and checks for whoever runs the service."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.service import Service

PROBE_NAME = "health-probe"  #: looked for, not there


def collect_statistics(service: Service) -> dict[str, Any]:
    """Return the body of ``/health/stats``.

    Jobs by status, the last 24 hours, what is stored, who works.
    """
    since = clock.utc_now() - timedelta(hours=24)
    with service.database.read() as connection:
        counts = job_store.count_by_status(connection)
        times = job_store.list_processing_times(connection, since)
    seconds = [(end - start).total_seconds() for start, end in times]
    workers = {
        "backend": service.settings.queue_backend,
        "active_workers": service.dispatcher.count_workers(),
        "active_tasks": counts[JobStatus.PROCESSING],
    }
    return {
        "status_breakdown": counts,
        "performance_24h": {
            "completed_24h": len(seconds),
            "avg_processing_time_seconds": round(sum(seconds) / len(seconds), 3)
            if seconds
            else None,
        },
        "storage": {
            "total_images": counts[JobStatus.COMPLETED],
            "total_jobs": sum(counts.values()),
        },
        "workers": workers,
        **({"celery": workers} if workers["backend"] == "celery" else {}),
    }


def list_failed(service: Service, limit: int) -> list[Job]:
    """Return the newest failed jobs."""
    with service.database.read() as connection:
        return job_store.list_jobs(connection, JobStatus.FAILED, limit)


def check_health(service: Service) -> dict[str, str]:
    """Return ``ok`` or what is wrong for each part of the service."""
    return {**check_readiness(service), "queue": service.dispatcher.check()}


def check_readiness(service: Service) -> dict[str, str]:
    """Return ``ok`` or what is wrong for each part that an upload needs.

    A queue that is away is none of them.
    """
    return {
        "database": _outcome(_check_database, service),
        "storage": _outcome(_check_storage, service),
    }


def oldest_open_seconds(service: Service) -> float | None:
    """Return the age of the oldest job that has not ended: the one figure to raise an alarm on."""
    with service.database.read() as connection:
        created_at = job_store.find_oldest_open(connection)
    return (clock.utc_now() - created_at).total_seconds() if created_at else None


def _outcome(check: Any, service: Service) -> str:
    try:
        check(service)
    except ImageProcessorError as error:
        return str(error)
    return "ok"


def _check_database(service: Service) -> None:
    with service.database.write() as connection:
        job_store.change_nothing(connection)


def _check_storage(service: Service) -> None:
    bucket = next(iter(service.settings.allowed_buckets), "any")
    service.storage.exists(f"{bucket}/{PROBE_NAME}")
