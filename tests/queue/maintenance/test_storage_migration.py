from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageprocessor.errors import SettingsError, StorageFullError, StorageUnavailableError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.maintenance.storage_migration import (
    Outcome,
    Storages,
    change_location,
    find_open_work,
    migrate,
    open_targets,
)
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from imageprocessor.storage.keys import staging_key, variant_key
from imageprocessor.storage.memory import MemoryStorage
from tests.queue.conftest import Submit

IMAGE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
IMAGE, UPLOAD = variant_key("avatars", "medium", IMAGE_ID), staging_key("avatars", "1")


@pytest.fixture
def sources() -> Storages:
    images, uploads = MemoryStorage(), MemoryStorage()
    images.put(IMAGE, b"image")
    uploads.put(UPLOAD, b"upload")
    return images, uploads


def run(sources: Storages, targets: Storages, **options: bool) -> dict[str, Outcome]:
    return {outcome.stored.key: outcome for outcome in migrate(sources, targets, **options)}


def test_images_and_uploads_are_copied_and_their_sources_kept(
    sources: Storages,
) -> None:
    targets = MemoryStorage(), MemoryStorage()
    outcomes = run(sources, targets)
    for images, uploads in (sources, targets):
        assert [found.key for found in images.list()] == [IMAGE]
        assert [found.key for found in uploads.list()] == [UPLOAD]
        assert (images.get(IMAGE), uploads.get(UPLOAD)) == (b"image", b"upload")
    assert all(outcome.copied for outcome in outcomes.values())


def test_many_objects_are_all_copied() -> None:
    sources, targets = (MemoryStorage(), MemoryStorage()), (MemoryStorage(), MemoryStorage())
    for number in range(200):
        sources[1].put(staging_key("avatars", str(number)), b"%d" % number)
    assert len(run(sources, targets)) == 200
    assert {found.key for found in targets[1].list()} == {found.key for found in sources[1].list()}


def test_identical_object_is_not_written_again(sources: Storages) -> None:
    class WriteOnce(MemoryStorage):
        def put(self, key: str, data: bytes) -> None:
            assert not self.exists(key)
            super().put(key, data)

    targets = WriteOnce(), WriteOnce()
    run(sources, targets)
    assert not any(outcome.copied or outcome.error for outcome in run(sources, targets).values())


def test_object_with_other_bytes_of_the_same_length_is_replaced(sources: Storages) -> None:
    targets = MemoryStorage(), MemoryStorage()
    targets[0].put(IMAGE, b"imagE")
    assert run(sources, targets)[IMAGE].copied
    assert targets[0].get(IMAGE) == b"image"


def test_dry_run_reports_missing_objects_and_writes_nothing(sources: Storages) -> None:
    targets = MemoryStorage(), MemoryStorage()
    targets[0].put(IMAGE, b"image")
    outcomes = run(sources, targets, dry_run=True)
    assert (outcomes[IMAGE].copied, outcomes[UPLOAD].copied) == (False, True)
    assert not targets[1].exists(UPLOAD)


def test_storage_that_alters_bytes_is_detected(sources: Storages) -> None:
    class Lossy(MemoryStorage):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data[:-1])

    error = run(sources, (Lossy(), MemoryStorage()))[IMAGE].error
    assert isinstance(error, StorageUnavailableError)
    assert IMAGE in str(error)


def test_one_object_that_cannot_be_stored_does_not_stop_the_others(sources: Storages) -> None:
    class Full(MemoryStorage):
        def put(self, key: str, data: bytes) -> None:
            raise StorageFullError(f"No space is left for the {len(data)} bytes of {key!r}.")

    outcomes = run(sources, (Full(), MemoryStorage()))
    assert isinstance(outcomes[IMAGE].error, StorageFullError)
    assert outcomes[UPLOAD].copied


def test_image_deleted_meanwhile_is_not_an_error(sources: Storages) -> None:
    class Vanishing(MemoryStorage):
        def get(self, key: str) -> bytes:
            self.delete(key)
            return super().get(key)

    images = Vanishing()
    images.put(IMAGE, b"image")
    outcome = run((images, sources[1]), (MemoryStorage(), MemoryStorage()))[IMAGE]
    assert (outcome.copied, outcome.error) == (False, None)


def test_other_objects_are_not_copied(sources: Storages) -> None:
    sources[0].put("avatars/notes.txt", b"mine")
    assert set(run(sources, (MemoryStorage(), MemoryStorage()))) == {IMAGE, UPLOAD}


def test_unreachable_target_is_one_error(sources: Storages) -> None:
    class Away(MemoryStorage):
        def list(self, prefix: str = "", start_after: str = "") -> Any:
            raise StorageUnavailableError(f"S3 does not answer to {prefix + start_after!r}.")

    with pytest.raises(StorageUnavailableError, match="does not answer"):
        run(sources, (MemoryStorage(), Away()))


@pytest.fixture
def on_s3(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"storage_backend": "s3", "s3_bucket": "photos", "allowed_buckets": ("avatars",)}
    )


def test_location_becomes_settings(settings: Settings, on_s3: Settings, tmp_path: Path) -> None:
    changed = change_location(settings, "s3://photos")
    assert (changed.storage_backend, changed.s3_bucket) == ("s3", "photos")
    changed = change_location(on_s3, "s3://")
    assert (changed.storage_backend, changed.s3_bucket) == ("s3", None)
    changed = change_location(on_s3, f"local://{tmp_path}/images")
    assert (changed.storage_backend, changed.storage_path) == ("local", tmp_path / "images")


@pytest.mark.parametrize(
    "place", ["", "photos", "s3://photos/prefix", "s3://UP", "local://images", "memory://", "s3:"]
)
def test_invalid_location_is_refused_with_the_valid_forms(on_s3: Settings, place: str) -> None:
    with pytest.raises(SettingsError, match="'s3://BUCKET', 's3://' or 'local:///absolute/path'"):
        change_location(on_s3, place)


def test_s3_without_a_bucket_needs_allowed_buckets(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="ALLOWED_BUCKETS"):
        change_location(settings, "s3://")


def test_s3_bucket_in_use_is_refused(on_s3: Settings) -> None:
    with pytest.raises(SettingsError, match="The images are in s3://photos already"):
        change_location(on_s3, "s3://photos")


@pytest.mark.parametrize(
    "folder", ["data/storage", "data/storage/new", "data", "data/../data/storage", "data/staging"]
)
def test_folder_that_overlaps_one_in_use_is_refused(
    settings: Settings, tmp_path: Path, folder: str
) -> None:
    with pytest.raises(SettingsError, match="overlap"):
        change_location(settings, f"local://{tmp_path}/{folder}")


def test_dry_run_creates_no_folder(settings: Settings, tmp_path: Path) -> None:
    open_targets(change_location(settings, f"local://{tmp_path}/new"), dry_run=True)
    assert not (tmp_path / "new").exists()
    open_targets(change_location(settings, f"local://{tmp_path}/new"))
    assert (tmp_path / "new").is_dir()


def test_open_or_newly_ended_jobs_prevent_the_switch(
    service: Service, submit_image: Submit
) -> None:
    started = clock.utc_now()
    assert find_open_work(service, started) is None
    job = submit_image()
    assert find_open_work(service, clock.utc_now()) == "open jobs: 1"
    run_job(service, job.job_id, "worker")
    assert find_open_work(service, started) == "jobs arrived or ended during the run"
    assert find_open_work(service, clock.utc_now()) is None


def test_running_workers_prevent_the_switch(service: Service) -> None:
    with presence.announce(workers_directory(service.settings), 2):
        assert find_open_work(service, clock.utc_now()) == "running workers: 2"
    assert find_open_work(service, clock.utc_now()) is None
