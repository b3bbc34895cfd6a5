"""S3 that fails: a job may take longer or come to an end, but is never lost and never half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imageprocessor.core.pipeline import process
from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.job_control import read_job, retry_job
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.storage_migration import count_jobs
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import STAGING_PREFIX, Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.storage.s3 import S3Access, S3Storage
from tests.images import encode, photo
from tests.queue.conftest import Submit
from tests.servers.faults import Fault, FaultyProxy, run_faulty_proxy
from tests.storage.buckets import create_bucket

DATA = encode(photo(80, 60), "JPEG")
PATIENCE_SECONDS = 0.5  # longer than the proxy's slow answers take
ANSWERED: list[Fault] = [500, 503, 403]
UNANSWERED: list[Fault] = ["reset", "hang"]
HALVED: list[Fault] = ["stall", "cut"]

SetClock = Callable[[timedelta], None]


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultyProxy]:
    with run_faulty_proxy(urlsplit(s3).port or 0) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    sizes = {"thumbnail": 20, "medium": 60}
    return Settings.model_validate(
        {"data_dir": tmp_path / "data", "image_sizes": sizes, "max_retries": 1}
    )


@pytest.fixture
def service(settings: Settings, s3: str, proxy: FaultyProxy) -> Iterator[Service]:
    """A service that has its images and its uploads in S3, behind the proxy."""
    keys = {"access_key_id": "AKIDTEST", "secret_access_key": "secret"}
    access = S3Access(proxy.url, timeout_seconds=PATIENCE_SECONDS, **keys)
    storage = S3Storage(access, bucket=create_bucket(s3))
    with open_service(settings) as opened:
        yield replace(opened, storage=storage, staging=storage.at_prefix(STAGING_PREFIX))


def attempt(service: Service, job: Job) -> Job:
    run_job(service, job.job_id, "worker")
    return read_job(service, job.job_id, OPERATOR)


def assert_whole(service: Service, job: Job) -> None:
    """All variants are there, and they are those of the picture."""
    assert job.status is JobStatus.COMPLETED
    expected = {
        name: variant.data
        for name, variant in process(DATA, service.settings.image_sizes).variants.items()
    }
    assert {
        name: service.storage.get(key) for name, key in (job.variant_keys or {}).items()
    } == expected


def assert_redriven(service: Service, job: Job, proxy: FaultyProxy, set_clock: SetClock) -> None:
    """Attempts fail until there are no more.

    Then S3 is well again, an operator retries, and all is done.
    """
    assert attempt(service, job).status is JobStatus.RETRYING
    set_clock(timedelta(minutes=2))
    failed = attempt(service, job)
    assert (failed.status, failed.error_code, failed.attempts) == (
        JobStatus.FAILED,
        "storage_unavailable",
        2,
    )
    proxy.fail("none")
    assert service.staging.get(failed.staging_key or "") == DATA
    retry_job(service, job.job_id)
    assert_whole(service, attempt(service, job))
    assert list(service.staging.list()) == []


@pytest.mark.parametrize("fault", [*ANSWERED, *UNANSWERED, *HALVED])
def test_job_whose_upload_cannot_be_read_fails_in_the_end_and_can_be_redriven(
    fault: Fault, service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(fault)
    assert_redriven(service, job, proxy, set_clock)


@pytest.mark.parametrize("fault", [*ANSWERED, *UNANSWERED])
def test_job_of_which_one_variant_cannot_be_stored_is_never_completed_without_it(
    fault: Fault, service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(fault, only="_medium.webp")
    assert_redriven(service, job, proxy, set_clock)


def test_fault_that_ends_before_the_attempts_do_is_outlived(
    service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(503)
    assert attempt(service, job).error_code == "storage_unavailable"
    proxy.fail("none")
    set_clock(timedelta(minutes=2))
    assert_whole(service, attempt(service, job))


def test_slow_answers_are_waited_for(
    service: Service, submit_image: Submit, proxy: FaultyProxy
) -> None:
    job = submit_image(DATA)
    proxy.fail("slow")
    assert_whole(service, attempt(service, job))


@pytest.mark.parametrize("fault", [*ANSWERED, *UNANSWERED])
def test_upload_that_cannot_be_staged_is_refused_and_leaves_no_job(
    fault: Fault, service: Service, submit_image: Submit, proxy: FaultyProxy
) -> None:
    proxy.fail(fault)
    with pytest.raises(StorageUnavailableError):
        submit_image(DATA)
    assert sum(count_jobs(service).values()) == 0


def test_upload_that_could_not_be_deleted_is_swept_later(
    service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(500, only="DELETE ")
    assert_whole(service, attempt(service, job))
    proxy.fail("none")
    assert len(list(service.staging.list())) == 1
    set_clock(timedelta(hours=2))
    assert sweep(service)["orphaned_uploads"] == 1
    assert list(service.staging.list()) == []
