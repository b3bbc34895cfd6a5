"""SQLite: one file, one writer at a time, one machine."""

from __future__ import annotations

import importlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from imageprocessor.errors import DatabaseUnavailableError, SettingsError
from imageprocessor.queue.database import prepared

BUSY_TIMEOUT_SECONDS = 5
BEGIN = text("BEGIN IMMEDIATE")
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


@dataclass(slots=True)
class SqliteConnections:
    """One file as the threads of one process share it: they write one after the other.

    Connections are kept between uses: to take one from SQLAlchemy's pool and to give it back costs
    more than a status check's query.
    """

    engine: Engine
    #: held while a thread writes: SQLite's own waiting is a sleep of up to 0.1 s
    write_lock: threading.Lock = field(default_factory=threading.Lock)
    _writer: Connection | None = None
    _idle_readers: list[Connection] = field(default_factory=list)

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """Yield a connection that no other thread uses meanwhile."""
        connection = self._idle_readers.pop() if self._idle_readers else self.engine.connect()
        try:
            with _kept_open(connection):
                yield connection
        finally:
            self._idle_readers.append(connection)

    @contextmanager
    def writer(self) -> Iterator[Connection]:
        """Yield the connection that writes, inside a transaction.

        Raises:
            DatabaseUnavailableError: Other threads write for longer than the busy timeout.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
        if not self.write_lock.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise DatabaseUnavailableError(
                "The database is locked by another write: try again shortly."
            )
        try:
            if self._writer is None:
                self._writer = self.engine.connect()
            with _kept_open(self._writer), self._writer.begin():
                _begin(self._writer, deadline)
                yield self._writer
        finally:
            self.write_lock.release()

    def close(self) -> None:
        """Close the connections that no thread uses."""
        while self._idle_readers:
            self._idle_readers.pop().close()
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()


def open_sqlite(path: Path) -> SqliteConnections:
    """Return connections to the file at *path*; create its folder, and later the file, if missing.

    ``synchronous=FULL``: a commit is on disk when it returns, because a 202 is given on the
    strength of it.

    Raises:
        SettingsError: *path* is on a network file system.
    """
    _refuse_network(path)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        module=sqlite_module(),
        paramstyle="named",
        max_overflow=-1,  # a reader never waits for a connection
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
    )
    event.listen(engine, "connect", _set_pragmas)
    return SqliteConnections(engine)


def sqlite_module() -> ModuleType:
    """Return ``pysqlite3``, whose wheel bundles a current SQLite, or else ``sqlite3``."""
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


@contextmanager
def _kept_open(connection: Connection) -> Iterator[None]:
    """End what SQLAlchemy began on *connection*; after an error of SQLite's, let it reconnect."""
    try:
        yield
    except DBAPIError:
        connection.invalidate()
        raise
    finally:
        connection.rollback()


def _begin(connection: Connection, deadline: float) -> None:
    """Begin a transaction as its writer, waiting for other processes until *deadline*.

    A transaction that begins as a reader and then writes may fail at once, whatever the timeout.
    """
    seconds = max(0.0, deadline - time.monotonic())
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
    prepared.execute(connection, BEGIN, {})
