from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import Service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from tests.server.live import find_free_port, serve, wait_until
from tests.uploads import submit_to

SITE = "https://app.example.com"
CORS = pytest.mark.parametrize("settings", [{"cors_origins": [SITE]}], indirect=True)
FACTORY = "imageprocessor.server.app:create_app_from_environment"


def preflight(client: TestClient, origin: str) -> Any:
    preflight_headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,idempotency-key,if-none-match,traceparent",
    }
    return client.options("/api/v1/images/upload", headers={"Origin": origin} | preflight_headers)


@CORS
def test_allowed_site_may_send_credentials(client: TestClient) -> None:
    answer = preflight(client, SITE)
    headers = answer.headers
    assert answer.status_code == 200, answer.text
    assert headers["access-control-allow-origin"] == SITE
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-allow-methods"] == "GET, HEAD, POST, DELETE"
    assert {
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "If-Modified-Since",
        "Last-Event-ID",
        "Prefer",
        "If-None-Match",
        "traceparent",
        "tracestate",
        "X-Request-ID",
    } <= set(headers["access-control-allow-headers"].split(", "))


@CORS
def test_allowed_site_may_read_quota_and_request_id_of_errors(client: TestClient) -> None:
    answer = client.post("/api/v1/images/upload", headers={"Origin": SITE})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == SITE
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
        "RateLimit",
        "Retry-After",
        "Preference-Applied",
        "ETag",
        "X-Request-ID",
    } <= exposed


@CORS
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://evil.example#https://app.example.com",
        "https://APP.example.com",
        "https://app.example.com/",
        "null",
        "*",
        "",
    ],
)
def test_other_site_gets_no_cors_headers(client: TestClient, origin: str) -> None:
    for answer in (preflight(client, origin), client.get("/livez", headers={"Origin": origin})):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origins", [["*"], ["https://*.example.com"], ["null"]])
def test_wildcard_origin_is_refused_at_startup(
    make_settings: Callable[..., Settings], origins: list[str]
) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        make_settings(cors_origins=origins)


def test_no_site_is_allowed_by_default(client: TestClient) -> None:
    assert (
        "access-control-allow-origin" not in client.get("/livez", headers={"Origin": SITE}).headers
    )


def test_building_the_app_creates_no_files(tmp_path: Path) -> None:
    create_app(Settings(data_dir=tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_version_defaults_to_that_of_the_package(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageprocessor.__version__", "9.8.7", raising=False)
    assert create_app(make_settings(version="")).version == "9.8.7"
    assert create_app(make_settings(version="1.2.3")).version == "1.2.3"


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@contextmanager
def run_uvicorn(
    folder: Path, port: int, *options: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        FACTORY,
        "--port",
        str(port),
        "--no-access-log",
        *options,
    ]
    source = Path(__file__).parents[2] / "src"
    variables = (
        os.environ
        | {"PYTHONPATH": str(source), "DATA_DIR": str(folder), "VERSION": "1.0.0"}
        | environment
    )
    with (
        (folder.parent / "log").open("wb") as log,
        subprocess.Popen(command, env=variables, stderr=log, cwd=folder.parent) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def test_factory_reads_its_settings_from_the_environment(tmp_path: Path, free_port: int) -> None:
    with run_uvicorn(
        tmp_path / "data", free_port, SERVICE_NAME="photos", LOG_FORMAT="json"
    ) as process:
        wait_until(lambda: answers(free_port))
        with urlopen(f"http://127.0.0.1:{free_port}/api/v1/health") as answer:
            assert b'"service":"photos"' in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in {0, -signal.SIGTERM}
    lines = [
        line for line in (tmp_path / "log").read_text().splitlines() if "/api/v1/health" in line
    ]
    assert [json.loads(line)["status"] for line in lines] == [200]


def test_no_process_outlives_its_killed_parent(tmp_path: Path, free_port: int) -> None:
    with run_uvicorn(tmp_path / "data", free_port, "--workers", "2") as process:
        wait_until(lambda: answers(free_port))
        process.kill()
        process.wait(10)
        wait_until(lambda: not answers(free_port), 10)


FOLLOW = """
    window.seen = [];
    window.source = new EventSource(arguments[0]);
    for (const type of ["image.accepted", "image.completed"])
        source.addEventListener(type, (event) => seen.push(JSON.parse(event.data).type));
"""


def test_docs_page_loads_only_from_this_server(settings: Settings, browser: Any) -> None:
    with serve(settings) as port:
        origin = f"http://127.0.0.1:{port}/"
        browser.get(f"{origin}docs")
        wait_until(lambda: len(browser.find_elements("css selector", ".opblock")) >= 14)
        events = [
            json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
        ]
        requested = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        faults = [
            entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
        ]
    assert [
        url for url in requested if url.startswith(("http", "ws")) and not url.startswith(origin)
    ] == []
    assert any("swagger-ui-bundle.js" in url for url in requested)
    assert faults == []


def test_browser_follows_a_job_to_its_end(
    settings: Settings, service: Service, browser: Any
) -> None:
    """Through the page's own origin; after the last event the browser does not ask again."""
    job = submit_to(service)
    path = f"/api/v1/images/jobs/{job.job_id}/events"
    with serve(settings) as port, capture_logs() as logs:
        browser.get(f"http://127.0.0.1:{port}/docs")
        browser.execute_script(FOLLOW, path)
        wait_until(lambda: read_seen(browser) == ["image.accepted"])
        run_job(service, job.job_id, "test")
        wait_until(lambda: read_seen(browser) == ["image.accepted", "image.completed"])
        wait_until(lambda: browser.execute_script("return source.readyState") == 2, 20)
        wait_until(lambda: len([entry for entry in logs if entry.get("path") == path]) == 2)
    assert [entry["status"] for entry in logs if entry.get("path") == path] == [200, 204]
    assert read_seen(browser) == ["image.accepted", "image.completed"]


def read_seen(browser: Any) -> list[str]:
    seen: list[str] = browser.execute_script("return seen")
    return seen
