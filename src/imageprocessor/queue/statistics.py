"""Statistics for operators."""

from __future__ import annotations

from typing import Any

from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs.figures import read_figures
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.service import Service


def collect_statistics(service: Service) -> dict[str, Any]:
    """Return the body of ``/health/stats``: jobs by status, the last 24 hours, workers, events.

    No rows of jobs are read: see `jobs.figures`.
    """
    current = read_figures(service.database)
    with service.database.read() as connection:
        lag_seconds = feed.measure_lag(connection)
    counts = {status.value: max(0, current.jobs[status]) for status in JobStatus}
    timed = current.timed.total()
    average = round(sum(current.seconds.values()) / timed, 3) if timed else None
    workers = {
        "backend": service.settings.queue_backend,
        "active_workers": service.dispatcher.count_workers(),
        "active_tasks": counts[JobStatus.PROCESSING],
    }
    figures = {
        "status_breakdown": counts,
        "performance_24h": {
            "completed_24h": current.completed.total(),
            "avg_processing_time_seconds": average,
        },
        "storage": {
            "total_images": counts[JobStatus.COMPLETED],
            "total_jobs": sum(counts.values()),
        },
        "workers": workers,
        "events": {"lag_seconds": lag_seconds},
    }
    if service.settings.queue_backend == "celery":
        figures["celery"] = workers
    return figures
