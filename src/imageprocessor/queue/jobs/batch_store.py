"""SQL on batches: uploads of several images at once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, text

from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.ids import lowest_id
from imageprocessor.queue.database.tables import IS_OPEN, batches
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.jobs.job_store import ONE, ZERO

FIND_REPEATED = select(batches).where(
    batches.c.user_id == bindparam("user_id"),
    batches.c.idempotency_key == bindparam("idempotency_key"),
)
# FOR UPDATE: on PostgreSQL, of two last jobs that end at the same moment, the second waits here
# until the first is committed, and then sees it.
LOCK_UNCOMPLETED = select(batches).where(
    batches.c.batch_id == bindparam("batch_id"), batches.c.completed_at.is_(None)
)
LOCK_UNCOMPLETED = LOCK_UNCOMPLETED.with_for_update()
FIND_OPEN = select(jobs.c.job_id).where(jobs.c.batch_id == bindparam("batch_id"), IS_OPEN)
FIND_OPEN = FIND_OPEN.limit(ONE).offset(ZERO)
COMPLETE = text("UPDATE batches SET completed_at = :completed_at WHERE batch_id = :batch_id")
LIST_JOBS = select(jobs).where(jobs.c.batch_id == bindparam("batch_id"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file of a batch: the ids of its job, or why it was refused."""

    filename: str | None  #: as the client sent it
    job_id: str | None = None
    image_id: str | None = None
    error_code: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One row of ``batches``."""

    batch_id: str
    user_id: str
    bucket: str
    outcomes: tuple[Outcome, ...]  #: of the files, in the order sent
    payload_sha256: str
    created_at: datetime
    webhook: str | None = None  #: the endpoint that the upload named
    idempotency_key: str | None = None
    completed_at: datetime | None = None  #: when all its jobs had ended, or were deleted

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Batch:
        """Return the batch in *row*."""
        fields: dict[str, Any] = {name: row[name] for name in cls.__slots__}
        outcomes = [Outcome(**outcome) for outcome in json.loads(row["outcomes"])]
        completed_at = row["completed_at"]
        fields["outcomes"] = tuple(outcomes)
        fields["created_at"] = clock.from_text(row["created_at"])
        fields["completed_at"] = clock.from_text(completed_at) if completed_at else None
        return cls(**fields)

    def to_row(self) -> dict[str, Any]:
        """Return the columns of this batch: the reverse of :meth:`from_row`."""
        row: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        row["outcomes"] = json.dumps([_describe(outcome) for outcome in self.outcomes])
        row["created_at"] = clock.to_text(self.created_at)
        row["completed_at"] = clock.to_text(self.completed_at) if self.completed_at else None
        return row


def insert_batch(connection: Connection, batch: Batch) -> None:
    """Store a new batch."""
    connection.execute(insert(batches), batch.to_row())


def find_repeated(connection: Connection, user_id: str, idempotency_key: str) -> Batch | None:
    """Return the user's earlier batch with that Idempotency-Key, or None."""
    key = {"user_id": user_id, "idempotency_key": idempotency_key}
    row = prepared.fetch_first(connection, FIND_REPEATED, key)
    return Batch.from_row(row) if row else None


def find_batch(connection: Connection, batch_id: str) -> tuple[Batch, list[Job]] | None:
    """Return a batch and those of its jobs whose images are not deleted, or None."""
    is_visible = and_(jobs.c.batch_id == batch_id, jobs.c.deleted_at.is_(None))
    columns = [column.label(f"job_{column.name}") for column in jobs.c]
    query = select(batches, *columns).join(jobs, is_visible, isouter=True)
    query = query.where(batches.c.batch_id == batch_id)
    rows = connection.execute(query).mappings().all()
    if not rows:
        return None
    found = [row for row in rows if row["job_job_id"] is not None]
    of_jobs = [{column.name: row[f"job_{column.name}"] for column in jobs.c} for row in found]
    return Batch.from_row(dict(rows[0])), [Job.from_row(row) for row in of_jobs]


def find_webhooks(connection: Connection, batch_ids: Collection[str]) -> dict[str, str | None]:
    """Return the endpoint that each of these batches named, by batch id."""
    query = select(batches.c.batch_id, batches.c.webhook)
    rows = connection.execute(query.where(batches.c.batch_id.in_(batch_ids)))
    return {row.batch_id: row.webhook for row in rows}


def complete_batch(connection: Connection, batch_id: str, now: datetime) -> Batch | None:
    """Mark a batch as completed if all its jobs have ended, or were deleted, and it is not yet.

    Return it as it was before, or None if it is not to be completed now.
    """
    key = {"batch_id": batch_id}
    row = prepared.fetch_first(connection, LOCK_UNCOMPLETED, key)
    if row is None or prepared.fetch_first(connection, FIND_OPEN, key):
        return None
    prepared.execute(connection, COMPLETE, {**key, "completed_at": clock.to_text(now)})
    return Batch.from_row(row)


def list_jobs(connection: Connection, batch_id: str) -> list[Job]:
    """Return the jobs of a batch, in any order, with those of deleted images that have a row."""
    rows = prepared.fetch_all(connection, LIST_JOBS, {"batch_id": batch_id})
    return [Job.from_row(row) for row in rows]


def list_old(connection: Connection, before: datetime, limit: int) -> list[str]:
    """Return the ids of the oldest batches that completed before *before*, at most *limit*.

    Ids sort by time, so this reads only the beginning of the table.
    """
    query = select(batches.c.batch_id).where(
        batches.c.batch_id < lowest_id(before),
        batches.c.completed_at < clock.to_text(before),
    )
    query = query.order_by(batches.c.batch_id).limit(limit)
    return list(connection.scalars(query))


def delete_batch(connection: Connection, batch_id: str) -> None:
    """Delete a batch. Its jobs and images stay."""
    connection.execute(delete(batches).where(batches.c.batch_id == batch_id))


def _describe(outcome: Outcome) -> dict[str, str | None]:
    """Return the fields of *outcome* that are set."""
    fields = {name: getattr(outcome, name) for name in outcome.__slots__}
    return {
        name: value for name, value in fields.items() if value is not None or name == "filename"
    }
