from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

from imageprocessor.queue import service
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.sqlite import find_newer_sqlite
from imageprocessor.queue.jobs import job_store
from imageprocessor.settings import Settings
from tests.uploads import submit_to


def test_old_sqlite_warning_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "has_wal_reset_bug", lambda _: True)
    with service.open_service(Settings(data_dir=tmp_path)):
        assert find_newer_sqlite() in capsys.readouterr().out


def test_uploads_are_processed_without_the_wheel_of_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysqlite3.dbapi2", None)  # as on arm64 Linux
    with service.open_service(Settings(data_dir=tmp_path)) as opened:
        job = submit_to(opened)
        run_job(opened, job.job_id, "worker")
        with opened.database.read() as connection:
            version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
            finished = job_store.find_job(connection, job.job_id)
    assert version == sqlite3.sqlite_version
    assert finished
    assert finished.status == "completed"
