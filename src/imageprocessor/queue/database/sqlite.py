"""SQLite: one file, one writer at a time, one machine."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from types import ModuleType
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from imageprocessor.errors import (
    DatabaseUnavailableError,
    DatabaseUnusableError,
    SettingsError,
)
from imageprocessor.queue.database.sqlite_writer import SqliteWriter
from imageprocessor.storage.files import explain_denied, may_write

BUSY_TIMEOUT_SECONDS = 5
RESTORE = "Stop the service and restore a backup: imageprocessor restore DIR --replace"
PAGES_PER_STEP = 10_000  #: of 4 KiB, in a copy
WAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024
#: Platforms for which pysqlite3 has a wheel. On others, such as Linux on arm64, pip would compile
#: it with the system's SQLite, which is no newer than Python's.
PYSQLITE3_WHEELS = {("linux", "x86_64"), ("darwin", "arm64"), ("win32", "AMD64")}
MOUNT_TABLE = Path("/proc/self/mountinfo")  # Linux only
#: On these, hosts share neither file locks nor the memory that the index of the WAL is mapped to.
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs"}
NETWORK_FILE_SYSTEMS |= {"lustre", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs"}


@dataclass(slots=True)
class SqliteConnections:
    """The connections of one process to one file; its threads write one after another.

    Connections stay open between uses: taking one from SQLAlchemy's pool and returning it would
    cost as much CPU time as the whole read of a status check (`python -m benchmarks.prepared`).
    """

    engine: Engine
    path: Path
    file_id: tuple[int, int]  #: device and inode of the file that was opened
    write_connection: SqliteWriter = field(init=False)
    _idle_readers: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write_connection = SqliteWriter(self.engine, self.require_same_file)

    @property
    def place(self) -> str:
        """The file, for messages."""
        return str(self.path)

    def find_remedy(self, message: str, _sqlstate: str | None) -> str | None:
        """Return what to do about SQLite's error; None if it may pass by itself."""
        if "not a database" in message:
            return f"It is damaged, or another program's file. Correct DATABASE_PATH. {RESTORE}"
        if "malformed" in message:
            return f"It is damaged. {RESTORE}"
        if message.startswith(("no such table", "no such column")):
            return "It lacks tables of this version. Run: imageprocessor db upgrade"
        if "readonly" not in message and "unable to open" not in message:
            return None
        if loss := self._find_loss():
            return loss
        for path in (self.path, self.path.parent):  # SQLite writes its WAL beside the file
            if not may_write(path):
                return explain_denied(path)
        if "readonly" in message:
            return "Check the owner and mode of the file, and of its -wal and -shm files."
        return None  # too many open files, for example

    def require_same_file(self) -> None:
        """Raise DatabaseUnusableError if the file was deleted or replaced since it was opened.

        SQLite would go on writing to the old one, which nobody can find any more.
        """
        if loss := self._find_loss():
            raise DatabaseUnusableError(loss)

    def _find_loss(self) -> str:
        """Return what happened to the file that was opened, and what to do; "" if it is there."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - a third of Path.stat, at each upload
        except FileNotFoundError:
            fault = "deleted"
        else:
            if (status.st_dev, status.st_ino) == self.file_id:
                return ""
            fault = "replaced by another file"
        return (
            f"{self.place} was {fault} while it was in use. "
            "Stop the service, put the old file back or restore a backup, and start it again."
        )

    def prepare(self, connection: Any, _record: object) -> None:
        """Set up a new connection."""
        self.require_same_file()
        _set_pragmas(connection)

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """Yield a connection that no other thread uses."""
        try:
            connection = self._idle_readers.pop()
        except IndexError:  # all are in use
            connection = self.engine.connect()
        try:
            with _kept_open(connection):
                yield connection
        finally:
            self._idle_readers.append(connection)

    @contextmanager
    def writer(self, durable: bool) -> Iterator[Connection]:
        """Yield the write connection, inside a transaction; flush its commit if *durable*.

        Raises:
            DatabaseUnavailableError: Other threads keep writing for longer than the busy timeout.
            DatabaseUnusableError: The file was deleted or replaced.
        """
        with self.write_connection.write(BUSY_TIMEOUT_SECONDS, durable=durable) as connection:
            yield connection

    def flush(self) -> None:
        """Flush what any process has committed so far."""
        self.write_connection.flush()

    def close(self) -> None:
        """Close the connections that no thread uses."""
        while self._idle_readers:
            self._idle_readers.pop().close()
        self.write_connection.close()
        self.engine.dispose()


def open_sqlite(path: Path) -> SqliteConnections:
    """Return connections to the file at *path*; create it and its folder if they are missing.

    ``synchronous=NORMAL``: the writer flushes after the commit, see :mod:`sqlite_writer`.

    Raises:
        SettingsError: *path* is on a network file system, or cannot be read or created.
    """
    _refuse_network(path)
    path = path.absolute()
    file_id = _find_file(path)
    # mode=rw: a connection that is opened later must not create the file again.
    url = URL.create(
        "sqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}
    )
    engine = create_engine(
        url,
        module=sqlite_module(),
        paramstyle="named",
        max_overflow=-1,  # a reader never waits for a connection
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
    )
    connections = SqliteConnections(engine, path, file_id)
    event.listen(engine, "connect", connections.prepare)
    return connections


def sqlite_module() -> ModuleType:
    """Return ``pysqlite3``, whose wheel bundles a current SQLite, or else Python's ``sqlite3``."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ModuleNotFoundError:
        return sqlite3


def find_newer_sqlite() -> str:
    """Return how this machine gets a SQLite without the bug that :func:`has_wal_reset_bug` finds.

    The platforms with a wheel are those of the dependency in pyproject.toml.
    """
    if (sys.platform, platform.machine()) in PYSQLITE3_WHEELS:
        return "Run pip install pysqlite3, which brings SQLite 3.51.3 or newer."
    return (
        f"pysqlite3 has no wheel for {platform.machine()}: use a Python with SQLite 3.51.3 or "
        "newer, or PostgreSQL (DATABASE_URL)."
    )


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Return whether this SQLite may damage a database when two connections reset the WAL at once.

    According to SQLite's release notes, 3.51.3 fixes it, and so do the backports 3.50.7 and 3.44.6.

    >>> [has_wal_reset_bug(version) for version in ((3, 40, 1), (3, 44, 6), (3, 53, 4))]
    [True, False, False]
    """
    backports = {(3, 44): (3, 44, 6), (3, 50): (3, 50, 7)}
    return version < backports.get(version[:2], (3, 51, 3))


def find_file_system(path: Path, mounts: str) -> str:
    r"""Return the type of the file system that holds the absolute *path*; "" if unknown.

    *mounts* is a mount table (proc(5)).

    >>> root = "27 1 254:0 / / rw - ext4 /dev/vda rw"
    >>> share = "30 27 0:9 / /srv rw - nfs4 h:/x rw"
    >>> find_file_system(Path("/srv/a.db"), f"{root}\n{share}")
    'nfs4'
    """
    types: dict[Path, str] = {}
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        escaped = fields.split(" ")[4]
        mount_point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), escaped)
        # Of several file systems mounted in one place, the last one counts.
        types[Path(mount_point)] = source.split(" ")[0]
    for folder in (path, *path.parents):
        if folder in types:
            return types[folder]
    return ""


def copy_database(connection: Connection, path: Path, report: Callable[[int], object]) -> None:
    """Copy the current state of the database to a new file at *path*.

    Readers and writers continue meanwhile. *report* is called with the number of pages so far.

    Raises:
        DatabaseUnavailableError: The database cannot be read, or *path* cannot be written.
    """
    path.touch(mode=0o600, exist_ok=False)
    driver: Any = connection.connection.driver_connection

    def report_copied(_status: int, remaining: int, total: int) -> None:
        report(total - remaining)

    try:
        with closing(sqlite_module().connect(path)) as copy:
            # Inside a transaction: otherwise each write between two steps starts the copy again.
            driver.execute("BEGIN")
            driver.execute("SELECT 1 FROM sqlite_master").fetchone()
            driver.backup(copy, pages=PAGES_PER_STEP, progress=report_copied)
            driver.execute("ROLLBACK")
    except sqlite_module().Error as error:
        raise DatabaseUnavailableError(
            f"The database cannot be copied to {path}: {error}."
        ) from error


def checkpoint_wal(path: Path) -> bool:
    """Merge the WAL into the file at *path*, so that the file alone holds the database.

    Return False if another process has it open. A damaged file is left as it is.
    """
    try:
        with closing(sqlite_module().connect(path, timeout=0)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite_module().DatabaseError as error:
        return "locked" not in str(error)
    return True


def find_damage(path: Path) -> str:
    """Return what is damaged in the file at *path*, which nobody may write to; "" if nothing is."""
    url = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite_module().connect(url, uri=True)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite_module().DatabaseError as error:
        return str(error)
    return "" if answer == "ok" else str(answer)


def _refuse_network(path: Path) -> None:
    if not MOUNT_TABLE.exists():
        return
    mounts = MOUNT_TABLE.read_text(encoding="utf-8", errors="replace")
    kind = find_file_system(path.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise SettingsError(
            f"{path} is on a network file system ({kind}), but several hosts cannot share a SQLite"
            " file. Set DATABASE_URL=postgresql+psycopg://user:password@host/name, or move the file"
            " to a local disk."
        )


def _find_file(path: Path) -> tuple[int, int]:
    """Create the file at *path* if it is missing; return its device and inode."""
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        status = path.stat()
    except PermissionError:
        raise SettingsError(f"DATABASE_PATH={path}: {explain_denied(path)}") from None
    except OSError as error:
        raise SettingsError(
            f"DATABASE_PATH={path} cannot be created: {error.strerror}. Name another file."
        ) from error
    if not S_ISREG(status.st_mode):
        raise SettingsError(f"DATABASE_PATH={path} is not a file. Name a file on a local disk.")
    return status.st_dev, status.st_ino


def _set_pragmas(connection: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA journal_size_limit={WAL_SIZE_LIMIT_BYTES}")


def _switch_to_wal(connection: Any) -> None:
    """Switch a new file to WAL.

    Retry, because SQLite fails at once while another process does the same, whatever the timeout.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite_module().OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def _kept_open(connection: Connection) -> Iterator[None]:
    """Roll back what SQLAlchemy left open on *connection*; reconnect after a SQLite error."""
    try:
        yield
    except DBAPIError:
        connection.invalidate()
        raise
    finally:
        connection.rollback()
