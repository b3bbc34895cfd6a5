from __future__ import annotations

import logging
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from imageprocessor.errors import (
    DatabaseUnavailableError,
    DatabaseUnusableError,
    MissingExtraError,
    SettingsError,
    StorageFullError,
)
from imageprocessor.queue.database.postgres import POOL_SIZE
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.service import Service
from tests.queue.database.conftest import count_windows, insert_window, open_url
from tests.servers import run_postgres

PASSWORD = "correct-horse-battery"


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


def test_wrong_password_is_reported_without_the_password(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as server:
        rules = tmp_path / "postgres/pg_hba.conf"
        with psycopg.connect(
            f"postgresql://postgres@127.0.0.1:{server.port}/postgres", autocommit=True
        ) as connection:
            rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        with pytest.raises(
            DatabaseUnusableError, match=r"password authentication failed.*Correct user, password"
        ) as caught:
            migrate(
                open_url(
                    f"postgresql+psycopg://postgres:{PASSWORD}@127.0.0.1:{server.port}/postgres"
                )
            )
    assert PASSWORD not in str(caught.value) + repr(caught.value.__cause__)


def test_missing_psycopg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"\[postgres\]"):
        open_url("postgresql+psycopg://me@127.0.0.1/images")


def test_restart_of_the_server_fails_only_running_transactions(tmp_path: Path) -> None:
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


def test_database_that_does_not_exist_is_named(postgres: int) -> None:
    url = f"postgresql+psycopg://postgres@127.0.0.1:{postgres}/absent"
    with pytest.raises(DatabaseUnusableError, match=r"postgresql://.*/absent cannot be used"):
        count_windows(open_url(url))


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
        ("42P01", DatabaseUnusableError),  # undefined_table
        ("25006", DatabaseUnusableError),  # read_only_sql_transaction
    ],
)
def test_server_errors_are_translated_by_sqlstate(
    sqlstate: str, error: type[Exception], service: Service
) -> None:
    with pytest.raises(error) as caught, service.database.write() as connection:
        connection.execute(
            text(f"DO $$ BEGIN RAISE EXCEPTION 'a fault' USING ERRCODE = '{sqlstate}'; END $$")
        )
    assert type(caught.value) is error


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_sessions_have_timeouts_for_locks_and_lost_clients(service: Service) -> None:
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


def test_exhausted_pool_raises_instead_of_waiting(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_url(migrated)
    engine = database.connections.engine
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    held = [engine.connect() for _ in range(POOL_SIZE)]
    with pytest.raises(DatabaseUnavailableError, match="QueuePool limit"):
        count_windows(database)
    for connection in held:
        connection.close()
    assert count_windows(database) is not None
    database.close()
