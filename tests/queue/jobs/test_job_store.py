from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue.attempts import fail_attempt
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.service import Service
from tests.queue.conftest import Submit, with_settings

LEASE = timedelta(minutes=1)


def find(service: Service, job: Job) -> Job:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    assert found
    return found


def claim(service: Service, job: Job, worker_id: str = "worker") -> Job | None:
    with service.database.write() as connection:
        return job_store.claim(connection, job.job_id, worker_id, clock.utc_now(), LEASE)


def fail(service: Service, job: Job, message: str = "The storage does not answer.") -> None:
    """Make the job fail for good but keep its upload."""
    claimed = claim(service, job)
    assert claimed
    fail_attempt(with_settings(service, max_retries=0), claimed, StorageUnavailableError(message))


@pytest.fixture
def failed(service: Service, submit_image: Submit) -> Job:
    job = submit_image()
    with service.database.write() as connection:
        connection.exec_driver_sql("UPDATE processing_jobs SET max_retries = 0")
    fail(service, job)
    return find(service, job)


def test_only_one_of_many_concurrent_claims_succeeds(
    service: Service, submit_image: Submit
) -> None:
    job, start = submit_image(), threading.Barrier(8)

    def run(number: int) -> Job | None:
        start.wait()
        return claim(service, job, f"worker-{number}")

    with ThreadPoolExecutor(8) as pool:
        won = [claimed for claimed in pool.map(run, range(8)) if claimed]
    assert won == [find(service, job)]
    assert won[0].attempts == 1


def claim_next(service: Service, worker_id: str = "worker") -> Job | None:
    with service.database.write() as connection:
        return job_store.claim_next(connection, worker_id, clock.utc_now(), LEASE)


def test_each_due_job_is_claimed_by_one_of_many_workers(
    service: Service, submit_image: Submit
) -> None:
    jobs, start = [submit_image() for _ in range(6)], threading.Barrier(8)

    def run(number: int) -> Job | None:
        start.wait()
        return claim_next(service, f"worker-{number}")

    with ThreadPoolExecutor(8) as pool:
        claimed = [job for job in pool.map(run, range(8)) if job]
    while job := claim_next(service):  # PostgreSQL may find all jobs locked for a moment
        claimed.append(job)
    assert sorted(job.job_id for job in claimed) == sorted(job.job_id for job in jobs)
    assert all(job == find(service, job) for job in claimed)


def test_retries_are_claimed_before_new_jobs_and_those_in_order(
    service: Service, submit_image: Submit, set_clock: Callable[[timedelta], None]
) -> None:
    retried, first, second = (submit_image() for _ in range(3))
    claimed = claim(service, retried)
    assert claimed
    fail_attempt(service, claimed, StorageUnavailableError("The storage does not answer."))
    order = [claim_next(service)]
    set_clock(LEASE)  # the retry is due
    order += [claim_next(service), claim_next(service), claim_next(service)]
    assert [job and job.job_id for job in order] == [
        first.job_id,
        retried.job_id,
        second.job_id,
        None,
    ]


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_claim_does_not_wait_for_another_claim(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    with service.database.write() as connection:
        assert job_store.claim(connection, job.job_id, "first", clock.utc_now(), LEASE)
        assert claim(service, job, "second") is None, "waiting for the lock would end in an error"
        assert claim_next(service, "second") is None, "the only job is being claimed"


def test_sweep_skips_jobs_that_a_worker_may_be_claiming(
    service: Service, submit_image: Submit
) -> None:
    old, new = submit_image(), submit_image()
    now = clock.utc_now()
    with service.database.read() as connection:
        assert job_store.list_due(connection, now, 9) == [old.job_id, new.job_id]
        assert job_store.list_due(connection, now, 9, created_before=new.created_at) == [old.job_id]
        assert job_store.list_due(connection, now, 1) == [old.job_id]


def test_retries_are_due_before_new_jobs(service: Service, submit_image: Submit) -> None:
    waiting, retrying = submit_image(), submit_image()
    claimed = claim(service, retrying)
    assert claimed
    fail_attempt(service, claimed, StorageUnavailableError("The storage does not answer."))
    later = clock.utc_now() + LEASE
    with service.database.read() as connection:
        assert job_store.list_due(connection, clock.utc_now(), 9) == [waiting.job_id]
        due = job_store.list_due(connection, later, 9, created_before=waiting.created_at)
        assert due == [retrying.job_id], (
            "no worker is about to claim a retry, whenever it was created"
        )
        assert job_store.list_due(connection, later, 9) == [retrying.job_id, waiting.job_id]


def test_source_is_forgotten_once(service: Service, failed: Job) -> None:
    with service.database.write() as connection:
        assert job_store.forget_source(connection, failed)
        assert not job_store.forget_source(connection, failed)
    assert find(service, failed).staging_key is None


@pytest.mark.parametrize("since", ["retried", "failed again"])
def test_source_of_a_retried_job_is_not_forgotten(
    since: str, service: Service, failed: Job
) -> None:
    with service.database.write() as connection:
        assert job_store.retry_failed(connection, failed.job_id)
    if since == "failed again":
        fail(service, failed)
    with service.database.write() as connection:
        assert not job_store.forget_source(connection, failed)
    assert find(service, failed).staging_key


def test_text_that_databases_reject_is_escaped(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    fail(service, job, "bytes \0 and \ud800, naïve 图")
    assert find(service, job).error == r"bytes \x00 and \ud800, naïve 图"


def test_worker_id_is_not_a_pattern(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    claim(service, job, "a_b:1")
    with service.database.read() as connection:
        found = {
            name: len(job_store.list_held_by(connection, name))
            for name in ("a_b", "a_b:1", "axb", "%", "a")
        }
    assert found == {"a_b": 1, "a_b:1": 1, "axb": 0, "%": 0, "a": 0}


def test_released_job_is_pending_and_uncounted(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    claimed = claim(service, job)
    assert claimed
    with service.database.write() as connection:
        assert job_store.release(connection, claimed)
        assert not job_store.release(connection, claimed)
    assert (find(service, job).status, find(service, job).attempts) == (JobStatus.PENDING, 0)
