"""SQLite: one file, one writer at a time, one machine."""

from __future__ import annotations

import importlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection, Engine, Executable, Select, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from imageprocessor.errors import DatabaseUnavailableError, SettingsError

BUSY_TIMEOUT_SECONDS = 5
DIALECT = sqlite.dialect(paramstyle="named")
WAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024
MOUNT_TABLE = Path("/proc/self/mountinfo")  # Linux only
#: Hosts do not share their locks, or the memory that the index of the WAL is mapped to.
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
}
NETWORK_FILE_SYSTEMS |= {"fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs"}


def sqlite_engines(path: Path) -> tuple[Engine, Engine, SqliteFile]:
    """Return the engines that write to and read from the file at *path*.

    Which is made if it is missing, and the file.

    ``synchronous=FULL``: a commit is on disk when it returns, because a 202 is given on the
    strength of it. ``BEGIN IMMEDIATE``: a transaction that upgrades from read to write fails at
    once however long the timeout is.

    Raises:
        SettingsError: *path* is on a network file system.
    """
    _refuse_network(path)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(path))
    # No bound on connections: threads that wait for the write lock must not keep readers from
    # theirs.
    engine = create_engine(
        url, module=sqlite_module(), max_overflow=-1, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}
    )
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    reader = engine.execution_options(reads_only=True)
    return engine, reader, SqliteFile(reader)


def sqlite_module() -> ModuleType:
    """Return ``pysqlite3``, whose wheel bundles a current SQLite.

    Or else the standard library's ``sqlite3``.
    """
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ModuleNotFoundError:
        return sqlite3


@dataclass(frozen=True, slots=True)
class DriverConnection:
    """As much of SQLAlchemy's Connection as an upload needs.

    The statements must live as long as their modules.
    """

    connection: Any

    def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> Any:
        """Run *statement* and return the driver's cursor."""
        return self.connection.execute(_prepare(statement, tuple(parameters)), parameters)

    def scalar(self, statement: Executable, parameters: Mapping[str, Any]) -> Any:
        """Run *statement* and return the first column of the first row, or None."""
        with closing(self.execute(statement, parameters)) as cursor:
            row = cursor.fetchone()
        return row[0] if row else None


class SqliteFile:
    """The file as the threads of one process share it.

    What clients poll is read at once, writes take turns.

    For reads and uploads there are connections of the driver, without SQLAlchemy's, which take five
    times as long. Each serves one thread at a time; there are as many as ever worked at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idle: list[Any] = []
        self._turn = threading.Lock()

    def first(self, statement: Select[Any], parameters: Mapping[str, str]) -> dict[str, Any] | None:
        """Run *statement* and return its first row, if there is one.

        Raises:
            DBAPIError: SQLAlchemy's, around the driver's.
        """
        with self._lend() as connection:
            rows = connection.execute(_prepare(statement, tuple(parameters)), parameters).fetchall()
        return dict(zip(_column_names(statement), rows[0], strict=True)) if rows else None

    @contextmanager
    def write(self) -> Iterator[DriverConnection]:
        """Yield a connection inside one transaction.

        Committed at the end, rolled back by an exception.

        Raises:
            DatabaseUnavailableError: As :meth:`write_turn`.
            DBAPIError: SQLAlchemy's, around the driver's.
        """
        with self.write_turn() as wait_seconds, self._lend() as connection:
            _begin_within(connection, wait_seconds)
            try:
                yield DriverConnection(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")  # a prepared statement, where commit() prepares anew

    @contextmanager
    def write_turn(self) -> Iterator[float]:
        """Wait until no other thread of this process writes.

        Yield the seconds left to wait for other processes.

        SQLite's own waiting is a sleep of up to 0.1 s, in which many a commit could have been done.

        Raises:
            DatabaseUnavailableError: It takes longer than the busy timeout.
        """
        until = time.monotonic() + BUSY_TIMEOUT_SECONDS
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise DatabaseUnavailableError(
                "The database is locked by another write: try again shortly."
            )
        try:
            yield max(0.0, until - time.monotonic())
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _lend(self) -> Iterator[Any]:
        """Yield a connection to one thread.

        One that had an error is closed: who knows what it is in the middle of.
        """
        connection = self._idle.pop() if self._idle else self._open()
        try:
            yield connection
        except sqlite_module().Error as error:
            connection.close()
            raise DBAPIError.instance(
                None, None, error, sqlite_module().Error, dialect=DIALECT
            ) from error
        except BaseException:
            self._idle.append(connection)
            raise
        self._idle.append(connection)

    def _open(self) -> Any:
        pooled = self._engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Tell whether this SQLite may damage a database when two connections reset the WAL at once.

    Mended in 3.51.3, and in 3.50.7 and 3.44.6 of the older lines, as SQLite's release notes tell.

    >>> has_wal_reset_bug((3, 40, 1)), has_wal_reset_bug((3, 44, 6)), has_wal_reset_bug((3, 53, 4))
    (True, False, False)
    """
    mended = {(3, 44): (3, 44, 6), (3, 50): (3, 50, 7)}.get(version[:2], (3, 51, 3))
    return version < mended


def find_file_system(path: Path, mounts: str) -> str:
    r"""Return the type of the file system that holds the absolute *path*.

    *mounts* is a mount table (proc(5)).

    >>> find_file_system(Path("/srv/a.db"), "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:9 / /srv rw - nfs4 h:/x rw")
    'nfs4'
    """
    lines = [line.partition(" - ") for line in mounts.splitlines()]
    found = {
        _mount_point(before): after.split(" ")[0] for before, _, after in lines
    }  # mounted over: the last counts
    return next((found[folder] for folder in (path, *path.parents) if folder in found), "")


def read_identity(connection: Connection) -> int:
    """Return the number that tells this file from any other; 0 before :func:`give_identity`."""
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def give_identity(connection: Connection) -> None:
    """Number the file, once.

    SQLite keeps 31 bits for the application's own use, and copies keep them.
    """
    if read_identity(connection) == 0:
        connection.exec_driver_sql(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 1)}")


def copy_database(connection: Connection, path: Path) -> None:
    """Copy the database as it is at this moment to a new file at *path*.

    Readers and writers go on meanwhile.

    Raises:
        DatabaseUnavailableError: It cannot be read, or *path* not be written.
    """
    path.touch(mode=0o600, exist_ok=False)
    try:
        with closing(sqlite_module().connect(path)) as copy:
            connection.connection.driver_connection.backup(copy)  # type: ignore[union-attr]
    except sqlite_module().Error as error:
        raise DatabaseUnavailableError(
            f"The database cannot be copied to {path}: {error}."
        ) from error


def fold_wal(path: Path) -> bool:
    """Make the file at *path* whole without another beside it, if it is not damaged.

    False: somebody has it open.
    """
    try:
        with closing(sqlite_module().connect(path, timeout=0)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite_module().DatabaseError as error:
        return "locked" not in str(error)
    return True


def find_damage(path: Path) -> str:
    """Return what is wrong inside the file at *path*, which nobody writes to; "" if it is well."""
    try:
        with closing(
            sqlite_module().connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as connection:
            (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite_module().DatabaseError as error:
        return str(error)
    return "" if said == "ok" else str(said)


@cache
def _prepare(statement: Executable, names: tuple[str, ...]) -> str:
    """Return *statement* as the driver takes it; an INSERT is given the columns *names*."""
    return str(statement.compile(dialect=DIALECT, column_keys=names))  # type: ignore[attr-defined]


@cache
def _column_names(statement: Select[Any]) -> list[str]:
    return list(statement.selected_columns.keys())


def _refuse_network(path: Path) -> None:
    mounts = (
        MOUNT_TABLE.read_text(encoding="utf-8", errors="replace") if MOUNT_TABLE.exists() else ""
    )
    kind = find_file_system(path.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise SettingsError(
            f"{path} is on a network file system ({kind}): several hosts cannot share a SQLite file. Set "
            "DATABASE_URL=postgresql+psycopg://user:password@host/name, or put the file on a disk of this machine."
        )


def _mount_point(fields: str) -> Path:
    escaped = fields.split(" ")[4]
    return Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), escaped))


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    _switch_to_wal(connection)
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        f"journal_size_limit={WAL_SIZE_LIMIT_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _switch_to_wal(connection: Any) -> None:
    """Switch a new file to WAL.

    While another process does so, SQLite fails at once, whatever the busy timeout.
    """
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite_module().OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_within(connection: Any, wait_seconds: float) -> None:
    """Begin to write, and wait for other processes for that long.

    Where others wait for the usual time.
    """
    if wait_seconds > BUSY_TIMEOUT_SECONDS - 0.5:
        connection.execute("BEGIN IMMEDIATE")
        return
    connection.execute(f"PRAGMA busy_timeout = {int(wait_seconds * 1000)}")
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reads_only"):
        return
    seconds = options.get("wait_seconds", BUSY_TIMEOUT_SECONDS)
    if seconds < BUSY_TIMEOUT_SECONDS - 0.5:
        connection.detach()  # others would wait for as short a time as this one has left
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
