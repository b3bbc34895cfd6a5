"""A storage that is empty or another database's is noticed, on disk and in S3."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imageprocessor.errors import StorageMismatchError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.health import check_readiness
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.database_import import import_database
from imageprocessor.queue.maintenance.doctor.finding import Verdict
from imageprocessor.queue.maintenance.doctor.storage import check_storage
from imageprocessor.queue.maintenance.fsck import find_discrepancies
from imageprocessor.queue.maintenance.storage_migration import own_targets
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service, open_service, open_storages
from imageprocessor.settings import Settings
from imageprocessor.storage.protocol import MARKER_NAME
from imageprocessor.storage.s3 import S3Storage
from tests.queue.conftest import Submit, empty, list_files, remove_marker
from tests.servers import create_database, find_free_port
from tests.storage.buckets import create_bucket
from tests.uploads import submit_to

MakeSettings = Callable[..., Settings]


@pytest.fixture
def in_s3(tmp_path: Path, s3: str) -> MakeSettings:
    """Return a function that makes settings with the storage in S3, in a new bucket."""

    def make(**changes: Any) -> Settings:
        values = {
            "data_dir": tmp_path / "data",
            "image_sizes": {"thumbnail": 20},
            "storage_backend": "s3",
            "s3_endpoint_url": s3,
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
        }
        if "allowed_buckets" not in changes:
            values["s3_bucket"] = create_bucket(s3)
        return Settings.model_validate(values | changes)

    return make


@pytest.fixture(params=["SQLite and folder", "PostgreSQL and bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "SQLite and folder":
        values = {"data_dir": tmp_path / "data", "image_sizes": {"thumbnail": 20}}
        return Settings.model_validate(values)
    url = request.getfixturevalue("migrated")
    empty(url)
    made: Settings = request.getfixturevalue("in_s3")(database_url=url)
    return made


@pytest.fixture
def completed(service: Service, submit_image: Submit) -> Job:
    job = submit_image()
    run_job(service, job.job_id, "worker")
    return job


def other_database(settings: Settings, folder: Path) -> Settings:
    """Return the settings of another service with the same storage."""
    changes = {"database_url": None, "database_path": folder / "other.db"}
    return settings.model_copy(update=changes)


def read_owners(service: Service) -> list[str | None]:
    """Return the identities in the markers, without the time."""
    owners = [marker.owner for marker in service.storage.read_markers()]
    return [owner and owner.partition(" ")[0] for owner in owners]


def find_verdict(settings: Settings) -> Verdict:
    (found,) = [found for found in check_storage(settings) if found.name == "storage marker"]
    return found.verdict


def test_new_storage_is_marked_at_the_start(service: Service) -> None:
    assert read_owners(service) == [service.database.identity()]
    assert check_readiness(service)["storage"] is None
    assert find_verdict(service.settings) is Verdict.OK


def test_marker_is_neither_image_nor_orphan(
    service: Service, completed: Job, set_clock: Callable[..., None]
) -> None:
    set_clock(timedelta(days=30))
    sweep(service)
    assert list(find_discrepancies(service, repair=True)) == []
    assert read_owners(service) == [service.database.identity()]


def test_storage_without_marker_is_not_ready_while_the_database_names_images(
    service: Service, completed: Job
) -> None:
    remove_marker(service)
    with pytest.raises(StorageMismatchError, match="Check that its disk is mounted"):
        open_service(service.settings).__enter__()
    assert ".imageprocessor is missing" in str(check_readiness(service)["storage"])
    assert find_verdict(service.settings) is Verdict.WRONG
    assert read_owners(service) == [None], "only an operator may write it"
    for marker in service.storage.read_markers():
        service.storage.write_marker(marker.prefix, service.database.identity())
    assert check_readiness(service)["storage"] is None


def test_disk_that_is_not_mounted_is_refused_and_not_created(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path / "data"})
    with open_service(settings) as service:
        run_job(service, submit_to(service).job_id, "worker")
        shutil.rmtree(settings.storage_path)
        with pytest.raises(StorageMismatchError), open_service(settings):
            pass
        assert "is missing" in str(check_readiness(service)["storage"])
        assert not settings.storage_path.exists()
        settings.storage_path.mkdir()  # an empty mount point
        with pytest.raises(StorageMismatchError), open_service(settings):
            pass
        assert list_files(settings.storage_path) == []


def test_marker_that_vanishes_is_noticed_even_without_images(service: Service) -> None:
    remove_marker(service)
    assert "is missing" in str(check_readiness(service)["storage"])
    assert read_owners(service) == [None]
    with open_service(
        service.settings
    ) as restarted:  # an empty storage for a service without images
        assert read_owners(restarted) == [service.database.identity()]
    assert check_readiness(service)["storage"] is None


def test_storage_of_another_database_is_refused(service: Service, tmp_path: Path) -> None:
    other = other_database(service.settings, tmp_path)
    with closing(open_database(other)) as database:
        migrate(database)
    with pytest.raises(StorageMismatchError, match="belongs to the database"), open_service(other):
        pass
    assert find_verdict(other) is Verdict.WRONG
    (marker,) = service.storage.read_markers()
    service.storage.write_marker(marker.prefix, "another")
    assert "belongs to the database another" in str(check_readiness(service)["storage"])


def test_no_image_is_stored_in_the_storage_of_another_database(
    service: Service, submit_image: Submit
) -> None:
    """A worker opens the service before it has a job: it verifies the storage with the first."""
    job = submit_image()
    (marker,) = service.storage.read_markers()
    service.storage.write_marker(marker.prefix, "another")
    with open_service(service.settings, creates=False) as worker:
        run_job(worker, job.job_id, "worker")
        with worker.database.read() as connection:
            retried = job_store.find_job(connection, job.job_id)
    assert retried
    assert (retried.status, retried.error_code) == (JobStatus.RETRYING, "storage_mismatch")
    assert list(service.storage.list()) == []


def test_service_starts_without_s3_and_marks_it_before_the_first_image(
    in_s3: MakeSettings, s3: str
) -> None:
    away = in_s3(s3_endpoint_url=f"http://127.0.0.1:{find_free_port()}")
    back = away.model_copy(update={"s3_endpoint_url": s3})
    with open_service(away) as service:
        assert "S3 does not answer" in str(check_readiness(service)["storage"])
    with open_service(back, creates=False) as service:
        run_job(service, submit_to(service).job_id, "worker")
        assert read_owners(service) == [service.database.identity()]
    with open_service(back) as service:
        assert check_readiness(service)["storage"] is None


def test_each_bucket_has_its_marker(in_s3: MakeSettings, s3: str) -> None:
    first, second = create_bucket(s3), create_bucket(s3)
    with open_service(in_s3(allowed_buckets=first)) as service:
        run_job(service, submit_to(service, bucket=first).job_id, "worker")
    both = in_s3(allowed_buckets=f"{first},{second}")
    with open_service(both) as service:  # the database names no image in the second one
        assert read_owners(service) == [service.database.identity()] * 2
        assert isinstance(service.storage, S3Storage)
        service.storage.client.delete_object(Bucket=first, Key=MARKER_NAME)
    with pytest.raises(StorageMismatchError, match=first), open_service(both):
        pass


def test_target_of_a_migration_must_not_belong_to_another_database(
    service: Service, tmp_path: Path
) -> None:
    other = Settings(data_dir=tmp_path / "other")
    with open_service(other), pytest.raises(StorageMismatchError):
        own_targets(service, open_storages(other))


def test_bucket_has_one_marker_for_images_and_uploads(in_s3: MakeSettings) -> None:
    with open_service(in_s3()) as service:
        assert service.staging_ownership is service.ownership
        assert service.staging.read_markers()[0].owner is None


def test_import_to_another_database_keeps_the_identity(tmp_path: Path, postgres: int) -> None:
    source = Settings(data_dir=tmp_path / "data")
    with open_service(source) as service:
        run_job(service, submit_to(service).job_id, "worker")
    values = {"data_dir": source.data_dir, "database_url": create_database(postgres)}
    target = Settings.model_validate(values)
    with closing(open_database(target)) as database:
        migrate(database)
    import_database(source.database_path, target)
    with open_service(target) as service:
        assert check_readiness(service)["storage"] is None
