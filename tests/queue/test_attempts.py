from __future__ import annotations

import gc
import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import (
    DecodeTimeoutError,
    StorageUnavailableError,
    WorkerLostError,
)
from imageprocessor.queue import attempts
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import variant_key
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.side_by_side import open_store_pool
from tests.images import encode, photo, png_bomb, truncated
from tests.queue.conftest import Submit, lock_tables, with_settings

SetClock = Callable[[timedelta], None]


def find(service: Service, job: Job) -> Job:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    assert found
    return found


def event_types(service: Service, job: Job) -> list[str]:
    with service.database.read() as connection:
        return [event["event_type"] for event in outbox.list_events(connection, job.job_id)]


def stored_keys(service: Service) -> set[str]:
    return {stored.key for stored in service.storage.list()}


def test_completed_job_has_every_variant_and_no_source(
    service: Service, submit_image: Submit
) -> None:
    data = encode(photo(80, 60), "JPEG")
    job = submit_image(data)
    run_job(service, job.job_id, "worker")
    done = find(service, job)
    assert (done.status, done.attempts, done.error, done.staging_key) == (
        JobStatus.COMPLETED,
        1,
        None,
        None,
    )
    assert done.variant_keys
    expected = process(data, service.settings.image_sizes)
    for name, key in done.variant_keys.items():
        assert service.storage.get(key) == expected.variants[name].data
    assert done.generated == expected.describe()
    assert list(service.staging.list()) == []
    assert event_types(service, job) == ["upload_initiated", "processing_started", "completed"]


def test_a_size_may_draw_an_image_of_the_watermarks_folder(
    service: Service, submit_image: Submit, tmp_path: Path
) -> None:
    (tmp_path / "us.png").write_bytes(encode(photo(9, 9), "PNG"))
    sizes = (VariantSpec("card", width=40, crop="0:0:60:60", watermark="us:se:80:50"),)
    marking = with_settings(service, image_sizes=sizes, watermarks_dir=tmp_path)
    large, small = (encode(photo(side, side), "JPEG") for side in (80, 50))
    job = submit_image(large)
    run_job(marking, job.job_id, "worker")
    assert find(service, job).variant_keys
    [card] = process(large, sizes, watermarks=marking.settings.watermarks).variants.values()
    assert service.storage.get(variant_key(job.bucket, "card", job.image_id)) == card.data
    job = submit_image(small)
    run_job(marking, job.job_id, "worker")
    failed = find(service, job)
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "transformation_invalid")
    assert "crop 0:0:60:60 is not within the image of 50 x 50 pixels" in str(failed.error)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_truncated_image_fails_at_the_first_attempt_and_loses_its_source(
    image_format: str, service: Service, submit_image: Submit
) -> None:
    job = submit_image(truncated(encode(photo(200, 200), image_format), 0.5))
    run_job(service, job.job_id, "worker")
    failed = find(service, job)
    assert (failed.status, failed.error_code, failed.attempts) == (
        JobStatus.FAILED,
        "image_truncated",
        1,
    )
    assert list(service.staging.list()) == []
    assert event_types(service, job)[-1] == "failed"


class RefusingStorage(MemoryStorage):
    """A storage that is down; ``test_s3_faults.py`` tests faults of S3 itself."""

    def put(self, key: str, data: bytes) -> None:
        if "medium" in key:
            raise StorageUnavailableError("The storage does not answer.")
        super().put(key, data)


def test_failed_job_leaves_no_pixels_to_the_garbage_collector(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image(png_bomb(300, 200))
    gc.collect()
    gc.disable()
    try:
        before = count_images()
        run_job(service, job.job_id, "worker")
        assert count_images() == before
    finally:
        gc.enable()
    assert find(service, job).error_code == "image_truncated"


def count_images() -> int:
    return sum(isinstance(each, Image.Image) for each in gc.get_objects())


def test_storage_fault_retries_with_backoff_then_fails_and_keeps_the_source(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    broken = replace(service, storage=RefusingStorage())
    for attempt in range(1, 5):
        set_clock(timedelta(minutes=2 * attempt))
        run_job(broken, job.job_id, "worker")
        assert find(service, job).status is (
            JobStatus.FAILED if attempt == 4 else JobStatus.RETRYING
        )
    failed = find(service, job)
    assert (failed.error_code, failed.attempts) == ("storage_unavailable", 4)
    assert service.staging.exists(failed.staging_key or "")
    assert event_types(service, job).count("retrying") == 3


def test_waiting_job_cannot_be_claimed_before_it_is_due(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    run_job(replace(service, storage=RefusingStorage()), job.job_id, "worker")
    waiting = find(service, job)
    assert waiting.next_attempt_at
    assert 0 < (waiting.next_attempt_at - clock.utc_now()).total_seconds() <= 10
    run_job(service, job.job_id, "worker")
    assert find(service, job) == waiting


def test_source_of_a_failed_job_is_kept_for_its_hours_and_then_deleted(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    service = replace(with_settings(service, failed_source_hours=168), storage=RefusingStorage())
    job = submit_image()
    for attempt in range(1, 5):
        set_clock(timedelta(minutes=2 * attempt))
        run_job(service, job.job_id, "worker")
    set_clock(timedelta(hours=167))
    assert sweep(service)["old_sources"] == 0
    assert stored_keys(service) != set(), "a worker that retries the job may be storing them"
    set_clock(timedelta(hours=169))
    assert sweep(service)["old_sources"] == 1
    assert stored_keys(service) == set()
    assert list(service.staging.list()) == []
    assert find(service, job).staging_key is None


@pytest.mark.parametrize(
    ("tamper", "code"), [("delete", "source_missing"), ("put", "source_corrupt")]
)
def test_missing_or_changed_source_fails_the_job(
    tamper: str, code: str, service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    if tamper == "delete":
        service.staging.delete(job.staging_key or "")
    else:
        service.staging.put(job.staging_key or "", encode(photo(9, 9), "JPEG"))
    run_job(service, job.job_id, "worker")
    assert (find(service, job).status, find(service, job).error_code) == (JobStatus.FAILED, code)


@pytest.mark.parametrize(
    ("fault", "code"), [(MemoryError(), "memory_exceeded"), (ZeroDivisionError(), "internal_error")]
)
def test_any_error_ends_the_attempt_and_not_the_worker(
    fault: BaseException,
    code: str,
    service: Service,
    submit_image: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    job = submit_image()
    monkeypatch.setattr(attempts, "process", fail)
    run_job(service, job.job_id, "worker")
    assert (find(service, job).status, find(service, job).error_code) == (JobStatus.RETRYING, code)


def test_job_is_claimed_by_one_worker_only(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    lease = timedelta(seconds=60)
    with service.database.write() as connection:
        assert job_store.claim(connection, job.job_id, "one", clock.utc_now(), lease)
        assert job_store.claim(connection, job.job_id, "two", clock.utc_now(), lease) is None


def test_stale_worker_cannot_change_a_completed_job(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    with service.database.write() as connection:
        stale = job_store.claim(
            connection, job.job_id, "slow", clock.utc_now(), timedelta(seconds=1)
        )
    assert stale
    pending = attempts.process_job(service, stale, threads=1)
    set_clock(timedelta(minutes=1))
    assert sweep(service)["expired_jobs"] == 1
    set_clock(timedelta(minutes=2))
    run_job(service, job.job_id, "fast")
    done = find(service, job)
    with open_store_pool() as pool:
        attempts.finish_attempt(service, pending, pool)
    attempts.fail_attempt(service, stale, StorageUnavailableError("too late"))
    assert find(service, job) == done
    assert set((done.variant_keys or {}).values()) == stored_keys(service)
    assert event_types(service, job).count("completed") == 1


def claim_all(service: Service, worker_id: str) -> list[Job]:
    """Claim every due job for one worker, in order."""
    claimed: list[Job] = []
    while job := attempts.claim_next(service, worker_id):
        claimed.append(job)
    return claimed


def describe(service: Service, job: Job) -> tuple[str, int, str | None]:
    now = find(service, job)
    return now.status, now.attempts, now.error_code


UNCOUNTED = ("pending", 0, None)


def test_dead_worker_is_charged_only_for_the_job_that_it_began_last(
    service: Service, submit_image: Submit
) -> None:
    jobs = [submit_image(), submit_image()]
    assert claim_all(service, "abc:1") == [find(service, job) for job in jobs]
    attempts.end_attempts(service, "abc:1", WorkerLostError("It ended."))
    assert describe(service, jobs[0]) == UNCOUNTED
    assert describe(service, jobs[1]) == ("retrying", 1, "worker_lost")
    assert event_types(service, jobs[0])[-1] == "released"


def test_worker_killed_because_of_a_job_is_charged_only_for_that_one(
    service: Service, submit_image: Submit
) -> None:
    jobs = [submit_image(), submit_image()]
    claim_all(service, "abc:1")
    late = DecodeTimeoutError("It took too long.")
    attempts.end_attempts(service, "abc:1", late, overdue=jobs[0].job_id)
    assert describe(service, jobs[0]) == ("retrying", 1, "decode_timeout")
    assert describe(service, jobs[1]) == UNCOUNTED


def test_stopped_workers_are_charged_for_no_job(service: Service, submit_image: Submit) -> None:
    jobs = [submit_image(), submit_image()]
    claim_all(service, "abc:1")
    attempts.release_attempts(service, "abc")
    assert [describe(service, job) for job in jobs] == [UNCOUNTED, UNCOUNTED]


def test_attempt_whose_result_the_database_rejects_fails(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(*_: object) -> None:
        raise ValueError("not storable")

    job = submit_image()
    with monkeypatch.context() as patch:
        patch.setattr(job_store, "complete", reject)
        run_job(service, job.job_id, "worker")
    assert describe(service, job) == ("retrying", 1, "internal_error")


def test_everything_is_flushed_before_the_commit_that_completes_a_job(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync, complete = os.fsync, job_store.complete

    def record_flush(descriptor: int) -> None:
        fsync(descriptor)
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    def check_flushes(*arguments: Any) -> bool:
        stored = arguments[2].values()
        folders = {str((service.settings.storage_path / key).parent) for key in stored}
        assert folders <= set(flushed)
        drafts = [path for path in flushed if "/.tmp/" in path]
        assert len(drafts) == len(stored)
        return complete(*arguments)

    job = submit_image()
    monkeypatch.setattr(os, "fsync", record_flush)
    monkeypatch.setattr(job_store, "complete", check_flushes)
    run_job(service, job.job_id, "worker")
    assert describe(service, job) == ("completed", 1, None)


def test_image_deleted_while_its_finish_is_pending_does_not_come_back(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    (claimed,) = claim_all(service, "worker")
    pending = attempts.process_job(service, claimed, threads=1)
    delete_image(service, job.image_id, OPERATOR)
    with open_store_pool() as pool:
        attempts.finish_attempt(service, pending, pool)
    assert stored_keys(service) == set()
    assert list(service.staging.list()) == []
    assert event_types(service, job)[-1] == "deleted"


def test_image_deleted_while_it_is_processed_does_not_come_back(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit_image()

    def delete_meanwhile(*arguments: Any, **options: Any) -> object:
        delete_image(service, job.image_id, OPERATOR)
        return process(*arguments, **options)

    monkeypatch.setattr(attempts, "process", delete_meanwhile)
    run_job(service, job.job_id, "worker")
    assert stored_keys(service) == set()
    assert list(service.staging.list()) == []
    with service.database.read() as connection:
        assert job_store.find_job(connection, job.job_id) is None
        assert job_store.list_deleted(connection, 2) == []
    assert event_types(service, job)[-1] == "deleted"


def test_variants_are_stored_concurrently_and_none_after_a_failure(
    service: Service, submit_image: Submit
) -> None:
    storage = MeetingStorage()
    job = submit_image()
    run_job(replace(service, storage=storage), job.job_id, "worker")
    assert find(service, job).status is JobStatus.RETRYING
    assert [stored.key for stored in storage.list()] == [
        variant_key("photos", "medium", job.image_id)
    ]


class MeetingStorage(MemoryStorage):
    """A storage that waits until both variants are being stored.

    Then it refuses the thumbnail and stores the other one slowly.
    """

    def __init__(self) -> None:
        super().__init__()
        self._meeting = threading.Barrier(2, timeout=20)

    def put(self, key: str, data: bytes) -> None:
        self._meeting.wait()
        if "thumbnail" in key:
            raise StorageUnavailableError("The storage does not answer.")
        time.sleep(0.2)
        super().put(key, data)


def test_outcome_is_written_once_the_database_answers_again(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    locking = _Lock(service, times=1)
    run_job(replace(service, storage=locking), job.job_id, "worker")
    assert find(service, job).status is JobStatus.COMPLETED


class _Lock(MemoryStorage):
    """A storage that locks the database after a variant, for longer than the busy timeout."""

    def __init__(self, service: Service, times: int) -> None:
        super().__init__()
        self._service, self._times = service, times

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        if self._times:
            self._times -= 1
            _hold_lock(self._service, seconds=6)


def _hold_lock(service: Service, seconds: float) -> None:
    import threading
    import time

    held = threading.Event()

    def hold() -> None:
        with service.database.write() as connection:
            lock_tables(connection)
            held.set()
            time.sleep(seconds)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()


def test_variants_are_webp_without_metadata(service: Service, submit_image: Submit) -> None:
    job = submit_image()
    run_job(service, job.job_id, "worker")
    for key in stored_keys(service):
        with Image.open(io.BytesIO(service.storage.get(key))) as image:
            assert image.format == "WEBP"
            assert not image.getexif()
