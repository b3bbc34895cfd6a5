"""Threads that wait for each other share one commit, and each returns after it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue.database import sqlite_writer
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.sqlite import SqliteConnections
from imageprocessor.queue.database.sqlite_writer import SqliteWriter
from imageprocessor.settings import Settings
from tests.queue.database.conftest import count_windows
from tests.servers.processes import wait_for

INSERT = text("INSERT INTO upload_rate_limits VALUES (:user, '', 1)")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(Settings(data_dir=tmp_path))
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def writer(database: Database) -> SqliteWriter:
    assert isinstance(database.connections, SqliteConnections)
    return database.connections.write_connection


def insert(database: Database, user: str, then: Callable[[], object] = int) -> None:
    with database.write() as connection:
        connection.execute(INSERT, {"user": user})
        then()


@contextmanager
def first_waits_for_second(
    database: Database, writer: SqliteWriter, second: Callable[[], object]
) -> Iterator[tuple[Future[None], Future[object]]]:
    """Insert a row and, while that holds the lock, start *second*, which then joins the group."""
    inserted, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        inserted.set()
        go_on.wait(5)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(insert, database, "first", hold)
        assert inserted.wait(5)
        joined = pool.submit(second)
        wait_for(lambda: bool(writer._waiting))
        go_on.set()
        yield first, joined


def trace(database: Database) -> list[str]:
    """Return a list that collects the statements of the write connection."""
    statements: list[str] = []
    with database.write() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(statements.append)
    statements.clear()
    return statements


def test_threads_share_a_commit_and_return_after_it(
    database: Database, writer: SqliteWriter
) -> None:
    statements = trace(database)
    returned: list[bool] = []

    def look() -> None:
        assert count_windows(database) == 0, "nothing is committed yet"
        returned.append(first.done())

    with first_waits_for_second(
        database, writer, lambda: insert(database, "second", look)
    ) as futures:
        first, second = futures
        second.result(5)
        first.result(5)
    assert returned == [False]
    assert count_windows(database) == 2
    assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 1


def test_failed_change_leaves_those_of_other_threads(
    database: Database, writer: SqliteWriter
) -> None:
    def fail() -> None:
        insert(database, "second", lambda: 1 / 0)

    with first_waits_for_second(database, writer, fail) as (first, second):
        with pytest.raises(ZeroDivisionError):
            second.result(5)
        first.result(5)
    assert count_windows(database) == 1


def test_repeated_key_is_committed_when_the_error_is_raised(
    database: Database, writer: SqliteWriter
) -> None:
    """``submit`` then looks for the job that had the key first."""

    def repeat() -> object:
        writer._waiting.append(None)  # as if a third thread came, so that this one does not commit
        try:
            insert(database, "first")
        except IntegrityError:
            return count_windows(database)
        return None

    with first_waits_for_second(database, writer, repeat) as (first, second):
        assert second.result(5) == 1
        first.result(5)


def test_database_error_undoes_the_whole_group(database: Database, writer: SqliteWriter) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(text("INSERT INTO missing VALUES (1)"))

    with first_waits_for_second(database, writer, fail) as (first, second):
        for future in (first, second):
            with pytest.raises(DatabaseUnavailableError):
                future.result(5)
    assert count_windows(database) == 0
    insert(database, "third")
    assert count_windows(database) == 1


def test_failed_commit_is_an_error_for_every_thread(
    database: Database, writer: SqliteWriter
) -> None:
    def refuse(action: int, name: str | None, *_: object) -> int:
        is_commit = action == sqlite3.SQLITE_TRANSACTION and name == "COMMIT"
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    def forbid_commits() -> None:
        with database.write() as connection:
            driver: Any = connection.connection.driver_connection
            driver.set_authorizer(refuse)
            connection.execute(INSERT, {"user": "second"})

    with first_waits_for_second(database, writer, forbid_commits) as (first, second):
        for future in (first, second):
            with pytest.raises(DatabaseUnavailableError, match="not authorized"):
                future.result(5)
    assert count_windows(database) == 0
    insert(database, "third")
    assert count_windows(database) == 1


def test_thread_commits_itself_if_the_next_one_gave_up(
    database: Database, writer: SqliteWriter
) -> None:
    writer._waiting.append(None)  # as if it gave up just after the lock was released
    insert(database, "first")
    assert count_windows(database) == 1


def test_group_is_committed_although_more_threads_wait(
    database: Database, writer: SqliteWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_MEMBERS", 1)
    statements = trace(database)
    with first_waits_for_second(database, writer, lambda: insert(database, "second")) as futures:
        for future in futures:
            future.result(5)
    assert statements.count("COMMIT") == 2
