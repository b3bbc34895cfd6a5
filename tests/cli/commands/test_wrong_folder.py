"""Only `serve`, `worker` and commands that write create folders, databases or keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imageprocessor.environment import load_settings
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import open_service
from tests.cli.conftest import Run
from tests.uploads import submit_to

JOB_ID = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
COMMANDS = {
    "jobs list": 2,
    f"jobs show {JOB_ID}": 2,
    "jobs retry --all-failed": 2,
    "fsck": 2,
    "fsck --repair": 2,
    "sweep": 2,
    "sweep --dry-run": 2,
    "backup saved": 2,
    "migrate-storage --to local:///nowhere/images": 2,
    "token --sub me": 2,
    "doctor": 0,  # a warning
    "config": 0,
}


def list_all(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_in_a_wrong_folder_creates_nothing_and_says_where_it_looked(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    ran = run(*command.split())
    said = ran.out + ran.err
    assert ran.status == COMMANDS[command]
    assert f"There is no service in DATA_DIR={folder / 'data'}" in said
    assert "imageprocessor serve" in said or command == "config"
    assert list_all(folder) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_does_not_create_the_folder_of_a_disk_that_is_not_mounted(
    run: Run, folder: Path, command: str
) -> None:
    with open_service(load_settings({})) as service:
        run_job(service, submit_to(service).job_id, "worker")
    shutil.rmtree("data/storage")
    run(*command.replace("/nowhere", str(folder)).split())
    assert not Path("data/storage").exists()


def test_start_with_an_empty_storage_is_refused(run: Run) -> None:
    with open_service(load_settings({})) as service:
        run_job(service, submit_to(service).job_id, "worker")
    shutil.rmtree("data/storage")
    for command in ("serve", "worker"):
        ran = run(command)
        assert ran.status == 1
        assert "data/storage/.imageprocessor is missing" in ran.err
    assert not Path("data/storage").exists()


def test_a_key_that_is_set_needs_no_service(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", "k" * 40)
    assert run("token", "--sub", "me").status == 0
    assert list_all(folder) == set()
