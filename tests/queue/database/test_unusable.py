"""Lasting faults of the database: the message names the file and a remedy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

import pytest
from starlette.testclient import TestClient

from imageprocessor.errors import DatabaseUnusableError, SettingsError, StorageMismatchError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.health import check_readiness
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.conftest import missing
from tests.images import encode, photo
from tests.queue.conftest import list_files
from tests.queue.database.conftest import count_windows
from tests.queue.database.test_locked import NOBODY, as_user
from tests.uploads import submit_to


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    sizes = {"thumbnail": 20}
    return Settings.model_validate({"data_dir": tmp_path / "data", "image_sizes": sizes})


@pytest.fixture
def completed(service: Service) -> Job:
    job = submit_to(service)
    run_job(service, job.job_id, "worker")
    return job


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def replace_by_another(path: Path) -> None:
    remove(path)
    with open_service(Settings(data_dir=path.parent / "another")) as other:
        other.database.close()
        shutil.copy(other.settings.database_path, path)


@pytest.mark.parametrize("lose", [remove, replace_by_another])
def test_upload_to_a_lost_database_is_a_503_and_leaves_nothing(
    service: Service,
    completed: Job,
    lose: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = service.settings
    path = settings.database_path
    user = {"Authorization": f"Bearer {sign_token(settings, 'ann')}"}
    files = {"file": encode(photo(80, 60), "JPEG")}

    def upload(client: TestClient) -> tuple[int, str | None]:
        url, fields = "/api/v1/images/upload", {"bucket": "photos"}
        answer = client.post(url, files=files, data=fields, headers=user)
        return answer.status_code, answer.headers.get("retry-after")

    with TestClient(create_app(settings)) as client:
        assert upload(client) == (202, None)
        staged = list_files(settings.data_dir / "staging")
        lose(path)
        for _ in range(3):
            assert upload(client) == (503, None)
        assert f"{path} was " in capsys.readouterr().out
        assert list_files(settings.data_dir / "staging") == staged
        assert client.get("/readyz").status_code == 503
        assert client.get(f"/api/v1/images/{completed.image_id}?size=thumbnail").is_success


def test_no_connection_creates_a_deleted_database_again(service: Service) -> None:
    remove(service.settings.database_path)
    # All connections that are open are in use.
    first, second = service.database.read(), service.database.read()
    with first, second, pytest.raises(DatabaseUnusableError):
        count_windows(service.database)
    with pytest.raises(SettingsError), open_service(service.settings, creates=False):
        pass
    assert not service.settings.database_path.exists()


def test_worker_writes_nothing_to_a_deleted_database(service: Service) -> None:
    job = submit_to(service)
    remove(service.settings.database_path)
    with pytest.raises(DatabaseUnusableError, match="was deleted"):
        run_job(service, job.job_id, "worker")
    assert list(service.storage.list()) == []


def test_restart_without_the_deleted_database_is_refused(service: Service, completed: Job) -> None:
    """A new database would be empty: the storage belongs to the deleted one."""
    path = service.settings.database_path
    path.unlink()
    before = list_files(path.parent)  # among them the WAL
    with pytest.raises(StorageMismatchError, match=str(path)), open_service(service.settings):
        pass
    assert list_files(path.parent) == before


def write_garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 8192)


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)


@pytest.mark.parametrize("spoil", [write_garbage, damage])
def test_damaged_database_is_an_error_at_the_start_that_names_file_and_remedy(
    settings: Settings, spoil: Callable[[Path], None]
) -> None:
    with open_service(settings):
        pass
    spoil(settings.database_path)
    with (
        pytest.raises(
            DatabaseUnusableError, match=rf"{settings.database_path}.*restore a backup"
        ) as caught,
        open_service(settings),
    ):
        pass
    assert "shortly" not in str(caught.value)
    assert not caught.value.retryable


def test_folder_in_place_of_the_database_is_refused(settings: Settings) -> None:
    settings.database_path.mkdir(parents=True)
    with pytest.raises(SettingsError, match=rf"{settings.database_path} is not a file"):
        open_database(settings)


def test_file_without_tables_asks_for_an_upgrade(settings: Settings) -> None:
    settings.data_dir.mkdir()
    settings.database_path.touch()
    refused = pytest.raises(DatabaseUnusableError, match="imageprocessor db upgrade")
    with closing(open_database(settings, creates=False)) as database, refused:
        count_windows(database)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's own ones."""
    if os.geteuid() != 0:
        missing("only root can give files to another user")
    folder = Path(mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_data_of_another_user_names_the_folder_the_owner_and_the_command(shared: Path) -> None:
    settings = Settings(data_dir=shared / "data")
    with open_service(settings):
        pass
    before = list_files(shared)
    cause = rf"{settings.data_dir}.* belongs to uid 0, but this process runs as uid {NOBODY}.*chown"
    with as_user(NOBODY):
        with pytest.raises(SettingsError, match=f"DATA_DIR={cause}"), open_service(settings):
            pass
        refused = pytest.raises(DatabaseUnusableError, match=cause)
        with open_service(settings, creates=False) as opened, refused:
            count_windows(opened.database)
    assert list_files(shared) == before


def test_folder_that_cannot_be_created_names_the_command(shared: Path) -> None:
    settings = Settings(data_dir=shared / "data")
    command = f"mkdir -p {settings.data_dir} && chown"
    with as_user(NOBODY), pytest.raises(SettingsError, match=command), open_service(settings):
        pass


def test_read_only_database_is_refused_at_the_start(shared: Path) -> None:
    settings = Settings(data_dir=shared / "data", database_path=shared / "database/processor.db")
    with open_service(settings):
        pass
    for path in settings.data_dir.rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    os.chown(settings.data_dir, NOBODY, NOBODY)
    refused = pytest.raises(SettingsError, match=r"DATABASE_PATH=.*chown")
    with as_user(NOBODY), refused, open_service(settings):
        pass


def test_health_names_the_fault(service: Service) -> None:
    remove(service.settings.database_path)
    assert "was deleted while it was in use" in str(check_readiness(service)["database"])
