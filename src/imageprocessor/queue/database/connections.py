"""Connections and transactions.

Writers in one transaction each, told apart from readers, who wait for no writer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Executable, Select
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from imageprocessor.errors import DatabaseUnavailableError, StorageFullError
from imageprocessor.queue.database.postgres import DISK_FULL, open_postgres
from imageprocessor.queue.database.sqlite import SqliteFile, read_identity, sqlite_engines
from imageprocessor.settings import Settings

DATABASE_FAULTS = (
    DatabaseUnavailableError,
    StorageFullError,
)  #: what a transaction may raise and later not
OUR_FAULTS = (
    IntegrityError,
    DataError,
)  # what a statement was given is wrong; to try again is useless


class Transaction(Protocol):
    """What an upload's statements are run by: SQLAlchemy's Connection, or SQLite's driver."""

    def execute(self, statement: Executable, parameters: Any, /) -> Any: ...

    def scalar(self, statement: Executable, parameters: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Database:
    """A pool of connections.

    Open it after a fork, never before: a connection must not cross one.
    """

    writer: Engine
    reader: Engine  #: the same pool, whose connections begin no transaction
    sqlite: SqliteFile | None = None  #: the same file, where it is one

    @property
    def reads_inline(self) -> bool:
        """Whether a single-row read costs less than handing it to a thread."""
        return self.sqlite is not None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which every statement sees the newest commit and waits for no writer.

        Raises:
            DatabaseUnavailableError: Damaged or unreachable.
        """
        with _told_apart(), self.reader.connect() as connection:
            yield connection

    def first(self, statement: Select[Any], **parameters: str) -> Mapping[str, Any] | None:
        """Return the first row of *statement*, as a reader sees it; None if there is none.

        For what clients poll: on SQLite it takes a fifth of what :meth:`read` and its connection
        take.

        Raises:
            DatabaseUnavailableError: As :meth:`read`.
        """
        with _told_apart():
            if self.sqlite is not None:
                return self.sqlite.first(statement, parameters)
            with self.reader.connect() as connection:
                row = connection.execute(statement, parameters).first()
                return dict(row._mapping) if row else None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection inside one transaction.

        Committed at the end, rolled back by an exception.

        Raises:
            DatabaseUnavailableError: Locked for longer than the busy timeout, read-only, damaged,
                restarted or
                unreachable. A lost connection may hide that the commit was done.
            StorageFullError: There is no space left for it.
        """
        turn = self.sqlite.write_turn() if self.sqlite else nullcontext(0.0)
        with (
            _told_apart(),
            self.writer.connect() as connection,
            turn as wait_seconds,
            connection.execution_options(wait_seconds=wait_seconds).begin(),
        ):
            yield connection

    @contextmanager
    def take_in(self) -> Iterator[Transaction]:
        """Yield what runs an upload's statements in one transaction.

        :meth:`write`, on SQLite in a third of the time.

        Raises:
            DatabaseUnavailableError, StorageFullError: As :meth:`write`.
        """
        if self.sqlite is None:
            with self.write() as connection:
                yield connection
        else:
            with _told_apart(), self.sqlite.write() as transaction:
                yield transaction

    def identity(self) -> str:
        """Return what tells one SQLite file from another once it is migrated.

        "" for a server, which hosts share.
        """
        if self.writer.dialect.name != "sqlite":
            return ""
        with self.read() as connection:
            return str(read_identity(connection))

    def close(self) -> None:
        """Close every connection that is not in use."""
        if self.sqlite is not None:
            self.sqlite.close()
        self.writer.dispose()


def open_database(settings: Settings) -> Database:
    """Open the SQLite file or the PostgreSQL server that *settings* name.

    Without speaking to it yet.

    Raises:
        SettingsError: The SQLite file would be on a network file system, or DATABASE_URL is no URL.
        MissingExtraError: PostgreSQL needs the extra ``postgres``.
    """
    if settings.sqlite_path is not None:
        return Database(*sqlite_engines(settings.sqlite_path))
    assert settings.database_url is not None  # else there were a path
    engine = open_postgres(settings.database_url.get_secret_value())
    return Database(engine, engine.execution_options(isolation_level="AUTOCOMMIT"))


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except OUR_FAULTS:
        raise
    except (DatabaseError, InterfaceError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        said = " ".join(str(cause).split())  # PostgreSQL says it in several lines
        if "database or disk is full" in said or getattr(cause, "sqlstate", None) == DISK_FULL:
            raise StorageFullError(
                f"The database cannot grow ({said}): free some space on its disk."
            ) from error
        raise DatabaseUnavailableError(
            f"The database cannot be used now ({said}): try again shortly."
        ) from error
