"""SQL that finds jobs by their fields, at a cost that does not grow with the number of jobs.

No index has all the fields. So a search reads an index that is in the order of time, newest first,
and compares the fields of each job. Where not every job of the index is wanted, it reads at most
SEARCHED_JOBS entries. If it ends there, its caller may continue from the last entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    TextClause,
    func,
    literal_column,
    select,
)

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import lowest_id
from imageprocessor.queue.database.tables import HAS_FAILED, IS_OPEN, IS_VISIBLE, KEEPS_SOURCE
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import OPEN_STATUSES, Job, JobStatus
from imageprocessor.queue.jobs.job_store import escape
from imageprocessor.queue.jobs.place import Place

SEARCHED_JOBS = 5000
#: An upload gets its id just before the time of its creation.
ID_TOLERANCE = timedelta(seconds=1)
EARLIEST, LATEST = datetime(1971, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

Conditions = list[ColumnElement[bool] | TextClause]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """What jobs must have to be found; None: anything."""

    status: JobStatus | None = None
    user_id: str | None = None
    bucket: str | None = None
    error_code: str | None = None
    created_after: datetime | None = None  #: or at this time
    created_before: datetime | None = None

    @property
    def is_selective(self) -> bool:
        """Whether the index that is searched also has jobs that are not wanted.

        That of failed jobs has no others. Times narrow the range that is read.
        """
        has_own_index = self.status in {None, JobStatus.FAILED}
        return not has_own_index or any((self.user_id, self.bucket, self.error_code))


@dataclass(frozen=True, slots=True)
class Found:
    """The jobs that a search found, newest first."""

    jobs: list[Job]
    #: the last entry that was read; None: the search has not ended before the end of the index
    end: Place | None


def search(connection: Connection, wanted: JobFilter, limit: int, after: Place | None) -> Found:
    """Return the newest *limit* jobs that are *wanted*, or only those older than *after*."""
    if wanted.status in OPEN_STATUSES:
        return _search_index(connection, IS_OPEN, jobs.c.created_at, wanted, limit, after)
    if wanted.status is JobStatus.FAILED:
        return _search_index(connection, HAS_FAILED, jobs.c.created_at, wanted, limit, after)
    return _search_ids(connection, wanted, limit, after)


def search_kept(
    connection: Connection, wanted: JobFilter, limit: int, after: Place | None
) -> Found:
    """Return *limit* failed jobs that are *wanted* and keep their upload, the last failed first.

    Deleted ones are among them: with a condition on that, SQLite may use another index.
    """
    return _search_index(connection, KEEPS_SOURCE, jobs.c.completed_at, wanted, limit, after)


def _search_ids(
    connection: Connection, wanted: JobFilter, limit: int, after: Place | None
) -> Found:
    """Search in the order of the ids, which sort by the time when they were made."""
    job_id = jobs.c.job_id
    entries: Conditions = []
    if after:
        entries.append(job_id < after.row_id)
    if wanted.created_after:
        entries.append(job_id >= lowest_id(_clamp(wanted.created_after) - ID_TOLERANCE))
    if wanted.created_before:
        entries.append(job_id < lowest_id(_clamp(wanted.created_before) + ID_TOLERANCE))

    end = None
    if wanted.is_selective:
        last_id = _skip(select(job_id).where(*entries).order_by(job_id.desc())).scalar_subquery()
        find_last = select(jobs.c.created_at, job_id).where(job_id == last_id)
        last = connection.execute(find_last).first()
        end = Place(*last) if last else None
    if end:
        entries.append(job_id >= end.row_id)
    entries += [IS_VISIBLE, *_list_conditions(wanted)]
    query = select(jobs).where(*entries).order_by(job_id.desc())
    return Found(_fetch(connection, query.limit(limit)), end)


def _search_index(
    connection: Connection,
    condition: TextClause,
    moment: Column[Any],
    wanted: JobFilter,
    limit: int,
    after: Place | None,
) -> Found:
    """Search in the order of the index on *moment* of the jobs that meet *condition*."""
    entries: Conditions = [condition]
    is_selective = wanted.is_selective
    if moment is jobs.c.created_at:
        entries += _list_times(wanted)
    else:
        is_selective = True  # by the times, which this index does not have
    last_moment = None
    if is_selective:
        # Without the ids, the last entry is found in the index alone. Those of the same time as
        # *after* do not count.
        from_moment = [moment < after.moment] if after else []
        read = select(moment).where(*entries, *from_moment).order_by(moment.desc())
        last_moment = connection.scalar(_skip(read))
    end = None
    if last_moment:
        first_id = select(func.min(jobs.c.job_id)).where(condition, moment == last_moment)
        end = Place(last_moment, connection.scalar(first_id) or "")
        entries.append(moment >= last_moment)
    if after:
        entries.append(after.select_older(moment, jobs.c.job_id))
    query = select(jobs).where(*entries, *_list_conditions(wanted))
    query = query.order_by(moment.desc(), jobs.c.job_id.desc())
    return Found(_fetch(connection, query.limit(limit)), end)


def _skip(query: Select[Any]) -> Select[Any]:
    """Return the query for the last of the SEARCHED_JOBS entries that *query* reads first."""
    return query.limit(literal_column("1")).offset(literal_column(str(SEARCHED_JOBS - 1)))


def _list_conditions(wanted: JobFilter) -> Conditions:
    values = {
        jobs.c.status: wanted.status,
        jobs.c.user_id: wanted.user_id,
        jobs.c.storage_bucket: wanted.bucket,
        jobs.c.error_code: wanted.error_code,
    }
    conditions = _list_times(wanted)
    for column, value in values.items():
        if value is not None:
            conditions.append(column == escape(value))
    return conditions


def _list_times(wanted: JobFilter) -> Conditions:
    conditions: Conditions = []
    if wanted.created_after:
        conditions.append(jobs.c.created_at >= clock.to_text(_clamp(wanted.created_after)))
    if wanted.created_before:
        conditions.append(jobs.c.created_at < clock.to_text(_clamp(wanted.created_before)))
    return conditions


def _clamp(moment: datetime) -> datetime:
    """Return *moment*, or the nearest time that an id and a text in UTC can have."""
    return min(max(moment, EARLIEST), LATEST)


def _fetch(connection: Connection, query: Select[Any]) -> list[Job]:
    rows = connection.execute(query).mappings()
    return [Job.from_row(dict(row)) for row in rows]
