from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from imageprocessor.environment import load_settings
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service, open_service, open_storages
from imageprocessor.server.app import create_app
from tests.cli.conftest import Ran, Run
from tests.storage.buckets import create_bucket
from tests.uploads import submit_to


@pytest.fixture(autouse=True)
def _settings(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "S3_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "IMAGE_SIZES": '{"thumbnail":20,"medium":60}',
        "JWT_SECRET_KEY": "k" * 40,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


Switch = Callable[..., None]


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """Change the settings from now on."""

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


def open_current() -> AbstractContextManager[Service]:
    return open_service(load_settings(os.environ))


def process(service: Service, bucket: str = "photos") -> Job:
    job = submit_to(service, bucket=bucket)
    run_job(service, job.job_id, "worker")
    return read_job(service, job.job_id, OPERATOR)


def read_all(service: Service) -> dict[str, bytes]:
    return {found.key: service.storage.get(found.key) for found in service.storage.list()}


def printed_settings(ran: Ran) -> dict[str, str]:
    return dict(
        line.split("=", 1) for line in ran.out.splitlines() if line.partition("=")[0].isupper()
    )


def fetch_through_api(job: Job) -> dict[str, bytes]:
    """Return each size as a client receives it by following the URLs of the result."""
    with TestClient(create_app(load_settings(os.environ))) as client:
        urls = client.get(f"/api/v1/images/jobs/{job.job_id}/result").json()["urls"]
        answers = {size: client.get(url, follow_redirects=False) for size, url in urls.items()}
    assert {answer.status_code for answer in answers.values()} == {307}
    return {size: urlopen(answer.headers["Location"]).read() for size, answer in answers.items()}


@pytest.mark.parametrize("target", ["one-for-all", "a-bucket-each"])
def test_migrated_images_are_served_from_s3_with_the_printed_settings(
    run: Run, s3: str, switch: Switch, target: str
) -> None:
    bucket = create_bucket(s3, f"photos-{uuid.uuid4().hex}")
    with open_current() as service:
        job = process(service, bucket)
        expected = {
            size: service.storage.get(key) for size, key in (job.variant_keys or {}).items()
        }
    switch(ALLOWED_BUCKETS=bucket)
    ran = run("migrate-storage", "--to", f"s3://{bucket}" if target == "one-for-all" else "s3://")
    assert ran.status == 0
    assert "All objects are in the new storage" in ran.err
    assert printed_settings(ran)["STORAGE_BACKEND"] == "s3"
    switch(**printed_settings(ran))
    shutil.rmtree("data/storage")
    assert fetch_through_api(job) == expected


def test_images_migrated_back_to_disk_have_the_same_bytes(
    run: Run, s3: str, switch: Switch, folder: Path
) -> None:
    switch(STORAGE_BACKEND="s3", S3_BUCKET=create_bucket(s3))
    with open_current() as service:
        process(service)
        expected = read_all(service)
    ran = run("migrate-storage", "--to", f"local://{folder}/images")
    assert printed_settings(ran) == {"STORAGE_BACKEND": "local", "STORAGE_PATH": f"{folder}/images"}
    switch(**printed_settings(ran))
    with open_current() as service:
        assert read_all(service) == expected


def test_waiting_upload_is_migrated_but_the_switch_is_advised_against(
    run: Run, s3: str, switch: Switch
) -> None:
    bucket = create_bucket(s3)
    with open_current() as service:
        job = submit_to(service)
    ran = run("migrate-storage", "--to", f"s3://{bucket}")
    assert ran.status == 1
    assert ran.err.startswith("error: ")
    assert "do not switch yet" in ran.err
    assert printed_settings(ran) == {}
    switch(STORAGE_BACKEND="s3", S3_BUCKET=bucket)
    with open_current() as service:
        run_job(service, job.job_id, "worker")
        assert set(read_job(service, job.job_id, OPERATOR).variant_keys or {}) == {
            "thumbnail",
            "medium",
        }


def test_second_run_copies_what_the_first_did_not(run: Run, s3: str) -> None:
    bucket = create_bucket(s3)
    with open_current() as service:
        process(service)
    first = run("migrate-storage", "--to", f"s3://{bucket}", "--json").json
    assert (first["copied"], first["already_there"]) == (2, 0)
    with open_current() as service:
        process(service)
    second = run("migrate-storage", "--to", f"s3://{bucket}", "--json").json
    assert (second["copied"], second["already_there"], second["failed"], second["open_work"]) == (
        2,
        2,
        0,
        None,
    )


def test_dry_run_counts_and_changes_nothing(run: Run, folder: Path) -> None:
    with open_current() as service:
        process(service)
        total = sum(map(len, read_all(service).values()))
    ran = run("migrate-storage", "--to", f"local://{folder}/images", "--dry-run", "--json")
    assert (ran.status, ran.json["copied"], ran.json["copied_bytes"]) == (0, 2, total)
    assert not (folder / "images").exists()
    assert "to copy" in run("migrate-storage", "--to", f"local://{folder}/images", "--dry-run").out


def test_images_of_a_bucket_that_is_not_allowed_are_listed(
    run: Run, s3: str, switch: Switch
) -> None:
    with open_current() as service:
        job = process(service, "private")
    switch(ALLOWED_BUCKETS=create_bucket(s3))
    ran = run("migrate-storage", "--to", "s3://", "--json")
    assert ran.status == 1
    assert {failure["key"] for failure in ran.json["failures"]} == set(
        (job.variant_keys or {}).values()
    )
    ran = run("migrate-storage", "--to", "s3://")
    assert ran.status == 1
    assert "'private'" in ran.err
    assert "ALLOWED_BUCKETS" in ran.err
    assert "Do not switch yet" in ran.err


def test_missing_bucket_is_one_error(run: Run) -> None:
    with open_current() as service:
        process(service)
    ran = run("migrate-storage", "--to", "s3://absent-bucket")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "absent-bucket" in ran.err


@pytest.mark.parametrize("place", ["local://{folder}/data/storage", "s3://", "photos"])
def test_invalid_or_current_target_is_wrong_usage(run: Run, folder: Path, place: str) -> None:
    with open_current():
        pass
    assert run("migrate-storage", "--to", place.format(folder=folder)).status == 2


def test_complete_copy_is_marked_for_the_database(run: Run, s3: str) -> None:
    bucket = create_bucket(s3)
    with open_current() as service:
        process(service)
        identity = service.database.identity()
    run("migrate-storage", "--to", f"s3://{bucket}", "--dry-run")
    assert read_owner(service, bucket) is None
    run("migrate-storage", "--to", f"s3://{bucket}")
    assert read_owner(service, bucket) == identity


def read_owner(service: Service, bucket: str) -> str | None:
    settings = service.settings.model_copy(update={"storage_backend": "s3", "s3_bucket": bucket})
    images, uploads = open_storages(settings)
    assert uploads.read_markers()[0].owner is None, "one marker stands for both"
    (marker,) = images.read_markers()
    return marker.owner
