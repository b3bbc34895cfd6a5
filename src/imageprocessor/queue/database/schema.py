"""Migrating a database to this version's tables, by expand and contract.

A migration only adds what older code can ignore. What nobody uses any more is dropped one version
later, when no code that used it may still be running. So the processes of two versions can run on
one database, and going back by one version needs no restore.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Index, inspect, select, text, update
from sqlalchemy.exc import OperationalError

from imageprocessor.errors import DatabaseUnavailableError, SettingsError
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import metadata, processing_jobs, schema_compatibility

HEAD = "0005"  #: the newest migration; a constant, because loading Alembic takes 0.2 s
#: The newest migration of the oldest code that may run on a database at HEAD. The database stores
#: it, so that this older code knows.
OLDEST_CODE = "0003"
#: Indexes of older versions, which the current ones replace.
OBSOLETE_INDEXES = {"ix_jobs_due", "ix_jobs_deleted", "ux_jobs_idempotency", "ix_events_image"}
LOCK_NUMBER = 7236837101  #: arbitrary; nobody else uses it
LOCK_POLL_SECONDS = 0.2
#: Adding a column locks the table. While a migration waits for that lock, all later statements
#: on the table wait behind it, so the wait is short, and repeated.
TABLE_LOCK_TIMEOUT = "2s"
TABLE_LOCK_TRIES = 30
LOCK_NOT_AVAILABLE = "55P03"  #: an SQLSTATE
LIST_SQLITE_INDEXES = text("SELECT name FROM sqlite_master WHERE type = 'index'")
LIST_POSTGRES_INDEXES = text("""
    SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indisvalid AND relnamespace = current_schema()::regnamespace
""")


def migrate(database: Database) -> str | None:
    """Run the missing migrations of *database*; return its previous revision, None without tables.

    Readers and writers continue meanwhile, except that SQLite's writers wait. Safe to call from
    several processes at once: the others wait for the first one. If nothing is missing, nothing is
    locked. If this is interrupted, the next call does the rest.

    Raises:
        SettingsError: The database belongs to another program, or to a newer version of this one;
            or a migration is missing, and DATABASE_URL leads to a pooler.
        DatabaseUnavailableError: The database is locked, damaged, read-only or unreachable.
    """
    with database.read() as connection:
        revision = read_revision(connection)
        if _is_current(revision) and not find_missing_indexes(connection):
            return revision
    with database.direct() as direct, _lock(direct):
        revision = _add_tables(direct)
        build_indexes(direct)
    return revision


def _is_current(revision: str | None) -> bool:
    return revision is not None and revision >= HEAD


@contextmanager
def _lock(database: Database) -> Iterator[None]:
    """Keep other processes from migrating a PostgreSQL database; SQLite allows one writer anyway.

    The lock is polled: a session that waits for it would hold a snapshot, and an index that is
    built CONCURRENTLY waits for all older snapshots.
    """
    with database.read() as connection:
        if connection.dialect.name == "sqlite":
            yield
            return
        take = text("SELECT pg_try_advisory_lock(:number)")
        while not connection.scalar(take, {"number": LOCK_NUMBER}):
            time.sleep(LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:number)"), {"number": LOCK_NUMBER})


def _add_tables(database: Database) -> str | None:
    """Run the missing migrations in one transaction; return the revision before."""
    from alembic import command  # noqa: PLC0415 - see HEAD
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "imageprocessor.queue.database:migrations")
    tries = 0
    while True:
        tries += 1
        try:
            with database.write() as connection:
                if connection.dialect.name != "sqlite":
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                    connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK_TIMEOUT}'"))
                revision = read_revision(connection)  # another process may have been first
                if not _is_current(revision):
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                    newest = update(schema_compatibility).values(oldest_code=OLDEST_CODE)
                    connection.execute(newest)
                return revision
        except DatabaseUnavailableError as error:
            if not _is_lock_timeout(error) or tries == TABLE_LOCK_TRIES:
                raise
        time.sleep(LOCK_POLL_SECONDS)


def _is_lock_timeout(error: DatabaseUnavailableError) -> bool:
    cause = error.__cause__
    return (
        isinstance(cause, OperationalError)
        and getattr(cause.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE
    )


def build_indexes(database: Database) -> None:
    """Build the missing indexes, one by one, then drop the obsolete ones.

    PostgreSQL builds them without locking the table, outside any transaction. An index that an
    earlier, interrupted call left unfinished is dropped first.
    """
    with database.read() as connection:
        missing = find_missing_indexes(connection)
        obsolete = OBSOLETE_INDEXES & _list_indexes(connection)
        is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        for index in missing:
            index.dialect_kwargs["sqlite_where"] = index.info["where"]
            # Not flushed one by one: the next call builds what a power cut undoes.
            with database.write(durable=False) as connection:
                index.create(connection, checkfirst=True)
        with database.write() as connection:
            for name in obsolete:
                connection.execute(text(f"DROP INDEX IF EXISTS {name}"))
        return
    with database.read() as connection:
        try:
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("SET lock_timeout = 0"))
            for index in missing:
                index.dialect_kwargs["postgresql_where"] = index.info["where"]
                index.dialect_kwargs["postgresql_concurrently"] = True  # writers continue meanwhile
                connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}"))
                index.create(connection)
            for name in obsolete:
                connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            for table in {index.table.name for index in missing if index.table is not None}:
                # Until autovacuum does so, the planner would not know how few rows an index holds.
                connection.execute(text(f"ANALYZE {table}"))
        finally:
            connection.invalidate()  # its timeouts are gone


def find_missing_indexes(connection: Connection) -> list[Index]:
    """Return the indexes of this version that the database lacks."""
    existing = _list_indexes(connection)
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    return [index for index in indexes if index.name not in existing]


def _list_indexes(connection: Connection) -> set[str]:
    is_sqlite = connection.dialect.name == "sqlite"
    return set(connection.scalars(LIST_SQLITE_INDEXES if is_sqlite else LIST_POSTGRES_INDEXES))


def read_revision(connection: Connection) -> str | None:
    """Return the last migration that was run, or None.

    Raises:
        SettingsError: This version may not run on the database, because a newer one has dropped
            what it needs; or the tables are those of another program.
    """
    tables = inspect(connection).get_table_names()
    _refuse_foreign(connection, tables)
    if "alembic_version" not in tables:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    oldest_code = revision
    if schema_compatibility.name in tables:
        oldest_code = connection.scalar(select(schema_compatibility.c.oldest_code))
    check_revision(revision, oldest_code)
    return revision


def check_revision(revision: str | None, oldest_code: str | None) -> None:
    """Raise SettingsError if this version is older than *oldest_code*, which *revision* needs."""
    if oldest_code is not None and oldest_code > HEAD:
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
