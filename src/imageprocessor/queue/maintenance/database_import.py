"""Copies all rows of a SQLite file to another database, to move from SQLite to PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Table, delete, func, insert, select

from imageprocessor.errors import SettingsError
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.tables import (
    database_identity,
    image_upload_events,
    processing_jobs,
    upload_rate_limits,
)
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.jobs.figures import forget_snapshot
from imageprocessor.settings import Settings

ROWS_PER_BATCH = 1000


def import_database(path: Path, settings: Settings) -> dict[str, int]:
    """Copy all rows of the SQLite file at *path* to the database of *settings*, in one transaction.

    Returns:
        The number of rows in each table afterwards, except for the identity.

    Raises:
        SettingsError: There is no file at *path*, it is the database of *settings* itself, that
            database is not empty, or workers are running.
        DatabaseUnavailableError: One of the databases cannot be used.
    """
    if not path.is_file():
        raise SettingsError(
            f"There is no SQLite database at {path.resolve()}. "
            "Give the path of the service's processor.db."
        )
    if settings.sqlite_path and settings.sqlite_path.resolve() == path.resolve():
        raise SettingsError(
            f"{path} is the database of these settings. Set DATABASE_URL to the other database."
        )
    if presence.list_live(workers_directory(settings)):
        raise SettingsError(f"Workers are running on {settings.data_dir}. Stop the service first.")

    with (
        closing(open_database(Settings(database_path=path))) as source,
        closing(open_database(settings)) as target,
    ):
        migrate(source)
        migrate(target)
        counts: dict[str, int] = {}
        with source.read() as old, target.write() as new:
            # The storage is marked as that of the old database: the new one takes its place.
            new.execute(delete(database_identity))
            _copy_table(database_identity, old, new)
            for table in (image_upload_events, processing_jobs, upload_rate_limits):
                counts[table.name] = _copy_table(table, old, new)
            forget_snapshot(new)
    return counts


def _copy_table(table: Table, old: Connection, new: Connection) -> int:
    count = select(func.count()).select_from(table)
    if new.scalar(count):
        raise SettingsError(
            f"Table {table.name} of the database to copy to has rows. Use an empty database."
        )
    for rows in old.execute(select(table)).mappings().partitions(ROWS_PER_BATCH):
        new.execute(insert(table), [dict(row) for row in rows])
    return new.scalar(count) or 0
