"""What the rows say is stored: whose a key is, and what must be there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, func, or_, select

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import Job, JobStatus

ROWS_A_QUERY = 500

READABLE = (
    jobs.c.status == JobStatus.COMPLETED,
    jobs.c.deleted_at.is_(None),
)  #: their variants must be there
UPLOAD_KEPT = (
    jobs.c.staging_path.is_not(None),
    jobs.c.deleted_at.is_(None),
)  #: their upload must be there
#: Not so of a job that gave up: nothing will make, read or remove variants of its image any more.
MAY_HAVE_VARIANTS = or_(jobs.c.status != JobStatus.FAILED, jobs.c.staging_path.is_not(None))
FIND_MET = (
    select(events.c.image_id)
    .where(events.c.image_id.in_(bindparam("image_ids", expanding=True)))
    .distinct()
)
FIND_STAGED = select(jobs.c.staging_path).where(
    jobs.c.staging_path.in_(bindparam("keys", expanding=True))
)
FIND_OWNERS = select(jobs.c.image_id, jobs.c.status, jobs.c.processed_paths).where(
    jobs.c.image_id.in_(bindparam("image_ids", expanding=True)), MAY_HAVE_VARIANTS
)


def list_storage_keys(connection: Connection) -> list[str]:
    """Return the keys of every variant that can be read."""
    query = select(jobs.c.processed_paths).where(*READABLE)
    return [key for paths in connection.scalars(query) for key in json.loads(paths).values()]


def list_staged(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those *keys* of uploads that a job waits for, or keeps."""
    return set(connection.scalars(FIND_STAGED, {"keys": keys}))


def list_owned(connection: Connection, owners: Mapping[str, str]) -> set[str]:
    """Return those keys of variants, each given with its image's id, that a row still answers for.

    A completed image owns the variants that it names. One that is not yet, or may be tried again,
    owns all that are named after it. One that gave up owns none: a crash kept it from removing what
    its attempts had stored.
    """
    found = connection.execute(FIND_OWNERS, {"image_ids": list(owners.values())}).mappings()
    rows = {row["image_id"]: row for row in found}
    return {
        key for key, image_id in owners.items() if image_id in rows and _owns(rows[image_id], key)
    }


def list_met(connection: Connection, image_ids: Iterable[str]) -> set[str]:
    """Return those images that this database has ever had: the audit trail outlives their rows."""
    return set(connection.scalars(FIND_MET, {"image_ids": list(image_ids)}))


def find_beginning(connection: Connection) -> datetime | None:
    """Return when this database took its first upload."""
    first = connection.scalar(select(func.min(events.c.created_at)))
    return clock.from_text(first) if first else None


def iterate_jobs(database: Database, *conditions: ColumnElement[bool]) -> Iterator[Job]:
    """Yield the jobs that meet the *conditions*, some hundred at a time, however many there are."""
    after = jobs.c.job_id > bindparam("last_id")
    query = select(jobs).where(*conditions, after).order_by(jobs.c.job_id).limit(ROWS_A_QUERY)
    found: list[Any] = [{"job_id": ""}]
    while found:
        last_id = found[-1]["job_id"]
        with database.read() as connection:
            found = list(connection.execute(query, {"last_id": last_id}).mappings())
        yield from map(Job.from_row, found)


def _owns(row: RowMapping, key: str) -> bool:
    return (
        row["status"] != JobStatus.COMPLETED or key in json.loads(row["processed_paths"]).values()
    )
