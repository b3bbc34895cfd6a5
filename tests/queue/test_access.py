from __future__ import annotations

import pytest

from imageprocessor.errors import (
    ImageNotFoundError,
    JobNotFoundError,
)
from imageprocessor.queue.access import ANYONE, OPERATOR, Caller
from imageprocessor.queue.images import delete_image, read_image, read_images
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.service import Service
from tests.queue.conftest import with_settings

ANN, BOB = Caller("ann"), Caller("bob")


def test_anyone_with_the_id_reads_if_reads_are_public(service: Service, done: Job) -> None:
    for caller in (ANYONE, ANN, BOB, OPERATOR):
        assert read_job(service, done.job_id, caller) == done
        assert read_image(service, done.image_id, caller, "medium") == done


def test_only_owner_and_admin_read_if_reads_are_private(service: Service, done: Job) -> None:
    private = with_settings(service, public_reads=False)
    for caller in (ANN, OPERATOR):
        assert read_image(private, done.image_id, caller) == done
        assert read_images(private, [done.image_id], caller, "medium") == ([done], [])
    for caller in (ANYONE, BOB):
        with pytest.raises(JobNotFoundError):
            read_job(private, done.job_id, caller)
        with pytest.raises(ImageNotFoundError):
            read_image(private, done.image_id, caller)
        assert read_images(private, [done.image_id], caller, "medium") == ([], [done.image_id])


@pytest.mark.parametrize("caller", [BOB, ANYONE])
def test_other_callers_cannot_delete_an_image(caller: Caller, service: Service, done: Job) -> None:
    with pytest.raises(ImageNotFoundError):
        delete_image(service, done.image_id, caller)
    assert read_job(service, done.job_id, ANN).status is JobStatus.COMPLETED


def test_admin_can_delete_any_image(service: Service, done: Job) -> None:
    delete_image(service, done.image_id, OPERATOR)
    with pytest.raises(ImageNotFoundError):
        read_image(service, done.image_id, ANN)
