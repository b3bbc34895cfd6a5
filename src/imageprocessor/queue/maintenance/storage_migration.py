"""Moving house.

Every image and every waiting upload to another storage, ready for the settings to be switched.

Nothing is trusted but the bytes: what is there already is read and compared, what was written is
read back. So a run that broke off is taken up by the next, and a run after the last one proves that
nothing is missing.
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

THREADS = 8  #: most of the time, each waits for an answer

Storages = tuple[Storage, Storage]  #: of images and of uploads, as `open_storages` returns them


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object: copied (in a dry run.

    Still to be copied), there already, or the *error* it met.
    """

    stored: StoredObject
    copied: bool = False
    error: StorageError | None = None


def switch(settings: Settings, location: str) -> Settings:
    """Return *settings* with the storage at *location*.

    ``s3://bucket``, ``s3://`` or ``local:///absolute/path``.

    ``s3://`` gives each bucket of ALLOWED_BUCKETS an S3 bucket of its own.

    Raises:
        SettingsError: *location* has none of these forms, or is where the images are now.
    """
    scheme, _, place = location.partition("://")
    if scheme == "local" and place.startswith("/"):
        return _to_folder(settings, Path(place))
    if location == "s3://" and not settings.allowed_buckets:
        raise SettingsError(
            "s3:// needs ALLOWED_BUCKETS: an S3 bucket for each of them. For one for all: s3://BUCKET"
        )
    if scheme == "s3" and (not place or S3_BUCKET_PATTERN.fullmatch(place)):
        return _to_s3(settings, place or None)
    raise SettingsError(
        f"{location!r} is no place to move to: use 's3://BUCKET', 's3://' or 'local:///absolute/path'."
    )


def _to_folder(settings: Settings, folder: Path) -> Settings:
    used = [
        settings.data_dir / "staging",
        *([settings.storage_path] if settings.storage_backend == "local" else []),
    ]
    for path in used:
        if _overlap(path.resolve(), folder.resolve()):
            raise SettingsError(
                f"{folder} and {path.resolve()}, which is in use, overlap: name another folder."
            )
    return settings.model_copy(update={"storage_backend": "local", "storage_path": folder})


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _to_s3(settings: Settings, bucket: str | None) -> Settings:
    if settings.storage_backend == "s3" and settings.s3_bucket == bucket:
        raise SettingsError(f"s3://{bucket or ''} is where the images are now: name another place.")
    return settings.model_copy(update={"storage_backend": "s3", "s3_bucket": bucket})


def list_variables(settings: Settings) -> dict[str, str]:
    """Return the variables that say where *settings* store, in the form of ``.env``.

    An empty one counts as unset.
    """
    if settings.storage_backend == "local":
        return {"STORAGE_BACKEND": "local", "STORAGE_PATH": str(settings.storage_path)}
    return {"STORAGE_BACKEND": "s3", "S3_BUCKET": settings.s3_bucket or ""}


def open_targets(switched: Settings, *, dry_run: bool = False) -> Storages:
    """Open the storages that the *switched* settings name.

    A dry run makes no folder: a missing one counts as empty.
    """
    if dry_run and switched.storage_backend == "local" and not switched.storage_path.exists():
        return MemoryStorage(), MemoryStorage()
    return open_storages(switched)


def list_objects(storages: Storages) -> Iterator[tuple[int, StoredObject]]:
    """Yield all images, then all uploads, each with the place of its storage among *storages*."""
    images, uploads = storages
    yield from ((0, stored) for stored in images.list() if image_id_of(stored.key))
    yield from ((1, stored) for stored in uploads.list())


def relocate(sources: Storages, targets: Storages, *, dry_run: bool = False) -> Iterator[Outcome]:
    """Copy every object that its target has not got byte by byte.

    Yield the outcome of each as it is done.

    *dry_run*: compare only.

    Raises:
        StorageUnavailableError: The source cannot be listed, or the target not be reached.
    """
    for target in targets:
        next(target.list(), None)  # one error now rather than one for each object
    with ThreadPoolExecutor(THREADS) as pool:
        running: set[Future[Outcome]] = set()
        for place, stored in list_objects(sources):
            running.add(pool.submit(_copy, stored, sources[place], targets[place], dry_run=dry_run))
            if len(running) == 2 * THREADS:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in running)


def count_jobs(service: Service) -> dict[str, int]:
    """Return how many jobs there are in each status.

    The same before and after a run if nothing moved meanwhile.
    """
    with service.database.read() as connection:
        return job_store.count_by_status(connection)


def find_unrest(service: Service, before: Mapping[str, int]) -> str | None:
    """Return why images may come to the old storage after this run, or None.

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
    try:
        data = _read(source, stored.key)
        if data is None or data == _read(target, stored.key):  # deleted meanwhile, or there already
            return Outcome(stored)
        if not dry_run:
            _write(target, stored.key, data)
    except StorageError as error:
        return Outcome(stored, error=error)
    return Outcome(stored, copied=True)


def _read(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except ObjectNotFoundError:
        return None


def _write(storage: Storage, key: str, data: bytes) -> None:
    storage.put(key, data)
    if storage.get(key) != data:
        raise StorageUnavailableError(
            f"{key!r} is read back with other bytes than were written: check that storage."
        )
