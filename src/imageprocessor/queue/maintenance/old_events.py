"""Deletes old events of the audit trail, if AUDIT_RETENTION_DAYS is set.

They are deleted, not dropped as partitions: during its share of the time, the sweep deletes five
times as many events as ten million images a day add, and their space is used again
(docs/capacity.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import Connection, RowMapping, delete, func, select, text

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.database.tables import job_statistics, maintenance
from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.description import PUBLIC_TYPES
from imageprocessor.queue.service import Service

TASK = "old_events"
EVENTS_PER_BATCH = 1000  #: deleted in one transaction, while SQLite's other writers wait
SECONDS_PER_SWEEP = 1.0
#: Events are committed in another order than that of their times, but not by so much.
STATISTICS_MARGIN = timedelta(hours=1)
SET_POSITION = text("""
    INSERT INTO maintenance (task, position) VALUES (:task, :position)
    ON CONFLICT (task) DO UPDATE SET position = excluded.position
""")


class Batch(NamedTuple):
    """The events after the time *after*, up to and including the time *last*."""

    after: str
    last: str


def find_old_events(service: Service) -> Iterator[Batch]:
    """Yield batches of events to delete, oldest first, for about SECONDS_PER_SWEEP.

    These are all events from before AUDIT_RETENTION_DAYS, the oldest open job, and what the
    statistics lack: so the events of an open job stay.
    """
    days = service.settings.audit_retention_days
    if days == 0:
        return
    until = time.monotonic() + SECONDS_PER_SWEEP
    with service.database.read() as connection:
        end = _find_end(connection, timedelta(days=days))
        position = _read_position(connection)
    while True:
        with service.database.read() as connection:
            last = _find_last(connection, position, end)
        if last is None:
            return
        yield Batch(position, last)
        if time.monotonic() >= until:
            return
        position = last


def delete_events(service: Service, batch: Batch) -> None:
    """Delete a batch, and remember its end.

    PostgreSQL keeps index entries of deleted rows until the next VACUUM. A search that began at the
    oldest ones would pass over all of them, and take half a second after two million.
    """
    created_at = events.c.created_at
    old = delete(events).where(created_at > batch.after, created_at <= batch.last)
    statement = old.returning(events.c.event_type, events.c.transaction_id, events.c.seq)
    with service.database.write() as connection:
        # First, because it locks the row: another process then waits here, see `_note_pruned`.
        connection.execute(SET_POSITION, {"task": TASK, "position": batch.last})
        deleted = connection.execute(statement).mappings().all()
        _note_pruned(connection, deleted)


def _note_pruned(connection: Connection, deleted: Sequence[RowMapping]) -> None:
    """Store the position up to which public events may be missing, for readers with a cursor.

    Events are deleted by time, and their positions may be in another order.
    """
    before = feed.read_pruned(connection)
    positions = [feed.position_of(row) for row in deleted if row["event_type"] in PUBLIC_TYPES]
    last = max([before, *positions])
    if last > before:
        connection.execute(SET_POSITION, {"task": feed.PRUNED_TASK, "position": str(last)})


def _find_end(connection: Connection, retention: timedelta) -> str:
    """Return the time before which events may be deleted."""
    ends = [clock.utc_now() - retention]
    if oldest_open := job_store.find_oldest_open(connection):
        ends.append(oldest_open)

    is_sqlite = connection.dialect.name == "sqlite"
    position = events.c.seq if is_sqlite else events.c.transaction_id
    newest_counted = select(job_statistics.c.position).scalar_subquery()
    uncounted = select(events.c.created_at).where(position > newest_counted)
    first_uncounted = connection.scalar(uncounted.order_by(position).limit(1))
    if first_uncounted:
        ends.append(clock.from_text(first_uncounted) - STATISTICS_MARGIN)
    return clock.to_text(min(ends))


def _read_position(connection: Connection) -> str:
    """Return the time up to which events have been deleted; "" at first."""
    query = select(maintenance.c.position).where(maintenance.c.task == TASK)
    return connection.scalar(query) or ""


def _find_last(connection: Connection, position: str, end: str) -> str | None:
    """Return the time of the last event of a batch after *position*, or None without events."""
    created_at = events.c.created_at
    query = select(created_at).where(created_at > position, created_at < end)
    rows = query.order_by(created_at).limit(EVENTS_PER_BATCH).subquery()
    last: str | None = connection.scalar(select(func.max(rows.c.created_at)))
    return last
