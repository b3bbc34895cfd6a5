from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.server.app import create_app
from imageprocessor.server.routes import health
from imageprocessor.settings import Settings


def test_unexpected_error_is_a_500_without_details_and_logged_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(health, "collect_statistics", fail)
    with TestClient(create_app(settings)) as client, capture_logs() as logs:
        answer = client.get("/api/v1/health/stats", headers={"X-Request-ID": "order-17"})
    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (
        500,
        "internal_error",
        "order-17",
    )
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "order-17"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["unexpected_error"]


def test_error_after_the_response_started_is_raised(settings: Settings) -> None:
    app: FastAPI = create_app(settings)

    async def half(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        raise RuntimeError("midway")

    app.mount("/half", half)
    with TestClient(app) as client, pytest.raises(RuntimeError, match="midway"):
        client.get("/half/way")
