from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from imageprocessor.errors import (
    DatabaseUnavailableError,
    ImageProcessorError,
    StorageUnavailableError,
)
from imageprocessor.queue import rate_limits
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import claim_next, fail_attempt, run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import processing_jobs, webhook_deliveries
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs import webhook_deliveries as jobs_deliveries
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.fsck import find_discrepancies
from imageprocessor.queue.maintenance.sweep import (
    GLOBAL_STEPS,
    OBJECTS_PER_QUERY,
    UPLOAD_STEP,
    sweep,
)
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.storage.keys import variant_key
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import StoredObject
from tests.queue.conftest import Submit, remove_marker, with_settings
from tests.uploads import submit_to

SetClock = Callable[[timedelta], None]


def test_healthy_service_needs_no_repair(service: Service, submit_image: Submit) -> None:
    done = submit_image()
    run_job(service, done.job_id, "worker")
    submit_image()
    assert set(sweep(service).values()) == {0}


def test_jobs_of_a_dead_supervisor_are_retried_at_once(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    directory = workers_directory(service.settings)
    directory.mkdir()
    (directory / "abc.lock").write_text("2")
    with service.database.write() as connection:
        job_store.claim(connection, job.job_id, "abc:123", clock.utc_now(), timedelta(hours=1))
    assert sweep(service)["lost_jobs"] == 1
    with service.database.read() as connection:
        lost = job_store.find_job(connection, job.job_id)
    assert lost
    assert (lost.status, lost.error_code) == (JobStatus.RETRYING, "worker_lost")
    assert list(directory.iterdir()) == []


def test_only_the_last_job_of_each_child_of_a_dead_supervisor_is_charged(
    service: Service, submit_image: Submit
) -> None:
    jobs = [submit_image() for _ in range(4)]
    directory = workers_directory(service.settings)
    directory.mkdir()
    (directory / "abc.lock").write_text("2")
    for child in ("abc:1", "abc:2", "abc:1", "abc:2"):
        assert claim_next(service, child)
    assert sweep(service)["lost_jobs"] == 4
    with service.database.read() as connection:
        ended = [job_store.find_job(connection, job.job_id) for job in jobs]
    assert [(job.status, job.attempts) for job in ended if job] == [
        (JobStatus.PENDING, 0),
        (JobStatus.PENDING, 0),
        (JobStatus.RETRYING, 1),
        (JobStatus.RETRYING, 1),
    ]


def test_job_that_kills_its_workers_fails_after_its_attempts(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    for attempt in range(1, 5):
        set_clock(timedelta(hours=attempt))
        with service.database.write() as connection:
            assert job_store.claim(
                connection, job.job_id, "w", clock.utc_now(), timedelta(seconds=-1)
            )
        sweep(service, GLOBAL_STEPS)
    with service.database.read() as connection:
        ended = job_store.find_job(connection, job.job_id)
    assert ended
    assert (ended.status, ended.error_code, ended.attempts) == (JobStatus.FAILED, "worker_lost", 4)


def test_orphans_are_removed_after_a_grace_period_and_other_files_kept(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    orphan = variant_key("photos", "medium", str(uuid.uuid4()))
    service.storage.put(orphan, b"nobody's")
    service.storage.put("photos/README.txt", b"somebody else's")
    service.staging.put(f"photos/{uuid.uuid4()}", b"nobody's")
    (service.incoming / "broken-off").write_bytes(b"half")
    assert set(sweep(service).values()) == {0}
    set_clock(timedelta(hours=25))
    counts = sweep(service, dry_run=True)
    assert (counts["orphaned_uploads"], counts["orphaned_images"], counts["abandoned_files"]) == (
        1,
        1,
        1,
    )
    assert service.storage.exists(orphan), "a dry run removes nothing"
    sweep(service)
    assert [stored.key for stored in service.storage.list()] == ["photos/README.txt"]
    assert list(service.staging.list()) == []
    assert list(service.incoming.iterdir()) == []


def test_empty_database_deletes_nothing_from_a_full_storage(
    service: Service, submit_image: Submit, set_clock: SetClock, tmp_path: Path
) -> None:
    run_job(service, submit_image().job_id, "worker")
    submit_image()
    before = {stored.key for store in (service.storage, service.staging) for stored in store.list()}
    set_clock(timedelta(days=30))
    mistyped = {"database_url": None, "database_path": tmp_path / "typo.db"}
    remove_marker(service)  # else the start is refused
    with open_service(service.settings.model_copy(update=mistyped)) as wrong:
        assert set(sweep(wrong).values()) == {0}
        run_job(
            wrong, submit_to(wrong).job_id, "worker"
        )  # repeat after it has accepted its own upload
        sweep(wrong)
        after = {stored.key for store in (wrong.storage, wrong.staging) for stored in store.list()}
    assert before <= after


@pytest.mark.parametrize(
    ("owner", "removed"),
    [
        ("{identity}", True),
        ("{identity} 2024-01-01T00:00:00.000000Z", True),
        ("{identity} {later}", False),
        ("{identity} yesterday", False),
        ("another", False),
        ("another 2024-01-01T00:00:00.000000Z", False),
        ("", False),
    ],
)
def test_only_what_the_marker_claims_is_removed(
    service: Service, set_clock: SetClock, owner: str, removed: bool
) -> None:
    upload, variant = f"photos/{uuid.uuid4()}", variant_key("photos", "medium", str(uuid.uuid4()))
    service.staging.put(upload, b"nobody's")
    service.storage.put(variant, b"nobody's")
    set_clock(timedelta(hours=25))
    identity, later = service.database.identity(), clock.to_text(clock.utc_now())
    for store in (service.storage, service.staging):
        store.write_marker("", owner.format(identity=identity, later=later))

    with capture_logs() as logs:
        counts = sweep(service)
    assert (counts["orphaned_uploads"], counts["orphaned_images"]) == (removed, removed)
    assert service.staging.exists(upload) is service.storage.exists(variant) is not removed
    kept = [line["count"] for line in logs if line["event"] == "unknown_objects_kept"]
    assert kept == ([] if removed else [1, 1])
    found = {discrepancy.where for discrepancy in find_discrepancies(service, repair=True)}
    assert found == (set() if removed else {upload, variant})
    assert service.storage.exists(variant) is not removed


def test_new_service_claims_nothing_that_was_there_before(
    settings: Settings, set_clock: SetClock
) -> None:
    upload, variant = f"photos/{uuid.uuid4()}", variant_key("photos", "medium", str(uuid.uuid4()))
    for folder, key in ((settings.storage_path, variant), (settings.data_dir / "staging", upload)):
        LocalStorage(folder).put(key, b"another's")
    set_clock(timedelta(days=2))
    with open_service(settings) as service:
        assert set(sweep(service).values()) == {0}
        assert service.storage.exists(variant)
        assert service.staging.exists(upload)


def test_images_and_staged_uploads_with_a_row_are_never_orphans(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    done, waiting = submit_image(), submit_image()
    run_job(service, done.job_id, "worker")
    set_clock(timedelta(days=30))
    sweep(service)
    assert len(list(service.storage.list())) == len(service.settings.image_sizes)
    assert service.staging.exists(waiting.staging_key or "")


def test_variants_of_a_failed_job_are_kept_as_long_as_its_upload(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    """The deletion was interrupted after the commit that forgets the upload."""
    job = fail_after_storing(service, submit_image())
    set_clock(timedelta(hours=25))
    assert sweep(service)["orphaned_images"] == 0
    assert len(list(service.storage.list())) == 1
    with service.database.write() as connection:
        assert job_store.forget_source(connection, job)
    counts = sweep(service)
    assert (counts["orphaned_images"], counts["orphaned_uploads"]) == (1, 1)
    assert [*service.storage.list(), *service.staging.list()] == []


def test_variant_that_its_completed_image_lacks_is_an_orphan(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    """An earlier attempt with other IMAGE_SIZES stored it."""
    job = submit_image()
    service.storage.put(variant_key("photos", "giant", job.image_id), b"of an earlier attempt")
    run_job(service, job.job_id, "worker")
    set_clock(timedelta(hours=25))
    assert sweep(service)["orphaned_images"] == 1
    assert len(list(service.storage.list())) == len(service.settings.image_sizes)


@pytest.mark.parametrize("worker_state", ["open", "retrying"])
def test_variants_of_an_open_job_are_never_orphans(
    service: Service, submit_image: Submit, set_clock: SetClock, worker_state: str
) -> None:
    job = submit_image()
    if worker_state == "retrying":
        job = fail_attempt_of(service, job, StorageUnavailableError("The disk is away."))
    service.storage.put(
        variant_key("photos", "medium", job.image_id), b"stored by the attempt before"
    )
    set_clock(timedelta(days=30))
    assert sweep(service)["orphaned_images"] == 0


def test_sweep_holds_one_batch_of_keys_at_a_time(
    service: Service, submit_image: Submit, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = submit_image()
    delete_image(service, deleted.image_id, OPERATOR)
    stored_at = clock.utc_now()
    set_clock(timedelta(hours=25))
    held: set[str] = set()
    most = 0

    def list_many() -> Iterator[StoredObject]:
        nonlocal most
        for size in range(3 * OBJECTS_PER_QUERY):
            key = variant_key("photos", f"s{size}", deleted.image_id)
            held.add(key)
            most = max(most, len(held))
            yield StoredObject(key, 1, stored_at)

    monkeypatch.setattr(
        LocalStorage, "list", lambda self: list_many() if self is service.storage else ()
    )
    monkeypatch.setattr(LocalStorage, "delete", lambda _, key: held.remove(key))
    assert sweep(service)["orphaned_images"] == 3 * OBJECTS_PER_QUERY
    assert (most, held) == (OBJECTS_PER_QUERY, set())


def test_interrupted_deletions_are_finished_some_by_each_sweep(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageprocessor.queue.maintenance.sweep.JOBS_PER_SWEEP", 2)
    jobs = [submit_image() for _ in range(3)]
    for job in jobs:
        run_job(service, job.job_id, "worker")
    with monkeypatch.context() as patch:
        patch.setattr(type(service.storage), "delete", _refuse)
        for job in jobs:
            delete_image(service, job.image_id, OPERATOR)
    assert len(list(service.storage.list())) == 6
    assert sweep(service)["deleted_images"] == 2
    assert sweep(service)["deleted_images"] == 1
    assert list(service.storage.list()) == []
    assert sweep(service)["deleted_images"] == 0


def test_nothing_is_deleted_before_the_row_that_permits_it_is_flushed(
    service: Service,
    submit_image: Submit,
    set_clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orphan = f"photos/{uuid.uuid4()}"
    service.staging.put(orphan, b"nobody's")
    deleted = submit_image()
    with service.database.write() as connection:
        job_store.mark_deleted(connection, deleted.image_id, clock.utc_now())
    set_clock(timedelta(hours=25))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "flush", _fail)
        for steps in (GLOBAL_STEPS, [UPLOAD_STEP]):
            with pytest.raises(DatabaseUnavailableError):
                sweep(service, steps)
    assert {stored.key for stored in service.staging.list()} == {orphan, deleted.staging_key}
    sweep(service)
    assert list(service.staging.list()) == []


def test_expired_rate_limit_windows_are_deleted(
    service: Service, submit_image: Submit, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "COUNTS_PER_DELETE", 2)
    for user_id in ("ann", "bob", "eve"):
        submit_image(user_id=user_id)
    set_clock(timedelta(hours=2))
    assert sweep(service)["old_windows"] == 1
    assert sweep(service)["old_windows"] == 1
    assert sweep(service)["old_windows"] == 0


@pytest.mark.parametrize(("retention_days", "kept_days"), [(0, 30), (7, 7), (365, 30)])
def test_deliveries_that_ended_are_deleted_after_a_month_or_with_the_audit_trail(
    service: Service, retention_days: int, kept_days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_deliveries, "DELETED_AT_ONCE", 2)
    ages = {
        **{f"old-{number}": kept_days + 0.1 * number for number in range(1, 5)},
        "recent": kept_days - 0.1,
    }
    now = clock.utc_now()
    rows = [
        {
            "delivery_id": name,
            **dict.fromkeys(("endpoint", "event_id", "event_type", "image_id", "job_id"), "x"),
            "body": "{}",
            "status": "failed" if name == "old-1" else "delivered",
            "attempt_count": 1,
            "created_at": clock.to_text(now),
            "ended_at": clock.to_text(now - timedelta(days=days)),
        }
        for name, days in ages.items()
    ]
    waiting = {**rows[0], "delivery_id": "waiting", "status": "waiting", "ended_at": None}
    with service.database.write() as connection:
        connection.execute(webhook_deliveries.insert(), [*rows, waiting])
    kept = with_settings(service, audit_retention_days=retention_days)
    assert [sweep(kept, GLOBAL_STEPS)["old_deliveries"] for _ in range(3)] == [1, 1, 0]
    with service.database.read() as connection:
        left = set(connection.scalars(select(webhook_deliveries.c.delivery_id)))
    assert left == {"recent", "waiting"}


def test_abandoned_files_are_recognized_by_age(service: Service) -> None:
    old, new = service.incoming / "old", service.incoming / "new"
    old.write_bytes(b"")
    new.write_bytes(b"")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    sweep(service)
    assert list(service.incoming.iterdir()) == [new]


def fail_attempt_of(service: Service, job: Job, error: ImageProcessorError) -> Job:
    """Claim the job and end the attempt with *error*; return the job afterwards."""
    with service.database.write() as connection:
        claimed = job_store.claim(
            connection, job.job_id, "worker", clock.utc_now(), timedelta(minutes=1)
        )
    assert claimed
    fail_attempt(service, claimed, error)
    with service.database.read() as connection:
        ended = job_store.find_job(connection, job.job_id)
    assert ended
    return ended


def fail_after_storing(service: Service, job: Job) -> Job:
    """Fail the job for good by a storage error, with its upload and one variant kept.

    Return the job afterwards.
    """
    service.storage.put(variant_key(job.bucket, "medium", job.image_id), b"stored before")
    with service.database.write() as connection:
        connection.execute(
            update(processing_jobs)
            .where(processing_jobs.c.job_id == job.job_id)
            .values(max_retries=0)
        )
    return fail_attempt_of(service, job, StorageUnavailableError("The disk is away."))


def _fail(_: Database) -> None:
    raise DatabaseUnavailableError("The disk fails.")


def _refuse(*_: object) -> None:
    raise StorageUnavailableError("The storage does not answer.")
