"""A write returns when the disk has its changes, and keeps no lock while it waits for that."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from imageprocessor.errors import DatabaseUnavailableError, StorageFullError
from imageprocessor.queue.database import sqlite, sqlite_writer
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.sqlite import SqliteConnections, sqlite_module
from imageprocessor.settings import Settings
from tests.queue.database.conftest import count_windows
from tests.servers.processes import wait_for

INSERT = text("INSERT INTO upload_rate_limits VALUES (:user, '', 1)")
WAL = "processor.db-wal"

Flush = Callable[[int], object]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(Settings(data_dir=tmp_path))
    migrate(opened)
    yield opened
    opened.close()


def insert(database: Database, user: str, then: Callable[[Connection], object] = type) -> None:
    with database.write() as connection:
        connection.execute(INSERT, {"user": user})
        then(connection)


def fail(connection: Connection) -> None:
    connection.execute(text("INSERT INTO missing VALUES (1)"))


def replace_flush(monkeypatch: pytest.MonkeyPatch, replacement: Flush) -> Flush:
    """Call *replacement* instead of flushing the WAL; return the function that flushes it."""
    original: Flush = sqlite_writer._flush
    monkeypatch.setattr(sqlite_writer, "_flush", replacement)
    return original


def fail_once(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let the next flush of the WAL fail with *code*."""

    def fail(_: int) -> None:
        monkeypatch.undo()
        raise OSError(code, os.strerror(code))

    replace_flush(monkeypatch, fail)


def read_users(path: Path) -> set[str]:
    """Return the users in the database at *path*, as another program sees it."""
    with closing(sqlite_module().connect(path)) as connection:
        return {user for (user,) in connection.execute("SELECT user_id FROM upload_rate_limits")}


def test_write_returns_after_a_flush_of_its_changes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk after a power cut is at least what was in the files at the last flush."""
    survivors = tmp_path / "survivors"
    survivors.mkdir()

    def flush_and_copy(descriptor: int) -> None:
        flush(descriptor)
        assert os.path.samestat(os.fstat(descriptor), (tmp_path / WAL).stat())
        for name in ("processor.db", WAL):
            shutil.copy(tmp_path / name, survivors)

    flush = replace_flush(monkeypatch, flush_and_copy)
    insert(database, "first")
    assert read_users(survivors / "processor.db") == {"first"}


def test_no_lock_is_held_during_a_flush(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_elsewhere(_: int) -> None:
        with closing(sqlite_module().connect(tmp_path / "processor.db", timeout=0)) as other:
            other.execute("INSERT INTO upload_rate_limits VALUES ('other', '', 1)")
            other.commit()

    replace_flush(monkeypatch, write_elsewhere)
    insert(database, "first")
    assert count_windows(database) == 2


def test_threads_share_the_flush_that_begins_after_their_commits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    begun: list[object] = []

    def wait_and_flush(descriptor: int) -> None:
        begun.append(count_windows(database))
        goes_on.wait(5)
        flush(descriptor)

    flush = replace_flush(monkeypatch, wait_and_flush)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(insert, database, "first")
        wait_for(lambda: begun == [1])
        others = [pool.submit(insert, database, user) for user in "abc"]
        wait_for(lambda: count_windows(database) == 4)
        assert not any(other.done() for other in others)
        goes_on.set()
        for future in (first, *others):
            future.result(5)
    assert begun == [1, 4]


def test_change_that_need_not_be_durable_is_not_flushed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    replace_flush(monkeypatch, flushed.append)
    with database.write(durable=False) as connection:
        connection.execute(INSERT, {"user": "first"})
    assert flushed == []
    database.flush()
    assert len(flushed) == 1


def test_failed_flush_is_an_error_for_every_thread_that_waits_for_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_committed = threading.Event()

    def wait_and_fail(_: int) -> None:
        both_committed.wait(5)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    replace_flush(monkeypatch, wait_and_fail)
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(insert, database, user) for user in ("first", "second")]
        wait_for(lambda: count_windows(database) == 2)
        both_committed.set()
        for future in futures:
            with pytest.raises(DatabaseUnavailableError, match="not be flushed"):
                future.result(5)


def test_full_disk_at_a_flush_is_reported_as_such(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, errno.ENOSPC)
    with pytest.raises(StorageFullError, match="disk is full"):
        insert(database, "first")


def test_next_change_does_not_follow_a_lost_one_in_the_wal(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failed flush once; a later one succeeds although pages are lost."""
    fail_once(monkeypatch, errno.EIO)
    with pytest.raises(DatabaseUnavailableError):
        insert(database, "first")
    insert(database, "second")
    copy = tmp_path / "copy.db"
    shutil.copy(tmp_path / "processor.db", copy)
    assert read_users(copy) == {"first"}, "copied from the WAL, and flushed, before the change"
    assert read_users(tmp_path / "processor.db") == {"first", "second"}


def test_change_is_refused_while_a_reader_needs_the_lost_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, errno.EIO)
    with pytest.raises(DatabaseUnavailableError):
        insert(database, "first")
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.1)
    with closing(sqlite_module().connect(tmp_path / "processor.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM upload_rate_limits").fetchall()
        with pytest.raises(DatabaseUnavailableError, match="in use"):
            insert(database, "second")
    insert(database, "third")
    assert read_users(tmp_path / "processor.db") == {"first", "third"}


def test_new_wal_is_flushed_after_an_error(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a connection, SQLite deletes the WAL; the next connection makes another."""
    insert(database, "first")
    assert isinstance(database.connections, SqliteConnections)
    while database.connections._idle_readers:
        database.connections._idle_readers.pop().invalidate()
    with pytest.raises(DatabaseUnavailableError):
        insert(database, "second", fail)
    assert not (tmp_path / WAL).exists()
    flushed: list[os.stat_result] = []
    replace_flush(monkeypatch, lambda descriptor: flushed.append(os.fstat(descriptor)))
    insert(database, "third")
    assert os.path.samestat(flushed[0], (tmp_path / WAL).stat())


def test_wal_of_a_linked_database_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real.db")
    (tmp_path / "real.db").touch()
    linked = open_database(Settings(data_dir=tmp_path, database_path=link))
    migrate(linked)
    flushed: list[os.stat_result] = []
    replace_flush(monkeypatch, lambda descriptor: flushed.append(os.fstat(descriptor)))
    insert(linked, "first")
    assert os.path.samestat(flushed[0], (tmp_path / "real.db-wal").stat())
    linked.close()


def test_failed_change_is_undone_and_the_next_one_is_not(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        insert(database, "first", lambda _: 1 / 0)
    insert(database, "second")
    with pytest.raises(IntegrityError):
        insert(database, "second")
    with pytest.raises(DatabaseUnavailableError):
        insert(database, "third", fail)
    insert(database, "fourth")
    assert count_windows(database) == 2


def test_failed_commit_is_an_error(database: Database) -> None:
    def refuse(action: int, name: str | None, *_: object) -> int:
        is_commit = action == sqlite3.SQLITE_TRANSACTION and name == "COMMIT"
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    def forbid_commits(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.set_authorizer(refuse)

    with pytest.raises(DatabaseUnavailableError, match="not authorized"):
        insert(database, "first", forbid_commits)
    assert count_windows(database) == 0
    insert(database, "second")
    assert count_windows(database) == 1
