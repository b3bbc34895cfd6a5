from __future__ import annotations

import uuid

import pytest

from imageprocessor.errors import (
    InvalidIdError,
    JobFailedError,
    JobNotFoundError,
    JobNotReadyError,
)
from imageprocessor.queue.access import ANYONE, OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.images import delete_image, read_image
from imageprocessor.queue.job_control import read_history, read_job
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from tests.images import encode, photo, truncated
from tests.queue.conftest import Submit


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
