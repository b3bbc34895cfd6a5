"""Connections and transactions. One writer at a time on SQLite, told apart from readers, who never wait."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from imageprocessor.errors import DatabaseUnavailableError, StorageFullError

DATABASE_FAULTS = (DatabaseUnavailableError, StorageFullError)  #: what a transaction may raise and later not
BUSY_TIMEOUT_SECONDS = 5
WAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024


class Database:
    """A pool of connections. Open it after a fork, never before: a SQLite connection must not cross one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which every statement sees the newest commit and waits for no writer.

        Raises:
            DatabaseUnavailableError: Damaged or unreachable.
        """
        with _told_apart(), self.engine.connect().execution_options(reads_only=True) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection inside one transaction: committed at the end, rolled back by an exception.

        Raises:
            DatabaseUnavailableError: Locked for longer than the busy timeout, read-only, damaged or unreachable.
            StorageFullError: There is no space left for it.
        """
        with _told_apart(), self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection of the pool."""
        self.engine.dispose()


def open_database(path: Path) -> Database:
    """Open the SQLite file at *path*, which is made if it is missing.

    ``synchronous=FULL``: a commit is on disk when it returns, because a 202 is given on the strength of it.
    ``BEGIN IMMEDIATE``: a transaction that upgrades from read to write fails at once however long the timeout is.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(path))
    # No bound on connections: threads that wait for the write lock must not keep readers from theirs.
    engine = create_engine(url, module=sqlite_module(), max_overflow=-1, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return Database(engine)


def sqlite_module() -> ModuleType:
    """Return ``pysqlite3``, whose wheel bundles a current SQLite, or else the standard library's ``sqlite3``."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ModuleNotFoundError:
        return sqlite3


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Tell whether this SQLite may damage a database when two connections reset the WAL at once.

    Mended in 3.51.3, and in 3.50.7 and 3.44.6 of the older lines, as SQLite's release notes tell.

    >>> has_wal_reset_bug((3, 40, 1)), has_wal_reset_bug((3, 44, 6)), has_wal_reset_bug((3, 53, 4))
    (True, False, False)
    """
    mended = {(3, 44): (3, 44, 6), (3, 50): (3, 50, 7)}.get(version[:2], (3, 51, 3))
    return version < mended


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"journal_size_limit={WAL_SIZE_LIMIT_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    if not connection.get_execution_options().get("reads_only"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DatabaseError, InterfaceError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        if "full" in str(cause):
            raise StorageFullError(f"The database cannot grow ({cause}): free some space on its disk.") from error
        raise DatabaseUnavailableError(f"The database cannot be used now ({cause}): try again shortly.") from error
