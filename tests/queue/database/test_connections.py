from __future__ import annotations

import pytest
from sqlalchemy import Connection, text

from imageprocessor.queue.service import Service
from tests.queue.database.conftest import count_windows, insert_window


def test_reader_does_not_wait_for_a_writer(service: Service) -> None:
    with service.database.write() as writer:
        writer.execute(text("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)"))
        assert count_windows(service.database) == 0


def test_reader_sees_commits_made_after_it_started(service: Service) -> None:
    with service.database.read() as reader:
        assert reader.scalar(text("SELECT count(*) FROM upload_rate_limits")) == 0
        insert_window(service.database)
        assert reader.scalar(text("SELECT count(*) FROM upload_rate_limits")) == 1


def test_failed_transaction_leaves_nothing(service: Service) -> None:
    with pytest.raises(ZeroDivisionError):
        insert_window(service.database, then=lambda: 1 / 0)
    assert count_windows(service.database) == 0


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)  # test_sqlite_writer.py: SQLite
def test_only_a_commit_that_must_be_durable_is_flushed(service: Service) -> None:
    with service.database.write(durable=False) as connection:
        assert read_durability(connection) == "off"
    with service.database.write() as connection:
        assert read_durability(connection) == "on"


def read_durability(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SHOW synchronous_commit").scalar_one())
