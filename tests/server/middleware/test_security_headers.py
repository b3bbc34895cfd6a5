from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.service import Service
from imageprocessor.server.middleware.security_headers import DOCS_POLICY, INERT_HEADERS
from imageprocessor.storage.local import LocalStorage

INERT = {name.decode(): value.decode() for name, value in INERT_HEADERS}
ASSET = "/static-offline-docs/swagger-ui.css"


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("GET", "/livez", 200, {}),
        ("GET", "/openapi.json", 200, {}),
        ("GET", ASSET, 200, {}),
        ("HEAD", ASSET, 200, {}),
        ("GET", f"{ASSET}x", 404, {}),
        ("GET", "/nowhere", 404, {}),
        ("GET", "/docs/", 404, {}),
        ("GET", "/docs/x", 404, {}),
        ("GET", "/storage/x", 404, {}),
        ("GET", "/api/v1/images/upload", 405, {}),
        ("TRACE", "/livez", 405, {}),
        ("POST", "/api/v1/images/upload", 401, {}),
        ("POST", "/api/v1/images/upload", 400, {"Authorization": "ann"}),
        (
            "POST",
            "/api/v1/images/upload",
            413,
            {"Authorization": "ann", "Content-Length": "99000000"},
        ),
        ("GET", "/api/v1/images/batch", 422, {}),
        ("GET", "/api/v1/health/failed", 403, {"Authorization": "ann"}),
        (
            "OPTIONS",
            "/livez",
            200,
            {"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"},
        ),
        (
            "OPTIONS",
            "/livez",
            400,
            {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"},
        ),
    ],
)
@pytest.mark.parametrize("settings", [{"cors_origins": ["https://app.example.com"]}], indirect=True)
def test_every_response_forbids_scripts_sniffing_framing_and_referrers(
    client: TestClient,
    token: Callable[..., dict[str, str]],
    method: str,
    path: str,
    status: int,
    headers: dict[str, str],
) -> None:
    authorization = token(headers["Authorization"]) if "Authorization" in headers else {}
    answer = client.request(method, path, headers=headers | authorization)
    assert answer.status_code == status
    assert INERT.items() <= dict(answer.headers).items()


def test_images_have_security_headers(
    client: TestClient, image: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/storage/photos/processed/medium/{image['image_id']}_medium.webp"
    for headers, status in (
        ({}, 200),
        ({"Range": "bytes=0-1"}, 206),
        ({"If-None-Match": "*"}, 304),
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
        assert INERT.items() <= dict(answer.headers).items()
    monkeypatch.setattr(LocalStorage, "url", lambda _, key: f"https://s3.test/{key}")
    answer = client.get(path, follow_redirects=False)
    assert answer.status_code == 307
    assert INERT.items() <= dict(answer.headers).items()


def test_unexpected_error_has_security_headers(
    client: TestClient, image: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageprocessor.server.routes.jobs.represent_job", lambda *_: 1 / 0)
    answer: Any = client.get(f"/api/v1/images/jobs/{image['job_id']}")
    assert answer.status_code == 500
    assert INERT.items() <= dict(answer.headers).items()


def test_only_the_docs_page_may_run_scripts(client: TestClient, service: Service) -> None:
    assert "sandbox" in INERT["content-security-policy"]
    headers = client.get("/docs").headers
    assert headers["content-security-policy"] == DOCS_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    for forbidden in ("sandbox", "http", "*", "unsafe-eval"):
        assert forbidden not in DOCS_POLICY
