"""Faults of S3: a job may be delayed or fail, but is never lost and never half done."""

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
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import STAGING_PREFIX, Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.storage.s3 import S3Access, S3Storage
from tests.images import encode, photo
from tests.queue.conftest import Submit
from tests.servers.faults import Fault, FaultyProxy, run_faulty_proxy
from tests.storage.buckets import create_bucket

DATA = encode(photo(80, 60), "JPEG")
TIMEOUT_SECONDS = 0.5  # longer than the proxy's slow answers
ANSWERED: list[Fault] = [500, 503, 403]
UNANSWERED: list[Fault] = ["reset", "hang"]
TRUNCATED: list[Fault] = ["stall", "cut"]

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
    """A service with its images and uploads in S3, behind the proxy."""
    keys = {"access_key_id": "AKIDTEST", "secret_access_key": "secret"}
    access = S3Access(proxy.url, timeout_seconds=TIMEOUT_SECONDS, **keys)
    storage = S3Storage(access, bucket=create_bucket(s3))
    with open_service(settings) as opened:
        yield replace(opened, storage=storage, staging=storage.at_prefix(STAGING_PREFIX))


def attempt(service: Service, job: Job) -> Job:
    run_job(service, job.job_id, "worker")
    return read_job(service, job.job_id, OPERATOR)


def assert_whole(service: Service, job: Job) -> None:
    """Assert that all variants are stored and are those of the image."""
    assert job.status is JobStatus.COMPLETED
    expected = {
        name: variant.data
        for name, variant in process(DATA, service.settings.image_sizes).variants.items()
    }
    assert {
        name: service.storage.get(key) for name, key in (job.variant_keys or {}).items()
    } == expected


def assert_fails_then_retries(
    service: Service, job: Job, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    """Assert that the job uses up its attempts and fails.

    Then S3 recovers, an operator retries the job, and it completes.
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


@pytest.mark.parametrize("fault", [*ANSWERED, *UNANSWERED, *TRUNCATED])
def test_job_with_unreadable_upload_fails_and_can_be_retried(
    fault: Fault, service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(fault)
    assert_fails_then_retries(service, job, proxy, set_clock)


@pytest.mark.parametrize("fault", [*ANSWERED, *UNANSWERED])
def test_job_never_completes_without_all_its_variants(
    fault: Fault, service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(fault, only="_medium.webp")
    assert_fails_then_retries(service, job, proxy, set_clock)


def test_job_completes_after_a_transient_fault(
    service: Service, submit_image: Submit, proxy: FaultyProxy, set_clock: SetClock
) -> None:
    job = submit_image(DATA)
    proxy.fail(503)
    assert attempt(service, job).error_code == "storage_unavailable"
    proxy.fail("none")
    set_clock(timedelta(minutes=2))
    assert_whole(service, attempt(service, job))


def test_job_waits_for_slow_answers(
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
    with service.database.read() as connection:
        assert sum(job_store.count_by_status(connection).values()) == 0


def test_upload_that_could_not_be_deleted_is_deleted_by_the_sweep(
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
