"""Storage migration: copies every image and every waiting upload to another storage.

Only bytes count: an object that is there already is read and compared, and each written object is
read back. So a run continues where an interrupted one stopped, and a final run proves that nothing
is missing. Then the operator changes the settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imageprocessor.errors import (
    ObjectNotFoundError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.storage_ownership import StorageOwnership, find_ownerships
from imageprocessor.queue.service import Service, open_storages
from imageprocessor.settings import Settings
from imageprocessor.storage.keys import S3_BUCKET_PATTERN, image_id_of
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import Storage, StoredObject

THREADS = 8  #: each waits for responses most of the time

Storages = tuple[Storage, Storage]  #: of images and of uploads, as `open_storages` returns them


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for one object: it was copied, was there already, or caused an *error*.

    In a dry run, ``copied`` means that it would be copied.
    """

    stored: StoredObject
    copied: bool = False
    error: StorageError | None = None


def change_location(settings: Settings, location: str) -> Settings:
    """Return *settings* with the storage at *location*.

    *location*: ``s3://bucket``, ``s3://`` or ``local:///absolute/path``. ``s3://`` gives each
    bucket in ALLOWED_BUCKETS its own S3 bucket.

    Raises:
        SettingsError: *location* has none of these forms, is already in use, or is ``s3://`` while
            ALLOWED_BUCKETS is empty.
    """
    scheme, _, place = location.partition("://")
    if scheme == "local" and place.startswith("/"):
        return _change_to_folder(settings, Path(place))
    if location == "s3://" and not settings.allowed_buckets:
        raise SettingsError(
            "s3:// needs ALLOWED_BUCKETS, which names the S3 buckets. "
            "To use a single S3 bucket: s3://BUCKET"
        )
    if scheme == "s3" and (not place or S3_BUCKET_PATTERN.fullmatch(place)):
        bucket = place or None
        if settings.storage_backend == "s3" and settings.s3_bucket == bucket:
            raise SettingsError(f"The images are in s3://{place} already. Use another location.")
        return settings.model_copy(update={"storage_backend": "s3", "s3_bucket": bucket})
    raise SettingsError(
        f"{location!r} is not a valid location. "
        "Use 's3://BUCKET', 's3://' or 'local:///absolute/path'."
    )


def _change_to_folder(settings: Settings, folder: Path) -> Settings:
    in_use = [settings.data_dir / "staging"]
    if settings.storage_backend == "local":
        in_use.append(settings.storage_path)
    new = folder.resolve()
    for path in in_use:
        used = path.resolve()
        if used.is_relative_to(new) or new.is_relative_to(used):
            raise SettingsError(f"{folder} overlaps {used}, which is in use. Use another folder.")
    return settings.model_copy(update={"storage_backend": "local", "storage_path": folder})


def list_variables(settings: Settings) -> dict[str, str]:
    """Return the ``.env`` variables for the storage of *settings*; an empty value means unset."""
    if settings.storage_backend == "local":
        return {"STORAGE_BACKEND": "local", "STORAGE_PATH": str(settings.storage_path)}
    return {"STORAGE_BACKEND": "s3", "S3_BUCKET": settings.s3_bucket or ""}


def open_targets(changed: Settings, *, dry_run: bool = False) -> Storages:
    """Open the storages of the *changed* settings.

    A dry run creates no folder; a missing one counts as empty.
    """
    is_local = changed.storage_backend == "local"
    if dry_run and is_local and not changed.storage_path.exists():
        return MemoryStorage(), MemoryStorage()
    return open_storages(changed)


def own_targets(service: Service, targets: Storages) -> tuple[StorageOwnership, StorageOwnership]:
    """Return the ties of this database to the targets.

    Raises:
        StorageMismatchError: A target belongs to another database.
    """
    ownerships = find_ownerships(service.database, *targets)
    for ownership in ownerships:
        ownership.find_unmarked()
    return ownerships


def list_objects(storages: Storages) -> Iterator[tuple[int, StoredObject]]:
    """Yield all images, then all uploads, each with the index of its storage in *storages*."""
    images, uploads = storages
    for stored in images.list():
        if image_id_of(stored.key):
            yield 0, stored
    for stored in uploads.list():
        yield 1, stored


def migrate(sources: Storages, targets: Storages, *, dry_run: bool = False) -> Iterator[Outcome]:
    """Copy each object that its target lacks, or has with other bytes; yield every outcome.

    *dry_run*: only compare.

    Raises:
        StorageUnavailableError: A source cannot be listed, or a target cannot be reached.
    """
    for target in targets:
        next(target.list(), None)  # fail once now rather than once for each object
    with ThreadPoolExecutor(THREADS) as pool:
        running: set[Future[Outcome]] = set()
        for index, stored in list_objects(sources):
            copying = pool.submit(_copy, stored, sources[index], targets[index], dry_run=dry_run)
            running.add(copying)
            # Keep only a few objects in memory at a time.
            if len(running) == 2 * THREADS:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        for future in running:
            yield future.result()


def find_open_work(service: Service, since: datetime) -> str | None:
    """Return why the old storage may still receive images after a run, or None.

    *since*: the run's start.
    """
    with service.database.read() as connection:
        open_jobs = job_store.count_open(connection)
        has_changed = outbox.has_event_since(connection, since)
    if open_jobs:
        return f"open jobs: {open_jobs}"
    if has_changed:
        return "jobs arrived or ended during the run"
    if workers := service.dispatcher.count_workers():
        return f"running workers: {workers}"
    return None


def _copy(stored: StoredObject, source: Storage, target: Storage, *, dry_run: bool) -> Outcome:
    key = stored.key
    try:
        data = _read(source, key)
        if data is None:  # deleted since it was listed
            return Outcome(stored)
        if data == _read(target, key):
            return Outcome(stored)
        if dry_run:
            return Outcome(stored, copied=True)
        target.put(key, data)
        if target.get(key) != data:
            raise StorageUnavailableError(
                f"{key!r} was read back with other bytes than were written. Check that storage."
            )
    except StorageError as error:
        return Outcome(stored, error=error)
    return Outcome(stored, copied=True)


def _read(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except ObjectNotFoundError:
        return None
