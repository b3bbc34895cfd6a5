"""Copies all rows of a SQLite file to another database, to move from SQLite to PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Table, delete, func, insert, select

from imageprocessor.errors import SettingsError
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.tables import (
    batches,
    database_identity,
    image_upload_events,
    job_statistics,
    maintenance,
    processing_jobs,
    upload_rate_limits,
    webhook_deliveries,
    webhook_endpoints,
)
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.events.feed import PRUNED_TASK
from imageprocessor.queue.maintenance.progress import Report, ignore
from imageprocessor.queue.pause import PAUSE_TASK
from imageprocessor.settings import Settings

ROWS_PER_BATCH = 1000


def import_database(path: Path, settings: Settings, report: Report = ignore) -> dict[str, int]:
    """Copy all rows of the SQLite file at *path* to the database of *settings*, in one transaction.

    *report* is called with the number of rows so far.

    Returns:
        The number of rows copied to each table, except for the identity.

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
        with source.read() as old, target.write() as new:
            return _copy(old, new, report)


def _copy(old: Connection, new: Connection, report: Report) -> dict[str, int]:
    # These describe the empty database. The next start creates them again.
    for table in (job_statistics, maintenance):
        new.execute(delete(table))
    # The storage is marked as that of the old database: the new one takes its place.
    new.execute(delete(database_identity))
    _copy_table(database_identity, old, new, report)

    is_kept = maintenance.c.task.in_((PRUNED_TASK, PAUSE_TASK))
    for row in old.execute(select(maintenance).where(is_kept)).mappings():
        new.execute(insert(maintenance), dict(row))

    is_postgres = new.dialect.name == "postgresql"
    # Before all transactions of the new database.
    changes = {"transaction_id": 0} if is_postgres else {}
    counts = {
        "image_upload_events": _copy_table(image_upload_events, old, new, report, **changes),
        "processing_jobs": _copy_table(processing_jobs, old, new, report),
    }
    for table in (batches, upload_rate_limits, webhook_deliveries, webhook_endpoints):
        counts[table.name] = _copy_table(table, old, new, report)
    newest = old.scalar(select(func.max(image_upload_events.c.seq)))
    if is_postgres and newest:
        new.execute(select(func.setval("image_upload_events_seq", newest)))
    return counts


def _copy_table(
    table: Table, old: Connection, new: Connection, report: Report, **changes: object
) -> int:
    if new.execute(select(table).limit(1)).first():
        raise SettingsError(
            f"Table {table.name} of the database to copy to has rows. Use an empty database."
        )
    count = 0
    for rows in old.execute(select(table)).mappings().partitions(ROWS_PER_BATCH):
        new.execute(insert(table), [{**row, **changes} for row in rows])
        count += len(rows)
        report(f"rows of {table.name}", count)
    return count
