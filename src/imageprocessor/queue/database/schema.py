"""Migrating a database to this version's tables."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from imageprocessor.errors import SettingsError
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.sqlite import assign_identity, read_identity

HEAD = "0001"  #: the newest migration; a constant, because loading Alembic takes 0.2 s
#: Keeps other processes from migrating a PostgreSQL database until the transaction ends.
LOCK = (
    "SET LOCAL statement_timeout = 0",  # a migration may rewrite a large table
    "SET LOCAL lock_timeout = '60s'",
    "SELECT pg_advisory_xact_lock(7236837101)",  # an arbitrary number that nobody else uses
)


def migrate(database: Database) -> str | None:
    """Run the missing migrations of *database*; return its previous revision, None without tables.

    Safe to call from several processes at once: only the first one migrates. If no migration is
    missing, nothing is locked.

    Raises:
        SettingsError: The database belongs to a newer version of this package.
        DatabaseUnavailableError: The database is locked, read-only or unreachable.
    """
    with database.read() as connection:
        revision = read_revision(connection)
        has_identity = connection.dialect.name != "sqlite" or read_identity(connection) != 0
        if revision == HEAD and has_identity:
            return revision

    from alembic import command  # noqa: PLC0415 - see HEAD
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "imageprocessor.queue.database:migrations")
    # One transaction: a second process waits, then finds nothing to do.
    with database.write() as connection:
        if connection.dialect.name == "sqlite":  # allows one writer at a time anyway
            assign_identity(connection)
        else:
            for statement in LOCK:
                connection.exec_driver_sql(statement)
        revision = read_revision(connection)
        if revision != HEAD:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return revision


def read_revision(connection: Connection) -> str | None:
    """Return the last migration that was run, or None.

    Raises:
        SettingsError: The migration is newer than this version knows.
    """
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    check_revision(revision)
    return revision


def check_revision(revision: str | None) -> None:
    """Raise SettingsError if *revision* is newer than this version knows."""
    if revision is not None and revision > HEAD:
        raise SettingsError(
            f"The database belongs to a newer version of imageprocessor (revision {revision}; this"
            f" version knows up to {HEAD}). Install the newer version, or restore a backup made"
            " before the upgrade."
        )
