from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue import job_store, service
from imageprocessor.queue.database import Database, open_database, sqlite_module
from imageprocessor.queue.schema import migrate
from imageprocessor.queue.tables import metadata
from imageprocessor.settings import Settings

MIGRATE = """
import pathlib, sys
from imageprocessor.queue import job_store, service
from imageprocessor.queue.database import Database, open_database
from imageprocessor.queue.schema import migrate
migrate(open_database(pathlib.Path(sys.argv[1])))
"""


def test_migrations_make_the_tables_that_the_code_describes(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db")
    migrate(database)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrate(database)
    database.close()


def test_two_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MIGRATE, str(tmp_path / "a.db")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 3


def test_commits_are_on_disk_when_they_return(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db")
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


def test_jobs_that_wait_are_found_by_an_index_alone(tmp_path: Path) -> None:
    """However many wait: no step of the plans scans the table or sorts."""
    database = open_database(tmp_path / "a.db")
    migrate(database)
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)

    with database.read() as connection:
        event.listen(connection, "before_cursor_execute", explain)
        job_store.list_due(connection, datetime.now(UTC), 2)
    assert len(plans) == 2
    assert all("USING INDEX ix_jobs_due" in plan for plan in plans), plans
    database.close()


def test_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db")
    migrate(database)
    with database.write() as writer:
        writer.exec_driver_sql("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)")
        with database.read() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM upload_rate_limits").scalar() == 0
    database.close()


def test_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db")
    migrate(database)
    with pytest.raises(ZeroDivisionError):
        _insert_and_fail(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM upload_rate_limits").scalar() == 0
    database.close()


def _insert_and_fail(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)")
        raise ZeroDivisionError


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is no database" * 100)
    database = open_database(path)
    with pytest.raises(DatabaseUnavailableError, match="not a database"):
        migrate(database)
    database.close()
