from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from imageprocessor.errors import (
    DatabaseUnavailableError,
    MissingExtraError,
    SettingsError,
    StorageFullError,
)
from imageprocessor.queue import rate_limits, service
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.sqlite import (
    BUSY_TIMEOUT_SECONDS,
    find_file_system,
    sqlite_module,
)
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from tests.servers import run_postgres

PASSWORD = "correct-horse-battery"


def count_windows(database: Database) -> object:
    with database.read() as connection:
        return connection.scalar(text("SELECT count(*) FROM upload_rate_limits"))


def insert_window(database: Database, then: Callable[[], object] = int) -> None:
    with database.write() as connection:
        connection.execute(text("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)"))
        then()


def open_url(url: str) -> Database:
    return open_database(Settings.model_validate({"database_url": url}))


def test_reader_does_not_wait_for_a_writer(service: Service) -> None:
    with service.database.write() as writer:
        writer.execute(text("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)"))
        assert count_windows(service.database) == 0


def test_reader_sees_what_was_committed_since_it_began(service: Service) -> None:
    with service.database.read() as reader:
        assert reader.scalar(text("SELECT count(*) FROM upload_rate_limits")) == 0
        insert_window(service.database)
        assert reader.scalar(text("SELECT count(*) FROM upload_rate_limits")) == 1


def test_first_row_is_that_of_the_newest_commit(service: Service) -> None:
    statement = rate_limits.COUNT_USED
    assert service.database.first(statement, user_id="ann", window_start="") is None
    with service.database.write() as writer:
        writer.execute(text("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)"))
        assert service.database.first(statement, user_id="ann", window_start="") is None
    assert service.database.first(statement, user_id="ann", window_start="") == {"upload_count": 1}


def test_first_row_of_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    with pytest.raises(DatabaseUnavailableError, match="no such table"):
        database.first(rate_limits.COUNT_USED, user_id="ann", window_start="")
    database.close()


def test_write_that_waited_for_its_turn_waits_for_other_processes_as_much_less(
    tmp_path: Path,
) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    migrate(database)
    assert database.sqlite is not None
    with (
        closing(sqlite_module().connect(tmp_path / "processor.db")) as other,
        ThreadPoolExecutor() as pool,
    ):
        with database.sqlite.write_turn():
            started = time.monotonic()
            waiting = pool.submit(insert_window, database)
            time.sleep(BUSY_TIMEOUT_SECONDS - 2)
            other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailableError, match="locked"):
            waiting.result()
        assert time.monotonic() - started < BUSY_TIMEOUT_SECONDS + 1
    insert_window(database)
    database.close()


def test_failed_transaction_leaves_nothing(service: Service) -> None:
    with pytest.raises(ZeroDivisionError):
        insert_window(service.database, then=lambda: 1 / 0)
    assert count_windows(service.database) == 0


def test_sqlite_commits_are_on_disk_when_they_return(tmp_path: Path) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()


def test_bundled_sqlite_has_no_wal_reset_bug() -> None:
    assert sqlite_module().sqlite_version_info >= (3, 51, 3)


def test_old_sqlite_is_warned_of_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "has_wal_reset_bug", lambda _: True)
    with service.open_service(Settings(data_dir=tmp_path)):
        assert "pip install pysqlite3" in capsys.readouterr().out


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is no database" * 100)
    database = open_database(Settings(database_path=path))
    with pytest.raises(DatabaseUnavailableError, match="not a database"):
        migrate(database)
    database.close()


MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /srv rw,relatime shared:5 master:1 - nfs4 files:/export rw,vers=4.2
31 30 0:41 / /srv/fast rw - xfs /dev/vdb rw
32 27 0:42 / /mnt/with\040space rw - fuse.sshfs me@far:/ rw
33 27 0:43 / /over rw - cifs //far/share rw
34 33 0:44 / /over rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/images/processor.db", "ext4"),
        ("/srv/images/processor.db", "nfs4"),
        ("/srv/fast/processor.db", "xfs"),
        ("/srvother/processor.db", "ext4"),
        ("/mnt/with space/a.db", "fuse.sshfs"),
        ("/over/a.db", "tmpfs"),
    ],
)
def test_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    assert find_file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.sshfs", "lustre", "afs"]
)
def test_sqlite_on_a_network_file_system_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        f"27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:40 / {tmp_path} rw - {kind} far:/export rw\n"
    )
    monkeypatch.setattr("imageprocessor.queue.database.sqlite.MOUNT_TABLE", table)
    with pytest.raises(
        SettingsError,
        match=r"several hosts cannot share a SQLite file. Set DATABASE_URL=postgresql",
    ):
        open_database(Settings(data_dir=tmp_path))
    open_database(
        Settings(data_dir=Path("/var/empty/data"), database_path=Path("/tmp/a.db"))
    ).close()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/images",
        f"postgresql+psycopg://me:p@{PASSWORD}@127.0.0.1/images",
        f"postgresql+psycopg://me@127.0.0.1:{PASSWORD}/images",
        f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/images?sslmode=nonsense",
        f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/images?nonsense=1",
    ],
)
def test_password_is_in_no_error_and_no_log(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises((DatabaseUnavailableError, SettingsError)) as caught:
        migrate(open_url(url))
    assert PASSWORD not in str(caught.value) + repr(caught.value.__cause__) + caplog.text


def test_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as server:
        rules = tmp_path / "postgres/pg_hba.conf"
        with psycopg.connect(
            f"postgresql://postgres@127.0.0.1:{server.port}/postgres", autocommit=True
        ) as connection:
            rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        with pytest.raises(
            DatabaseUnavailableError, match="password authentication failed"
        ) as caught:
            migrate(
                open_url(
                    f"postgresql+psycopg://postgres:{PASSWORD}@127.0.0.1:{server.port}/postgres"
                )
            )
    assert PASSWORD not in str(caught.value) + repr(caught.value.__cause__)


def test_missing_psycopg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"imageprocessor\[postgres\]"):
        open_url("postgresql+psycopg://me@127.0.0.1/images")


def test_restarted_server_costs_no_more_than_what_was_in_hand(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as server:
        database = open_url(f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres")
        migrate(database)
        with pytest.raises(DatabaseUnavailableError):
            insert_window(database, then=server.kill)
        with pytest.raises(DatabaseUnavailableError):
            count_windows(database)
        server.restart()
        assert count_windows(database) == 0
        server.kill()
        server.restart()
        insert_window(database)  # on the connection that was left in the pool
        database.close()


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("53100", StorageFullError),  # disk_full
        ("55P03", DatabaseUnavailableError),  # lock_not_available
        ("57014", DatabaseUnavailableError),  # query_canceled, by statement_timeout
        ("57P01", DatabaseUnavailableError),  # admin_shutdown
        ("57P03", DatabaseUnavailableError),  # cannot_connect_now
        ("40001", DatabaseUnavailableError),  # serialization_failure
        ("40P01", DatabaseUnavailableError),  # deadlock_detected
        ("53300", DatabaseUnavailableError),  # too_many_connections
        ("25006", DatabaseUnavailableError),  # read_only_sql_transaction
    ],
)
def test_faults_of_the_server_are_told_apart(
    sqlstate: str, error: type[Exception], service: Service
) -> None:
    with pytest.raises(error), service.database.write() as connection:
        connection.execute(
            text(f"DO $$ BEGIN RAISE EXCEPTION 'a fault' USING ERRCODE = '{sqlstate}'; END $$")
        )


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_wait_for_a_lock_and_for_a_lost_client_are_bounded(service: Service) -> None:
    with service.database.read() as connection:
        shown = {
            name: connection.scalar(text(f"SHOW {name}"))
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        }
    assert shown == {
        "lock_timeout": "5s",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "30s",
    }


def test_full_pool_is_unavailable_and_not_a_wait_for_ever(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_url(migrated)
    monkeypatch.setattr(database.writer.pool, "_timeout", 0.1)
    held = [database.writer.connect() for _ in range(15)]
    with pytest.raises(DatabaseUnavailableError, match="QueuePool limit"):
        count_windows(database)
    for connection in held:
        connection.close()
    assert count_windows(database) is not None
    database.close()


def test_sqlite_file_has_an_identity_that_its_copies_keep_and_other_files_have_not(
    tmp_path: Path,
) -> None:
    one, two = (open_database(Settings(data_dir=tmp_path / name)) for name in ("one", "two"))
    migrate(one)
    migrate(two)
    first = one.identity()
    migrate(one)
    assert 0 < int(first) < 2**31
    assert (one.identity(), two.identity() == first) == (first, False)
    one.close()
    two.close()


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_server_has_no_identity_because_hosts_share_it(service: Service) -> None:
    assert service.database.identity() == ""
