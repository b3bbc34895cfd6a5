"""Copies a SQLite database into the empty one that DATABASE_URL names, such as PostgreSQL. Stop the service first.

DATABASE_URL=postgresql+psycopg://user:password@host/name python deploy/copy_database.py data/processor.db
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Table, func, insert, select

from imageprocessor.environment import load_settings
from imageprocessor.errors import ImageProcessorError, SettingsError
from imageprocessor.queue.database import Database, open_database
from imageprocessor.queue.schema import migrate
from imageprocessor.queue.tables import metadata
from imageprocessor.settings import Settings

ROWS_AT_A_TIME = 1000


def main(arguments: list[str]) -> None:
    """Copy, and say how many rows; exit codes: 0 done, 1 nothing was copied."""
    try:
        source = _find_source(arguments)
        target = load_settings(os.environ)
        if target.database_url is None:
            raise SettingsError("DATABASE_URL is not set: set it to the database that is copied to.")
        with (
            closing(open_database(Settings(database_path=source))) as old,
            closing(open_database(target)) as new,
        ):
            counts = copy(old, new)
    except ImageProcessorError as error:
        sys.exit(f"error: {error}")
    sys.stdout.writelines(f"{name}: {count} rows\n" for name, count in counts.items())


def copy(source: Database, target: Database) -> dict[str, int]:
    """Copy every row in one transaction, and return how many there are in each table.

    Raises:
        SettingsError: *target* has rows.
        DatabaseUnavailableError: One of them cannot be used.
    """
    migrate(source)
    migrate(target)
    with source.read() as old, target.write() as new:
        return {table.name: _copy_table(table, old, new) for table in metadata.sorted_tables}


def _find_source(arguments: list[str]) -> Path:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        raise SettingsError("usage: python deploy/copy_database.py PATH-OF-THE-SQLITE-FILE")
    return Path(arguments[0])


def _copy_table(table: Table, old: Connection, new: Connection) -> int:
    if new.scalar(select(func.count()).select_from(table)):
        raise SettingsError(f"{table.name} of the new database has rows: name an empty database.")
    for rows in old.execute(select(table)).mappings().partitions(ROWS_AT_A_TIME):
        new.execute(insert(table), [dict(row) for row in rows])
    return new.scalar(select(func.count()).select_from(table)) or 0


if __name__ == "__main__":
    main(sys.argv[1:])
