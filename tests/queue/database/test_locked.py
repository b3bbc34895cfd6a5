"""A database that is locked for a long time, or is read-only.

Uploads are refused, reads still work, nothing is lost.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.errors import DatabaseUnavailableError, DatabaseUnusableError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import sqlite
from imageprocessor.queue.health import check_readiness
from imageprocessor.queue.images import delete_image, read_image
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.uploads import Sender, Upload, submit
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo
from tests.queue.conftest import Submit, empty, list_files, lock_tables
from tests.servers.processes import wait_for
from tests.uploads import submit_to

PATIENCE_SECONDS = 0.3  # instead of 5: how long a writer waits for the lock
LOCKED_SECONDS = 6 * PATIENCE_SECONDS  # the same ratio as 30 s to 5 s
NOBODY = 65534

Receive = Callable[..., Upload]


@pytest.fixture
def impatient(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings, and make writers give up waiting for a lock after PATIENCE_SECONDS."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    return with_options(settings, f"-c%20lock_timeout={PATIENCE_SECONDS * 1000:.0f}ms")


@pytest.fixture
def service(impatient: Settings) -> Iterator[Service]:
    with open_service(impatient) as opened:
        yield opened


def with_options(settings: Settings, options: str) -> Settings:
    """Return the settings, with *options* for each PostgreSQL session."""
    if settings.database_url is None:
        return settings
    url = f"{settings.database_url.get_secret_value()}?options={options}"
    changed = Settings.model_validate({"data_dir": settings.data_dir, "database_url": url})
    return changed.model_copy(update={"image_sizes": settings.image_sizes})


@contextmanager
def locked(settings: Settings, seconds: float | None = None) -> Iterator[None]:
    """Hold the write lock in another connection for the context, or for *seconds* from now."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with open_service(settings) as other, other.database.write() as connection:
            lock_tables(connection)
            taken.set()
            free.wait(seconds)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    try:
        yield
    finally:
        if seconds is None:
            free.set()
        holder.join()


def read(service: Service, job: Job) -> Job:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    assert found
    return found


@pytest.fixture
def completed(service: Service, submit_image: Submit) -> Job:
    job = submit_image()
    run_job(service, job.job_id, "worker")
    return job


def test_locked_database_refuses_uploads_and_serves_reads(
    service: Service, completed: Job, receive: Receive
) -> None:
    staged, until = list(service.staging.list()), time.monotonic() + LOCKED_SECONDS
    refused = 0
    with locked(service.settings):
        while time.monotonic() < until:
            with pytest.raises(DatabaseUnavailableError, match=r"locked|lock timeout"):
                submit(service, receive(), Sender("ann"))
            refused += 1
            started = time.monotonic()
            assert read_image(service, completed.image_id, OPERATOR).status is JobStatus.COMPLETED
            assert time.monotonic() - started < PATIENCE_SECONDS
            with pytest.raises(DatabaseUnavailableError):
                delete_image(service, completed.image_id, OPERATOR)
    assert refused > 1
    assert list(service.staging.list()) == staged
    assert submit(service, receive(), Sender("ann"))[0].status is JobStatus.PENDING


def test_locked_database_answers_503_to_uploads_and_200_to_reads(
    service: Service, completed: Job
) -> None:
    user = {"Authorization": f"Bearer {sign_token(service.settings, 'ann')}"}
    files, before = (
        {"file": encode(photo(80, 60), "JPEG")},
        list_files(service.settings.data_dir / "staging"),
    )
    with TestClient(create_app(service.settings)) as client, locked(service.settings):
        refused = client.post(
            "/api/v1/images/upload", files=files, data={"bucket": "photos"}, headers=user
        )
        image = client.get(f"/api/v1/images/{completed.image_id}")
        ready, alive = client.get("/readyz"), client.get("/livez")
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert (image.status_code, alive.status_code) == (200, 200)
    assert (ready.status_code, ready.json()["checks"]["storage"]) == (503, "ok"), (
        "no upload can be accepted"
    )
    assert ready.json()["checks"]["database"].startswith("database_unavailable: ")
    assert list_files(service.settings.data_dir / "staging") == before
    assert list_files(service.incoming) == []


def test_worker_stores_its_outcome_once_the_lock_is_released(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    holder = locked(service.settings, LOCKED_SECONDS)

    class LockingStorage(type(service.storage)):  # type: ignore[misc]
        def put_all(self, *arguments: Any) -> None:
            super().put_all(*arguments)
            holder.__enter__()  # next, the outcome is stored

    started = time.monotonic()
    run_job(
        replace(service, storage=LockingStorage(service.settings.storage_path)),
        job.job_id,
        "worker",
    )
    holder.__exit__(None, None, None)
    assert time.monotonic() - started > LOCKED_SECONDS
    done = read(service, job)
    assert (done.status, done.attempts) == (JobStatus.COMPLETED, 1)


def test_worker_process_survives_a_lock_held_longer_than_it_waits(
    settings: Settings, submit_image: Submit, slow_image: bytes
) -> None:
    """The worker process waits 5 s for the lock, again and again."""
    with open_service(settings) as service:
        supervisor = Supervisor(service, 1)
        thread = threading.Thread(target=supervisor.run)
        job = submit_image(slow_image)
        thread.start()
        try:
            wait_for(lambda: read(service, job).status is JobStatus.PROCESSING)
            with locked(settings):
                time.sleep(7)
                assert read(service, job).status is JobStatus.PROCESSING
            wait_for(lambda: read(service, job).status is not JobStatus.PROCESSING)
        finally:
            supervisor.stop()
            thread.join()
        done = read(service, job)
    assert (done.status, done.attempts, done.error_code) == (JobStatus.COMPLETED, 1, None)


@pytest.mark.parametrize("what", ["file", "folder", "server"])
def test_read_only_database_refuses_uploads_and_serves_reads(
    request: pytest.FixtureRequest, what: str
) -> None:
    with read_only(request, what) as (service, done):
        for _ in range(2):
            with pytest.raises(DatabaseUnusableError, match=r"read-?only"):
                submit_to(service)
        assert [*service.staging.list(), *service.incoming.iterdir()] == []
        assert read_image(service, done.image_id, OPERATOR).status is JobStatus.COMPLETED
        assert "read" in str(check_readiness(service)["database"])
        with pytest.raises(DatabaseUnavailableError):
            delete_image(service, done.image_id, OPERATOR)
        assert all(map(service.storage.exists, (done.variant_keys or {}).values()))


@contextmanager
def read_only(request: pytest.FixtureRequest, what: str) -> Iterator[tuple[Service, Job]]:
    """Yield a service with a read-only database and writable storage, and its image's job."""
    folder = Path(mkdtemp())  # pytest's own folders are closed to other users
    settings = Settings.model_validate(
        {"data_dir": folder / "data", "database_path": folder / "database/processor.db"}
    )
    refused = settings
    if what == "server":
        url = request.getfixturevalue("migrated")
        empty(url)
        settings = Settings.model_validate({"data_dir": folder / "data", "database_url": url})
        refused = with_options(settings, "-c%20default_transaction_read_only=on")
    with open_service(settings) as writing:
        job = submit_to(writing)
        run_job(writing, job.job_id, "worker")
        done = read(writing, job)
        hand_over(folder, what)
        with as_user(NOBODY), open_service(refused, creates=False) as opened:
            yield opened, done
    for path in folder.rglob("database"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def hand_over(folder: Path, what: str) -> None:
    """Let `as_user` write everything below *folder* except the database's file or folder."""
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, NOBODY if os.geteuid() == 0 else os.geteuid())
    protected = {
        "file": list(folder.glob("database/*.db")),
        "folder": [folder / "database", *folder.glob("database/*")],
    }
    for path in protected.get(what, []):
        shutil.chown(path, os.geteuid())
        path.chmod(0o555 if path.is_dir() else 0o444)


@contextmanager
def as_user(user_id: int) -> Iterator[None]:
    """Run as *user_id* instead of root, to whom permissions do not apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(user_id)
    try:
        yield
    finally:
        os.seteuid(0)
