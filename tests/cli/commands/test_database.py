from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from imageprocessor.environment import load_settings
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.schema import HEAD
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import open_service
from tests.cli.conftest import Run
from tests.servers import create_database
from tests.uploads import submit_to


@pytest.fixture
def done(folder: Path) -> Job:
    """A completed image of a stopped service in the current folder."""
    with open_service(load_settings({"IMAGE_SIZES": '{"thumbnail": 20}'})) as service:
        job = submit_to(service)
        run_job(service, job.job_id, "worker")
        return read_job(service, job.job_id, OPERATOR)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_upgrade_prints_old_and_new_revision(
    kind: str, run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "postgres":
        monkeypatch.setenv("DATABASE_URL", create_database(request.getfixturevalue("postgres")))
    assert f"was empty; it is now at revision {HEAD}" in run("db", "upgrade").out
    assert f"already at revision {HEAD}" in run("db", "upgrade").out
    assert run("db", "upgrade", "--json").json == {"from": HEAD, "to": HEAD}


def test_backup_and_restore_bring_everything_back(run: Run, done: Job) -> None:
    made = run("backup", "saved", "--json")
    assert (made.status, made.json["files"], made.json["jobs"]["completed"]) == (0, 1, 1)
    shutil.move("data/storage", "images")
    shutil.rmtree("data")
    shutil.copytree("images", "data/storage")
    restored = run("restore", "saved", "--json")
    assert (restored.status, restored.json["missing"], restored.json["replaced"]) == (0, [], [])
    assert run("jobs", "show", done.job_id, "--json").json["job"]["status"] == "completed"


def test_backup_prints_its_contents_and_the_next_step(run: Run, done: Job) -> None:
    ran = run("backup", "saved")
    assert "1 completed" in ran.out
    assert "Now copy the storage" in ran.err
    assert re.search(r"files +1\n", ran.out)


def test_restore_lists_missing_files_and_fails(run: Run, done: Job) -> None:
    run("backup", "saved")
    shutil.rmtree("data/storage")
    ran = run("restore", "saved", "--replace")
    assert ran.status == 1
    assert ran.out.split() == list((done.variant_keys or {}).values())
    assert "1 of 1 files of the backup are missing from the storage" in ran.err
    assert "The previous database was kept: data/processor.db.before-" in ran.err


def test_restore_over_a_database_needs_replace(run: Run, done: Job) -> None:
    run("backup", "saved")
    ran = run("restore", "saved")
    assert (ran.status, ran.out) == (1, "")
    assert "--replace" in ran.err


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_postgres_backup_refers_to_its_own_tools(
    command: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://me:secret-word@db/images")
    ran = run(command, "saved")
    assert ran.status == 2
    assert "--dbname=postgresql://me@db/images" in ran.err
    assert "secret-word" not in ran.err
