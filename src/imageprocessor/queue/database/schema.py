"""Migrating a database to this version's tables."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, inspect, text

from imageprocessor.errors import SettingsError
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import processing_jobs

HEAD = "0002"  #: the newest migration; a constant, because loading Alembic takes 0.2 s
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
        SettingsError: The database belongs to another program, or to a newer version of this one;
            or a migration is missing, and DATABASE_URL leads to a pooler.
        DatabaseUnavailableError: The database is locked, damaged, read-only or unreachable.
    """
    with database.read() as connection:
        revision = read_revision(connection)
        if revision == HEAD:
            return revision

    from alembic import command  # noqa: PLC0415 - see HEAD
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "imageprocessor.queue.database:migrations")
    # One transaction: a second process waits, then finds nothing to do.
    with database.direct() as direct, direct.write() as connection:
        if connection.dialect.name != "sqlite":  # which allows one writer at a time anyway
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
        SettingsError: The migration is newer than this version knows, or the tables are those of
            another program.
    """
    tables = inspect(connection).get_table_names()
    _refuse_foreign(connection, tables)
    if "alembic_version" not in tables:
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


def _refuse_foreign(connection: Connection, tables: Sequence[str]) -> None:
    """Raise SettingsError if the *tables* of the database are not ours.

    A PostgreSQL database may have some more, such as those of an extension.
    """
    is_file = connection.dialect.name == "sqlite"
    has_others = bool(tables) if is_file else "alembic_version" in tables
    if processing_jobs.name in tables or not has_others:
        return
    place = "The database of DATABASE_URL"
    if is_file:
        place = str(connection.exec_driver_sql("PRAGMA database_list").one()[2])
    shown = ", ".join(sorted(tables)[:5])
    raise SettingsError(
        f"{place} belongs to another program (its tables: {shown}). "
        "Set DATABASE_PATH or DATABASE_URL to a database of its own."
    )
