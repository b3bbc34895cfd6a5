"""The parts that every use case works with, and the one function that wires them together from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from imageprocessor.queue.database import Database, has_wal_reset_bug, open_database, sqlite_module
from imageprocessor.queue.dispatch import Dispatcher, EmbeddedDispatcher
from imageprocessor.settings import Settings
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import Storage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """What the use cases (submission, images, task, sweep) are given."""

    settings: Settings
    database: Database
    storage: Storage  #: processed images
    staging: Storage  #: uploads that wait; never reachable by a URL, since they still hold their metadata
    incoming: Path  #: folder for uploads while they arrive, on the file system of local staging
    drafts: tuple[Path, ...]  #: folders of unfinished files: what is old in them was left by a crash
    dispatcher: Dispatcher


@contextmanager
def open_service(settings: Settings, *, migrates: bool = True) -> Iterator[Service]:
    """Open everything that *settings* name, the database brought to this version's tables; close it at the end.

    Raises:
        DatabaseUnavailableError: The database cannot be opened or migrated.
        StorageUnavailableError: A folder cannot be made.
    """
    incoming = settings.data_dir / "incoming"
    incoming.mkdir(mode=0o750, parents=True, exist_ok=True)
    database = open_database(settings.database_path)
    try:
        if migrates:
            _warn_of_old_sqlite()
            from imageprocessor.queue.schema import migrate  # noqa: PLC0415 - Alembic takes 0.2 s that no worker has to spend

            migrate(database)
        storage, staging = LocalStorage(settings.storage_path), LocalStorage(settings.data_dir / "staging")
        yield Service(
            settings=settings,
            database=database,
            storage=storage,
            staging=staging,
            incoming=incoming,
            drafts=(incoming, storage.scratch_directory, staging.scratch_directory),
            dispatcher=EmbeddedDispatcher(workers_directory(settings)),
        )
    finally:
        database.close()


def _warn_of_old_sqlite() -> None:
    module = sqlite_module()
    if has_wal_reset_bug(module.sqlite_version_info):
        log.warning(
            "sqlite_is_old",
            version=module.sqlite_version,
            remedy="It can, rarely, damage the database: use 3.51.3 or newer, such as by pip install pysqlite3.",
        )


def workers_directory(settings: Settings) -> Path:
    """Return where the supervisors of this host announce themselves."""
    return settings.data_dir / "workers"
