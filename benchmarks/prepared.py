"""Measure the SQL of a status check and an upload: `python -m benchmarks.prepared`.

Compares the process's CPU time through queue/database/prepared.py and through SQLAlchemy alone,
with connections kept open and with connections from SQLAlchemy's pool.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, Executable

from imageprocessor.queue import rate_limits
from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.sqlite import SqliteConnections
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings

ROUNDS = 7
CHECKS, UPLOADS = 1000, 200  #: per round


def main() -> None:
    """Print the microseconds of each, in the fastest round."""
    with TemporaryDirectory() as folder, open_service(Settings(data_dir=Path(folder))) as service:
        job = store_job(service)

        def check() -> None:
            with service.database.read() as connection:
                assert job_store.find_job(connection, job.job_id)

        def compare(name: str) -> None:
            checking = measure(check, CHECKS)
            uploading = measure(lambda: store_job(service), UPLOADS)
            print(f"{name}: status check {checking:.0f} µs, upload {uploading:.0f} µs")

        compare("prepared, connections kept")
        with (
            patch.object(prepared, "execute", execute),
            patch.object(prepared, "fetch_first", fetch_first),
        ):
            compare("SQLAlchemy, connections kept")
            with patch.object(SqliteConnections, "reader", pooled_reader):
                compare("SQLAlchemy, readers from its pool")


def store_job(service: Service) -> Job:
    """Run an upload's transaction."""
    now = clock.utc_now()
    job = Job(
        job_id=str(uuid.uuid4()),
        image_id=str(uuid.uuid4()),
        user_id="ann",
        status=JobStatus.PENDING,
        bucket="photos",
        context={},
        source_sha256="0" * 64,
        created_at=now,
        max_retries=3,
    )
    with service.database.write() as connection:
        rate_limits.count_upload(connection, "ann", now, 1_000_000, timedelta(hours=1))
        job_store.insert_job(connection, job)
        outbox.add_event(
            connection, EventType.UPLOAD_INITIATED, job, now, previous_status=None, by="ann"
        )
    return job


def measure(function: Callable[[], object], times: int) -> float:
    """Return the CPU microseconds of one call in the fastest round."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times):
            function()
        rounds.append((time.process_time() - started) / times * 1e6)
    return min(rounds)


def execute(connection: Connection, statement: Executable, parameters: Mapping[str, Any]) -> None:
    connection.execute(statement, parameters)


def fetch_first(
    connection: Connection, statement: Executable, parameters: Mapping[str, Any]
) -> dict[str, Any] | None:
    row = connection.execute(statement, parameters).mappings().first()
    return dict(row) if row else None


@contextmanager
def pooled_reader(connections: SqliteConnections) -> Iterator[Connection]:
    with connections.engine.connect() as connection:
        yield connection


if __name__ == "__main__":
    main()
