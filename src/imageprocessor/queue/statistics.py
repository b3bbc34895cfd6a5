"""Statistics for operators."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.service import Service


def collect_statistics(service: Service) -> dict[str, Any]:
    """Return the body of ``/health/stats``: jobs by status, the last 24 hours, the workers."""
    since = clock.utc_now() - timedelta(hours=24)
    with service.database.read() as connection:
        counts = job_store.count_by_status(connection)
        times = job_store.list_processing_times(connection, since)
    seconds = [(end - start).total_seconds() for start, end in times]
    average = round(sum(seconds) / len(seconds), 3) if seconds else None
    workers = {
        "backend": service.settings.queue_backend,
        "active_workers": service.dispatcher.count_workers(),
        "active_tasks": counts[JobStatus.PROCESSING],
    }
    figures = {
        "status_breakdown": counts,
        "performance_24h": {
            "completed_24h": len(seconds),
            "avg_processing_time_seconds": average,
        },
        "storage": {
            "total_images": counts[JobStatus.COMPLETED],
            "total_jobs": sum(counts.values()),
        },
        "workers": workers,
    }
    if service.settings.queue_backend == "celery":
        figures["celery"] = workers
    return figures
