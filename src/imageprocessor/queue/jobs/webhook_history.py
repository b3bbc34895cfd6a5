"""SQL on the deliveries of one endpoint or job: to show, count, drop and repeat them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Select, and_, delete, func, select, tuple_, update

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import IS_SENT, IS_TO_SEND, IS_VISIBLE
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.database.tables import webhook_deliveries as deliveries
from imageprocessor.queue.jobs.place import Place
from imageprocessor.queue.jobs.webhooks import DeliveryStatus

MAX_COUNTED = 1000  #: waiting deliveries; PostgreSQL reads their entries in 0.5 ms
AFTER_ALL_TIMES = "a"
HIDDEN = {"body", "lease_token"}
SHOWN = [column for column in deliveries.c if column.name not in HIDDEN]
#: The only events of a deleted image that are sent again. Those of a batch have no image.
OUTLASTING = ("image.deleted", "batch.completed")


def list_of_job(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return the deliveries of a job's events, oldest first, without their bodies."""
    found = _fetch(connection, select(*SHOWN).where(deliveries.c.job_id == job_id))
    return sorted(found, key=lambda delivery: (delivery["created_at"], delivery["endpoint"]))


def list_waiting(connection: Connection, endpoint: str, limit: int) -> list[dict[str, Any]]:
    """Return the deliveries that wait for an endpoint, those due first first."""
    query = select(*SHOWN).where(IS_TO_SEND, deliveries.c.endpoint == endpoint)
    return _fetch(connection, query.order_by(deliveries.c.next_attempt_at).limit(limit))


def list_ended(connection: Connection, endpoint: str, limit: int) -> list[dict[str, Any]]:
    """Return the deliveries to an endpoint that ended last, newest first."""
    found = []
    for status in (DeliveryStatus.DELIVERED, DeliveryStatus.FAILED):
        found += _fetch(connection, _select_newest(SHOWN, endpoint, status).limit(limit))
    newest_first = sorted(found, key=lambda delivery: str(delivery["ended_at"]), reverse=True)
    return newest_first[:limit]


def list_with_status(
    connection: Connection, endpoint: str, status: DeliveryStatus, limit: int, after: Place | None
) -> list[dict[str, Any]]:
    """Return *limit* deliveries to an endpoint with a status, or those that follow *after*.

    Those that wait: those due first first. Others: newest first.

    The index does not have the ids. So the time of the last delivery is found first, and those up
    to it are sorted.
    """
    if status is DeliveryStatus.WAITING:
        return _list_due(connection, endpoint, limit, after)
    delivery_id, ended_at = deliveries.c.delivery_id, deliveries.c.ended_at
    times = _select_newest([ended_at], endpoint, status)
    query = _select_newest(SHOWN, endpoint, status).order_by(delivery_id.desc())
    if after:
        times = times.where(ended_at < after.moment)
        query = query.where(after.select_older(ended_at, delivery_id))
    last = connection.scalar(times.limit(1).offset(limit - 1))
    if last:
        query = query.where(ended_at >= last)
    return _fetch(connection, query.limit(limit))


def _list_due(
    connection: Connection, endpoint: str, limit: int, after: Place | None
) -> list[dict[str, Any]]:
    delivery_id, due_at = deliveries.c.delivery_id, deliveries.c.next_attempt_at
    waiting = select(*SHOWN).where(IS_TO_SEND, deliveries.c.endpoint == endpoint)
    times = waiting.with_only_columns(due_at).order_by(due_at)
    query = waiting.order_by(due_at, delivery_id)
    if after:
        times = times.where(due_at > after.moment)
        query = query.where(after.select_newer(due_at, delivery_id))
    last = connection.scalar(times.limit(1).offset(limit - 1))
    if last:
        query = query.where(due_at <= last)
    return _fetch(connection, query.limit(limit))


def place_of(delivery: Mapping[str, Any]) -> Place:
    """Return the place of a delivery in :func:`list_with_status`."""
    moment = delivery["ended_at"] or delivery["next_attempt_at"]
    return Place(moment, delivery["delivery_id"])


def find_delivery(connection: Connection, delivery_id: str) -> dict[str, Any] | None:
    """Return a delivery, with its body, or None if there is none with this id."""
    query = select(*SHOWN, deliveries.c.body).where(deliveries.c.delivery_id == delivery_id)
    found = _fetch(connection, query)
    return found[0] if found else None


def count_waiting(connection: Connection, endpoint: str | None = None) -> int:
    """Return how many deliveries wait, of one endpoint or of all; at most MAX_COUNTED."""
    query = select(deliveries.c.endpoint).where(IS_TO_SEND)
    if endpoint is not None:
        query = query.where(deliveries.c.endpoint == endpoint)
    # In the order of an index: otherwise PostgreSQL may read the table, where few may wait.
    query = query.order_by(deliveries.c.endpoint, deliveries.c.next_attempt_at)
    some = query.limit(MAX_COUNTED).subquery()
    return connection.scalar(select(func.count()).select_from(some)) or 0


def find_oldest_waiting(connection: Connection, endpoint: str) -> datetime | None:
    """Return when the oldest event that waits for an endpoint happened, or None."""
    query = select(func.min(deliveries.c.created_at))
    created_at = connection.scalar(query.where(IS_TO_SEND, deliveries.c.endpoint == endpoint))
    return clock.from_text(created_at) if created_at else None


def find_last_success(connection: Connection, endpoint: str) -> datetime | None:
    """Return when an endpoint last accepted a delivery, or None."""
    query = _select_newest([deliveries.c.ended_at], endpoint, DeliveryStatus.DELIVERED)
    ended_at = connection.scalar(query.limit(1))
    return clock.from_text(ended_at) if ended_at else None


def drop_waiting(connection: Connection, endpoint: str, limit: int) -> int:
    """Delete up to *limit* deliveries that wait for an endpoint; return how many."""
    of_endpoint = select(deliveries.c.delivery_id).where(
        IS_TO_SEND, deliveries.c.endpoint == endpoint
    )
    # In the order of an index, or PostgreSQL reads the table until it has found so many.
    first = of_endpoint.order_by(deliveries.c.next_attempt_at).limit(limit)
    statement = delete(deliveries).where(deliveries.c.delivery_id.in_(first))
    return connection.execute(statement).rowcount


def list_repeatable(
    connection: Connection,
    endpoint: str,
    status: DeliveryStatus,
    after: str,
    before: datetime,
    limit: int,
) -> Sequence[Any]:
    """Return *limit* deliveries that ended with *status* after a time, oldest first.

    Rows of ``delivery_id``, ``ended_at``, ``event_type`` and ``image_id``; some more if they ended
    at the same moment as the last one.
    """
    ended_at = deliveries.c.ended_at
    follows = and_(_has_ended(endpoint, status), ended_at > after)
    first = select(ended_at).where(follows, ended_at < clock.to_text(before)).order_by(ended_at)
    last = select(func.max(first.limit(limit).subquery().c.ended_at)).scalar_subquery()
    columns = (deliveries.c.delivery_id, ended_at, deliveries.c.event_type, deliveries.c.image_id)
    rows = connection.execute(select(*columns).where(follows, ended_at <= last))
    return sorted(rows, key=lambda row: str(row.ended_at))


def list_deleted_images(connection: Connection, image_ids: Collection[str]) -> set[str]:
    """Return which images do not exist any more."""
    query = select(jobs.c.image_id).where(jobs.c.image_id.in_(image_ids), IS_VISIBLE)
    return set(image_ids) - set(connection.scalars(query))


def repeat(connection: Connection, delivery_ids: Collection[str], now: datetime) -> int:
    """Make ended deliveries due at once, with their full number of tries; return how many."""
    values = {
        "status": DeliveryStatus.WAITING,
        "attempt_count": 0,
        "next_attempt_at": clock.to_text(now),
        "lease_token": None,
        "ended_at": None,
    }
    statement = update(deliveries).where(deliveries.c.delivery_id.in_(delivery_ids), IS_SENT)
    return connection.execute(statement.values(values)).rowcount


def list_events_sent(connection: Connection, endpoint: str, job_ids: Collection[str]) -> set[str]:
    """Return the ids of those jobs' events that have a delivery to an endpoint."""
    query = select(deliveries.c.event_id).where(
        deliveries.c.job_id.in_(job_ids), deliveries.c.endpoint == endpoint
    )
    return set(connection.scalars(query))


def _select_newest(
    columns: Sequence[Column[Any]], endpoint: str, status: DeliveryStatus
) -> Select[Any]:
    """Return a query on the deliveries to an endpoint that ended with *status*, newest first.

    It compares and sorts by a whole index. With `endpoint = …`, PostgreSQL may read an index on
    `ended_at` instead, and with it all deliveries to other endpoints.
    """
    indexed = (deliveries.c.endpoint, deliveries.c.status, deliveries.c.ended_at)
    first, last = (tuple_(endpoint, status.value, moment) for moment in ("", AFTER_ALL_TIMES))
    query = select(*columns).where(IS_SENT, tuple_(*indexed) > first, tuple_(*indexed) < last)
    return query.order_by(*(column.desc() for column in indexed))


def _has_ended(endpoint: str, status: DeliveryStatus) -> Any:
    of_endpoint = and_(deliveries.c.endpoint == endpoint, deliveries.c.status == status)
    return and_(IS_SENT, of_endpoint)


def _fetch(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]
