"""Brings a database to this version's tables."""

from __future__ import annotations

from alembic import command
from alembic.config import Config

from imageprocessor.queue.database import Database


def migrate(database: Database) -> None:
    """Run the migrations that *database* lacks. Safe to call from several processes at once: the first one does it.

    Raises:
        DatabaseUnavailableError: The database is locked, read-only or unreachable.
    """
    config = Config()
    config.set_main_option("script_location", "imageprocessor.queue:migrations")
    with database.write() as connection:  # one transaction: whoever comes second waits, then finds nothing to do
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
