"""The service behaves the same on every engine: the same tests run on all combinations."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import jwt
from PIL import Image

from tests.e2e.deployments import (
    KEY,
    UPLOADS_PER_USER,
    Deployment,
    connect,
    count_workers,
    process,
    upload,
    wait_for_end,
)
from tests.images import SENTINELS, encode, oriented, photo, planted_jpeg, truncated
from tests.servers.processes import wait_for

SIZES = {"thumbnail": (150, 120), "medium": (600, 480), "large": (800, 640), "original": (800, 640)}
PHOTO = oriented(photo(800, 640), 6, quality=80)
SMALL = encode(photo(120, 90), "JPEG")


def open_image(deployment: Deployment, http: httpx.Client, path: str) -> Image.Image:
    """Fetch the image at *path* from the service, or from where it redirects to."""
    answer = http.get(path)
    if deployment.redirects:
        assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
        answer = httpx.get(answer.headers["location"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in answer.headers["cache-control"]
    return Image.open(BytesIO(answer.content))


def test_quick_start_of_the_specification(deployment: Deployment, http: httpx.Client) -> None:
    health = http.get("/api/v1/health")
    assert health.json()["status"] == "healthy", health.text
    assert http.get("/docs").status_code == 200
    accepted = upload(http, PHOTO, metadata='{"context":"test_upload"}')
    assert accepted.status_code == 202, accepted.text
    assert list(accepted.json()) == ["job_id", "image_id", "status_url", "message"]
    assert accepted.json()["status_url"] == f"/api/v1/images/jobs/{accepted.json()['job_id']}"
    assert accepted.headers["x-ratelimit-limit"] == str(UPLOADS_PER_USER)
    assert accepted.headers["x-ratelimit-remaining"] == str(UPLOADS_PER_USER - 1)
    status = wait_for_end(http, accepted)
    assert (status["status"], status["error"], status["attempts"]) == ("completed", None, 1)
    result = http.get(f"{accepted.json()['status_url']}/result").json()
    of_the_specification = ["image_id", "status", "urls", "metadata", "completed_at", "context"]
    assert [name for name in result if name != "srcset"] == of_the_specification
    assert list(result["urls"]) == list(result["metadata"]["variants"]) == list(SIZES)
    assert result["metadata"]["original_dimensions"] == {"width": 800, "height": 640}
    assert result["context"] == {"context": "test_upload"}


def test_every_size_is_served_by_its_url_and_by_direct(
    deployment: Deployment, http: httpx.Client
) -> None:
    result = process(http, PHOTO)
    image_url = f"/api/v1/images/{result['image_id']}"
    for size, dimensions in SIZES.items():
        described = http.get(image_url, params={"size": size}).json()
        assert (described["width"], described["height"]) == dimensions
        assert described["url"] == result["urls"][size]
        for path in (described["url"], f"{image_url}/direct?size={size}"):
            with open_image(deployment, http, path) as image:
                assert (image.format, image.size) == ("WEBP", dimensions)
    assert http.get(f"{image_url}/all").json() == result


def test_batch_lists_found_and_missing_images(http: httpx.Client) -> None:
    first, second = (process(http, SMALL)["image_id"] for _ in range(2))
    absent = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
    wanted = {"image_ids": f"{second},{absent},{first}", "size": "thumbnail"}
    batch = http.get("/api/v1/images/batch", params=wanted).json()
    assert [image["image_id"] for image in batch["images"]] == [second, first]
    assert batch["missing"] == [absent]


def test_deleted_image_and_its_files_are_gone(deployment: Deployment, http: httpx.Client) -> None:
    result = process(http, SMALL)
    image_url = f"/api/v1/images/{result['image_id']}"
    assert sum(result["image_id"] in name for name in deployment.files()) == len(SIZES)
    assert http.delete(image_url).status_code == 204
    assert http.delete(image_url).status_code == 404
    assert http.get(result["urls"]["medium"]).status_code == 404
    assert not [name for name in deployment.files() if result["image_id"] in name]


def test_stranger_can_neither_delete_an_image_nor_read_its_context(
    http: httpx.Client, stranger: httpx.Client
) -> None:
    result = process(http, SMALL, metadata='{"note":"mine"}')
    image_url = f"/api/v1/images/{result['image_id']}"
    assert stranger.delete(image_url).status_code == 404
    assert "context" not in stranger.get(f"{image_url}/all").raise_for_status().json()
    assert http.get(f"{image_url}/all").json()["context"] == {"note": "mine"}


def test_no_private_metadata_is_stored(deployment: Deployment, http: httpx.Client) -> None:
    data = planted_jpeg(photo(300, 200))
    assert [mark for mark in SENTINELS if mark in data]
    process(http, data)

    def found() -> list[bytes]:
        return [mark for data in deployment.files().values() for mark in SENTINELS if mark in data]

    wait_for(lambda: not found())  # the upload itself is deleted right after the job ends


def test_truncated_image_fails_with_its_cause(
    deployment: Deployment, http: httpx.Client, stranger: httpx.Client, admin: httpx.Client
) -> None:
    accepted = upload(http, truncated(PHOTO, 0.5))
    status = wait_for_end(http, accepted)
    assert (status["status"], status["error_code"], status["attempts"]) == (
        "failed",
        "image_truncated",
        1,
    )
    result = http.get(f"{accepted.json()['status_url']}/result")
    assert (result.status_code, result.json()["code"]) == (422, "image_truncated")
    wait_for(lambda: not [name for name in deployment.files() if status["job_id"] in name])
    listed = admin.get("/api/v1/health/failed").json()["jobs"]
    assert status["job_id"] in [job["job_id"] for job in listed]
    assert stranger.get("/api/v1/health/failed").status_code == 403


def test_upload_repeated_with_one_key_is_one_job(http: httpx.Client) -> None:
    first, again = (upload(http, SMALL, idempotency_key="order-66") for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    other = upload(http, PHOTO, idempotency_key="order-66")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_exhausted_quota_affects_only_its_user(http: httpx.Client, stranger: httpx.Client) -> None:
    taken = [upload(http, SMALL) for _ in range(UPLOADS_PER_USER)]
    assert [answer.headers["x-ratelimit-remaining"] for answer in taken] == ["3", "2", "1", "0"]
    refused = upload(http, SMALL)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    assert upload(stranger, SMALL).status_code == 202
    assert [wait_for_end(http, answer)["status"] for answer in taken] == [
        "completed"
    ] * UPLOADS_PER_USER


def test_statistics_count_jobs_and_workers(deployment: Deployment, http: httpx.Client) -> None:
    process(http, SMALL)
    statistics = http.get("/api/v1/health/stats").json()
    assert statistics["status_breakdown"]["completed"] >= 1
    assert statistics["performance_24h"]["avg_processing_time_seconds"] > 0
    wait_for(lambda: count_workers(http) == 1)
    backend = deployment.settings.get("QUEUE_BACKEND", "embedded")
    assert statistics["workers"]["backend"] == backend
    assert ("celery" in statistics) == (backend == "celery")


def test_specifications_client_works_unchanged(deployment: Deployment, http: httpx.Client) -> None:
    names: dict[str, Any] = {"asyncio": asyncio, "httpx": httpx, "json": json}
    exec(Path(__file__).with_name("seed_client.txt").read_text(), names)
    token = http.headers["Authorization"].removeprefix("Bearer ")
    client = names["ImageProcessorClient"](base_url=deployment.url, jwt_token=token)

    async def upload_and_wait() -> Any:
        accepted = await client.upload_image(SMALL, "activity-images", {"activity_id": "xyz"})
        return await client.poll_until_complete(accepted["job_id"])

    result = asyncio.run(upload_and_wait())
    assert result["context"] == {"activity_id": "xyz"}
    with open_image(deployment, http, result["urls"]["original"]) as image:
        assert image.size == (120, 90)


def test_admin_sees_and_deletes_an_image(deployment: Deployment, http: httpx.Client) -> None:
    accepted = upload(http, PHOTO).json()
    wait_for(lambda: http.get(accepted["status_url"]).json()["status"] == "completed")
    image, job_id = accepted["image_id"], accepted["job_id"]
    token = jwt.encode({"sub": "olga", "scope": "images:admin"}, KEY, "HS256")
    with connect(deployment.url, "olga") as admin:
        admin.headers["Sec-Fetch-Site"] = "same-origin"
        admin.follow_redirects = True
        admin.post("/admin/login", data={"token": token})
        for path in ("", "/webhooks", "/actions", "/settings"):
            assert admin.get(f"/admin{path}").status_code == 200
        for query in ("", "?status=completed", "?user=nobody", "?code=image_invalid"):
            page = admin.get(f"/admin/jobs{query}")
            assert page.status_code == 200
            assert (job_id in page.text) == (query in {"", "?status=completed"})
        assert image in admin.get("/admin/images").text
        thumbnail = admin.get(f"/admin/images/{image}/thumbnail").content
        assert Image.open(BytesIO(thumbnail)).size == SIZES["thumbnail"]
        page = admin.post(f"/admin/images/{image}/delete")
        assert "The image is deleted" in page.text
        assert "Its audit trail stays" in page.text
    assert http.get(f"/api/v1/images/{image}").status_code == 404


def test_cli_works_in_the_same_environment(deployment: Deployment, http: httpx.Client) -> None:
    image_id = process(http, SMALL)["image_id"]
    listed = json.loads(deployment.run("jobs", "list", "--json"))
    assert (listed[0]["image_id"], listed[0]["status"]) == (image_id, "completed")
    assert json.loads(deployment.run("sweep", "--dry-run", "--json"))["found"]["lost_jobs"] == 0
    shown = {row["name"]: row["value"] for row in json.loads(deployment.run("config", "--json"))}
    assert shown["DATA_DIR"] == deployment.settings["DATA_DIR"]
    assert KEY not in json.dumps(shown)
