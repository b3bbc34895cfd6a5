"""Finding jobs by their fields, a page at a time, and retrying all failed ones that are found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import structlog

from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store, outbox, search
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.jobs.place import Place
from imageprocessor.queue.jobs.search import JobFilter
from imageprocessor.queue.service import Service

__all__ = ["BulkRetry", "JobFilter", "JobPage", "list_pages", "retry_matching", "search_jobs"]

JOBS_PER_PAGE = 500
JOBS_PER_TRANSACTION = 200  #: retried while SQLite's other writers wait

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of the jobs that were searched for, newest first."""

    jobs: list[Job]
    following: str | None  #: a cursor, for the next page; None: there is none
    #: If not None, the search ended at jobs of this time, before the page was full. There may be
    #: more in the next page.
    searched_back_to: datetime | None


@dataclass(frozen=True, slots=True)
class BulkRetry:
    """How many jobs were retried."""

    retried: int
    skipped: int  #: somebody else was faster to retry or delete these
    is_complete: bool  #: False: the time was over; call again for the others


def search_jobs(
    service: Service, wanted: JobFilter, limit: int, after: str | None = None
) -> JobPage:
    """Return the newest *limit* jobs that are *wanted*, or those that follow a page.

    *after*: the cursor of that page. At most `search.SEARCHED_JOBS` jobs are compared.

    Raises:
        InvalidCursorError: *after* is not a cursor.
    """
    place = Place.parse(after) if after is not None else None
    with service.database.read() as connection:
        found = search.search(connection, wanted, limit + 1, place)
    shown = found.jobs[:limit]
    if len(found.jobs) > limit:
        last = shown[-1]
        following = Place(clock.to_text(last.created_at), last.job_id)
        return JobPage(shown, str(following), None)
    if found.end is None:
        return JobPage(shown, None, None)
    searched_back_to = clock.from_text(found.end.moment) if len(shown) < limit else None
    return JobPage(shown, str(found.end), searched_back_to)


def list_pages(
    service: Service, wanted: JobFilter, limit: int, after: str | None = None
) -> Iterator[JobPage]:
    """Yield pages, see :func:`search_jobs`, until they have *limit* jobs or all that there are."""
    while True:
        page = search_jobs(service, wanted, min(limit, JOBS_PER_PAGE), after)
        yield page
        limit -= len(page.jobs)
        after = page.following
        if limit == 0 or after is None:
            return


def retry_matching(
    service: Service, wanted: JobFilter, by: str | None, seconds: float = 10.0
) -> BulkRetry:
    """Retry the failed jobs that are *wanted* and keep their upload; wake workers for them.

    Stop after *seconds*; another call then continues. Several may run at once: each job is retried
    by one of them, and one that fails again meanwhile is not retried again. *by*: see
    :func:`outbox.add_action`.
    """
    until = time.monotonic() + seconds
    retried, skipped = 0, 0
    after: Place | None = None
    while True:
        with service.database.read() as connection:
            found = search.search_kept(connection, wanted, JOBS_PER_TRANSACTION, after)
        jobs = _retry(service, [job.job_id for job in found.jobs], by)
        retried += len(jobs)
        skipped += len(found.jobs) - len(jobs)
        after = found.end
        if len(found.jobs) == JOBS_PER_TRANSACTION:
            last = found.jobs[-1]
            assert last.completed_at
            after = Place(clock.to_text(last.completed_at), last.job_id)
        if after is None or time.monotonic() >= until:
            break
    if retried:
        with service.database.write() as connection:
            outbox.add_action(
                connection,
                EventType.JOBS_RETRIED,
                clock.utc_now(),
                by,
                retried=retried,
                filter=_describe(wanted),
            )
        log.info("jobs_retried", by=by, retried=retried, skipped=skipped)
    return BulkRetry(retried, skipped, is_complete=after is None)


def _retry(service: Service, job_ids: Sequence[str], by: str | None) -> list[Job]:
    """Retry those of the jobs that have failed and keep their upload, and return them."""
    if not job_ids:
        return []
    now = clock.utc_now()
    with service.database.write() as connection:
        jobs = job_store.retry_all_failed(connection, job_ids)
        for job in jobs:
            outbox.add_event(
                connection,
                EventType.RETRY_REQUESTED,
                job,
                now,
                previous_status=JobStatus.FAILED,
                by=by,
            )
    for job in jobs:
        service.dispatcher.dispatch(job.job_id)
    return jobs


def _describe(wanted: JobFilter) -> dict[str, Any]:
    """Return the filter as JSON, without what it leaves open."""
    described: dict[str, Any] = {}
    for name, value in asdict(wanted).items():
        if value is not None:
            described[name] = clock.to_text(value) if isinstance(value, datetime) else value
    return described
