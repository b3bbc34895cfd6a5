"""SQLite's write connection: threads write one after another, and one commit may serve several.

A commit with ``synchronous=FULL`` waits for the disk. While another thread waits for the lock, a
transaction therefore stays open and that thread joins it; the last one commits for all. Each
returns only when its changes are on disk. With eight clients, uploads then reach 0.65 of the rate
of the bare steps (`python -m benchmarks service`; the budget is 0.60).
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
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue.database import prepared

#: IMMEDIATE: a transaction that reads first and then writes may fail at once, whatever the timeout.
BEGIN, COMMIT = text("BEGIN IMMEDIATE"), text("COMMIT")
SAVE, UNDO, RELEASE = text("SAVEPOINT one"), text("ROLLBACK TO one"), text("RELEASE one")
FLUSHED, NOT_FLUSHED = "FULL", "NORMAL"  #: what is done with the WAL at a commit
MAX_MEMBERS = 16
HANDOVER_SECONDS = 0.5  #: after which a thread commits itself: the next one may have given up
#: errors of a single statement, after which the transaction goes on
VALUE_ERRORS = (IntegrityError, DataError)


@dataclass(slots=True)
class Group:
    """The changes of several threads that one commit makes durable."""

    connection: Connection
    durable: bool
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
        self._synchronous: str | None = None

    @contextmanager
    def write(self, timeout_seconds: float, *, durable: bool = True) -> Iterator[Connection]:
        """Yield the connection; once the context ends, the changes are durable, or undone.

        If not *durable*, they are committed, but may not be on disk yet.

        An error of the database undoes the changes of the whole group; any other error, only those
        of this context.

        Raises:
            DatabaseUnavailableError: Other threads keep writing for longer than the timeout.
        """
        deadline = time.monotonic() + timeout_seconds
        group = None
        try:
            with self._locked(timeout_seconds):
                group = self._join(deadline, durable)
                with self._change(group):
                    yield group.connection
        finally:
            # Even after an error: its cause, such as a repeated key, may not be committed yet.
            if group is not None:
                self._wait_for_commit(group)
        if group.error is not None:
            raise group.error

    def close(self) -> None:
        """Close the connection, which no thread uses any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

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

    def _join(self, deadline: float, durable: bool) -> Group:
        """Join the open transaction, or begin one."""
        if self._connection is None:
            self._connection = self._engine.connect()
        if self._group is None:
            self._begin(self._connection, deadline, durable)
            self._group = Group(self._connection, durable)
        self._group.members += 1
        return self._group

    def _begin(self, connection: Connection, deadline: float, durable: bool) -> None:
        try:
            connection.begin()
            # Wait for writers of other processes only for the rest of the timeout.
            self._set_busy_timeout(connection, deadline - time.monotonic())
            self._set_synchronous(connection, FLUSHED if durable else NOT_FLUSHED)
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

    def _set_synchronous(self, connection: Connection, mode: str) -> None:
        """Choose whether a commit is flushed; SQLite ignores a change within a transaction."""
        if mode != self._synchronous:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA synchronous = {mode}")
            self._synchronous = mode

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
            # Who joined a group that is not flushed would not be durable.
            may_wait = group.durable and group.members < MAX_MEMBERS
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
        if isinstance(error, SQLAlchemyError):
            connection.invalidate()
            self._busy_milliseconds = None
            self._synchronous = None
        connection.rollback()

    def _wait_for_commit(self, group: Group) -> None:
        while not group.ended.wait(HANDOVER_SECONDS):
            with self.lock:
                if self._group is group:
                    self._commit(group)
