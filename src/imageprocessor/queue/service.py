"""Wiring: builds the parts that the use cases share from the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from imageprocessor.errors import SettingsError, StorageError, StorageMismatchError
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.sqlite import (
    find_newer_sqlite,
    has_wal_reset_bug,
    sqlite_module,
)
from imageprocessor.queue.dispatch.dispatcher import Dispatcher, open_dispatcher
from imageprocessor.queue.jobs.figures import ensure_snapshot
from imageprocessor.queue.jobs.storage_ownership import StorageOwnership, find_ownerships
from imageprocessor.queue.metrics.counts import Counts
from imageprocessor.queue.metrics.storage_times import time_operations
from imageprocessor.queue.write_faults import WriteFaults
from imageprocessor.settings import Settings
from imageprocessor.storage.files import explain_denied, may_write
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import Marker, Storage
from imageprocessor.storage.s3 import ANSWER_SECONDS, S3Access, S3Storage

STAGING_PREFIX = "_staging/"  #: no bucket name, and so no image's key, starts with "_"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that the use cases share."""

    settings: Settings
    database: Database
    storage: Storage  #: processed images
    ownership: StorageOwnership  #: of the processed images' storage
    #: waiting uploads; never served by URL, as they still contain their metadata
    staging: Storage
    staging_ownership: StorageOwnership
    incoming: Path  #: folder for uploads being received, on the file system of local staging
    #: folders of unfinished files: old files in them were left by a crash
    drafts: tuple[Path, ...]
    dispatcher: Dispatcher
    counts: Counts  #: of this process
    write_faults: WriteFaults = field(default_factory=WriteFaults)  #: of uploads in this process


@contextmanager
def open_service(settings: Settings, *, creates: bool = True) -> Iterator[Service]:
    """Open the service that *settings* describe, and close it at the end.

    The start of a service *creates* what is missing: folders, database, tables, the storage's
    marker. Everything else opens what is there.

    Raises:
        DatabaseUnavailableError: The database cannot be opened or migrated.
        StorageMismatchError: The storage belongs to another database, or its disk is not mounted.
        StorageUnavailableError: A folder cannot be created.
        MissingExtraError: A setting requires an extra that is not installed.
        SettingsError: Several hosts would share a SQLite file, this user may not write to a folder
            or to the database file, or the database is missing and not to be created.
    """
    incoming = settings.data_dir / "incoming"
    storage, staging = open_storages(settings, creates=False)
    if creates:
        _require_access(settings)
        _refuse_to_replace(settings.sqlite_path, storage)
        incoming.mkdir(mode=0o750, parents=True, exist_ok=True)
    counts = Counts(settings.metrics_directory)
    if counts.is_on:
        for store in (storage, staging):
            time_operations(store, settings.storage_backend, counts)
    database = open_database(settings, creates=creates)
    try:
        if creates:
            migrate(database)
            ensure_snapshot(database)
            if settings.sqlite_path:
                _warn_if_sqlite_is_outdated()
        ownership, staging_ownership = find_ownerships(database, storage, staging)
        local = [store for store in (storage, staging) if isinstance(store, LocalStorage)]
        if creates:
            _verify(ownership)
            for store in local:
                store.create()
            if isinstance(staging, LocalStorage):
                _mark_staging(staging_ownership)
        scratch = [store.scratch_directory for store in local]
        uses_broker = settings.queue_backend == "celery"
        identity = database.file_identity() if uses_broker else ""
        with open_dispatcher(settings, identity) as dispatcher:
            yield Service(
                settings=settings,
                database=database,
                storage=storage,
                ownership=ownership,
                staging=staging,
                staging_ownership=staging_ownership,
                incoming=incoming,
                drafts=(incoming, *scratch),
                dispatcher=dispatcher,
                counts=counts,
            )
    finally:
        database.close()
        counts.close()


def open_storages(settings: Settings, *, creates: bool = True) -> tuple[Storage, Storage]:
    """Return the storages of images and of waiting uploads, which never overlap.

    Without *creates*, no folder is created.

    Raises:
        MissingExtraError: boto3 is not installed.
        StorageUnavailableError: A folder cannot be created.
    """
    if settings.storage_backend == "local":
        staging = settings.data_dir / "staging"
        return (
            LocalStorage(settings.storage_path, creates=creates),
            LocalStorage(staging, creates=creates),
        )
    images = S3Storage(
        s3_access(settings), bucket=settings.s3_bucket, buckets=settings.allowed_buckets
    )
    return images, images.at_prefix(STAGING_PREFIX)


def s3_access(settings: Settings) -> S3Access:
    """Return the address and credentials of S3 from *settings*."""
    secret_key = settings.aws_secret_access_key
    token = settings.aws_session_token
    # A job must notice that S3 hangs before its own time limit.
    timeout_seconds = min(ANSWER_SECONDS, settings.job_timeout_seconds / 6)
    return S3Access(
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.aws_region,
        profile=settings.aws_profile,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=secret_key.get_secret_value() if secret_key else None,
        session_token=token.get_secret_value() if token else None,
        timeout_seconds=timeout_seconds,
    )


def _require_access(settings: Settings) -> None:
    """Raise SettingsError if this user may not write to DATA_DIR or to the SQLite file."""
    needed = {"DATA_DIR": [settings.data_dir, settings.data_dir / "incoming"]}
    if settings.sqlite_path:
        needed["DATABASE_PATH"] = [settings.sqlite_path.parent, settings.sqlite_path]
    for name, paths in needed.items():
        for path in paths:
            if not may_write(path):
                raise SettingsError(f"{name}={paths[0].absolute()}: {explain_denied(path)}")


def _refuse_to_replace(path: Path | None, storage: Storage) -> None:
    """Raise StorageMismatchError if the SQLite file is gone, but not the storage that it owned."""
    if path is None or path.exists():
        return
    markers: Sequence[Marker] = ()
    with suppress(StorageError):
        markers = storage.read_markers()
    for marker in markers:
        if marker.owner is not None:
            raise StorageMismatchError(
                f"There is no database at {path.absolute()}, but according to {marker.path}, this "
                f"storage belongs to the database {marker.owner.partition(' ')[0]}. "
                "Correct DATABASE_PATH, or put "
                "that database back: imageprocessor restore DIR. "
                f"If it is gone for good, delete {marker.path}"
            )


def _verify(ownership: StorageOwnership) -> None:
    """Verify the storage; if it does not answer, do so before the first image is stored."""
    try:
        ownership.verify()
    except StorageMismatchError:
        raise
    except StorageError as error:
        log.warning("storage_not_verified", cause=str(error))


def _mark_staging(ownership: StorageOwnership) -> None:
    """Mark the folder of waiting uploads; if it is another database's, nothing in it is deleted."""
    try:
        ownership.claim_new()
    except StorageError as error:
        log.warning("staging_not_verified", cause=str(error))


def _warn_if_sqlite_is_outdated() -> None:
    module = sqlite_module()
    if has_wal_reset_bug(module.sqlite_version_info):
        log.warning(
            "sqlite_outdated",
            version=module.sqlite_version,
            remedy=f"It can, rarely, damage the database. {find_newer_sqlite()}",
        )
