from __future__ import annotations

from pathlib import Path

import pytest

from imageprocessor.environment import load_settings
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
from tests.cli.conftest import Run
from tests.servers import create_database
from tests.uploads import list_all_jobs, submit_to


@pytest.fixture
def images(folder: Path) -> list[Job]:
    """Two images of a service on SQLite."""
    with open_service(load_settings({})) as service:
        for job in [submit_to(service) for _ in range(2)]:
            run_job(service, job.job_id, "worker")
        return list_all(load_settings({}))


def list_all(settings: Settings) -> list[Job]:
    with open_service(settings) as service, service.database.read() as connection:
        return list_all_jobs(connection)


def test_import_copies_all_rows_to_postgresql(
    run: Run, images: list[Job], postgres: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_database(postgres)
    monkeypatch.setenv("DATABASE_URL", url)
    copied = run("db", "import", "data/processor.db", "--json")
    assert copied.status == 0, copied.err
    rows = {name: count for name, count in copied.json.items() if count}
    assert rows == {"image_upload_events": 6, "processing_jobs": 2, "upload_rate_limits": 1}
    assert list_all(load_settings({"DATABASE_URL": url})) == images
    again = run("db", "import", "data/processor.db")
    assert again.status == 2
    assert again.err.startswith("error: ")


def test_database_is_not_imported_into_itself(run: Run, images: list[Job]) -> None:
    ran = run("db", "import", "data/processor.db")
    assert ran.status == 2
    assert "DATABASE_URL" in ran.err


def test_missing_file_is_named(run: Run) -> None:
    ran = run("db", "import", "nowhere.db")
    assert ran.status == 2
    assert str(Path("nowhere.db").resolve()) in ran.err


def test_database_of_a_running_service_is_not_imported(
    run: Run, images: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://postgres@127.0.0.1:1/nowhere")
    with presence.announce(workers_directory(load_settings({})), 1):
        ran = run("db", "import", "data/processor.db")
    assert ran.status == 2
    assert ran.err.startswith("error: ")
    assert "nowhere" not in ran.err
