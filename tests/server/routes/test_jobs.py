from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from imageprocessor.core.picture_html import picture_html
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import processing_jobs
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service
from tests.images import encode, photo, truncated

STATE_KEYS = [
    "job_id",
    "image_id",
    "status",
    "created_at",
    "completed_at",
    "error",
    "error_code",
    "attempts",
]
UNKNOWN = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"


@pytest.fixture
def failed(upload: Callable[..., Any], run: Callable[[str], None]) -> dict[str, str]:
    """Ann's upload of a truncated image, whose job failed."""
    accepted: dict[str, str] = upload(truncated(encode(photo(80, 60), "JPEG"), 0.5)).json()
    run(accepted["job_id"])
    return accepted


def test_a_waiting_job_is_shown_as_pending(client: TestClient, upload: Callable[..., Any]) -> None:
    accepted = upload().json()
    state = client.get(accepted["status_url"]).json()
    assert list(state) == STATE_KEYS
    assert (state["job_id"], state["image_id"]) == (accepted["job_id"], accepted["image_id"])
    assert (state["status"], state["attempts"], state["completed_at"], state["error"]) == (
        "pending",
        0,
        None,
        None,
    )
    assert state["created_at"].endswith("Z")


def test_completed_job_has_its_completion_time(client: TestClient, image: dict[str, str]) -> None:
    state = client.get(image["status_url"]).json()
    assert (state["status"], state["attempts"], state["error_code"]) == ("completed", 1, None)
    assert state["completed_at"] > state["created_at"]


def test_failed_job_has_an_error_and_its_code(client: TestClient, failed: dict[str, str]) -> None:
    state = client.get(failed["status_url"]).json()
    assert (state["status"], state["error_code"], state["attempts"]) == (
        "failed",
        "image_truncated",
        1,
    )
    assert state["error"].endswith(".")


def test_job_between_attempts_is_pending_with_its_error(
    client: TestClient,
    upload: Callable[..., Any],
    run: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("imageprocessor.queue.attempts.process", crash)
    accepted = upload().json()
    run(accepted["job_id"])
    state = client.get(accepted["status_url"]).json()
    assert (state["status"], state["attempts"], state["error_code"]) == (
        "pending",
        1,
        "internal_error",
    )
    assert "boom" not in state["error"]


def test_context_is_shown_to_the_owner_and_admins_only(
    client: TestClient, image: dict[str, str], token: Callable[..., dict[str, str]]
) -> None:
    for path in (
        image["status_url"],
        f"{image['status_url']}/result",
        f"/api/v1/images/{image['image_id']}/all",
    ):
        assert client.get(path, headers=token("ann")).json()["context"] == {"activity_id": "xyz"}
        assert client.get(path, headers=token("root", admin=True)).json()["context"] == {
            "activity_id": "xyz"
        }
        assert "context" not in client.get(path, headers=token("bob")).json()
        assert "context" not in client.get(path).json()


def test_unfinished_result_is_a_409_with_retry_after(
    client: TestClient, upload: Callable[..., Any]
) -> None:
    answer = client.get(f"{upload().json()['status_url']}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_ready")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["cache-control"] == "no-store"


def test_result_of_a_failed_job_is_a_422_with_the_cause(
    client: TestClient, failed: dict[str, str]
) -> None:
    for path in (
        f"{failed['status_url']}/result",
        *(f"/api/v1/images/{failed['image_id']}{end}" for end in ("", "/all", "/direct")),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (422, "image_truncated")
        assert answer.json()["type"] == "urn:imageprocessor:error:image_truncated"


def test_result_matches_the_specification(client: TestClient, image: dict[str, str]) -> None:
    result = client.get(f"{image['status_url']}/result").json()
    assert list(result) == ["image_id", "status", "urls", "srcset", "metadata", "completed_at"]
    assert (
        result["urls"]["thumbnail"]
        == f"/storage/photos/processed/thumbnail/{image['image_id']}_thumbnail.webp"
    )
    assert list(result["metadata"]) == [
        "dominant_color",
        "palette",
        "placeholder",
        "has_alpha",
        "animated",
        "original_dimensions",
        "variants",
        "warnings",
        "removed",
        "responsive",
    ]
    assert result["metadata"]["original_dimensions"] == {"width": 80, "height": 60}
    thumbnail = result["metadata"]["variants"]["thumbnail"]
    assert list(thumbnail) == ["width", "height", "aspect_ratio", "format", "size_bytes"]
    assert (thumbnail["width"], thumbnail["height"], thumbnail["format"]) == (20, 15, "webp")


def test_result_that_an_earlier_version_stored_is_served_as_it_is(
    client: TestClient, service: Service, image: dict[str, str]
) -> None:
    new = ("palette", "placeholder", "has_alpha", "animated")
    with service.database.write() as connection:
        (old,) = connection.execute(select(processing_jobs.c.processing_metadata)).one()
        details = json.loads(old)
        for name in new:
            del details["generated"][name]
        stored = processing_jobs.update().values(processing_metadata=json.dumps(details))
        connection.execute(stored)
    for path in (f"{image['status_url']}/result", f"/api/v1/images/{image['image_id']}/all"):
        result = client.get(path).json()
        assert result["metadata"] == details["generated"]
        assert " 20w" in picture_html(result, alt="")


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        ({"public_base_url": "https://cdn.example.com"}, "https://cdn.example.com"),
        ({"public_base_url": "https://example.com/images/"}, "https://example.com/images"),
    ],
    indirect=["settings"],
)
def test_every_url_begins_with_the_public_base(
    client: TestClient, image: dict[str, str], base: str
) -> None:
    urls = client.get(f"{image['status_url']}/result").json()["urls"]
    path = f"/storage/photos/processed/medium/{image['image_id']}_medium.webp"
    assert urls["medium"] == f"{base}{path}"
    assert client.get(f"/api/v1/images/{image['image_id']}").json()["url"] == urls["medium"]


@pytest.mark.parametrize("end", ["", "/result"])
@pytest.mark.parametrize(
    ("job_id", "status", "code"),
    [
        (UNKNOWN, 404, "job_not_found"),
        ("17", 422, "id_invalid"),
        ("%00", 422, "id_invalid"),
        ("x" * 4096, 422, "id_invalid"),
        ("..%2f..%2fetc", 404, "not_found"),
    ],
)
def test_unknown_job_and_invalid_id_get_different_errors(
    client: TestClient, job_id: str, status: int, code: str, end: str
) -> None:
    answer = client.get(f"/api/v1/images/jobs/{job_id}{end}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_job_of_a_deleted_image_is_a_404(
    client: TestClient, image: dict[str, str], service: Service
) -> None:
    with service.database.write() as connection:
        job_store.mark_deleted(connection, image["image_id"], clock.utc_now())
    assert client.get(image["status_url"]).status_code == 404
