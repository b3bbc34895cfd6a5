"""The database: one way to read, one way to write, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from imageprocessor.errors import DatabaseUnavailableError, StorageFullError
from imageprocessor.queue.database.postgres import DISK_FULL, PostgresConnections, open_postgres
from imageprocessor.queue.database.sqlite import SqliteConnections, open_sqlite, read_identity
from imageprocessor.settings import Settings

#: what a transaction may raise now and not when it is tried again
DATABASE_FAULTS = (DatabaseUnavailableError, StorageFullError)
#: raised for values that the tables do not take: trying again is useless
VALUE_ERRORS = (IntegrityError, DataError)


@dataclass(frozen=True, slots=True)
class Database:
    """The connections of one process.

    Open it after a fork, never before: a connection must not cross one.
    """

    connections: SqliteConnections | PostgresConnections
    reads_inline: bool  #: a single-row read costs less than handing it to a thread

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which every statement sees the newest commit.

        No statement waits for a writer.

        Raises:
            DatabaseUnavailableError: Damaged or unreachable.
        """
        with _translate_errors(), self.connections.reader() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection inside one transaction: committed, or rolled back by an exception.

        Raises:
            DatabaseUnavailableError: Locked for longer than the busy timeout, read-only, damaged,
                restarted or unreachable. A lost connection may hide that the commit was done.
            StorageFullError: There is no space left for it.
        """
        with _translate_errors(), self.connections.writer() as connection:
            yield connection

    def identity(self) -> str:
        """Return the number of a migrated SQLite file; "" for a server, which hosts share."""
        if self.connections.engine.dialect.name != "sqlite":
            return ""
        with self.read() as connection:
            return str(read_identity(connection))

    def close(self) -> None:
        """Close every connection that is not in use."""
        self.connections.close()


def open_database(settings: Settings) -> Database:
    """Open the SQLite file or the PostgreSQL server that *settings* name, without connecting yet.

    Raises:
        SettingsError: The SQLite file would be on a network file system, or DATABASE_URL is no URL.
        MissingExtraError: PostgreSQL needs the extra ``postgres``.
    """
    if settings.sqlite_path is not None:
        return Database(open_sqlite(settings.sqlite_path), reads_inline=True)
    assert settings.database_url is not None  # else sqlite_path is set
    url = settings.database_url.get_secret_value()
    return Database(open_postgres(url), reads_inline=False)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise the errors of SQLAlchemy and of the drivers as this package's."""
    try:
        yield
    except VALUE_ERRORS:
        raise
    except (DatabaseError, InterfaceError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        message = " ".join(str(cause).split())  # PostgreSQL's has several lines
        sqlstate = getattr(cause, "sqlstate", None)
        if "database or disk is full" in message or sqlstate == DISK_FULL:
            raise StorageFullError(
                f"The database cannot grow ({message}): free some space on its disk."
            ) from error
        raise DatabaseUnavailableError(
            f"The database cannot be used now ({message}): try again shortly."
        ) from error
