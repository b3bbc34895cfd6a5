"""Reading and writing rows of the smallest table."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import text

from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.settings import Settings


def count_windows(database: Database) -> object:
    with database.read() as connection:
        return connection.scalar(text("SELECT count(*) FROM upload_rate_limits"))


def insert_window(database: Database, then: Callable[[], object] = int) -> None:
    with database.write() as connection:
        connection.execute(text("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)"))
        then()


def open_url(url: str) -> Database:
    return open_database(Settings.model_validate({"database_url": url}))
