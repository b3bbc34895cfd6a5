from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from imageprocessor.errors import (
    DatabaseUnavailableError,
)
from imageprocessor.queue import rate_limits
from imageprocessor.queue.database import prepared
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.tables import upload_rate_limits
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from tests.queue.database.conftest import count_windows, insert_window


def find_used(database: Database) -> dict[str, Any] | None:
    key = {"user_id": "ann", "window_start": ""}
    with database.read() as connection:
        return prepared.fetch_first(connection, rate_limits.COUNT_USED, key)


def test_fetch_first_sees_the_newest_commit(service: Service) -> None:
    assert find_used(service.database) is None
    with service.database.write() as writer:
        writer.execute(text("INSERT INTO upload_rate_limits VALUES ('ann', '', 1)"))
        assert find_used(service.database) is None
    assert find_used(service.database) == {"upload_count": 1}


def test_fetch_first_raises_without_tables(tmp_path: Path) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    with pytest.raises(DatabaseUnavailableError, match="no such table"):
        find_used(database)
    database.close()


def test_duplicate_key_raises_integrity_error_on_every_database(
    service: Service,
) -> None:
    row = {"user_id": "ann", "window_start": "", "upload_count": 1}
    insert_window(service.database)
    with pytest.raises(IntegrityError), service.database.write() as connection:
        prepared.execute(connection, insert(upload_rate_limits), row)
    insert_row = insert(upload_rate_limits)
    with service.database.write() as connection:
        prepared.execute(connection, insert_row, row | {"user_id": "bob"})
    assert count_windows(service.database) == 2
