from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest

from imageprocessor.errors import (
    InvalidIdError,
    JobFailedError,
    JobNotFoundError,
    JobNotReadyError,
    WorkerLostError,
)
from imageprocessor.queue import job_control
from imageprocessor.queue.access import ANYONE, OPERATOR
from imageprocessor.queue.attempts import fail_attempt, run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.database.tables import processing_jobs
from imageprocessor.queue.images import delete_image, read_image
from imageprocessor.queue.job_control import list_retryable, read_history, read_job
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from tests.images import encode, photo, truncated
from tests.queue.conftest import Submit, with_settings


def test_result_of_an_open_job_is_not_ready_and_of_a_failed_job_has_its_code(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image(truncated(encode(photo(80, 60), "JPEG"), 0.6))
    with pytest.raises(JobNotReadyError, match="pending"):
        read_image(service, job.image_id, ANYONE)
    run_job(service, job.job_id, "worker")
    with pytest.raises(JobFailedError) as caught:
        read_image(service, job.image_id, ANYONE)
    assert caught.value.job_code == "image_truncated"


def test_ids_must_be_uuids(service: Service) -> None:
    for text in ("", "x", "../../etc", "0" * 5000):
        with pytest.raises(InvalidIdError):
            read_job(service, text, ANYONE)


@pytest.fixture
def failed(service: Service, submit_image: Submit) -> Job:
    """A job that failed for good and keeps its upload."""
    job = submit_image()
    with service.database.write() as connection:
        claimed = job_store.claim(
            connection, job.job_id, "worker", clock.utc_now(), timedelta(minutes=1)
        )
    assert claimed
    error = WorkerLostError("The worker ended.")
    fail_attempt(with_settings(service, max_retries=0), replace(claimed, max_retries=0), error)
    return read_job(service, job.job_id, OPERATOR)


def test_failed_jobs_are_retryable_if_upload_and_image_exist(
    service: Service, submit_image: Submit, failed: Job
) -> None:
    broken = submit_image(truncated(encode(photo(80, 60), "JPEG"), 0.6))
    run_job(service, broken.job_id, "worker")
    submit_image()
    assert list(list_retryable(service)) == [failed.job_id]
    with service.database.write() as connection:
        job_store.mark_deleted(connection, failed.image_id, clock.utc_now())
    assert list(list_retryable(service)) == []


def test_job_that_fails_again_is_not_retried_twice(
    service: Service, failed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_control, "JOBS_PER_PAGE", 1)
    retried = []
    for job_id in list_retryable(service):
        retried.append(job_id)
        with service.database.write() as connection:
            failed_again = {"completed_at": clock.to_text(clock.utc_now())}
            connection.execute(processing_jobs.update().values(failed_again))
    assert retried == [failed.job_id]


def test_retryable_jobs_are_listed_in_pages(
    service: Service, failed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is listed once, even if several failed in the same microsecond."""
    monkeypatch.setattr(job_control, "JOBS_PER_PAGE", 2)
    copies = [replace(failed, job_id=make_id(), image_id=make_id()) for _ in range(6)]
    with service.database.write() as connection:
        for job in copies:
            job_store.insert_job(connection, job)
    ids = [job.job_id for job in (failed, *copies)]
    assert list(list_retryable(service)) == sorted(ids)


def test_history_is_found_by_either_id_and_outlives_the_image(service: Service, done: Job) -> None:
    job, events = read_history(service, done.job_id)
    assert job == done
    assert [event["event_type"] for event in events] == [
        "upload_initiated",
        "processing_started",
        "completed",
    ]
    assert read_history(service, done.image_id) == (job, events)
    delete_image(service, done.image_id, OPERATOR)
    job, events = read_history(service, done.image_id)
    assert (job, events[-1]["event_type"]) == (None, "deleted")
    with pytest.raises(JobNotFoundError, match="no job, image or batch"):
        read_history(service, str(uuid.uuid4()))
