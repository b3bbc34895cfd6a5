"""Upgrading a database while older code runs on it: expand and contract."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from imageprocessor.queue.database import clock, schema
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import HEAD, find_missing_indexes, migrate
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.settings import Settings

LONGEST_WAIT_SECONDS = 2.0
NOW = datetime.now(UTC)

# What code of revision 0003 runs, the oldest that may run on today's tables. Change this only
# together with OLDEST_CODE.
OLDER_INSERT_JOB = text("""
    INSERT INTO processing_jobs (
        job_id, image_id, user_id, status, storage_bucket, staging_path, processed_paths,
        processing_metadata, source_sha256, attempt_count, max_retries, next_attempt_at, worker_id,
        lease_token, lease_expires_at, error_code, last_error, request_id, idempotency_key,
        created_at, started_at, completed_at, deleted_at
    ) VALUES (
        :job_id, :image_id, 'ann', 'pending', 'photos', 'photos/x', NULL, '{"context": {}}', 'abc',
        0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, :now, NULL, NULL, NULL
    )
""")
OLDER_INSERT_EVENT = text("""
    INSERT INTO image_upload_events (id, event_type, image_id, job_id, metadata, created_at)
    VALUES (:id, :event_type, :image_id, :job_id, '{}', :now)
""")
OLDER_LIST_NEW = text("""
    SELECT job_id FROM processing_jobs
    WHERE deleted_at IS NULL AND status = 'pending' AND next_attempt_at IS NULL
    ORDER BY next_attempt_at, created_at LIMIT 2
""")
OLDER_CLAIM = text("""
    UPDATE processing_jobs SET
        status = 'processing', attempt_count = attempt_count + 1, worker_id = 'old',
        lease_token = 'token', lease_expires_at = :later, started_at = :now, next_attempt_at = NULL
    WHERE job_id = :job_id AND status IN ('pending', 'retrying') AND deleted_at IS NULL
        AND (next_attempt_at IS NULL OR next_attempt_at <= :now)
    RETURNING job_id, status, lease_token
""")
OLDER_COMPLETE = text("""
    UPDATE processing_jobs SET
        lease_token = NULL, lease_expires_at = NULL, worker_id = NULL, status = 'completed',
        staging_path = NULL, processed_paths = '{}',
        processing_metadata = '{"context": {}, "generated": {}}', completed_at = :now,
        error_code = NULL, last_error = NULL
    WHERE job_id = :job_id AND status = 'processing' AND lease_token = 'token'
        AND deleted_at IS NULL
""")


@pytest.fixture
def older(new_settings: Settings) -> Iterator[Database]:
    """A database of revision 0003."""
    with closing(open_database(new_settings)) as database:
        config = Config()
        config.set_main_option("script_location", "imageprocessor.queue.database:migrations")
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0003")
        yield database


def add_job(database: Database, created_at: datetime) -> dict[str, Any]:
    """Add a job and its first event, as older code does."""
    ids = {"job_id": str(uuid4()), "image_id": str(uuid4()), "now": clock.to_text(created_at)}
    with database.write() as connection:
        connection.execute(OLDER_INSERT_JOB, ids)
        row = {**ids, "id": str(uuid4()), "event_type": "upload_initiated"}
        connection.execute(OLDER_INSERT_EVENT, row)
    return ids


def test_rows_survive_and_events_are_numbered_in_order(older: Database) -> None:
    jobs = [add_job(older, NOW - timedelta(minutes=minutes)) for minutes in (1, 3, 2)]
    assert migrate(older) == "0003"
    by_age = [jobs[1]["job_id"], jobs[2]["job_id"], jobs[0]["job_id"]]
    with older.read() as connection:
        assert job_store.list_due(connection, NOW, 5) == by_age
        numbered = text("SELECT job_id FROM image_upload_events WHERE seq > 0 ORDER BY seq")
        numbered_ids = connection.scalars(numbered).all()
        is_sqlite = connection.dialect.name == "sqlite"
    assert numbered_ids == (by_age if is_sqlite else []), "PostgreSQL numbers new events only"
    new = add_job(older, NOW)
    with older.read() as connection:
        (event,) = outbox.list_events(connection, new["job_id"])
    assert event["seq"] > 0
    assert (event["transaction_id"] is None) is is_sqlite


def test_older_code_runs_on_the_tables_of_today(older: Database) -> None:
    migrate(older)
    job = add_job(older, NOW)
    times = {"now": clock.to_text(NOW), "later": clock.to_text(NOW + timedelta(minutes=1))}
    with older.write() as connection:
        assert connection.scalars(OLDER_LIST_NEW).all() == [job["job_id"]]
        claimed = connection.execute(OLDER_CLAIM, {**times, "job_id": job["job_id"]}).all()
        assert claimed == [(job["job_id"], "processing", "token")]
        done = connection.execute(OLDER_COMPLETE, {**times, "job_id": job["job_id"]})
        assert done.rowcount == 1
    with older.read() as connection:
        found = job_store.find_job(connection, job["job_id"])
    assert found
    assert found.status is JobStatus.COMPLETED


def test_older_code_runs_what_new_code_released(older: Database) -> None:
    """The new code keeps the time of a retry during the attempt; the old one must not wait."""
    migrate(older)
    ids = add_job(older, NOW)
    with older.write() as connection:
        job = job_store.claim(connection, ids["job_id"], "new", NOW, timedelta(minutes=1))
        assert job
        assert job_store.release(connection, job)
        assert connection.scalars(OLDER_LIST_NEW).all() == [ids["job_id"]]


@pytest.mark.parametrize("new_settings", ["postgres"], indirect=True)
def test_interrupted_index_is_built_again(older: Database, new_settings: Settings) -> None:
    migrate(older)
    with older.write() as connection:  # as CREATE INDEX CONCURRENTLY leaves it when it is cut
        mark = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_jobs_open'::regclass"
        connection.execute(text(mark))
    with older.read() as connection:
        assert [index.name for index in find_missing_indexes(connection)] == ["ix_jobs_open"]
    assert migrate(older) == HEAD
    with older.read() as connection:
        assert find_missing_indexes(connection) == []


@pytest.mark.parametrize("new_settings", ["postgres"], indirect=True)
def test_clients_go_on_while_a_long_transaction_delays_the_migration(
    older: Database, new_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a lock on a table blocks all that come later."""
    monkeypatch.setattr(schema, "TABLE_LOCK_TIMEOUT", "300ms")
    assert new_settings.database_url
    url = new_settings.database_url.get_secret_value().replace("+psycopg", "")
    waits: list[float] = []
    with (
        psycopg.connect(url) as long_transaction,
        psycopg.connect(url, autocommit=True) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        long_transaction.execute("SELECT count(*) FROM image_upload_events")
        migration = pool.submit(migrate, older)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            began = time.monotonic()
            client.execute("SELECT count(*) FROM image_upload_events")
            waits.append(time.monotonic() - began)
            time.sleep(0.01)
        assert not migration.done()
        long_transaction.rollback()
        assert migration.result(60) == "0003"
    assert max(waits) < LONGEST_WAIT_SECONDS


@pytest.mark.parametrize("new_settings", ["postgres"], indirect=True)
def test_writers_go_on_while_an_index_waits_for_a_long_transaction(
    older: Database, new_settings: Settings
) -> None:
    migrate(older)
    assert new_settings.database_url
    url = new_settings.database_url.get_secret_value().replace("+psycopg", "")
    with older.write() as connection:
        connection.execute(text("DROP INDEX ix_jobs_open"))
    with psycopg.connect(url) as long_transaction, ThreadPoolExecutor(1) as pool:
        add_job(older, NOW)
        long_transaction.execute("UPDATE processing_jobs SET user_id = 'bob'")
        build = pool.submit(migrate, older)
        for _ in range(20):
            began = time.monotonic()
            add_job(older, NOW)
            assert time.monotonic() - began < LONGEST_WAIT_SECONDS
        assert not build.done()
        long_transaction.rollback()
        assert build.result(60) == HEAD
    with older.read() as connection:
        assert find_missing_indexes(connection) == []
