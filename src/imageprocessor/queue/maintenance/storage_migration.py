"""Storage migration: copies every image and every waiting upload to another storage.

Only bytes count: an object that is there already is read and compared, and what was written is read
back. So the next run goes on where one broke off, and a last run proves that nothing is missing.
Then the operator changes the settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from imageprocessor.errors import (
    ObjectNotFoundError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import OPEN_STATUSES
from imageprocessor.queue.service import Service, open_storages
from imageprocessor.settings import Settings
from imageprocessor.storage.keys import S3_BUCKET_PATTERN, image_id_of
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import Storage, StoredObject

THREADS = 8  #: each waits for answers most of the time

Storages = tuple[Storage, Storage]  #: of images and of uploads, as `open_storages` returns them


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one object: it was copied, it was there already, or an *error*.

    In a dry run, ``copied`` says that it is still to be copied.
    """

    stored: StoredObject
    copied: bool = False
    error: StorageError | None = None


def change_location(settings: Settings, location: str) -> Settings:
    """Return *settings* with the storage at *location*.

    ``s3://bucket``, ``s3://`` or ``local:///absolute/path``. ``s3://`` gives each bucket of
    ALLOWED_BUCKETS an S3 bucket of its own.

    Raises:
        SettingsError: *location* has none of these forms, or is where the images are now.
    """
    scheme, _, place = location.partition("://")
    if scheme == "local" and place.startswith("/"):
        return _change_to_folder(settings, Path(place))
    if location == "s3://" and not settings.allowed_buckets:
        raise SettingsError(
            "s3:// needs ALLOWED_BUCKETS: an S3 bucket for each of them. "
            "For one for all: s3://BUCKET"
        )
    if scheme == "s3" and (not place or S3_BUCKET_PATTERN.fullmatch(place)):
        bucket = place or None
        if settings.storage_backend == "s3" and settings.s3_bucket == bucket:
            raise SettingsError(f"s3://{place} is where the images are now: name another place.")
        return settings.model_copy(update={"storage_backend": "s3", "s3_bucket": bucket})
    raise SettingsError(
        f"{location!r} is no place to move to: "
        "use 's3://BUCKET', 's3://' or 'local:///absolute/path'."
    )


def _change_to_folder(settings: Settings, folder: Path) -> Settings:
    in_use = [settings.data_dir / "staging"]
    if settings.storage_backend == "local":
        in_use.append(settings.storage_path)
    new = folder.resolve()
    for path in in_use:
        used = path.resolve()
        if used.is_relative_to(new) or new.is_relative_to(used):
            raise SettingsError(
                f"{folder} and {used}, which is in use, overlap: name another folder."
            )
    return settings.model_copy(update={"storage_backend": "local", "storage_path": folder})


def list_variables(settings: Settings) -> dict[str, str]:
    """Return the variables of ``.env`` that say where *settings* store; an empty one is unset."""
    if settings.storage_backend == "local":
        return {"STORAGE_BACKEND": "local", "STORAGE_PATH": str(settings.storage_path)}
    return {"STORAGE_BACKEND": "s3", "S3_BUCKET": settings.s3_bucket or ""}


def open_targets(changed: Settings, *, dry_run: bool = False) -> Storages:
    """Open the storages of the *changed* settings.

    A dry run makes no folder: a missing one counts as empty.
    """
    is_local = changed.storage_backend == "local"
    if dry_run and is_local and not changed.storage_path.exists():
        return MemoryStorage(), MemoryStorage()
    return open_storages(changed)


def list_objects(storages: Storages) -> Iterator[tuple[int, StoredObject]]:
    """Yield all images, then all uploads, each with the index of its storage in *storages*."""
    images, uploads = storages
    for stored in images.list():
        if image_id_of(stored.key):
            yield 0, stored
    for stored in uploads.list():
        yield 1, stored


def migrate(sources: Storages, targets: Storages, *, dry_run: bool = False) -> Iterator[Outcome]:
    """Copy every object that is not in its target with the same bytes; yield each one's outcome.

    *dry_run*: compare only.

    Raises:
        StorageUnavailableError: A source cannot be listed, or a target not be reached.
    """
    for target in targets:
        next(target.list(), None)  # one error now rather than one for each object
    with ThreadPoolExecutor(THREADS) as pool:
        running: set[Future[Outcome]] = set()
        for index, stored in list_objects(sources):
            copying = pool.submit(_copy, stored, sources[index], targets[index], dry_run=dry_run)
            running.add(copying)
            # However many objects there are, only a few are in memory.
            if len(running) == 2 * THREADS:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        for future in running:
            yield future.result()


def count_jobs(service: Service) -> dict[str, int]:
    """Return how many jobs are in each status, to compare before and after a run."""
    with service.database.read() as connection:
        return job_store.count_by_status(connection)


def find_open_work(service: Service, before: Mapping[str, int]) -> str | None:
    """Return why the old storage may still get images after this run, or None.

    *before*: the jobs at its start.
    """
    after = count_jobs(service)
    if open_jobs := sum(after[status] for status in OPEN_STATUSES):
        return f"open jobs: {open_jobs}"
    if after != before:
        return "jobs came or ended in the meantime"
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
                f"{key!r} is read back with other bytes than were written: check that storage."
            )
    except StorageError as error:
        return Outcome(stored, error=error)
    return Outcome(stored, copied=True)


def _read(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except ObjectNotFoundError:
        return None
