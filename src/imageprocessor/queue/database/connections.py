"""Access to the database, on SQLite and on PostgreSQL: one way to read, one way to write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from imageprocessor.errors import (
    DatabaseUnavailableError,
    DatabaseUnusableError,
    SettingsError,
    StorageFullError,
)
from imageprocessor.queue.database.postgres import (
    DISK_FULL,
    PostgresConnections,
    is_pooled,
    open_postgres,
)
from imageprocessor.queue.database.sqlite import SqliteConnections, open_sqlite
from imageprocessor.queue.database.tables import database_identity
from imageprocessor.settings import Settings

#: transient errors of a transaction, which may succeed when tried again
DATABASE_FAULTS = (DatabaseUnavailableError, StorageFullError)
FIND_SERVICE = (
    "Run this command in the folder where the service was started, or set DATA_DIR to the same "
    "value as there. To start a new service: imageprocessor serve"
)
#: raised for values that the tables reject: trying again is useless
VALUE_ERRORS = (IntegrityError, DataError)


@dataclass(frozen=True, slots=True)
class Database:
    """The connections of one process.

    Open it after a fork, never before: a connection must not cross one.
    """

    connections: SqliteConnections | PostgresConnections
    reads_inline: bool  #: True if a single-row read costs less than handing it to a thread
    direct_url: str | None = None  #: of PostgreSQL itself, if `connections` lead to a pooler

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which every statement sees the newest commit.

        No statement waits for a writer. On SQLite, not even for its flush: a power cut may undo
        what was read. Call :meth:`flush` before doing, or telling others, what assumes that it
        stays.

        Raises:
            DatabaseUnavailableError: The database is damaged or unreachable.
        """
        with _translate_errors(self.connections), self.connections.reader() as connection:
            yield connection

    @contextmanager
    def read_consistently(self) -> Iterator[Connection]:
        """Yield a connection on which all statements see the same state, however long they take.

        Raises:
            DatabaseUnavailableError: See :meth:`read`.
        """
        with self.read() as connection:
            is_sqlite = connection.dialect.name == "sqlite"
            if is_sqlite or not is_pooled(connection):  # behind a pooler, it has begun
                connection.execute(text("BEGIN"))
            if not is_sqlite:
                level = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                connection.execute(text(level))
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            yield connection
            connection.execute(text("COMMIT"))  # after an error, the connection is rolled back

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """Yield a connection inside one transaction; commit it, or roll back after an exception.

        The commit is on disk when the context ends. If not *durable*, a power cut may undo it,
        unless a durable one followed.

        Raises:
            DatabaseUnavailableError: The database is locked for longer than the busy timeout,
                restarting or unreachable. If the connection was lost or the commit could not be
                flushed, the transaction may have been committed nevertheless.
            DatabaseUnusableError: The database is read-only, damaged, deleted or replaced.
            StorageFullError: The database's disk is full.
        """
        with _translate_errors(self.connections), self.connections.writer(durable) as connection:
            yield connection

    def flush(self) -> None:
        """Return once all that has been read is on disk, whichever process wrote it.

        Raises:
            DatabaseUnavailableError, StorageFullError: See :meth:`write`.
        """
        with _translate_errors(self.connections):
            self.connections.flush()

    @contextmanager
    def direct(self) -> Iterator[Database]:
        """Yield the same database without a pooler in between, so that sessions keep their state.

        Raises:
            SettingsError: There is a pooler in between.
            DatabaseUnavailableError: The database is damaged or unreachable.
        """
        if self.direct_url is not None:
            with closing(Database(open_postgres(self.direct_url), reads_inline=False)) as direct:
                _require_direct(direct)
                yield direct
        else:
            _require_direct(self)
            yield self

    def identity(self) -> str:
        """Return the random name of a migrated database; copies have the same."""
        with self.read() as connection:
            return str(connection.scalar(select(database_identity.c.identity)))

    def file_identity(self) -> str:
        """Return the identity of a SQLite file; "" for a server, which hosts share."""
        return self.identity() if isinstance(self.connections, SqliteConnections) else ""

    def close(self) -> None:
        """Close every connection that is not in use."""
        self.connections.close()


def open_database(settings: Settings, *, creates: bool = True) -> Database:
    """Open the SQLite file or the PostgreSQL server that *settings* name, without connecting yet.

    Raises:
        SettingsError: The SQLite file is on a network file system, cannot be created, or is
            missing and not to be created; or DATABASE_URL is not a URL.
        MissingExtraError: PostgreSQL is used, but the extra ``postgres`` is not installed.
    """
    if settings.sqlite_path is not None:
        if not creates:
            _require_file(settings, settings.sqlite_path)
        return Database(open_sqlite(settings.sqlite_path), reads_inline=True)
    assert settings.database_url is not None  # else sqlite_path is set
    url = settings.database_url.get_secret_value()
    direct_url = settings.database_direct_url
    return Database(
        open_postgres(url),
        reads_inline=False,
        direct_url=direct_url.get_secret_value() if direct_url else None,
    )


def _require_file(settings: Settings, path: Path) -> None:
    """Raise SettingsError if there is no SQLite file at *path*."""
    with suppress(PermissionError):  # `open_sqlite` explains it
        if not path.exists():
            raise SettingsError(f"{describe_absence(settings)} {FIND_SERVICE}")


def _require_direct(database: Database) -> None:
    """Raise SettingsError if a pooler is between this process and the database."""
    if isinstance(database.connections, SqliteConnections):
        return
    with database.read() as connection:
        if is_pooled(connection):
            raise SettingsError(
                f"{database.connections.place} leads to a pooler, such as PgBouncer, but this "
                "needs a direct connection. Set DATABASE_DIRECT_URL to PostgreSQL's own address."
            )


def describe_absence(settings: Settings) -> str:
    """Return that no service has run with these settings, which use SQLite."""
    assert settings.sqlite_path
    return (
        f"There is no service in DATA_DIR={settings.data_dir.absolute()}: "
        f"there is no database at {settings.sqlite_path.absolute()}."
    )


@contextmanager
def _translate_errors(connections: SqliteConnections | PostgresConnections) -> Iterator[None]:
    """Translate exceptions of SQLAlchemy and the drivers into this package's errors."""
    try:
        yield
    except VALUE_ERRORS:
        raise
    except (DatabaseError, InterfaceError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        message = " ".join(str(cause).split())  # PostgreSQL's errors have several lines
        sqlstate = getattr(cause, "sqlstate", None)
        if "database or disk is full" in message or sqlstate == DISK_FULL:
            raise StorageFullError(
                f"The database's disk is full ({message}). Free some space on it."
            ) from error
        if remedy := connections.find_remedy(message, sqlstate):
            raise DatabaseUnusableError(
                f"The database {connections.place} cannot be used ({message}). {remedy}"
            ) from error
        raise DatabaseUnavailableError(
            f"The database is unavailable ({message}). Try again shortly."
        ) from error
