"""SQLite's write connection: threads write one after another, and one commit may serve several.

A commit with ``synchronous=FULL`` waits for the disk. While another thread waits for the lock, a
transaction therefore stays open and that thread joins it; the last one commits for all. Each
returns only when its changes are on disk. With 8 clients, two thirds of the commits remain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue.database import prepared

#: IMMEDIATE: a transaction that reads first and then writes may fail at once, whatever the timeout.
BEGIN, COMMIT = text("BEGIN IMMEDIATE"), text("COMMIT")
SAVE, UNDO, RELEASE = text("SAVEPOINT one"), text("ROLLBACK TO one"), text("RELEASE one")
MAX_MEMBERS = 16
HANDOVER_SECONDS = 0.5  #: after which a thread commits itself: the next one may have given up
#: errors of a single statement, after which the transaction goes on
VALUE_ERRORS = (IntegrityError, DataError)


@dataclass(slots=True)
class Group:
    """The changes of several threads that one commit makes durable."""

    members: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None  #: why no change was committed


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

    @contextmanager
    def write(self, timeout_seconds: float) -> Iterator[Connection]:
        """Yield the connection; once the context ends, the changes are durable, or undone.

        An error of the database undoes the changes of the whole group; any other error, only those
        of this context.

        Raises:
            DatabaseUnavailableError: Other threads keep writing for longer than the timeout.
        """
        deadline = time.monotonic() + timeout_seconds
        self._take_lock(timeout_seconds)
        try:
            connection, group = self._join(deadline)
        except BaseException:
            self.lock.release()
            raise
        try:
            with self._undoing_on_error(connection, group):
                yield connection
        finally:
            if self._group is not None and not self._is_awaited(self._group):
                self._commit(connection, self._group)
            self.lock.release()
            # Even after an error: its cause, such as a repeated key, may not be committed yet.
            self._wait_for_commit(connection, group)
        if group.error is not None:
            raise group.error

    def close(self) -> None:
        """Close the connection, which no thread uses any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take_lock(self, timeout_seconds: float) -> None:
        self._waiting.append(None)
        try:
            is_taken = self.lock.acquire(timeout=timeout_seconds)
        finally:
            self._waiting.pop()
        if not is_taken:
            raise DatabaseUnavailableError(
                "The database is locked by another writer. Try again shortly."
            )

    def _join(self, deadline: float) -> tuple[Connection, Group]:
        """Join the open transaction, or begin one."""
        if self._connection is None:
            self._connection = self._engine.connect()
        if self._group is None:
            self._begin(self._connection, deadline)
            self._group = Group()
        self._group.members += 1
        return self._connection, self._group

    def _begin(self, connection: Connection, deadline: float) -> None:
        try:
            connection.begin()
            # Wait for writers of other processes only for the rest of the timeout.
            self._set_busy_timeout(connection, deadline - time.monotonic())
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
    def _undoing_on_error(self, connection: Connection, group: Group) -> Iterator[None]:
        try:
            prepared.execute(connection, SAVE, {})
            yield
            prepared.execute(connection, RELEASE, {})
        except BaseException as error:
            if isinstance(error, DBAPIError) and not isinstance(error, VALUE_ERRORS):
                self._end(connection, group, error)
            else:
                prepared.execute(connection, UNDO, {})
            raise

    def _is_awaited(self, group: Group) -> bool:
        """Return whether a thread waits for the lock that may join the open transaction."""
        return bool(self._waiting) and group.members < MAX_MEMBERS

    def _commit(self, connection: Connection, group: Group) -> None:
        error = None
        try:
            prepared.execute(connection, COMMIT, {})  # compiled once, unlike the driver's
        except DBAPIError as failure:
            error = failure
        self._end(connection, group, error)

    def _end(self, connection: Connection, group: Group, error: DBAPIError | None) -> None:
        self._group = None
        self._reset(connection, error)
        group.error = error
        group.ended.set()

    def _reset(self, connection: Connection, error: BaseException | None) -> None:
        """Roll back what is left of a transaction; reconnect after an error of SQLite."""
        if isinstance(error, DBAPIError):
            connection.invalidate()
            self._busy_milliseconds = None
        connection.rollback()

    def _wait_for_commit(self, connection: Connection, group: Group) -> None:
        while not group.ended.wait(HANDOVER_SECONDS):
            with self.lock:
                if self._group is group:
                    self._commit(connection, group)
