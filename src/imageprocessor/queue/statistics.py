"""Statistics for operators."""

from __future__ import annotations

from typing import Any

from imageprocessor.queue.database import clock
from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs import webhook_history
from imageprocessor.queue.jobs.figures import read_figures
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.jobs.webhooks import list_endpoints
from imageprocessor.queue.service import Service


def collect_statistics(service: Service) -> dict[str, Any]:
    """Return the body of ``/health/stats``: jobs by status, the last 24 hours, workers and more.

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
        "webhooks": _collect_webhooks(service),
        "events": {"lag_seconds": lag_seconds},
    }
    if service.settings.queue_backend == "celery":
        figures["celery"] = workers
    return figures


def _collect_webhooks(service: Service) -> dict[str, Any]:
    """Return how many endpoints there are and how they fare; a few entries of indexes are read."""
    with service.database.read() as connection:
        endpoints = list_endpoints(connection)
        found = [webhook_history.find_oldest_waiting(connection, each.name) for each in endpoints]
        waiting = webhook_history.count_waiting(connection) if endpoints else 0
    oldest = min((moment for moment in found if moment), default=None)
    enabled = [endpoint for endpoint in endpoints if not endpoint.disabled_at]
    return {
        "endpoints": len(endpoints),
        "disabled": len(endpoints) - len(enabled),
        "failing": sum(endpoint.is_failing for endpoint in enabled),
        "waiting": waiting,
        "oldest_waiting_seconds": (clock.utc_now() - oldest).total_seconds() if oldest else None,
    }
