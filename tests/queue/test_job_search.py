from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from imageprocessor.errors import InvalidCursorError
from imageprocessor.queue import job_search
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.actions import list_actions
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import lowest_id
from imageprocessor.queue.database.tables import processing_jobs
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.job_control import read_history
from imageprocessor.queue.job_search import (
    JobFilter,
    list_pages,
    retry_matching,
    search_jobs,
)
from imageprocessor.queue.jobs import job_store, search
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.service import Service
from tests.queue.conftest import Submit

PENDING, PROCESSING, COMPLETED, FAILED, RETRYING = JobStatus
ID = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
NOW = clock.utc_now()
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def add_jobs(service: Service, template: Job, count: int = 30) -> list[Job]:
    """Add jobs of all kinds, of which some were accepted in the same microsecond."""
    draw = random.Random(count)
    jobs = []
    for number in range(count):
        created_at = NOW - (count - number) // 3 * SECOND
        status = draw.choice(list(JobStatus))
        has_code = status in {FAILED, RETRYING}
        is_kept = status is not COMPLETED and draw.random() < 0.7
        job = replace(
            template,
            job_id=f"{lowest_id(created_at)[:24]}{number:012}",
            image_id=str(uuid.uuid4()),
            status=status,
            user_id=draw.choice(["ann", "bob", "böb\u202e"]),
            bucket=draw.choice(["photos", "avatars"]),
            error_code=draw.choice(["storage_full", "worker_lost"]) if has_code else None,
            created_at=created_at,
            completed_at=created_at + SECOND if status in {FAILED, COMPLETED} else None,
            staging_key=f"photos/{number}" if is_kept else None,
            variant_keys=None,
        )
        jobs.append(job)
    with service.database.write() as connection:
        for job in jobs:
            job_store.insert_job(connection, job)
    return jobs


def is_wanted(job: Job, wanted: JobFilter) -> bool:
    return (
        wanted.status in {None, job.status}
        and wanted.user_id in {None, job.user_id}
        and wanted.bucket in {None, job.bucket}
        and wanted.error_code in {None, job.error_code}
        and (wanted.created_after is None or job.created_at >= wanted.created_after)
        and (wanted.created_before is None or job.created_at < wanted.created_before)
    )


FILTERS: list[dict[str, Any]] = [
    {},
    *({"status": status} for status in JobStatus),
    {"user_id": "böb\u202e"},
    {"bucket": "avatars", "user_id": "ann"},
    {"error_code": "worker_lost"},
    {"created_after": NOW - 8 * SECOND},
    {"created_before": NOW - 8 * SECOND},
    {"status": FAILED, "created_after": NOW - 15 * SECOND, "created_before": NOW - 4 * SECOND},
    {"created_after": NOW - 15 * SECOND, "created_before": NOW - 4 * SECOND, "bucket": "photos"},
    {"status": PENDING, "user_id": "bob", "created_before": NOW - 5 * SECOND},
    {"created_after": NOW + SECOND},
    {"user_id": "\0' OR 1=1 --\ud800"},
    {"created_after": datetime.min.replace(tzinfo=timezone(8 * HOUR))},
    {"created_after": datetime.max.replace(tzinfo=timezone(-8 * HOUR))},
    {"status": FAILED, "created_before": datetime.max.replace(tzinfo=timezone(-8 * HOUR))},
]


def test_each_wanted_job_is_found_once_however_the_search_is_cut(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with a search through all jobs in memory."""
    jobs = add_jobs(service, done)
    delete_image(service, done.image_id, OPERATOR)
    with service.database.write() as connection:
        job_store.mark_deleted(connection, jobs[7].image_id, NOW)
    jobs.remove(jobs[7])
    assert {job.status for job in jobs} == set(JobStatus)
    for searched, limit in ((10_000, 100), (9, 4), (2, 5)):
        monkeypatch.setattr(search, "SEARCHED_JOBS", searched)
        for fields in FILTERS:
            wanted = JobFilter(**fields)
            pages = list(iterate(service, wanted, limit))
            found = [job.job_id for page in pages for job in page.jobs]
            expected = [job.job_id for job in reversed(jobs) if is_wanted(job, wanted)]
            assert found == expected, (searched, limit, fields)
            for page in pages:
                assert len(page.jobs) <= limit
                is_cut = page.following is not None and len(page.jobs) < limit
                assert (page.searched_back_to is not None) == is_cut


def iterate(service: Service, wanted: JobFilter, limit: int) -> Any:
    page = search_jobs(service, wanted, limit)
    yield page
    while page.following:
        page = search_jobs(service, wanted, limit, page.following)
        yield page


def test_pages_continue_until_they_have_as_many_jobs_as_asked_for(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = add_jobs(service, done)
    monkeypatch.setattr(search, "SEARCHED_JOBS", 5)
    monkeypatch.setattr(job_search, "JOBS_PER_PAGE", 3)
    wanted = JobFilter(bucket="avatars")
    newest = [job.job_id for job in reversed(jobs) if job.bucket == "avatars"]
    pages = list(list_pages(service, wanted, 10))
    assert [job.job_id for page in pages for job in page.jobs] == newest[:10]
    rest = list_pages(service, wanted, 1000, pages[-1].following)
    assert [job.job_id for page in rest for job in page.jobs] == newest[10:]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "0-7", ID, f"2024-11-08_{ID}", "2024-11-08T14:00:00.000000Z_x"],
)
def test_other_text_is_no_cursor(service: Service, cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        search_jobs(service, JobFilter(), 10, cursor)


def list_statuses(service: Service) -> dict[str, str]:
    with service.database.read() as connection:
        rows = connection.execute(processing_jobs.select()).mappings()
        return {row["job_id"]: row["status"] for row in rows}


def test_only_failed_jobs_that_match_and_keep_their_upload_are_retried(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEARCHED_JOBS", 4)
    monkeypatch.setattr(job_search, "JOBS_PER_TRANSACTION", 3)
    jobs = add_jobs(service, done)
    wanted = JobFilter(error_code="worker_lost", created_after=NOW - 15 * SECOND)
    expected = {
        job.job_id
        for job in jobs
        if is_wanted(job, wanted) and job.status is FAILED and job.staging_key
    }
    before = list_statuses(service)
    outcome = retry_matching(service, wanted, "root")
    assert (outcome.retried, outcome.skipped, outcome.is_complete) == (len(expected), 0, True)
    changed = {id_ for id_, status in list_statuses(service).items() if status != before[id_]}
    assert changed == expected
    job, events = read_history(service, next(iter(expected)))
    assert job
    assert (job.status, job.attempts, job.error_code, job.completed_at) == (PENDING, 0, None, None)
    assert [(event["event_type"], event["metadata"]) for event in events] == [
        ("retry_requested", {"by": "root"})
    ]

    (action,) = list_actions(service, 9)
    assert action["event_type"] == "jobs_retried"
    assert action["metadata"] == {
        "by": "root",
        "retried": len(expected),
        "filter": {
            "error_code": "worker_lost",
            "created_after": clock.to_text(NOW - 15 * SECOND),
        },
    }
    assert retry_matching(service, wanted, "root") == job_search.BulkRetry(0, 0, is_complete=True)
    assert len(list_actions(service, 9)) == 1, "nothing was done"


def test_bulk_retry_stops_in_time_and_another_call_continues(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "JOBS_PER_TRANSACTION", 2)
    jobs = add_jobs(service, done)
    kept = sum(job.status is FAILED and job.staging_key is not None for job in jobs)
    first = retry_matching(service, JobFilter(), None, seconds=0)
    assert (first.retried, first.is_complete) == (2, False)
    second = retry_matching(service, JobFilter(), None)
    assert (second.retried, second.is_complete) == (kept - 2, True)


def test_two_admins_retry_each_job_once(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "JOBS_PER_TRANSACTION", 2)
    jobs = add_jobs(service, done)
    kept = sum(job.status is FAILED and job.staging_key is not None for job in jobs)
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda by: retry_matching(service, JobFilter(), by), ["ann", "bob"])
    assert sum(outcome.retried for outcome in outcomes) == kept


def test_jobs_that_fail_again_or_are_deleted_meanwhile_are_left(
    service: Service, submit_image: Submit, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "JOBS_PER_TRANSACTION", 1)
    jobs = add_jobs(service, done)
    kept = [job for job in jobs if job.status is FAILED and job.staging_key]
    with service.database.write() as connection:
        job_store.mark_deleted(connection, kept[0].image_id, NOW)
    retry_all = job_store.retry_all_failed

    def fail_again(connection: Any, job_ids: Any) -> list[Job]:
        retried = retry_all(connection, job_ids)
        values = {"status": FAILED, "completed_at": clock.to_text(clock.utc_now())}
        changed = processing_jobs.update().where(processing_jobs.c.job_id.in_(job_ids))
        connection.execute(changed.values(values))
        return retried

    monkeypatch.setattr(job_store, "retry_all_failed", fail_again)
    outcome = retry_matching(service, JobFilter(), None)
    assert (outcome.retried, outcome.skipped, outcome.is_complete) == (len(kept) - 1, 1, True)
