from __future__ import annotations

import fcntl
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_program
from tests.deploy.installation import BACKUP, Installation, make_installation
from tests.deploy.live import image_path, run_service
from tests.servers import create_database, find_postgres

SECRET = b"a waiting upload"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running service with a waiting upload and a draft."""
    installation = make_installation(tmp_path_factory.mktemp("installation"))
    with run_service(installation.data):
        for path in (
            installation.data / "staging/photos/job",
            installation.data / "storage/.tmp/draft",
        ):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(SECRET)
        yield installation


def test_backup_of_a_running_service_restores_completely(tmp_path: Path) -> None:
    installation = make_installation(tmp_path)
    with run_service(installation.data) as place:
        path = image_path(place.make_image())
        image = place.ask(path).body
        first = installation.back_up(tmp_path / "backups")
        time.sleep(1.1)  # backups are named by the second
        second = installation.back_up(tmp_path / "backups")
    assert (first / path[1:]).samefile(second / path[1:]), "an unchanged file takes no extra space"
    shutil.rmtree(installation.data)
    restore(installation, second)
    with run_service(installation.data) as place:
        assert place.ask(path).body == image


def restore(installation: Installation, backup: Path) -> None:
    for name in ("storage", "staging"):
        assert (
            installation.run(
                "rsync", "--archive", "--mkpath", f"{backup}/{name}/", f"data/{name}/"
            ).returncode
            == 0
        )
    restored = installation.run("imageprocessor", "restore", f"{backup}/database")
    assert restored.returncode == 0, restored.stderr


def test_backup_contains_waiting_uploads_but_no_drafts_and_is_private(
    installation: Installation, tmp_path: Path
) -> None:
    backup = installation.back_up(tmp_path / "backups")
    assert (backup / "staging/photos/job").read_bytes() == SECRET
    assert not (backup / "storage/.tmp").exists()
    assert (tmp_path / "backups").stat().st_mode & 0o077 == 0


def test_old_backups_are_deleted_and_other_files_stay(
    installation: Installation, tmp_path: Path
) -> None:
    for name in (
        "2024-01-01T02-00-00Z",
        "2024-01-02T02-00-00Z",
        "notes",
        ".unfinished/storage/half",
    ):
        (tmp_path / name).mkdir(parents=True)
    newest = installation.back_up(tmp_path, KEEP="2")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "notes",
        "2024-01-02T02-00-00Z",
        newest.name,
    }
    assert not (newest / "storage/half").exists(), "left by an interrupted backup"


def test_second_concurrent_backup_is_refused(installation: Installation, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert installation.run(BACKUP, str(tmp_path)).returncode == 75


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], {}),
        (["a", "b"], {}),
        (["backups"], {"KEEP": "0"}),
        (["backups"], {"MAX_RETRIES": "many"}),
        (["backups"], {"STORAGE_BACKEND": "s3", "S3_BUCKET": "images"}),
    ],
)
def test_wrong_usage_is_reported(
    tmp_path: Path, arguments: Sequence[str], environment: dict[str, str]
) -> None:
    ran = make_installation(tmp_path).run(BACKUP, *arguments, **environment)
    assert (ran.returncode, "backup.sh: " in ran.stderr, ran.stdout) == (2, True, "")
    assert not (tmp_path / "backups").exists()


def test_backup_without_a_database_fails_and_leaves_no_backup(tmp_path: Path) -> None:
    ran = make_installation(tmp_path).run(BACKUP, "backups")
    assert str(tmp_path / "data/processor.db") in ran.stderr
    assert ran.returncode in {1, 2}
    assert list(tmp_path.glob("backups/20*")) == []


def test_backup_of_postgresql_and_s3_takes_address_and_keys_from_the_settings(
    tmp_path: Path, postgres: int, s3: str
) -> None:
    url = create_database(postgres).replace("postgres@", "postgres:p%40ss@")
    bucket, second = f"images-{uuid.uuid4().hex}", f"backup-{uuid.uuid4().hex}"
    client = open_s3(s3)
    for name in (bucket, second):
        client.create_bucket(Bucket=name)
    installation = make_installation(tmp_path)
    installation.add_program("aws", require_program("aws"))
    recorder = tmp_path / "recorder"
    recorder.write_text(
        f'printf "%s\\n" "$PGPASSWORD" "$@" >called; {find_postgres("pg_dump")} "$@"'
    )
    installation.add_program("pg_dump", f"sh {recorder}")
    access = {
        "database_url": url,
        "database_direct_url": f"{url}?application_name=direct",
        "storage_backend": "s3",
        "s3_bucket": bucket,
        "s3_endpoint_url": s3,
        "aws_region": "us-east-1",
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
    }
    lines = [f"{name.upper()}={value}" for name, value in access.items()]
    (tmp_path / ".env").write_text("\n".join(lines))
    key = installation.add_image(**access).removeprefix("/storage/")
    backup = installation.back_up(tmp_path / "backups", BACKUP_BUCKET=second)
    assert (backup / "database/processor.dump").read_bytes().startswith(b"PGDMP")
    assert key in [found["Key"] for found in client.list_objects_v2(Bucket=second)["Contents"]]
    password, *arguments = (tmp_path / "called").read_text().splitlines()
    assert password == "p@ss"
    assert "p%40ss" not in "".join(arguments), "other users see the command line"
    assert arguments[-1].endswith("?application_name=direct")


def open_s3(url: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, **keys)
