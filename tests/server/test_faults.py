"""Faults of storage, database and queue: what clients, admins and the log learn of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.queue import write_faults
from imageprocessor.queue.service import Service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from tests.server.conftest import UPLOAD
from tests.servers.faults import FaultyProxy, run_faulty_proxy
from tests.storage.buckets import create_bucket

HEALTH = "/api/v1/health"
S3_BUCKET = "secret-bucket"
#: What answers must not contain, whatever fails.
INSIDE = {S3_BUCKET, "127.0.0.1", "localhost", "AccessDenied", "S3", "http:", "Errno", "SELECT"}
INSIDE |= {"processing_jobs", "sqlite", "redis", "_URL", "_PATH", "boto", "directory", "Traceback"}

Ask = Callable[..., Any]


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultyProxy]:
    with run_faulty_proxy(urlsplit(s3).port or 0) as running:
        yield running


@pytest.fixture
def settings(make_settings: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    """Settings of a service on the local disk, or in S3 behind *proxy* with the parameter "s3"."""
    changes = getattr(request, "param", {})
    if changes == "s3":
        proxy: FaultyProxy = request.getfixturevalue("proxy")
        bucket = create_bucket(request.getfixturevalue("s3"), f"{S3_BUCKET}-{proxy.server_port}")
        changes = {
            "storage_backend": "s3",
            "s3_bucket": bucket,
            "s3_endpoint_url": proxy.url,
            "aws_access_key_id": "AKIDTEST",
            "aws_secret_access_key": "secret",
            "max_retries": 0,
        }
    return make_settings(**changes)


IN_S3 = pytest.mark.parametrize("settings", ["s3"], indirect=True)


@pytest.fixture
def ask_all(
    client: TestClient, settings: Settings, jpeg: bytes, token: Callable[..., dict[str, str]]
) -> Callable[..., list[str]]:
    """Return a function that sends every kind of request and returns the bodies of the answers."""

    def ask(job: dict[str, str], *, admin: bool) -> list[str]:
        image, headers = f"/api/v1/images/{job['image_id']}", token("ann", admin=admin)
        job_paths = [job["status_url"], f"{job['status_url']}/result"]
        file = f"/storage/photos/processed/medium/{job['image_id']}_medium.webp"
        paths = ["/readyz", HEALTH, f"{HEALTH}/stats", *job_paths, image, f"{image}/direct", file]
        answers = [client.get(path, headers=headers) for path in paths]
        form: dict[str, Any] = {"files": {"file": jpeg}, "data": {"bucket": "photos"}}
        answers += [client.post(UPLOAD, headers=headers, **form)]
        answers += [client.delete(image, headers=headers)]
        return [answer.text for answer in answers]

    return ask


def assert_nothing_of_the_inside(bodies: list[str], settings: Settings) -> None:
    for body in bodies:
        for word in {*INSIDE, str(settings.data_dir)}:
            assert word not in body, body


@IN_S3
@pytest.mark.parametrize("fault", [403, "reset"])
def test_fault_of_s3_is_described_to_admins_and_in_the_log_only(
    settings: Settings,
    proxy: FaultyProxy,
    upload: Ask,
    run: Callable[[str], None],
    ask_all: Callable[..., list[str]],
    fault: Any,
) -> None:
    jobs = [upload().json(), upload().json()]
    with capture_logs() as logs:
        proxy.fail(fault, code="AccessDenied")
        for job in jobs:
            run(job["job_id"])  # fails: S3 refuses the upload to the worker
        assert_nothing_of_the_inside(ask_all(jobs[0], admin=False), settings)
    causes = {line["event"] for line in logs if S3_BUCKET in str(line.get("cause"))}
    assert causes == {"attempt_failed", "check_failed", "request_failed"}
    shown = [S3_BUCKET in body for body in ask_all(jobs[1], admin=True)]
    assert sum(shown) >= 5, "readyz, health, state, result, upload"


@pytest.mark.parametrize("fault", ["disk", "table"])
def test_fault_of_the_disk_or_the_database_is_not_described_to_clients(
    settings: Settings,
    service: Service,
    upload: Ask,
    ask_all: Callable[..., list[str]],
    fault: str,
) -> None:
    job = upload().json()
    if fault == "disk":
        shutil.rmtree(settings.storage_path)
        shutil.rmtree(settings.data_dir / "staging")
        expected = "storage directory is missing"
    else:
        with service.database.write() as connection:
            connection.exec_driver_sql("DROP TABLE processing_jobs")
        expected = "no such table"
    assert_nothing_of_the_inside(ask_all(job, admin=False), settings)
    assert any(expected in body for body in ask_all(job, admin=True))


@pytest.mark.parametrize(
    "settings", [{"queue_backend": "celery", "redis_url": "redis://127.0.0.1:1/0"}], indirect=True
)
def test_fault_of_redis_is_described_to_admins_only(
    client: TestClient, settings: Settings, token: Callable[..., dict[str, str]]
) -> None:
    stranger = client.get(HEALTH)
    assert_nothing_of_the_inside([stranger.text], settings)
    assert (
        "REDIS_URL"
        in client.get(HEALTH, headers=token("root", admin=True)).json()["checks"]["queue"]
    )


@pytest.fixture
def puts(proxy: FaultyProxy) -> Callable[[], int]:
    """Return a function that counts the writes that S3 was asked for so far."""
    return lambda: sum(head.startswith("PUT ") for head in proxy.heads)


@IN_S3
def test_readiness_fails_after_three_failed_writes_until_a_write_succeeds(
    client: TestClient,
    service: Service,
    proxy: FaultyProxy,
    upload: Ask,
    puts: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_faults, "PROBE_EVERY_SECONDS", 0.3)
    proxy.fail(403, only="PUT ")
    for data, status in ((None, 503), (None, 503), (b"no image", 415)):
        assert upload(data).status_code == status
        assert client.get("/readyz").status_code == 200
    assert upload().status_code == 503

    before, until = puts(), time.monotonic() + 0.8
    while time.monotonic() < until:
        for path in ("/readyz", HEALTH):
            checks = client.get(path).json()["checks"]
            assert checks["storage"].startswith("storage_unavailable: ")
    assert 1 <= puts() - before <= 3, "one probe in 0.3 s, however often somebody asks"

    proxy.fail("none")
    time.sleep(0.3)
    assert client.get("/readyz").status_code == 200
    healed = puts()
    time.sleep(0.3)
    assert client.get(HEALTH).status_code == 200
    assert puts() == healed, "there is no probe while all is well"
    assert list(service.staging.list()) == []


@IN_S3
def test_accepted_upload_makes_the_service_ready_at_once(
    client: TestClient, proxy: FaultyProxy, upload: Ask
) -> None:
    proxy.fail(403, only="PUT ")
    assert {upload().status_code for _ in range(3)} == {503}
    assert client.get("/readyz").status_code == 503
    proxy.fail("none")
    assert upload().status_code == 202
    assert client.get("/readyz").status_code == 200


@IN_S3
def test_worker_that_cannot_store_makes_the_service_unhealthy_but_ready(
    settings: Settings, proxy: FaultyProxy, upload: Ask, run: Callable[[str], None]
) -> None:
    proxy.fail(403, only="/processed/")
    run(upload().json()["job_id"])
    with TestClient(create_app(settings)) as restarted:
        checks = restarted.get(HEALTH).json()["checks"]
        assert checks["storage"].startswith("storage_unavailable: ")
        assert restarted.get("/readyz").status_code == 200
        proxy.fail("none")
        run(upload().json()["job_id"])
        assert restarted.get(HEALTH).status_code == 200
