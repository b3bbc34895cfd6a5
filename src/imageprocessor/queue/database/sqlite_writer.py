"""SQLite's write connection: threads write one after another, and commit and flush together.

While another thread waits for the lock, a transaction stays open and that thread joins it; the last
one commits for all. With eight clients, uploads then reach 0.65 of the rate of the bare steps, and
0.56 with a commit each (`python -m benchmarks service`; the budget is 0.60).

With ``synchronous=FULL`` a commit waits for the disk while it keeps SQLite's lock, and every other
thread and process waits with it. So the commit is ``NORMAL``; the threads that wrote then release
the lock, flush the WAL and return. One flush makes durable all that was committed before it.

A checkpoint flushes the WAL, copies it and flushes the database before the WAL may be overwritten.
So the changes of a thread that has yet to flush are durable if the WAL no longer has them.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from imageprocessor.errors import DatabaseUnavailableError, StorageFullError
from imageprocessor.queue.database import prepared
from imageprocessor.storage.files import flush_directory

#: IMMEDIATE: a transaction that reads first and then writes may fail at once, whatever the timeout.
BEGIN, COMMIT = text("BEGIN IMMEDIATE"), text("COMMIT")
SAVE, UNDO, RELEASE = text("SAVEPOINT one"), text("ROLLBACK TO one"), text("RELEASE one")
MAX_MEMBERS = 16
HANDOVER_SECONDS = 0.5  #: after which a thread commits itself: the next one may have given up
#: errors of a single statement, after which the transaction goes on
VALUE_ERRORS = (IntegrityError, DataError)
_flush = getattr(os, "fdatasync", os.fsync)  # macOS lacks it
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@dataclass(slots=True)
class Group:
    """The changes of several threads that one commit makes.

    A change that need not be durable, such as a claim, waits for no other: it would wait longer
    than its own commit takes.
    """

    connection: Connection
    may_wait: bool
    members: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    error: SQLAlchemyError | None = None  #: why no change was committed


class SqliteWriter:
    """The write connection of one process; *check* runs at the start of each transaction."""

    def __init__(self, engine: Engine, check: Callable[[], None]) -> None:
        #: held while a thread writes, because SQLite waits by sleeping for up to 0.1 s
        self.lock = threading.Lock()
        self._engine = engine
        self._check = check
        self._waiting: list[None] = []  # an entry for each thread that waits for the lock
        self._group: Group | None = None  # of the open transaction
        self._connection: Connection | None = None
        self._busy_milliseconds: int | None = None
        self._wal = Wal()

    @contextmanager
    def write(self, timeout_seconds: float, *, durable: bool = True) -> Iterator[Connection]:
        """Yield the connection; once the context ends, the changes are durable, or undone.

        If not *durable*, they are committed, but may not be on disk yet.

        An error of the database undoes the changes of the whole group; any other error, only those
        of this context.

        Raises:
            DatabaseUnavailableError: Other threads keep writing for longer than the timeout, or
                the changes were committed, but could not be flushed.
            StorageFullError: They could not be flushed, because the disk is full.
        """
        deadline = time.monotonic() + timeout_seconds
        group = None
        try:
            with self._locked(timeout_seconds):
                group = self._join(deadline, may_wait=durable)
                with self._change(group):
                    yield group.connection
        finally:
            # Even after an error: its cause, such as a repeated key, may not be committed yet.
            if group is not None:
                self._wait_for_commit(group)
        if group.error is not None:
            raise group.error
        if durable:
            self._wal.flush()

    def flush(self) -> None:
        """Flush what any process has committed so far.

        Raises:
            DatabaseUnavailableError, StorageFullError: See :meth:`write`.
        """
        with self.lock:
            self._connect()
        self._wal.flush()

    def close(self) -> None:
        """Close the connection, which no thread uses any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._wal.close()

    @contextmanager
    def _locked(self, timeout_seconds: float) -> Iterator[None]:
        self._waiting.append(None)
        try:
            is_locked = self.lock.acquire(timeout=timeout_seconds)
        finally:
            self._waiting.pop()
        if not is_locked:
            raise DatabaseUnavailableError(
                "The database is locked by another writer. Try again shortly."
            )
        try:
            yield
        finally:
            self.lock.release()

    def _connect(self) -> Connection:
        """Return the connection; open it first, or again after an error of SQLite."""
        if self._connection is not None and self._connection.invalidated:
            self._connection.close()
            self._connection = None
        if self._connection is None:
            connection = self._engine.connect()
            # Without any connection, SQLite would have deleted the WAL and made another.
            self._wal.reopen(_find_wal(connection))
            self._connection = connection
            self._busy_milliseconds = None
        return self._connection

    def _join(self, deadline: float, *, may_wait: bool) -> Group:
        """Join the open transaction, or begin one."""
        if self._group is None:
            connection = self._connect()
            self._begin(connection, deadline)
            self._group = Group(connection, may_wait)
        self._group.members += 1
        return self._group

    def _begin(self, connection: Connection, deadline: float) -> None:
        try:
            connection.begin()
            # Wait for writers of other processes only for the rest of the timeout.
            self._set_busy_timeout(connection, deadline - time.monotonic())
            if self._wal.is_torn:
                self._empty_wal(connection)
            prepared.execute(connection, BEGIN, {})
            self._check()
        except BaseException as error:
            self._reset(connection, error)
            raise

    def _set_busy_timeout(self, connection: Connection, seconds: float) -> None:
        """Set the busy timeout, in steps of half a second so that it rarely has to change."""
        milliseconds = 500 * max(0, ceil(2 * seconds))
        if milliseconds != self._busy_milliseconds:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA busy_timeout = {milliseconds}")
            self._busy_milliseconds = milliseconds

    @contextmanager
    def _change(self, group: Group) -> Iterator[None]:
        """Undo the changes of the context if it raises an error; at its end, commit if due."""
        try:
            prepared.execute(group.connection, SAVE, {})
            yield
            prepared.execute(group.connection, RELEASE, {})
        except BaseException as error:
            if isinstance(error, DBAPIError) and not isinstance(error, VALUE_ERRORS):
                self._end(group, error)
            else:
                prepared.execute(group.connection, UNDO, {})
            raise
        finally:
            may_wait = group.may_wait and group.members < MAX_MEMBERS
            is_awaited = may_wait and bool(self._waiting)
            if self._group is group and not is_awaited:
                self._commit(group)

    def _commit(self, group: Group) -> None:
        error = None
        try:
            prepared.execute(group.connection, COMMIT, {})  # compiled once, unlike the driver's
        except SQLAlchemyError as failure:
            error = failure
        self._end(group, error)

    def _end(self, group: Group, error: SQLAlchemyError | None) -> None:
        self._group, group.error = None, error
        try:
            self._reset(group.connection, error)
        finally:
            group.ended.set()

    def _reset(self, connection: Connection, error: BaseException | None) -> None:
        """Roll back what is left of a transaction; reconnect after an error of SQLite."""
        if isinstance(error, SQLAlchemyError) and not isinstance(error, VALUE_ERRORS):
            connection.invalidate()
        connection.rollback()

    def _wait_for_commit(self, group: Group) -> None:
        while not group.ended.wait(HANDOVER_SECONDS):
            with self.lock:
                if self._group is group:
                    self._commit(group)

    def _empty_wal(self, connection: Connection) -> None:
        """Copy the WAL into the database and empty it, so that the next change starts a new one."""
        row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        if row.busy:
            raise DatabaseUnavailableError(
                "A change could not be flushed, and the log that it is in is in use. "
                "Try again shortly."
            )
        self._wal.is_torn = False


class Wal:
    """SQLite's write-ahead log, which the threads of a process flush together.

    SQLite locks the database and its ``-shm`` file, never the WAL: closing a descriptor of the WAL
    releases no lock.
    """

    def __init__(self) -> None:
        #: Whether a flush failed. What follows a lost part of the WAL would be lost, too.
        self.is_torn = False
        self._path: Path | None = None
        self._descriptor: int | None = None
        self._flushing = threading.Lock()
        self._begun = self._ended = 0  #: the number of the last flush

    def reopen(self, path: Path) -> None:
        """Flush the file at *path* from now on; the first change may yet have to create it."""
        with self._flushing:
            self._close()
            self._path = path

    def flush(self) -> None:
        """Flush what was committed before the call; one flush serves all threads that wait for it.

        Raises:
            DatabaseUnavailableError, StorageFullError: It failed, now or for an earlier change.
        """
        needed = self._begun + 1  # one that is running may have begun before the commit
        with self._flushing:
            if self._ended >= needed:
                return
            self._begun += 1
            if self.is_torn:
                raise DatabaseUnavailableError(
                    "An earlier change could not be flushed. Try again shortly."
                )
            with self._translate_errors():
                _flush(self._open())
            self._ended = self._begun

    def close(self) -> None:
        """Close the file."""
        with self._flushing:
            self._close()

    def _open(self) -> int:
        if self._descriptor is None:
            assert self._path is not None  # set with the connection
            self._descriptor = os.open(self._path, os.O_RDONLY)
            # SQLite leaves that to the process that created the file.
            flush_directory(self._path.parent)
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.is_torn = True
            if error.errno in _NO_SPACE:
                raise StorageFullError(
                    f"The database's disk is full ({error.strerror}). Free some space on it."
                ) from error
            raise DatabaseUnavailableError(
                f"The database could not be flushed ({error.strerror}). Check its disk."
            ) from error


def _find_wal(connection: Connection) -> Path:
    """Return the path of the WAL, beside the file that SQLite has opened, links resolved."""
    database = connection.exec_driver_sql("PRAGMA database_list").one()
    connection.rollback()
    return Path(f"{database.file}-wal")
