"""Statistics for operators."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from imageprocessor.queue.database import clock
from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs import webhook_history
from imageprocessor.queue.jobs.figures import WINDOW, name_minutes, read_figures
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.jobs.webhooks import list_endpoints
from imageprocessor.queue.pause import find_pause
from imageprocessor.queue.service import Service

PERIOD = timedelta(minutes=10)  #: of the counts of completed jobs


def collect_statistics(service: Service) -> dict[str, Any]:
    """Return the body of ``/health/stats``: jobs by status, the last 24 hours, workers and more.

    No rows of jobs are read: see `jobs.figures`.
    """
    current = read_figures(service.database)
    with service.database.read() as connection:
        lag_seconds = feed.measure_lag(connection)
        paused = find_pause(connection)
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
        "paused_since": clock.to_text(paused.since) if paused else None,
        "webhooks": _collect_webhooks(service),
        "events": {"lag_seconds": lag_seconds},
    }
    if service.settings.queue_backend == "celery":
        figures["celery"] = workers
    return figures


def read_throughput(service: Service) -> list[tuple[datetime, int]]:
    """Return how many jobs have completed in each ten minutes of the last 24 hours, oldest first.

    The last ten minutes have not ended. Like the other statistics, these need no rows of jobs.
    """
    completed = read_figures(service.database).completed
    now = clock.utc_now()
    begun = now.replace(minute=now.minute // 10 * 10, second=0, microsecond=0)
    count = WINDOW // PERIOD
    times = [begun - PERIOD * ago for ago in reversed(range(count))]
    return [(time, completed[name_minutes(time)]) for time in times]


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
