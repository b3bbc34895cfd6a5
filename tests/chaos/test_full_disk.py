"""A full disk causes a 507 or a retry, and leaves no partial files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue import write_faults
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.app import create_app
from imageprocessor.server.routes import health
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.conftest import missing
from tests.images import encode, photo
from tests.uploads import submit_to

PHOTO = encode(photo(1200, 900), "PNG")  # about a megabyte


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system with room for a few uploads."""
    if os.geteuid() != 0:
        missing("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path, free_bytes: int = 0) -> Iterator[None]:
    """Leave no more than *free_bytes* on the disk."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    room = status.f_bavail * status.f_frsize - free_bytes
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room)
    try:
        yield
    finally:
        filler.unlink()


def list_leftovers(service: Service) -> list[Any]:
    drafts = [path for folder in service.drafts for path in folder.iterdir()]
    return [*drafts, *service.staging.list()]


def post(client: TestClient, settings: Settings) -> Any:
    headers = {"Authorization": f"Bearer {sign_token(settings, 'ann')}"}
    files = {"file": ("a.png", PHOTO)}
    return client.post(
        "/api/v1/images/upload", files=files, data={"bucket": "photos"}, headers=headers
    )


@pytest.mark.parametrize("place", ["data_dir", "database_path"])
def test_upload_to_a_full_disk_is_a_507_and_leaves_nothing(
    disk: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = (
        {"data_dir": disk / "data"}
        if place == "data_dir"
        else {"database_path": disk / "processor.db"}
    )
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "data", "rate_limit_max_uploads": 1} | chosen
    )
    monkeypatch.setattr(health, "REPEAT_SECONDS", 0.0)
    with open_service(settings) as service, TestClient(create_app(settings)) as client:
        with filled(disk):
            answer = post(client, settings)
            assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
            assert list_leftovers(service) == []
            assert client.get("/readyz").status_code == 200
            monkeypatch.setattr(write_faults, "PROBE_EVERY_SECONDS", 0.0)
            assert {post(client, settings).status_code for _ in range(2)} == {507}
            assert client.get("/readyz").status_code == 503, "a probe cannot be written"
            assert client.get("/api/v1/health/stats").status_code == 200, "reads still work"
        with service.database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert sum(job_store.count_by_status(connection).values()) == 0
        assert client.get("/readyz").status_code == 200, "the probe could be written"
        accepted = post(client, settings)
        assert accepted.status_code == 202, "the refused upload should not be counted"
        run_job(service, accepted.json()["job_id"], "worker")
        assert client.get(accepted.json()["status_url"]).json()["status"] == "completed"


def test_job_on_a_full_disk_is_retried(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data", storage_path=disk / "storage")
    with open_service(settings) as service:
        job = submit_to(service, PHOTO)
        with filled(disk, 40_000):  # only the small sizes fit
            run_job(service, job.job_id, "worker")
        with service.database.read() as connection:
            waiting = job_store.find_job(connection, job.job_id)
        assert waiting
        assert (waiting.status, waiting.error_code) == (JobStatus.RETRYING, "storage_full")
        assert list((disk / "storage/.tmp").iterdir()) == []
        monkeypatch.setattr(clock, "utc_now", _later(waiting.next_attempt_at))
        run_job(service, job.job_id, "worker")
        with service.database.read() as connection:
            done = job_store.find_job(connection, job.job_id)
        assert done
        assert done.status is JobStatus.COMPLETED
        assert {stored.key for stored in service.storage.list()} == set(
            (done.variant_keys or {}).values()
        )


def _later(moment: Any) -> Callable[[], Any]:
    return lambda: moment
