"""Fixtures: a real service in a temporary folder, on SQLite and PostgreSQL, and uploads to it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from PIL import Image
from sqlalchemy import Connection

from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.uploads import Sender, Upload, submit
from imageprocessor.settings import Settings
from imageprocessor.storage.protocol import MARKER_NAME
from imageprocessor.storage.s3 import S3Storage
from tests.images import encode, photo
from tests.servers import create_database

Submit = Callable[..., Job]


@pytest.fixture(params=["sqlite", "postgres"])
def new_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The settings of a service whose database has no tables yet."""
    url = (
        create_database(request.getfixturevalue("postgres"))
        if request.param == "postgres"
        else None
    )
    return Settings.model_validate({"data_dir": tmp_path / "data", "database_url": url})


@pytest.fixture(scope="session")
def migrated(postgres: int) -> str:
    """The URL of a PostgreSQL database with tables.

    All tests share it, because creating one takes half a second.
    """
    url = create_database(postgres)
    database = open_database(Settings.model_validate({"database_url": url}))
    migrate(database)
    database.close()
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    data_dir, url = tmp_path / "data", None
    if request.param == "postgres":
        url = request.getfixturevalue("migrated")
        empty(url)
    else:
        request.getfixturevalue("add_sqlite")(data_dir)
    sizes = {"thumbnail": 20, "medium": 60}
    return Settings.model_validate(
        {"data_dir": data_dir, "image_sizes": sizes, "database_url": url}
    )


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with open_service(settings) as opened:
        yield opened


@pytest.fixture
def receive(service: Service) -> Callable[..., Upload]:
    """Write bytes to the service's folder for received uploads."""

    def put(
        data: bytes | None = None, bucket: str = "photos", metadata: str = "", webhook: str = ""
    ) -> Upload:
        data = encode(photo(80, 60), "JPEG") if data is None else data
        path = service.incoming / uuid.uuid4().hex
        path.write_bytes(data)
        return Upload(path, hashlib.sha256(data).hexdigest(), bucket, metadata, webhook)

    return put


@pytest.fixture
def submit_image(service: Service, receive: Callable[..., Upload]) -> Submit:
    def send(
        data: bytes | None = None, user_id: str = "ann", key: str | None = None, **fields: str
    ) -> Job:
        return submit(service, receive(data, **fields), Sender(user_id, key, "request-1"))[0]

    return send


@pytest.fixture
def done(service: Service, submit_image: Submit) -> Job:
    """A completed job of the user ann."""
    job = submit_image()
    run_job(service, job.job_id, "worker")
    return read_job(service, job.job_id, OPERATOR)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Shift the queue's clock by a timedelta."""

    def move(by: timedelta) -> None:
        monkeypatch.setattr(clock, "utc_now", lambda: datetime.now(UTC) + by)

    return move


END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid != pg_backend_pid()"
)
FILLED = (
    "processing_jobs",
    "image_upload_events",
    "batches",
    "upload_rate_limits",
    "maintenance",
    "job_statistics",
    "webhook_endpoints",
    "webhook_deliveries",
)


def empty(url: str) -> None:
    """Disconnect all other clients of the database at *url* and delete every row."""
    statements = [END_OTHERS, *(f"DELETE FROM {table}" for table in FILLED)]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(";".join(statements).encode())


def disconnect_clients(url: str) -> None:
    """Disconnect all clients of the PostgreSQL database at *url*, as its restart would."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(END_OTHERS)


def lock_tables(connection: Connection) -> None:
    """Block all other writes until *connection*'s transaction ends.

    On SQLite, an open transaction is enough.
    """
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql(
            "LOCK TABLE processing_jobs, upload_rate_limits IN EXCLUSIVE MODE"
        )


@pytest.fixture(scope="session")
def slow_image() -> bytes:
    """An image that takes a third of a second to process: long enough to be interrupted.

    It is a PNG, because a JPEG would be decoded at a smaller scale.
    """
    return encode(
        photo(800, 600).resize((7200, 5400), Image.Resampling.NEAREST), "PNG", compress_level=1
    )


def list_files(folder: Path) -> list[Path]:
    """Return the files below *folder*."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def remove_marker(service: Service) -> None:
    """Remove the marker of the storage, as if its disk were not mounted or its bucket new."""
    storage = service.storage
    if isinstance(storage, S3Storage):
        storage.client.delete_object(Bucket=storage.bucket, Key=MARKER_NAME)
    else:
        (service.settings.storage_path / MARKER_NAME).unlink()


def with_settings(service: Service, **changes: object) -> Service:
    """Return the same service with changed settings."""
    return replace(service, settings=service.settings.model_copy(update=changes))
