"""Wiring: builds the parts that the use cases share from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.sqlite import has_wal_reset_bug, sqlite_module
from imageprocessor.queue.dispatch.dispatcher import Dispatcher, open_dispatcher
from imageprocessor.settings import Settings
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import Storage
from imageprocessor.storage.s3 import ANSWER_SECONDS, S3Access, S3Storage

STAGING_PREFIX = "_staging/"  #: no bucket name, and so no image's key, starts with "_"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that the use cases share."""

    settings: Settings
    database: Database
    storage: Storage  #: processed images
    #: waiting uploads; never served by URL, as they still contain their metadata
    staging: Storage
    incoming: Path  #: folder for uploads being received, on the file system of local staging
    #: folders of unfinished files: old files in them were left by a crash
    drafts: tuple[Path, ...]
    dispatcher: Dispatcher


@contextmanager
def open_service(settings: Settings, *, migrates: bool = True) -> Iterator[Service]:
    """Open the service that *settings* describe, migrate its database, and close it at the end.

    Raises:
        DatabaseUnavailableError: The database cannot be opened or migrated.
        StorageUnavailableError: A folder cannot be created.
        MissingExtraError: A setting requires an extra that is not installed.
        SettingsError: Several hosts would share a SQLite file.
    """
    incoming = settings.data_dir / "incoming"
    incoming.mkdir(mode=0o750, parents=True, exist_ok=True)
    database = open_database(settings)
    try:
        if migrates:
            migrate(database)
            if settings.sqlite_path:
                _warn_if_sqlite_is_outdated()
        storage, staging = open_storages(settings)
        local = [store for store in (storage, staging) if isinstance(store, LocalStorage)]
        scratch = [store.scratch_directory for store in local]
        with open_dispatcher(settings, database.identity()) as dispatcher:
            yield Service(
                settings=settings,
                database=database,
                storage=storage,
                staging=staging,
                incoming=incoming,
                drafts=(incoming, *scratch),
                dispatcher=dispatcher,
            )
    finally:
        database.close()


def open_storages(settings: Settings) -> tuple[Storage, Storage]:
    """Return the storages of images and of waiting uploads, which never overlap.

    Raises:
        MissingExtraError: boto3 is not installed.
        StorageUnavailableError: A folder cannot be created.
    """
    if settings.storage_backend == "local":
        return LocalStorage(settings.storage_path), LocalStorage(settings.data_dir / "staging")
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


def _warn_if_sqlite_is_outdated() -> None:
    module = sqlite_module()
    if has_wal_reset_bug(module.sqlite_version_info):
        log.warning(
            "sqlite_outdated",
            version=module.sqlite_version,
            remedy="It can, rarely, damage the database. Use 3.51.3 or newer, for example with pip"
            " install pysqlite3.",
        )
