from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta

import pytest

from imageprocessor.errors import NoWorkerError, StorageUnavailableError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.health import check_health, check_readiness, write_probe
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service
from tests.queue.conftest import Submit, list_files

SetClock = Callable[[timedelta], None]


@pytest.fixture
def unstorable(service: Service, submit_image: Submit) -> str:
    """The id of a job whose first attempt could not store its variants."""
    (service.settings.storage_path / "photos").write_bytes(b"in place of the bucket's folder")
    job = submit_image()
    run_job(service, job.job_id, "worker")
    return job.job_id


def repair(service: Service) -> None:
    (service.settings.storage_path / "photos").unlink()


def test_worker_that_cannot_store_is_a_fault_until_a_job_completes(
    service: Service, unstorable: str, set_clock: SetClock
) -> None:
    fault = check_health(service)["storage"]
    assert isinstance(fault, StorageUnavailableError)
    assert check_readiness(service)["storage"] is None
    repair(service)
    set_clock(timedelta(minutes=1))
    run_job(service, unstorable, "worker")
    assert check_health(service)["storage"] is None


def test_fault_of_one_job_is_outweighed_by_a_later_completion(
    service: Service, unstorable: str, submit_image: Submit
) -> None:
    assert check_health(service)["storage"] is not None
    run_job(service, submit_image(bucket="avatars").job_id, "worker")
    assert check_health(service)["storage"] is None


def test_worker_that_could_not_store_is_forgotten_after_an_hour(
    service: Service, unstorable: str, set_clock: SetClock
) -> None:
    set_clock(timedelta(minutes=59))
    assert check_health(service)["storage"] is not None
    set_clock(timedelta(minutes=61))
    assert check_health(service)["storage"] is None


def test_job_that_waits_without_a_worker_is_a_fault(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    submit_image()
    assert check_health(service)["queue"] is None
    set_clock(timedelta(seconds=11))
    assert isinstance(check_health(service)["queue"], NoWorkerError)
    with presence.announce(workers_directory(service.settings), 1):
        assert check_health(service)["queue"] is None


def test_job_that_waits_for_a_busy_worker_on_another_host_is_no_fault(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    running = submit_image()
    submit_image()
    set_clock(timedelta(seconds=11))
    lease = timedelta(seconds=75)
    with service.database.write() as connection:
        job_store.claim(connection, running.job_id, "elsewhere", clock.utc_now(), lease)
    assert check_health(service)["queue"] is None
    set_clock(timedelta(seconds=90))
    assert isinstance(check_health(service)["queue"], NoWorkerError)


def test_probe_leaves_nothing(service: Service) -> None:
    write_probe(service)
    assert list(service.staging.list()) == []
    assert list_files(service.incoming) == []
    with service.database.read() as connection:
        counts = connection.exec_driver_sql("SELECT count(*) FROM upload_rate_limits")
        assert counts.scalar_one() == 0


def test_missing_folder_for_uploads_is_noticed_by_the_probe(service: Service) -> None:
    shutil.rmtree(service.incoming)
    with pytest.raises(StorageUnavailableError):
        write_probe(service)
