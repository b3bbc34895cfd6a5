from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import imageprocessor
from imageprocessor.errors import ImageProcessorError, SettingsError
from imageprocessor.queue.access import ANYONE, OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock, sqlite
from imageprocessor.queue.database.schema import HEAD
from imageprocessor.queue.database.sqlite import sqlite_module
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.images import read_image
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.backup import MANIFEST_NAME, back_up, find_missing, restore
from imageprocessor.queue.maintenance.sweep import GLOBAL_STEPS, sweep
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.uploads import Sender, Upload, submit
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.settings import Settings
from imageprocessor.tokens import load_keys
from tests.queue.conftest import Submit
from tests.uploads import list_all_jobs

pytestmark = pytest.mark.parametrize(
    "settings", ["sqlite"], indirect=True
)  # PostgreSQL has its own tools


@pytest.fixture
def done(service: Service, submit_image: Submit) -> Job:
    job = submit_image()
    run_job(service, job.job_id, "worker")
    return read_job(service, job.job_id, OPERATOR)


@pytest.fixture
def saved(service: Service, done: Job, tmp_path: Path) -> Path:
    """A backup of a service with one completed image."""
    back_up(service.settings, tmp_path / "saved")
    return tmp_path / "saved"


def test_manifest_describes_the_backup(
    service: Service, submit_image: Submit, done: Job, tmp_path: Path
) -> None:
    submit_image()
    before = clock.to_text(clock.utc_now())
    manifest = back_up(service.settings, tmp_path / "new" / "saved")
    assert json.loads((tmp_path / "new/saved" / MANIFEST_NAME).read_text()) == {
        "version": imageprocessor.__version__,
        "revision": HEAD,
        "created_at": manifest.created_at,
        "sha256": manifest.sha256,
        "size_bytes": (tmp_path / "new/saved/processor.db").stat().st_size,
        "jobs": {"pending": 1, "processing": 0, "completed": 1, "failed": 0, "retrying": 0},
        "files": 2,
    }
    assert before <= manifest.created_at <= clock.to_text(clock.utc_now())


def test_writes_during_the_copy_do_not_start_it_again(
    service: Service, submit_image: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PAGES_PER_STEP", 2)
    submit_image()
    copied: list[int] = []

    def report(what: str, count: int) -> None:
        if what == "pages copied":
            copied.append(count)
            if len(copied) < 5:
                submit_image()

    manifest = back_up(service.settings, tmp_path / "saved", report)
    assert (len(copied) > 5, copied) == (True, sorted(copied))
    assert manifest.jobs["pending"] == 1, "the copy is the state at its start"


def test_backup_is_private_and_leaves_no_temporary_files(saved: Path, settings: Settings) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in saved.iterdir()} == {
        "processor.db": 0o600,
        "manifest.json": 0o600,
    }
    assert saved.stat().st_mode & 0o777 == 0o700
    assert list(settings.data_dir.glob(".backup*")) == []


def test_generated_key_is_backed_up_and_restored(
    service: Service, done: Job, tmp_path: Path
) -> None:
    key = load_keys(service.settings).signing
    back_up(service.settings, tmp_path / "saved")
    shutil.rmtree(service.settings.data_dir)
    restore(service.settings, tmp_path / "saved")
    assert load_keys(service.settings).signing == key
    modes = {
        path.stat().st_mode & 0o777 for path in (tmp_path / "saved", service.settings.data_dir)
    }
    assert (service.settings.data_dir / "jwt_secret_key").stat().st_mode & 0o777 == 0o600
    assert modes == {0o700, 0o750}


def test_folder_that_is_not_empty_is_refused(service: Service, saved: Path) -> None:
    with pytest.raises(ImageProcessorError, match="is not empty"):
        back_up(service.settings, saved)


def test_backup_without_a_manifest_is_incomplete(service: Service, saved: Path) -> None:
    (saved / MANIFEST_NAME).unlink()
    with pytest.raises(ImageProcessorError, match="not a complete backup"):
        restore(service.settings, saved, replace=True)


KILLED = """
import os, sys
from pathlib import Path
from imageprocessor.queue.maintenance import backup
from imageprocessor.settings import Settings
replace_file = backup.replace_file
def replace_or_die(target, content, mode):
    if target.name == sys.argv[3]:
        os.kill(os.getpid(), 9)
    replace_file(target, content, mode)
backup.replace_file = replace_or_die
backup.back_up(Settings(data_dir=sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("at", ["processor.db", "manifest.json"])
def test_killed_backup_is_incomplete(at: str, service: Service, done: Job, tmp_path: Path) -> None:
    arguments = [str(service.settings.data_dir), str(tmp_path / "saved"), at]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert ended.returncode == -9
    with pytest.raises(ImageProcessorError, match="not a complete backup"):
        restore(service.settings, tmp_path / "saved", replace=True)


@pytest.mark.parametrize(("offset", "fault"), [(0, "SHA-256"), (-1, "SHA-256")])
def test_changed_backup_is_refused(offset: int, fault: str, service: Service, saved: Path) -> None:
    data = bytearray((saved / "processor.db").read_bytes())
    data[offset] ^= 1
    (saved / "processor.db").write_bytes(data)
    with pytest.raises(ImageProcessorError, match=fault):
        restore(service.settings, saved, replace=True)


def test_damaged_database_is_not_backed_up(service: Service, done: Job, tmp_path: Path) -> None:
    path, settings = service.settings.database_path, service.settings
    with service.database.read() as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_events_job'"
        page = connection.exec_driver_sql(query).scalar_one()
    service.database.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 100)
    with pytest.raises(ImageProcessorError, match="The database is damaged"):
        back_up(settings, tmp_path / "saved")
    assert not (tmp_path / "saved" / MANIFEST_NAME).exists()


def test_backup_of_a_newer_version_is_refused(service: Service, saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST_NAME).read_text())
    (saved / MANIFEST_NAME).write_text(json.dumps(manifest | {"revision": "9999"}))
    with pytest.raises(SettingsError, match="9999"):
        restore(service.settings, saved, replace=True)


def test_database_is_replaced_only_on_request_and_kept(
    service: Service, settings: Settings, saved: Path, submit_image: Submit
) -> None:
    later = submit_image()
    service.database.close()
    with pytest.raises(ImageProcessorError, match="--replace"):
        restore(settings, saved)
    (aside,) = restore(settings, saved, replace=True).replaced
    with sqlite_module().connect(aside) as kept:
        assert kept.execute(
            "SELECT count(*) FROM processing_jobs WHERE job_id = ?", [later.job_id]
        ).fetchone() == (1,)
    kept.close()
    with open_service(settings) as restored, restored.database.read() as connection:
        assert job_store.find_job(connection, later.job_id) is None


def test_restore_is_refused_while_workers_are_alive(service: Service, saved: Path) -> None:
    service.database.close()
    with presence.announce(workers_directory(service.settings), 1):
        with pytest.raises(ImageProcessorError, match="is running"):
            restore(service.settings, saved, replace=True)
        service.settings.database_path.unlink()
        with pytest.raises(ImageProcessorError, match="is running"):
            restore(service.settings, saved)


def test_restore_is_refused_while_an_api_has_the_database_open(
    service: Service, saved: Path
) -> None:
    with pytest.raises(ImageProcessorError, match="Stop everything that uses it"):
        restore(service.settings, saved, replace=True)
    service.database.close()
    restore(service.settings, saved, replace=True)


def test_wal_of_a_lost_database_is_not_applied_to_the_restored_one(
    service: Service, settings: Settings, saved: Path, submit_image: Submit
) -> None:
    submit_image()
    wal = settings.database_path.with_name("processor.db-wal").read_bytes()
    assert wal
    service.database.close()
    settings.database_path.unlink()
    settings.database_path.with_name("processor.db-wal").write_bytes(wal)
    (aside,) = restore(settings, saved).replaced
    assert aside.read_bytes() == wal
    with open_service(settings) as restored, restored.database.read() as connection:
        assert len(list_all_jobs(connection)) == 1


def test_damaged_database_can_be_replaced(
    settings: Settings, service: Service, saved: Path, done: Job
) -> None:
    service.database.close()
    settings.database_path.write_bytes(b"nothing that SQLite knows" * 500)
    restore(settings, saved, replace=True)
    assert list(find_missing(settings)) == []
    with open_service(settings) as restored:
        assert read_image(restored, done.image_id, ANYONE) == done


def test_restore_reports_missing_images(service: Service, saved: Path, done: Job) -> None:
    gone = (done.variant_keys or {})["medium"]
    service.storage.delete(gone)
    service.database.close()
    restore(service.settings, saved, replace=True)
    assert list(find_missing(service.settings)) == [gone]


@pytest.fixture
def working(service: Service) -> Iterator[Callable[[], None]]:
    """Two workers of the service, and the function that stops them."""
    supervisor = Supervisor(service, 2)
    thread = threading.Thread(target=supervisor.run)
    thread.start()

    def stop() -> None:
        supervisor.stop()
        thread.join(60)

    yield stop
    stop()


def copy_if_there(source: str, target: str) -> None:
    """Copy a file, unless it was deleted because its job ended."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def test_backup_under_load_can_be_restored(
    service: Service,
    working: Callable[[], None],
    receive: Callable[..., Upload],
    submit_image: Submit,
    tmp_path: Path,
) -> None:
    """Back up while jobs run, copy the files, delete everything, restore it.

    No job that was accepted before the backup is lost.
    """
    jobs = [submit_image() for _ in range(30)]
    until = time.monotonic() + 30
    while not count(service)["completed"] and time.monotonic() < until:
        time.sleep(0.01)
    back_up(service.settings, tmp_path / "saved")
    shutil.copytree(
        service.settings.storage_path, tmp_path / "images", ignore=shutil.ignore_patterns(".tmp")
    )
    staging = service.settings.data_dir / "staging"
    shutil.copytree(
        staging,
        tmp_path / "staging",
        ignore=shutil.ignore_patterns(".tmp"),
        copy_function=copy_if_there,
    )
    later, _ = submit(service, receive(), Sender("ann"))
    working()
    service.database.close()
    shutil.rmtree(service.settings.data_dir)

    shutil.copytree(tmp_path / "images", service.settings.storage_path)
    shutil.copytree(tmp_path / "staging", service.settings.data_dir / "staging")
    restored = restore(service.settings, tmp_path / "saved")
    assert list(find_missing(service.settings)) == []
    assert restored.manifest.jobs["completed"] < 30, "some jobs should have been open"
    ends = finish(service.settings, jobs)
    assert all((job.status, job.error_code) in ENDS for job in ends)
    with open_service(service.settings) as opened:
        for job in ends:
            assert all(opened.storage.exists(key) for key in (job.variant_keys or {}).values())
        assert later.job_id not in {job.job_id for job in ends}


ENDS: set[tuple[JobStatus, Any]] = {
    (JobStatus.COMPLETED, None),
    (JobStatus.FAILED, "source_missing"),
}


def count(service: Service) -> dict[str, int]:
    with service.database.read() as connection:
        return job_store.count_by_status(connection)


def finish(settings: Settings, jobs: list[Job]) -> list[Job]:
    """Run all open jobs, including those that a worker had claimed, whose leases expire."""
    with open_service(settings) as service, pytest.MonkeyPatch.context() as patch:
        for hours in (1, 2, 3):
            now = datetime.now(UTC) + timedelta(hours=hours)
            patch.setattr(clock, "utc_now", lambda now=now: now)
            sweep(service, GLOBAL_STEPS)
            for job in jobs:
                run_job(service, job.job_id, "worker")
        return [read_job(service, job.job_id, OPERATOR) for job in jobs]
