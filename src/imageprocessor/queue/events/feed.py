"""Reading the outbox in order: for pages, streams and waiting requests.

On SQLite, events are numbered in the order of their commits. On PostgreSQL, neither numbers nor the
ids of transactions are committed in order, so readers go by both and stop before the oldest
transaction in progress: no event can then appear before one that was read.

The events of one job need no such stop. Each is numbered while its transaction holds the job's row,
so their numbers are in the order of the commits on both databases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
)

from imageprocessor.errors import ExpiredCursorError, InvalidCursorError
from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.database.tables import maintenance
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.description import (
    PUBLIC_TYPES,
    Occurrence,
    describe_batch_event,
    describe_deleted,
    describe_event,
    encode_event,
)
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus

#: The row of ``maintenance`` with the position of the last event that was deleted because of its
#: age, among the public ones.
PRUNED_TASK = "pruned_events"
CURSOR = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")
MAX_NUMBER = 2**63 - 1
IDS_PER_QUERY = 500
MAX_EVENTS = 500  #: in a page
FINAL_TYPES = (EventType.COMPLETED, EventType.FAILED, EventType.DELETED)

_NAMES = ", ".join(f"'{event_type}'" for event_type in PUBLIC_TYPES)
IS_PUBLIC = text(f"event_type IN ({_NAMES})")
NEWEST_NUMBER = select(func.max(events.c.seq).label("newest"))
OLDEST_OPEN_TRANSACTION: ColumnElement[int] = literal_column(
    "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
)
NEXT_TRANSACTION = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")


class Position(NamedTuple):
    """The place of an event in the order of all events; as text, a cursor."""

    transaction_id: int  #: 0 on SQLite
    number: int

    def __str__(self) -> str:
        return f"{self.transaction_id}-{self.number}"

    @classmethod
    def parse(cls, cursor: str) -> Position:
        """Return the position that *cursor* names.

        Raises:
            InvalidCursorError: It is not a cursor.
        """
        match = CURSOR.fullmatch(cursor)
        numbers = [int(number) for number in match.groups()] if match else []
        if not numbers or max(numbers) > MAX_NUMBER:
            raise InvalidCursorError(
                f"{cursor[:40]!r} is not a cursor. Send the `next` of a page or the `id` of an "
                "event in a stream, unchanged; or none, to begin with the oldest event."
            )
        return cls(*numbers)


START = Position(0, 0)  #: before every event


@dataclass(frozen=True, slots=True)
class Event:
    """A public event, and the job that it happened to, unless that is deleted now."""

    position: Position
    occurrence: Occurrence
    user_id: str | None
    job_id: str  #: of an event of a batch: the id of the batch
    image_id: str
    bucket: str | None
    details: dict[str, Any]
    job: Job | None
    _encoded: dict[tuple[str, bool], str] = field(default_factory=dict, compare=False)

    @property
    def public_type(self) -> str:
        """The type, as clients see it."""
        return PUBLIC_TYPES[self.occurrence.event_type]

    @property
    def is_final(self) -> bool:
        """Whether the job ended with this event."""
        return self.occurrence.event_type in FINAL_TYPES

    def encode(self, base_url: str, *, shows_context: bool = True) -> str:
        """Return the event as JSON on one line; it is kept for the next call.

        *base_url*: see :func:`description.make_url`. Only owners and admins may read the context.
        """
        key = (base_url, shows_context)
        if key not in self._encoded:
            said = self._describe(base_url)
            if not shows_context:
                said.pop("context", None)
            self._encoded[key] = encode_event(said)
        return self._encoded[key]

    def _describe(self, base_url: str) -> dict[str, Any]:
        if self.occurrence.event_type is EventType.BATCH_COMPLETED:
            return describe_batch_event(self.occurrence, self.job_id, self.bucket, self.details)
        if self.job is None:
            return describe_deleted(self.occurrence, self.job_id, self.image_id, self.bucket)
        return describe_event(self.occurrence, self._restore(self.job), base_url)

    def _restore(self, job: Job) -> Job:
        """Return *job* as this event left it."""
        event_type, moment = self.occurrence.event_type, self.occurrence.created_at
        if event_type is EventType.UPLOAD_INITIATED:
            return replace(job, status=JobStatus.PENDING)
        is_retried = job.status is not JobStatus.FAILED or job.completed_at != moment
        if event_type is EventType.FAILED and is_retried:
            code = self.details.get("code")
            return replace(
                job, status=JobStatus.FAILED, error_code=code, error=None, completed_at=moment
            )
        return job


def read_page(
    database: Database,
    after: Position | None,
    limit: int,
    *,
    user_id: str | None = None,
    job_id: str | None = None,
) -> tuple[list[Event], Position]:
    """Return the events after a position (None: the oldest ones), and where to continue.

    Raises:
        ExpiredCursorError: See :func:`check_cursor`.
    """
    following = after or START
    with database.read() as connection:
        if after is not None:
            check_cursor(connection, after)
        if user_id is not None:
            following = advance(connection, following)
    found = fetch_events(database, after or START, limit, user_id=user_id, job_id=job_id)
    if len(found) == limit:
        following = found[-1].position
    elif found:
        following = max(following, found[-1].position)
    return found, following


def fetch_events(database: Database, after: Position, limit: int, **selected: Any) -> list[Event]:
    """Return the events that :func:`read_events` reads, once they are durable.

    Whoever shows events to the outside calls this, not `read_events`.
    """
    with database.read() as connection:
        found = read_events(connection, after, limit, **selected)
    if found:
        database.flush()  # no cursor may name an event that a power cut can undo
    return found


def read_events(
    connection: Connection,
    after: Position,
    limit: int,
    *,
    user_id: str | None = None,
    job_id: str | None = None,
) -> list[Event]:
    """Return the first *limit* public events after a position, of a user or a job if given."""
    if job_id is not None:
        query = select(events).where(events.c.job_id == job_id, events.c.seq > after.number)
        found = connection.execute(query.where(IS_PUBLIC)).mappings().all()
        rows = sorted(found, key=lambda row: row["seq"])[:limit]
    else:
        query = _select_after(connection, after)
        if user_id is not None:
            query = query.where(events.c.user_id == user_id)
        # A literal: given a parameter, PostgreSQL may plan for another limit.
        query = query.limit(literal_column(str(int(limit))))
        rows = list(connection.execute(query).mappings())
    return _add_jobs(connection, rows)


def find_newest(connection: Connection) -> Position:
    """Return a position after which every event to come will be read."""
    if connection.dialect.name == "sqlite":
        row = prepared.fetch_first(connection, NEWEST_NUMBER, {})
        return Position(0, (row and row["newest"]) or 0)
    return Position(connection.scalar(select(OLDEST_OPEN_TRANSACTION)) or 0, 0)


def advance(connection: Connection, after: Position) -> Position:
    """Return the position of the newest public event, or *after* if there is none after that.

    A reader that has no events of its own after this position may continue from there. Otherwise
    its cursor would expire with the events of others.
    """
    query = _select_after(connection, after).with_only_columns(
        func.coalesce(events.c.transaction_id, 0), events.c.seq
    )
    descending = [column.desc() for column in _order(connection)]
    query = query.order_by(None).order_by(*descending).limit(literal_column("1"))
    row = connection.execute(query).first()
    return Position(*row) if row else after


def check_cursor(connection: Connection, after: Position) -> None:
    """Raise ExpiredCursorError if events after *after* were deleted, or it is not from here."""
    pruned = read_pruned(connection)
    if connection.dialect.name == "sqlite":
        end = max(find_newest(connection), pruned)
    else:
        end = Position(connection.scalar(NEXT_TRANSACTION) or 0, 0)
    if after < pruned:
        raise ExpiredCursorError(
            f"Events after {after} are no longer kept. Begin again without a cursor."
        )
    if after > end:
        raise ExpiredCursorError(
            f"{after} is the cursor of another database. Begin again without a cursor."
        )


def read_pruned(connection: Connection) -> Position:
    """Return the position of the last public event that was deleted because of its age."""
    query = select(maintenance.c.position).where(maintenance.c.task == PRUNED_TASK)
    stored = connection.scalar(query)
    return Position.parse(stored) if stored else START


def read_open_jobs(database: Database, job_ids: Collection[str]) -> set[str]:
    """Return the ids of those of the jobs that have neither ended nor been deleted."""
    ids = list(job_ids)
    found: set[str] = set()
    with database.read() as connection:
        for start in range(0, len(ids), IDS_PER_QUERY):
            found |= job_store.list_open(connection, ids[start : start + IDS_PER_QUERY])
    return found


def measure_lag(connection: Connection) -> float:
    """Return for how many seconds a transaction in progress has held back the oldest event.

    0 if none is held back, and always on SQLite.
    """
    if connection.dialect.name == "sqlite":
        return 0.0
    query = select(events.c.created_at).where(events.c.transaction_id >= OLDEST_OPEN_TRANSACTION)
    oldest = connection.scalar(query.order_by(*_order(connection)).limit(literal_column("1")))
    if oldest is None:
        return 0.0
    age = clock.utc_now() - clock.from_text(oldest)
    return max(0.0, round(age.total_seconds(), 3))


def position_of(row: RowMapping) -> Position:
    """Return the position of an event, of which *row* has the columns."""
    return Position(row["transaction_id"] or 0, row["seq"] or 0)


def _select_after(connection: Connection, after: Position) -> Select[Any]:
    """Return the query for the public events after a position, in order."""
    query = select(events).where(IS_PUBLIC)
    if connection.dialect.name == "sqlite":
        query = query.where(events.c.transaction_id.is_(None), events.c.seq > after.number)
    else:
        position = tuple_(events.c.transaction_id, events.c.seq)
        follows = position > tuple_(literal(after.transaction_id), literal(after.number))
        query = query.where(follows, events.c.transaction_id < OLDEST_OPEN_TRANSACTION)
    return query.order_by(*_order(connection))


def _order(connection: Connection) -> Sequence[ColumnElement[Any]]:
    is_sqlite = connection.dialect.name == "sqlite"
    return [events.c.seq] if is_sqlite else [events.c.transaction_id, events.c.seq]


def _add_jobs(connection: Connection, rows: Sequence[RowMapping]) -> list[Event]:
    """Return the events in *rows* with their jobs.

    A query of its own reads the jobs: for a join, PostgreSQL may choose to read all jobs.
    """
    if not rows:
        return []
    job_ids = list({row["job_id"] for row in rows})
    jobs = {job.job_id: job for job in job_store.find_jobs(connection, job_ids)}
    return [_make_event(row, jobs.get(row["job_id"])) for row in rows]


def _make_event(row: RowMapping, job: Job | None) -> Event:
    event_type = EventType(row["event_type"])
    created_at = clock.from_text(row["created_at"])
    occurrence = Occurrence(row["id"], event_type, created_at)
    details = json.loads(row["metadata"])
    return Event(
        position=position_of(row),
        occurrence=occurrence,
        user_id=row["user_id"],
        job_id=row["job_id"],
        image_id=row["image_id"],
        bucket=row["bucket"],
        details=details,
        job=job,
    )
