from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.service import Service
from imageprocessor.server.routes import health
from imageprocessor.settings import Settings
from tests.server.live import wait_until

HEALTH = "/api/v1/health"
CHECKED = [HEALTH, "/readyz"]


@pytest.mark.parametrize(("path", "also_checked"), [(HEALTH, {"queue": "ok"}), ("/readyz", {})])
def test_working_service_is_healthy(
    client: TestClient, path: str, also_checked: dict[str, str]
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "service": "image-processor",
        "version": "1.0.0",
        "checks": {"database": "ok", "storage": "ok", **also_checked},
        "oldest_open_job_seconds": None,
    }


def test_health_reports_the_age_of_the_oldest_open_job(
    client: TestClient, upload: Callable[..., Any]
) -> None:
    upload()
    assert 0 < client.get(HEALTH).json()["oldest_open_job_seconds"] < 60


@pytest.mark.parametrize("path", CHECKED)
def test_lost_database_is_unhealthy_but_alive(
    client: TestClient, service: Service, path: str
) -> None:
    with service.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE processing_jobs")
    answer = client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert answer.json()["checks"]["database"] != "ok"
    assert client.get("/livez").json() == {"status": "alive"}


@pytest.mark.parametrize("path", CHECKED)
def test_lost_disk_is_unhealthy(client: TestClient, settings: Settings, path: str) -> None:
    shutil.rmtree(settings.storage_path)
    answer = client.get(path)
    assert (answer.status_code, answer.json()["checks"]["database"]) == (503, "ok")
    assert answer.json()["checks"]["storage"] != "ok"


def test_answers_are_repeated_for_a_moment(
    client: TestClient, upload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count_pending() -> int:
        counts: dict[str, int] = client.get(f"{HEALTH}/stats").json()["status_breakdown"]
        return counts["pending"]

    monkeypatch.setattr(health, "REPEAT_SECONDS", 0.3)
    assert count_pending() == 0
    upload()
    assert count_pending() == 0
    wait_until(lambda: count_pending() == 1, 5)


def test_statistics_match_the_specification(
    client: TestClient,
    image: dict[str, str],
    upload: Callable[..., Any],
    run: Callable[[str], None],
) -> None:
    upload()
    body = client.get(f"{HEALTH}/stats").json()
    assert {"completed": 1, "pending": 1, "processing": 0, "failed": 0}.items() <= body[
        "status_breakdown"
    ].items()
    assert body["performance_24h"]["completed_24h"] == 1
    assert body["performance_24h"]["avg_processing_time_seconds"] > 0
    assert body["events"] == {"lag_seconds": 0.0}
    assert body["storage"] == {"total_images": 1, "total_jobs": 2}
    assert body["workers"] == {"backend": "embedded", "active_workers": 0, "active_tasks": 0}
    none = dict.fromkeys(("endpoints", "disabled", "failing", "waiting"), 0)
    assert body["webhooks"] == none | {"oldest_waiting_seconds": None}
    assert "celery" not in body


@pytest.mark.parametrize(
    "settings", [{"queue_backend": "celery", "redis_url": "redis://127.0.0.1:1/0"}], indirect=True
)
def test_service_without_broker_is_unhealthy_but_accepts_uploads(
    client: TestClient, upload: Callable[..., Any]
) -> None:
    answer = client.get(HEALTH)
    assert answer.status_code == 503
    assert answer.json()["checks"]["queue"].startswith("broker_unavailable: ")
    assert client.get("/readyz").status_code == 200
    assert upload().status_code == 202
    figures = client.get(f"{HEALTH}/stats").json()
    assert (
        figures["celery"]
        == figures["workers"]
        == {"backend": "celery", "active_workers": 0, "active_tasks": 0}
    )


def test_failed_jobs_are_listed_newest_first(
    client: TestClient,
    upload: Callable[..., Any],
    run: Callable[[str], None],
    token: Callable[..., dict[str, str]],
    jpeg: bytes,
) -> None:
    accepted = [upload(jpeg[: len(jpeg) // 2]).json() for _ in range(3)]
    for one in accepted:
        run(one["job_id"])
    body = client.get(f"{HEALTH}/failed?limit=2", headers=token("root", admin=True)).json()
    assert body["count"] == 2
    assert [job["job_id"] for job in body["jobs"]] == [one["job_id"] for one in reversed(accepted)][
        :2
    ]
    assert list(body["jobs"][0]) == [
        "job_id",
        "image_id",
        "error_code",
        "error",
        "attempts",
        "created_at",
        "failed_at",
    ]
    assert (body["jobs"][0]["error_code"], body["jobs"][0]["attempts"]) == ("image_truncated", 1)


@pytest.mark.parametrize("limit", ["0", "-1", "501", "x", "", "1e3", "9" * 5000])
def test_a_limit_out_of_range_is_refused(
    client: TestClient, token: Callable[..., dict[str, str]], limit: str
) -> None:
    answer = client.get(f"{HEALTH}/failed?limit={limit}", headers=token("root", admin=True))
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["detail"].startswith("limit: ")
