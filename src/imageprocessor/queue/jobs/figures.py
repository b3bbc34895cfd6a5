"""Figures about jobs, which no request has to count: a stored snapshot, and the events since.

Each event moves one job from one status to another. The current figures are therefore those of the
snapshot, changed by the events after its position.

A position is the number of an event on SQLite. On PostgreSQL, where numbers are not committed in
order, it is the id of a transaction; the snapshot includes all transactions up to it. None of them
is in progress, so none can add an event later. Events without a transaction's id, from before
migration 0004 or imported, are before every position.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, delete, func, select, text

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.database.tables import job_statistics
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import EventType, JobStatus

WINDOW = timedelta(hours=24)
MAX_UNSTORED = 2000  #: events that a request reads, in about 4 ms
#: Ten minutes are named by the beginning of their times, such as 2024-11-08T14:0.
TEN_MINUTES = len("2024-11-08T14:0")

STATUS_AFTER: dict[str, JobStatus | None] = {
    EventType.UPLOAD_INITIATED: JobStatus.PENDING,
    EventType.PROCESSING_STARTED: JobStatus.PROCESSING,
    EventType.COMPLETED: JobStatus.COMPLETED,
    EventType.FAILED: JobStatus.FAILED,
    EventType.RETRYING: JobStatus.RETRYING,
    EventType.RELEASED: JobStatus.PENDING,
    EventType.RETRY_REQUESTED: JobStatus.PENDING,
    EventType.DELETED: None,
}
#: Assumed of events that lack it: those of code from before migration 0004, which runs beside
#: this one during an upgrade. It may have claimed a retry, or deleted a job that had not completed;
#: then the figures are off by one until `imageprocessor fsck --repair` counts the jobs.
STATUS_BEFORE: dict[str, JobStatus | None] = {
    EventType.UPLOAD_INITIATED: None,
    EventType.PROCESSING_STARTED: JobStatus.PENDING,
    EventType.COMPLETED: JobStatus.PROCESSING,
    EventType.FAILED: JobStatus.PROCESSING,
    EventType.RETRYING: JobStatus.PROCESSING,
    EventType.RELEASED: JobStatus.PROCESSING,
    EventType.RETRY_REQUESTED: JobStatus.FAILED,
    EventType.DELETED: JobStatus.COMPLETED,
}

NEWEST_TRANSACTION = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1")
FORGET_FOREIGN_TRANSACTIONS = text("""
    UPDATE image_upload_events SET transaction_id = NULL
    WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
""")
STORE = text("""
    INSERT INTO job_statistics (id, position, figures) VALUES (1, :position, :figures)
    ON CONFLICT (id) DO UPDATE SET position = excluded.position, figures = excluded.figures
""")


class Change(NamedTuple):
    """What events of one kind change."""

    event_type: str
    previous_status: str | None
    minutes: str  #: ten minutes; see TEN_MINUTES
    jobs: int
    timed: int  #: of these, whose duration is known
    seconds: float | None  #: the sum of these durations


@dataclass(slots=True)
class Figures:
    """How many jobs are in each status, and by ten minutes, how many have completed."""

    jobs: Counter[str] = field(default_factory=Counter)  #: without deleted ones
    completed: Counter[str] = field(default_factory=Counter)  #: with those deleted since
    timed: Counter[str] = field(default_factory=Counter)  #: of these, whose duration is known
    seconds: dict[str, float] = field(default_factory=dict)  #: the sum of these durations

    @classmethod
    def from_json(cls, stored: str) -> Figures:
        """Return the figures that :meth:`to_json` wrote."""
        fields = json.loads(stored)
        return cls(
            Counter(fields["jobs"]),
            Counter(fields["completed"]),
            Counter(fields["timed"]),
            fields["seconds"],
        )

    def to_json(self) -> str:
        """Return the figures as JSON."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    def add_completed(self, minutes: str, count: int, timed: int, seconds: float) -> None:
        """Add jobs that completed in those ten *minutes*."""
        self.completed[minutes] += count
        self.timed[minutes] += timed
        self.seconds[minutes] = self.seconds.get(minutes, 0.0) + seconds

    def apply(self, changes: Iterable[Change], sign: int = 1) -> None:
        """Move jobs to the status after their events; with *sign* -1, move them back."""
        for change in changes:
            if change.event_type not in STATUS_AFTER:  # from a newer version
                continue
            before = change.previous_status or STATUS_BEFORE[change.event_type]
            after = STATUS_AFTER[change.event_type]
            if before:
                self.jobs[before] -= sign * change.jobs
            if after:
                self.jobs[after] += sign * change.jobs
            if after is JobStatus.COMPLETED:
                seconds = change.seconds or 0.0
                self.add_completed(
                    change.minutes, sign * change.jobs, sign * change.timed, sign * seconds
                )

    def forget_before(self, since: datetime) -> None:
        """Forget the jobs that completed before the ten minutes of *since*."""
        first = name_minutes(since)
        for minutes in [minutes for minutes in self.completed if minutes < first]:
            del self.completed[minutes], self.timed[minutes], self.seconds[minutes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The figures up to a position."""

    position: int
    figures: Figures


def name_minutes(moment: datetime) -> str:
    """Return the name of the ten minutes that *moment* is in."""
    return clock.to_text(moment)[:TEN_MINUTES]


def read_figures(database: Database) -> Figures:
    """Return the current figures: the snapshot, and the events since.

    If these are many, because no worker runs to store a snapshot, this stores one first. If even
    then there are more than MAX_UNSTORED, because of a long transaction in PostgreSQL, the figures
    lack the newest ones.
    """
    current = _read_current(database)
    if current is None:
        store_snapshot(database)
        current = _read_current(database, may_lack_events=True)
        assert current
    current.forget_before(clock.utc_now() - WINDOW)
    return current


def _read_current(database: Database, *, may_lack_events: bool = False) -> Figures | None:
    with database.read() as connection:
        snapshot = _read_snapshot(connection)
        if snapshot is None:
            return None
        changes = _list_changes(connection, snapshot.position, limit=MAX_UNSTORED)
    if sum(change.jobs for change in changes) == MAX_UNSTORED and not may_lack_events:
        return None
    snapshot.figures.apply(changes)
    return snapshot.figures


def store_snapshot(database: Database) -> None:
    """Store the current figures, unless nothing changed; without a snapshot, count the jobs.

    May be called by several processes at once: each stores a position with its figures.
    """
    with database.read_consistently() as connection:
        newest = _find_newest_position(connection)
        snapshot = _read_snapshot(connection)
        if snapshot is None:
            figures = _count(connection, newest)
        else:
            figures = snapshot.figures
            changes = _list_changes(connection, snapshot.position, up_to=newest)
            if not changes:
                return
            figures.apply(changes)
    _store(database, Snapshot(newest, figures))


def ensure_snapshot(database: Database) -> None:
    """Count the jobs if there is no snapshot, as after a migration, so that no request has to.

    Do so, too, if a PostgreSQL database was restored on a server whose transactions have lower ids.
    Its events lose their transactions' ids: new ones would seem older.
    """
    with database.read() as connection:
        snapshot = _read_snapshot(connection)
        is_server = connection.dialect.name != "sqlite"
        moved = snapshot and is_server and _find_newest_position(connection) < snapshot.position
    if moved:
        with database.write() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(FORGET_FOREIGN_TRANSACTIONS)
            forget_snapshot(connection)
    if moved or snapshot is None:
        store_snapshot(database)


def forget_snapshot(connection: Connection) -> None:
    """Delete the snapshot, so that the jobs are counted; for rows added without events."""
    connection.execute(delete(job_statistics))


def find_error(database: Database, *, repair: bool = False) -> str | None:
    """Return how the figures differ from the jobs in the tables, or None.

    *repair*: count the jobs again.
    """
    with database.read_consistently() as connection:
        newest = _find_newest_position(connection)
        counted = _count(connection, newest)
        snapshot = _read_snapshot(connection)
        if snapshot is None:
            return None
        found = snapshot.figures
        found.apply(_list_changes(connection, snapshot.position, up_to=newest))
    wrong = [status for status in JobStatus if found.jobs[status] != counted.jobs[status]]
    if not wrong:
        return None
    if repair:
        _store(database, Snapshot(newest, counted))
    differences = [f"{name} {found.jobs[name]}, not {counted.jobs[name]}" for name in wrong]
    return "; ".join(differences)


def _count(connection: Connection, newest: int) -> Figures:
    """Return the figures up to *newest*, counted in the tables."""
    figures = Figures(Counter(job_store.count_by_status(connection)))
    since = name_minutes(clock.utc_now() - WINDOW)
    minutes = func.substr(events.c.created_at, 1, TEN_MINUTES)
    duration = events.c.duration_seconds
    query = select(minutes, func.count(), func.count(duration), func.sum(duration)).where(
        events.c.event_type == EventType.COMPLETED, events.c.created_at >= since
    )
    for name, count, timed, seconds in connection.execute(query.group_by(minutes)):
        figures.add_completed(name, count, timed, seconds or 0.0)
    # Other transactions, which began after one still in progress, may have been counted.
    figures.apply(_list_changes(connection, newest), sign=-1)
    return figures


def _list_changes(
    connection: Connection, after: int, *, up_to: int | None = None, limit: int | None = None
) -> list[Change]:
    """Return what the events after a position change."""
    position = _position_column(connection)
    minutes = func.substr(events.c.created_at, 1, TEN_MINUTES).label("minutes")
    columns = (events.c.event_type, events.c.previous_status, minutes, events.c.duration_seconds)
    found = select(*columns).where(position > after)
    if up_to is not None:
        found = found.where(position <= up_to)
    if limit is not None:
        found = found.order_by(position).limit(limit)
    rows = found.subquery().c
    keys = (rows.event_type, rows.previous_status, rows.minutes)
    duration = rows.duration_seconds
    query = select(*keys, func.count(), func.count(duration), func.sum(duration)).group_by(*keys)
    return [Change(*row) for row in connection.execute(query)]


def _position_column(connection: Connection) -> Column[Any]:
    return events.c.seq if connection.dialect.name == "sqlite" else events.c.transaction_id


def _find_newest_position(connection: Connection) -> int:
    """Return the newest position that no transaction in progress can precede."""
    is_sqlite = connection.dialect.name == "sqlite"
    query = select(func.max(events.c.seq)) if is_sqlite else NEWEST_TRANSACTION
    return connection.scalar(query) or 0


def _read_snapshot(connection: Connection) -> Snapshot | None:
    row = connection.execute(select(job_statistics.c.position, job_statistics.c.figures)).first()
    if row is None:
        return None
    return Snapshot(row.position, Figures.from_json(row.figures))


def _store(database: Database, snapshot: Snapshot) -> None:
    snapshot.figures.forget_before(clock.utc_now() - WINDOW)
    values = {"position": snapshot.position, "figures": snapshot.figures.to_json()}
    with database.write() as connection:
        connection.execute(STORE, values)
