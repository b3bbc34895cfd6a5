"""Pausing the workers: uploads are accepted, running jobs end, and no other job begins.

A pause is a row of the table ``maintenance``, which every claim looks for (`tables.NOT_PAUSED`).
So it concerns the workers of all hosts and outlives each process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, delete, select, text

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import maintenance
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import EventType
from imageprocessor.queue.service import Service

PAUSE_TASK = "pause"  #: as in `tables.NOT_PAUSED`
IS_PAUSE = maintenance.c.task == PAUSE_TASK
INSERT_PAUSE = text("""
    INSERT INTO maintenance (task, position) VALUES (:task, :position)
    ON CONFLICT (task) DO NOTHING
    RETURNING task
""")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of the workers: since when, and the admin who paused them (None: an operator)."""

    since: datetime
    by: str | None

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"paused since {self.since:%Y-%m-%d %H:%M} UTC{by}"


def read_pause(service: Service) -> Pause | None:
    """Return the pause of the workers, or None if they are not paused."""
    with service.database.read() as connection:
        return find_pause(connection)


def find_pause(connection: Connection) -> Pause | None:
    """Return the pause of the workers, or None if they are not paused."""
    position = connection.scalar(select(maintenance.c.position).where(IS_PAUSE))
    return _parse(position) if position else None


def pause(service: Service, by: str | None) -> bool:
    """Let no worker claim a job until :func:`resume`; return False if they are paused already.

    *by*: see :func:`outbox.add_action`.
    """
    now = clock.utc_now()
    position = json.dumps({"since": clock.to_text(now), "by": by})
    with service.database.write() as connection:
        inserted = connection.scalar(INSERT_PAUSE, {"task": PAUSE_TASK, "position": position})
        if inserted is None:
            return False
        outbox.add_action(connection, EventType.PAUSED, now, by)
    log.warning("workers_paused", by=by)
    return True


def resume(service: Service, by: str | None) -> bool:
    """End the pause, and wake workers; return False if they are not paused.

    *by*: see :func:`outbox.add_action`.
    """
    now = clock.utc_now()
    with service.database.write() as connection:
        removed = delete(maintenance).where(IS_PAUSE).returning(maintenance.c.position)
        position = connection.scalar(removed)
        if position is None:
            return False
        seconds = (now - _parse(position).since).total_seconds()
        outbox.add_action(connection, EventType.RESUMED, now, by, paused_seconds=seconds)
    log.info("workers_resumed", by=by, paused_seconds=seconds)
    _wake_workers(service)
    return True


def _wake_workers(service: Service) -> None:
    """Wake workers for the jobs that are due first; the sweep does it for the others."""
    # Embedded workers need a single wake-up, Celery's need one for each job.
    count = max(1, service.dispatcher.count_redispatchable())
    with service.database.read() as connection:
        due = job_store.list_due(connection, clock.utc_now(), count)
    for job_id in due:
        service.dispatcher.dispatch(job_id)


def _parse(position: str) -> Pause:
    stored = json.loads(position)
    return Pause(clock.from_text(stored["since"]), stored["by"])
