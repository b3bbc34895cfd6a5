"""Sending past events to a webhook endpoint again, or for the first time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy import Connection, RowMapping

from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import batch_store, job_store, outbox, webhook_history, webhooks
from imageprocessor.queue.jobs.description import (
    PUBLIC_TYPES,
    Occurrence,
    describe_batch_event,
    describe_event,
    encode_event,
)
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.jobs.webhooks import DeliveryStatus, Endpoint
from imageprocessor.queue.service import Service
from imageprocessor.queue.webhooks import Report, read_endpoint

ROWS_PER_BATCH = 200  #: in one transaction of some 50 ms, while SQLite's other writers wait

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many deliveries a replay put into the queue."""

    repeated: int  #: had ended
    added: int  #: of events that had none


def replay(
    service: Service,
    name: str,
    since: datetime,
    report: Report,
    *,
    failed_only: bool = False,
    by: str | None = None,
) -> Replayed:
    """Send to an endpoint again what ended since a time, under the ids of its events.

    Unless *failed_only*, also send the events since then that it receives but never got, such as
    those from before it was added. Left out are events of images deleted since, except the deletion
    itself, and failures that were retried since.

    A replay that was interrupted may be repeated: what waits already is not added again. *by*: see
    :func:`outbox.add_action`.

    Raises:
        UnknownWebhookError: There is no such endpoint.
    """
    endpoint = read_endpoint(service, name)
    before = clock.utc_now()  # what is sent meanwhile is not repeated
    statuses = [DeliveryStatus.FAILED]
    if not failed_only:
        statuses.append(DeliveryStatus.DELIVERED)
    repeated, added = 0, 0
    for status in statuses:
        for count in _repeat_ended(service, endpoint, status, since, before):
            repeated += count
            report("deliveries repeated", repeated)
    if not failed_only:
        for count in _add_missing(service, endpoint, since, before):
            added += count
            report("deliveries added", added)
    with service.database.write() as connection:
        outbox.add_action(
            connection,
            EventType.WEBHOOK_REPLAYED,
            clock.utc_now(),
            by,
            endpoint=name,
            since=clock.to_text(since),
            failed_only=failed_only,
            repeated=repeated,
            added=added,
        )
    log.info("webhook_replayed", endpoint=name, repeated=repeated, added=added)
    return Replayed(repeated, added)


def _repeat_ended(
    service: Service,
    endpoint: Endpoint,
    status: DeliveryStatus,
    since: datetime,
    before: datetime,
) -> Iterator[int]:
    """Repeat the deliveries that ended with *status*; yield how many a batch had."""
    after = clock.to_text(since)
    while True:
        with service.database.write() as connection:
            rows = webhook_history.list_repeatable(
                connection, endpoint.name, status, after, before, ROWS_PER_BATCH
            )
            images = {row.image_id for row in rows}
            deleted = webhook_history.list_deleted_images(connection, images)
            ids = [
                row.delivery_id
                for row in rows
                if row.image_id not in deleted or row.event_type in webhook_history.OUTLASTING
            ]
            count = webhook_history.repeat(connection, ids, clock.utc_now())
        yield count
        if len(rows) < ROWS_PER_BATCH:
            return
        after = rows[-1].ended_at


def _add_missing(
    service: Service, endpoint: Endpoint, since: datetime, before: datetime
) -> Iterator[int]:
    """Add deliveries of events that have none; yield how many a batch had."""
    after = clock.to_text(since)
    while True:
        with service.database.write() as connection:
            # A second replay must not add the same ones at the same time.
            if webhooks.lock_endpoint(connection, endpoint.name) is None:
                return
            events = outbox.list_public(connection, after, before, ROWS_PER_BATCH)
            count = _add_deliveries(service, connection, endpoint, events)
        yield count
        if len(events) < ROWS_PER_BATCH:
            return
        after = events[-1]["created_at"]


def _add_deliveries(
    service: Service, connection: Connection, endpoint: Endpoint, events: Sequence[RowMapping]
) -> int:
    subject_ids = {event["job_id"] for event in events}  # jobs and batches
    sent = webhook_history.list_events_sent(connection, endpoint.name, subject_ids)
    image_ids = list({event["image_id"] for event in events})
    jobs = {job.job_id: job for job in job_store.find_images(connection, image_ids)}
    named_by_batch = batch_store.find_webhooks(connection, subject_ids)
    count = 0
    for event in events:
        if event["id"] in sent:
            continue
        subject_id, bucket = event["job_id"], event["bucket"]
        created_at = clock.from_text(event["created_at"])
        occurrence = Occurrence(event["id"], EventType(event["event_type"]), created_at)
        if occurrence.event_type is EventType.BATCH_COMPLETED:
            webhook = named_by_batch.get(subject_id)
            outcomes = json.loads(event["metadata"])
            said = describe_batch_event(occurrence, subject_id, bucket, outcomes)
        else:
            job = _restore_job(event, jobs.get(subject_id))
            if job is None:
                continue
            webhook, bucket = job.webhook, job.bucket
            said = describe_event(occurrence, job, service.settings.public_base_url)
        if not endpoint.receives(PUBLIC_TYPES[occurrence.event_type], bucket, webhook):
            continue
        webhooks.insert_deliveries(
            connection,
            occurrence,
            [endpoint],
            encode_event(said),
            image_id=event["image_id"],
            job_id=subject_id,
        )
        count += 1
    return count


def _restore_job(event: RowMapping, job: Job | None) -> Job | None:
    """Return the job as *event* left it, or None if that is not known any more."""
    event_type = event["event_type"]
    if event_type == EventType.DELETED and event["bucket"]:
        return Job(
            job_id=event["job_id"],
            image_id=event["image_id"],
            user_id=event["user_id"],
            status=JobStatus(event["previous_status"]),
            bucket=event["bucket"],
            context={},
            source_sha256="",
            created_at=clock.from_text(event["created_at"]),
            max_retries=0,
        )
    if job is None:
        return None
    if event_type == EventType.UPLOAD_INITIATED:
        return replace(job, status=JobStatus.PENDING)
    # A failed job may have been retried since.
    is_last = job.completed_at == clock.from_text(event["created_at"])
    return job if is_last and job.status == event_type else None
