from __future__ import annotations

import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import fail_waiting, run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import processing_jobs
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs import inventory, job_store
from imageprocessor.queue.jobs.figures import forget_snapshot
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance import fsck
from imageprocessor.queue.maintenance.fsck import find_discrepancies
from imageprocessor.queue.maintenance.sweep import find_unknown_images
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.storage.keys import variant_key
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import StoredObject
from tests.queue.conftest import Submit, empty, remove_marker
from tests.storage.buckets import create_bucket
from tests.uploads import list_all_jobs, submit_to

SetClock = Callable[[timedelta], None]


@pytest.fixture(params=["SQLite and folder", "PostgreSQL and bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    values: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "image_sizes": {"thumbnail": 20, "medium": 60},
    }
    if request.param == "PostgreSQL and bucket":
        values["database_url"] = request.getfixturevalue("migrated")
        empty(values["database_url"])
        s3 = request.getfixturevalue("s3")
        values |= {"storage_backend": "s3", "s3_bucket": create_bucket(s3), "s3_endpoint_url": s3}
        values |= {
            "aws_region": "us-east-1",
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
        }
    return Settings.model_validate(values)


@pytest.fixture
def completed(service: Service, submit_image: Submit) -> Job:
    return read(service, run(service, submit_image()))


def run(service: Service, job: Job) -> Job:
    run_job(service, job.job_id, "worker")
    return job


def read(service: Service, job: Job) -> Job:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    assert found
    return found


def fail_job(service: Service, job: Job) -> Job:
    """Fail the job for good by a storage error, after which its upload is kept."""
    with service.database.write() as connection:
        connection.execute(processing_jobs.update().values(max_retries=0))
    assert fail_waiting(service, job.job_id, "worker", StorageUnavailableError("The disk is away."))
    return read(service, job)


def snapshot(service: Service) -> tuple[object, ...]:
    with service.database.read() as connection:
        jobs = list_all_jobs(connection)
    return jobs, sorted(stored.key for stored in [*service.storage.list(), *service.staging.list()])


def test_healthy_service_has_no_discrepancies(
    service: Service, submit_image: Submit, completed: Job
) -> None:
    submit_image()
    fail_job(service, submit_image())
    assert list(find_discrepancies(service, repair=True)) == []


def test_missing_variant_is_only_reported(service: Service, completed: Job) -> None:
    key = (completed.variant_keys or {})["medium"]
    service.storage.delete(key)
    (found,) = find_discrepancies(service, repair=True)
    assert (found.kind, found.where, found.job_id, found.repaired) == (
        "variant_missing",
        key,
        completed.job_id,
        False,
    )
    assert "backup" in found.remedy
    assert read(service, completed) == completed


def test_variant_of_wrong_size_is_reported(service: Service, completed: Job) -> None:
    key = (completed.variant_keys or {})["thumbnail"]
    service.storage.put(key, service.storage.get(key)[:-1])
    (found,) = find_discrepancies(service)
    assert (found.kind, found.where) == ("variant_of_other_size", key)


@pytest.mark.parametrize(("altered", "code"), [(False, "source_missing"), (True, "source_corrupt")])
def test_waiting_job_with_missing_or_altered_upload_fails(
    service: Service, submit_image: Submit, altered: bool, code: str
) -> None:
    job = submit_image()
    service.staging.put(job.staging_key or "", b"something else")
    if not altered:
        service.staging.delete(job.staging_key or "")
    before = snapshot(service)
    (found,) = find_discrepancies(service)
    assert (found.kind, found.repaired) == (
        "upload_altered" if altered else "upload_missing",
        False,
    )
    assert f"With --repair, the job ends as failed ({code})." in found.remedy
    assert snapshot(service) == before, "a dry run changes nothing"
    (found,) = find_discrepancies(service, repair=True)
    assert found.repaired
    ended = read(service, job)
    assert (ended.status, ended.error_code, ended.staging_key) == (JobStatus.FAILED, code, None)
    assert list(find_discrepancies(service)) == []


def test_missing_upload_of_a_failed_job_is_forgotten(
    service: Service, submit_image: Submit
) -> None:
    failed = fail_job(service, submit_image())
    service.staging.delete(failed.staging_key or "")
    (found,) = find_discrepancies(service, repair=True)
    assert (found.kind, found.repaired) == ("upload_missing", True)
    assert "can no longer be retried" in found.remedy
    forgotten = read(service, failed)
    assert (forgotten.status, forgotten.staging_key) == (JobStatus.FAILED, None)
    assert forgotten.error_code == failed.error_code, "the reason of the failure stays"


def test_running_job_is_left_to_its_worker(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    with service.database.write() as connection:
        job_store.claim(connection, job.job_id, "worker", clock.utc_now(), timedelta(minutes=1))
        forget_snapshot(connection)  # a claim without its event
    service.staging.delete(job.staging_key or "")
    (found,) = find_discrepancies(service, repair=True)
    assert not found.repaired
    assert "is processing. Once its next attempt detects this" in found.remedy
    assert read(service, job).status is JobStatus.PROCESSING


def test_objects_without_a_row_are_removed_after_a_grace_period(
    service: Service, completed: Job, set_clock: SetClock
) -> None:
    variant, upload = variant_key("photos", "medium", str(uuid.uuid4())), f"photos/{uuid.uuid4()}"
    service.storage.put(variant, b"nobody's")
    service.staging.put(upload, b"nobody's")
    draft = service.incoming / "broken-off"
    draft.write_bytes(b"half")
    assert list(find_discrepancies(service, repair=True)) == [], "they may still be in use"
    set_clock(timedelta(hours=25))
    orphans = {
        "variant_without_row": variant,
        "upload_without_row": upload,
        "abandoned_file": str(draft),
    }
    assert {found.kind: found.where for found in find_discrepancies(service)} == orphans
    assert draft.exists()
    assert all(found.repaired for found in find_discrepancies(service, repair=True))
    assert list(find_discrepancies(service)) == []
    assert all(map(service.storage.exists, (completed.variant_keys or {}).values()))


def test_wrong_database_costs_no_image(
    service: Service, completed: Job, submit_image: Submit, tmp_path: Path, set_clock: SetClock
) -> None:
    """A mistyped DATABASE_PATH leads to an empty database, in which every object is unknown."""
    waiting = submit_image()
    stored = {*(completed.variant_keys or {}).values(), waiting.staging_key}
    set_clock(timedelta(days=3))
    mistyped = {"database_url": None, "database_path": tmp_path / "typo.db"}
    remove_marker(service)  # else the start is refused
    with open_service(service.settings.model_copy(update=mistyped)) as wrong:
        for _ in range(2):
            found = list(find_discrepancies(wrong, repair=True))
            assert {discrepancy.where for discrepancy in found} == stored
            assert not any(discrepancy.repaired for discrepancy in found)
            assert "Check DATABASE_URL or DATABASE_PATH" in found[0].remedy
            submit_to(wrong)  # repeat after it has accepted its own upload
    assert {found.kind for found in find_discrepancies(service)} == {"upload_without_row"}, (
        "uploads of the other database; nothing is missing"
    )


@pytest.mark.parametrize("deleted", [False, True])
def test_image_stored_or_deleted_since_the_listing_is_not_reported(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    waiting = submit_image()

    def find(service: Service, stored: Iterator[StoredObject]) -> Iterator[StoredObject]:
        yield from find_unknown_images(service, stored)
        run(service, waiting)

    def iterate(*arguments: Any) -> Iterator[Job]:
        for job in inventory.iterate_jobs(*arguments):
            if deleted:
                delete_image(service, job.image_id, OPERATOR)
            yield job

    monkeypatch.setattr(fsck, "find_unknown_images", find)
    monkeypatch.setattr(fsck, "iterate_jobs", iterate)
    assert list(find_discrepancies(service)) == []
    assert len(list(service.storage.list())) == (0 if deleted else 2)


def test_memory_does_not_grow_with_the_number_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python holds a few hundred keys of the listing at a time.

    SQLite's own memory is bounded by its cache size.
    """

    def measure(service: Service, count: int) -> int:
        keys = (
            variant_key("photos", "medium", str(uuid.UUID(int=number))) for number in range(count)
        )
        stored = [StoredObject(key, 1, datetime(2024, 1, 1, tzinfo=UTC)) for key in keys]
        monkeypatch.setattr(LocalStorage, "list", lambda *_: iter(stored))
        tracemalloc.start()
        assert (
            sum(1 for _ in find_discrepancies(service)) == 2 * count
        )  # once as a variant, once as an upload
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak_bytes

    with open_service(Settings(data_dir=tmp_path)) as service:
        measure(service, 1000)  # fill caches that stay filled
        few = measure(service, 1000)
        many = min(
            measure(service, 10_000) for _ in range(3)
        )  # other threads may allocate meanwhile
    assert many < 1.2 * few


def test_rows_are_read_in_batches(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[str, int]] = []
    monkeypatch.setattr(inventory, "ROWS_PER_QUERY", 7)
    with open_service(settings) as service:
        jobs = [make_job(number) for number in range(20)]
        with service.database.write() as connection:
            connection.execute(insert(processing_jobs), [job.to_row() for job in jobs])
            forget_snapshot(connection)
        found = list(find_discrepancies(service, report=lambda *report: reports.append(report)))
    assert reports[-1] == ("jobs checked", 20)
    assert {discrepancy.job_id for discrepancy in found} == {job.job_id for job in jobs}
    assert {discrepancy.kind for discrepancy in found} == {"upload_missing"}


def test_jobs_accepted_meanwhile_do_not_keep_the_check_from_ending(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "ROWS_PER_QUERY", 1)
    submit_image()
    read_jobs = []
    for job in inventory.iterate_jobs(service.database):
        read_jobs.append(job)
        submit_image()
    assert len(read_jobs) == 1


def make_job(number: int) -> Job:
    id_ = str(uuid.UUID(int=number))
    return Job(
        job_id=id_,
        image_id=id_,
        user_id="ann",
        status=JobStatus.PENDING,
        bucket="photos",
        context={},
        source_sha256="0" * 64,
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        max_retries=3,
        staging_key=f"photos/{id_}",
    )
