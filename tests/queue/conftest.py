"""A real service on SQLite and local disk in a temporary folder, and a way to submit to it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imageprocessor.queue import clock
from imageprocessor.queue.jobs import Job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.submission import Sender, Upload, submit
from imageprocessor.settings import Settings
from tests.images import encode, photo

Submit = Callable[..., Job]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path / "data", "image_sizes": {"thumbnail": 20, "medium": 60}})


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with open_service(settings) as opened:
        yield opened


@pytest.fixture
def receive(service: Service) -> Callable[..., Upload]:
    """Put bytes where a received upload lies."""

    def put(data: bytes | None = None, bucket: str = "photos", metadata: str = "") -> Upload:
        data = encode(photo(80, 60), "JPEG") if data is None else data
        path = service.incoming / uuid.uuid4().hex
        path.write_bytes(data)
        return Upload(path, hashlib.sha256(data).hexdigest(), bucket, metadata)

    return put


@pytest.fixture
def submit_image(service: Service, receive: Callable[..., Upload]) -> Submit:
    def send(data: bytes | None = None, user_id: str = "ann", key: str | None = None, **fields: str) -> Job:
        return submit(service, receive(data, **fields), Sender(user_id, key, "request-1"))[0]

    return send


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Move the time of the queue by what is given."""

    def move(by: timedelta) -> None:
        monkeypatch.setattr(clock, "utc_now", lambda: datetime.now(UTC) + by)

    return move


def list_files(folder: Path) -> list[Path]:
    """Return the files below *folder*."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def with_settings(service: Service, **changes: object) -> Service:
    """Return the same service under changed settings."""
    return replace(service, settings=service.settings.model_copy(update=changes))
