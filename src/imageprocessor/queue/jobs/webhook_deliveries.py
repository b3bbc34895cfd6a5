"""SQL on deliveries: claiming what is due, recording how each try ended, deleting old ones.

A delivery is claimed and leased like a job. Its lease is ``lease_token``, and ``next_attempt_at``
is when the lease expires: so a delivery whose sender was killed becomes due by itself.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    update,
)

from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.tables import IS_SENT, IS_TO_SEND
from imageprocessor.queue.database.tables import webhook_deliveries as deliveries
from imageprocessor.queue.database.tables import webhook_endpoints as endpoints
from imageprocessor.queue.jobs.job_store import CLOCK_TOLERANCE
from imageprocessor.queue.jobs.webhook_schedule import LONGEST_WAIT
from imageprocessor.queue.jobs.webhooks import DeliveryStatus, Endpoint

DELETED_AT_ONCE = 1000  #: in one transaction, while SQLite's other writers wait

# Built once, and run by `prepared`: through SQLAlchemy a delivery takes twice the CPU time.
ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")
# A subquery with LIMIT reads one entry of an index. For EXISTS, PostgreSQL may read all that are
# due.
_FIRST_DUE = (
    select(deliveries.c.next_attempt_at)
    .where(IS_TO_SEND, deliveries.c.endpoint == endpoints.c.name)
    .order_by(deliveries.c.next_attempt_at)
    .limit(ONE)
    .offset(ZERO)
    .scalar_subquery()
)
LIST_ENABLED = select(endpoints, _FIRST_DUE.label("first_due"))
LIST_ENABLED = LIST_ENABLED.where(endpoints.c.disabled_at.is_(None))
FIND_DUE = select(deliveries).where(
    IS_TO_SEND,
    deliveries.c.endpoint == bindparam("endpoint"),
    deliveries.c.next_attempt_at <= bindparam("now"),
)
FIND_DUE = FIND_DUE.order_by(deliveries.c.next_attempt_at)
FIND_DUE = FIND_DUE.limit(bindparam("count", type_=Integer)).offset(ZERO)
FIND_DUE = FIND_DUE.with_for_update(skip_locked=True)
CLAIM = update(deliveries).where(deliveries.c.delivery_id == bindparam("found"))
CLAIM = CLAIM.values(attempt_count=deliveries.c.attempt_count + ONE)
END_LEASE = update(deliveries).where(
    deliveries.c.delivery_id == bindparam("held_delivery"),
    deliveries.c.lease_token == bindparam("held_lease"),
    IS_TO_SEND,
)
END_LEASE = END_LEASE.returning(deliveries.c.delivery_id)
CLEAR_FAILING = update(endpoints).where(
    endpoints.c.name == bindparam("endpoint"), endpoints.c.failing_since.is_not(None)
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery and its lease."""

    delivery_id: str
    endpoint: str
    event_id: str
    body: str
    attempts: int  #: with the one for which it is claimed
    attempted_at: datetime
    #: before it was claimed:
    due_at: datetime
    previous_attempt_at: datetime | None
    lease_token: str


def list_enabled(connection: Connection) -> list[tuple[Endpoint, datetime | None]]:
    """Return the endpoints that are not disabled, and when the first delivery to each is due."""
    found = []
    for row in prepared.fetch_all(connection, LIST_ENABLED, {}):
        first_due = row.pop("first_due")
        found.append((Endpoint.from_row(row), clock.from_text(first_due) if first_due else None))
    return found


def claim_due(
    connection: Connection, endpoint: str, limit: int, now: datetime, lease: timedelta
) -> list[Delivery]:
    """Claim the deliveries to *endpoint* that are due first, at most *limit*, and count the try.

    On PostgreSQL, those that another process is claiming are passed over.
    """
    due = {"endpoint": endpoint, "now": clock.to_text(now), "count": limit}
    rows = prepared.fetch_all(connection, FIND_DUE, due)
    lease_token = str(uuid.uuid4())
    values = {
        "lease_token": lease_token,
        "attempted_at": clock.to_text(now),
        "next_attempt_at": clock.to_text(now + lease),
    }
    for row in rows:
        prepared.execute(connection, CLAIM, {**values, "found": row["delivery_id"]})
    return [_make_claimed(row, lease_token, now) for row in rows]


def _make_claimed(row: Mapping[str, Any], token: str, now: datetime) -> Delivery:
    """Return a delivery that was claimed *now*; *row* is from before that."""
    due_at = clock.from_text(row["next_attempt_at"])
    previous = row["attempted_at"]
    previous_attempt_at = clock.from_text(previous) if previous else None
    return Delivery(
        delivery_id=row["delivery_id"],
        endpoint=row["endpoint"],
        event_id=row["event_id"],
        body=row["body"],
        attempts=row["attempt_count"] + 1,
        attempted_at=now,
        due_at=due_at,
        previous_attempt_at=previous_attempt_at,
        lease_token=token,
    )


def mark_delivered(
    connection: Connection, delivery: Delivery, status_code: int | None, now: datetime
) -> bool:
    """Record that the receiver accepted a delivery. Return False if its lease is no longer ours."""
    values = {
        "status": DeliveryStatus.DELIVERED,
        "next_attempt_at": None,
        "last_status_code": status_code,
        "last_error": None,
        "ended_at": clock.to_text(now),
    }
    return _end_lease(connection, delivery, values)


def mark_failed(
    connection: Connection,
    delivery: Delivery,
    failure: tuple[int | None, str | None],
    next_attempt_at: datetime | None,
    now: datetime,
) -> bool:
    """Record a failed try: its status code and error. Without *next_attempt_at* it was the last.

    Return False if the lease is no longer ours.
    """
    status_code, error = failure
    values = {
        "status": DeliveryStatus.WAITING if next_attempt_at else DeliveryStatus.FAILED,
        "next_attempt_at": clock.to_text(next_attempt_at) if next_attempt_at else None,
        "last_status_code": status_code,
        "last_error": error,
        "ended_at": None if next_attempt_at else clock.to_text(now),
    }
    return _end_lease(connection, delivery, values)


def _end_lease(connection: Connection, delivery: Delivery, values: Mapping[str, Any]) -> bool:
    held = {"held_delivery": delivery.delivery_id, "held_lease": delivery.lease_token}
    row = prepared.fetch_first(connection, END_LEASE, {**values, **held, "lease_token": None})
    return row is not None


def release(connection: Connection, delivery: Delivery) -> bool:
    """Make a claimed delivery due again as before; the try does not count.

    Return False if its lease is no longer ours.
    """
    values = {
        "attempt_count": delivery.attempts - 1,
        "next_attempt_at": clock.to_text(delivery.due_at),
    }
    return _end_lease(connection, delivery, values)


def begin_probe(connection: Connection, endpoint: Endpoint, until: datetime) -> bool:
    """Let only the caller try a failing endpoint before *until*.

    Return False if another process was faster, or the endpoint has been disabled or enabled.
    """
    statement = update(endpoints).where(
        endpoints.c.name == endpoint.name,
        endpoints.c.next_probe_at == _to_text(endpoint.next_probe_at),
        endpoints.c.disabled_at.is_(None),
    )
    result = connection.execute(statement.values(next_probe_at=clock.to_text(until)))
    return result.rowcount == 1


def set_failing(
    connection: Connection, endpoint: Endpoint, since: datetime, next_probe_at: datetime | None
) -> bool:
    """Record that every try of an endpoint has failed *since* a time.

    With *next_probe_at*, one delivery at a time is tried from then on. Return False if the
    endpoint has recovered, or begun to fail, after it was read.
    """
    statement = update(endpoints).where(
        endpoints.c.name == endpoint.name,
        endpoints.c.failing_since.is_not_distinct_from(_to_text(endpoint.failing_since)),
    )
    values = {"failing_since": clock.to_text(since), "next_probe_at": _to_text(next_probe_at)}
    return connection.execute(statement.values(values)).rowcount == 1


def clear_failing(connection: Connection, endpoint: str) -> None:
    """Record that an endpoint has accepted a delivery."""
    values = {"failing_since": None, "next_probe_at": None}
    prepared.execute(connection, CLEAR_FAILING, {**values, "endpoint": endpoint})


def list_misdated(connection: Connection, endpoint: str, now: datetime, limit: int) -> list[str]:
    """Return deliveries to *endpoint* that wait too long because the clock was set back.

    Their event lies in the future and was never sent, or their next try is further away than any
    pause. At most *limit* of each kind.
    """
    waiting = select(deliveries.c.delivery_id).where(IS_TO_SEND, deliveries.c.endpoint == endpoint)
    waiting = waiting.limit(limit)
    future = clock.to_text(now + CLOCK_TOLERANCE)
    unsent = waiting.where(
        deliveries.c.created_at > future,
        deliveries.c.next_attempt_at > future,
        deliveries.c.attempt_count == 0,
    )
    postponed = waiting.where(deliveries.c.next_attempt_at > clock.to_text(now + LONGEST_WAIT))
    return [*connection.scalars(unsent), *connection.scalars(postponed)]


def make_due(connection: Connection, delivery_ids: Collection[str], now: datetime) -> None:
    """Make waiting deliveries due at once."""
    statement = update(deliveries).where(deliveries.c.delivery_id.in_(delivery_ids), IS_TO_SEND)
    connection.execute(statement.values(next_attempt_at=clock.to_text(now)))


def drop_context(connection: Connection, image_id: str) -> None:
    """Remove what the client sent as ``metadata`` from the waiting deliveries of an image."""
    columns = (deliveries.c.delivery_id, deliveries.c.body)
    query = select(*columns).where(IS_TO_SEND, deliveries.c.image_id == image_id)
    rows = [(row.delivery_id, row.body) for row in connection.execute(query)]
    # Sorted, because a sender that locks rows in another order could block this, and be blocked.
    for delivery_id, body in sorted(rows):
        said = json.loads(body)
        if "context" in said:
            del said["context"]
            is_this = deliveries.c.delivery_id == delivery_id
            connection.execute(update(deliveries).where(is_this).values(body=json.dumps(said)))


def has_ended_before(connection: Connection, moment: datetime) -> bool:
    """Return whether any delivery succeeded, or failed for good, before *moment*."""
    has_ended = deliveries.c.ended_at < clock.to_text(moment)
    query = select(deliveries.c.delivery_id).where(IS_SENT, has_ended)
    query = query.order_by(deliveries.c.ended_at).limit(1)
    return connection.scalar(query) is not None


def delete_ended(connection: Connection, before: datetime) -> None:
    """Delete the first DELETED_AT_ONCE deliveries that ended before a time."""
    ended_at = deliveries.c.ended_at
    query = select(ended_at).where(IS_SENT, ended_at < clock.to_text(before))
    oldest = query.order_by(ended_at).limit(DELETED_AT_ONCE).subquery()
    last = select(func.max(oldest.c.ended_at)).scalar_subquery()
    connection.execute(delete(deliveries).where(IS_SENT, ended_at <= last))


def _to_text(moment: datetime | None) -> str | None:
    return clock.to_text(moment) if moment else None
