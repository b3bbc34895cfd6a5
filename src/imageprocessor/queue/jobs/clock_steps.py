"""Puts right what a clock that was set back leaves in the future.

Leases and retries that would end hours too late.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, or_, select, update

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import MAX_BACKOFF_SECONDS, Job, JobStatus

TOLERANCE = timedelta(minutes=1)  #: the clocks of several hosts may differ by as much
LONGEST_WAIT = timedelta(seconds=MAX_BACKOFF_SECONDS) + TOLERANCE


def list_misdated(connection: Connection, now: datetime) -> list[Job]:
    """Return the jobs whose attempt began after *now*.

    And those that wait longer than any backoff lasts.
    """
    held = and_(
        jobs.c.status == JobStatus.PROCESSING, jobs.c.started_at > clock.to_text(now + TOLERANCE)
    )
    waits = and_(
        jobs.c.status == JobStatus.RETRYING,
        jobs.c.next_attempt_at > clock.to_text(now + LONGEST_WAIT),
    )
    rows = connection.execute(select(jobs).where(or_(held, waits))).mappings()
    return [Job.from_row(dict(row)) for row in rows]


def redate(connection: Connection, job: Job, now: datetime) -> None:
    """Let the attempt of a misdated job begin *now*, its lease as long as it was.

    Let one that waits be due *now*.
    """
    mine = (
        jobs.c.lease_token == job.lease_token if job.lease_token else jobs.c.lease_token.is_(None)
    )
    statement = update(jobs).where(jobs.c.job_id == job.job_id, jobs.c.status == job.status, mine)
    if job.started_at and job.lease_expires_at:
        lease_expires_at = now + (job.lease_expires_at - job.started_at)
        values = {
            "started_at": clock.to_text(now),
            "lease_expires_at": clock.to_text(lease_expires_at),
        }
    else:
        values = {"next_attempt_at": clock.to_text(now)}
    connection.execute(statement.values(values))
