"""The outbox: the events of jobs, written in the transaction of the change itself.

The table ``image_upload_events`` is the audit trail, too. Feed, waiting requests and webhooks read
what is written here; nothing else reports a change to the outside.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, func, insert, select

from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.database.tables import IS_DELETION
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.jobs import batch_store
from imageprocessor.queue.jobs.description import (
    PUBLIC_TYPES,
    Occurrence,
    describe_batch_event,
    describe_event,
    describe_outcomes,
    encode_event,
)
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.jobs.webhooks import Endpoint, insert_deliveries, list_endpoints

INSERT_EVENT = insert(events)
NO_ID = ""  #: of the job and image of an action
ENDINGS = (EventType.COMPLETED, EventType.FAILED, EventType.DELETED)  #: of a job


def announce(
    connection: Connection,
    event_type: EventType,
    job: Job,
    now: datetime,
    *,
    base_url: str,
    **recorded: Any,
) -> None:
    """Add an event of PUBLIC_TYPES, and its deliveries to the webhooks that want it.

    If it ends the last job of a batch, the batch is completed, too. *job* is as the event leaves
    it; *recorded*: see :func:`add_event`. *base_url*: see :func:`description.make_url`.
    """
    event_id = add_event(connection, event_type, job, now, **recorded)
    receivers = _list_receivers(connection, event_type, job.bucket, job.webhook)
    if receivers:
        occurrence = Occurrence(event_id, event_type, now)
        body = encode_event(describe_event(occurrence, job, base_url))
        insert_deliveries(
            connection, occurrence, receivers, body, image_id=job.image_id, job_id=job.job_id
        )
    if job.batch_id and event_type in ENDINGS:
        complete_batch(connection, job.batch_id, now)


def complete_batch(connection: Connection, batch_id: str, now: datetime) -> None:
    """Complete a batch, and announce it, if none of its jobs is open; do so only once."""
    batch = batch_store.complete_batch(connection, batch_id, now)
    if batch is None:
        return
    jobs = batch_store.list_jobs(connection, batch_id)
    outcomes = describe_outcomes(batch, jobs)
    event_type = EventType.BATCH_COMPLETED
    subject = {
        "image_id": batch_id,
        "job_id": batch_id,
        "user_id": batch.user_id,
        "bucket": batch.bucket,
    }
    event_id = _insert_event(connection, event_type, now, subject, outcomes)
    receivers = _list_receivers(connection, event_type, batch.bucket, batch.webhook)
    if receivers:
        occurrence = Occurrence(event_id, event_type, now)
        said = describe_batch_event(occurrence, batch_id, batch.bucket, outcomes)
        body = encode_event(said)
        insert_deliveries(
            connection, occurrence, receivers, body, image_id=batch_id, job_id=batch_id
        )


def _list_receivers(
    connection: Connection, event_type: EventType, bucket: str, webhook: str | None
) -> list[Endpoint]:
    """Return the endpoints that want an event of an upload that named the endpoint *webhook*."""
    public_type = PUBLIC_TYPES[event_type]
    return [
        endpoint
        for endpoint in list_endpoints(connection)
        if endpoint.receives(public_type, bucket, webhook)
    ]


def add_event(
    connection: Connection,
    event_type: EventType,
    job: Job,
    now: datetime,
    *,
    previous_status: JobStatus | None,
    duration_seconds: float | None = None,
    **details: Any,
) -> str:
    """Add an event to the audit trail, and return its id.

    *previous_status* is the job's status before the event, None for the first event.
    """
    subject = {
        "image_id": job.image_id,
        "job_id": job.job_id,
        "user_id": job.user_id,
        "bucket": job.bucket,
        "previous_status": previous_status,
        "duration_seconds": duration_seconds,
    }
    return _insert_event(connection, event_type, now, subject, details)


def add_action(
    connection: Connection, event_type: EventType, now: datetime, by: str | None, **details: Any
) -> None:
    """Add an action that concerns no job to the audit trail.

    *by*: the admin who took it, by their user id; None: an operator on the machine.
    """
    subject = {"image_id": NO_ID, "job_id": NO_ID}
    _insert_event(connection, event_type, now, subject, {"by": by, **details})


def _insert_event(
    connection: Connection,
    event_type: EventType,
    now: datetime,
    subject: dict[str, Any],
    details: dict[str, Any],
) -> str:
    """Add an event, and return its id; *subject* has the columns that say what it happened to."""
    event_id = make_id()
    row = {
        "id": event_id,
        "event_type": event_type,
        **subject,
        "metadata": json.dumps(details),
        "created_at": clock.to_text(now),
    }
    prepared.execute(connection, INSERT_EVENT, row)
    return event_id


def list_events(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return the audit trail of a job, oldest first. It outlives the job."""
    query = select(events).where(events.c.job_id == job_id).order_by(events.c.created_at)
    return _fetch(connection, query)


def list_actions(connection: Connection, limit: int, before: str | None) -> list[dict[str, Any]]:
    """Return the newest actions that concern no job, or those before a time, newest first."""
    created_at = events.c.created_at
    query = select(events).where(events.c.job_id == NO_ID)
    if before is not None:
        query = query.where(created_at < before)
    return _fetch(connection, query.order_by(created_at.desc()).limit(limit))


def _fetch(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    rows = connection.execute(query).mappings()
    return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


def list_public(
    connection: Connection, after: str, before: datetime, limit: int
) -> Sequence[RowMapping]:
    """Return *limit* events of PUBLIC_TYPES after a time, oldest first.

    Some more if they happened at the same moment as the last one.
    """
    created_at = events.c.created_at
    follows = and_(created_at > after, events.c.event_type.in_(PUBLIC_TYPES))
    first = select(created_at).where(follows, created_at < clock.to_text(before))
    first = first.order_by(created_at).limit(limit)
    last = select(func.max(first.subquery().c.created_at)).scalar_subquery()
    rows = connection.execute(select(events).where(follows, created_at <= last)).mappings()
    return sorted(rows, key=lambda row: str(row["created_at"]))


def has_event_since(connection: Connection, moment: datetime) -> bool:
    """Return whether any job or image has changed since *moment*."""
    query = select(events.c.id).where(events.c.created_at >= clock.to_text(moment))
    return connection.scalar(query.limit(1)) is not None


def find_deleted_job(connection: Connection, image_id: str) -> str | None:
    """Return the id of the job that made an image which is deleted now, or None."""
    query = select(events.c.job_id).where(IS_DELETION, events.c.image_id == image_id)
    return connection.scalar(query.limit(1))
