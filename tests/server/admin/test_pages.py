"""What the pages show, and what their actions do."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue import actions, attempts
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import webhook_deliveries
from imageprocessor.queue.job_control import read_history, read_job
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.pause import pause, read_pause
from imageprocessor.queue.service import Service
from imageprocessor.queue.webhooks import (
    add_endpoint,
    apply_settings,
    disable_endpoint,
    read_endpoint,
)
from imageprocessor.server.admin.overview import draw_bars
from imageprocessor.server.admin.pages import PAGE_LENGTH

HOSTILE = "<script>alert(1)</script>\u202e\U0001f600" + "w" * 200
SECRETS = {
    "jwt_secret_key": "a key that no page may ever show to anybody",
    "redis_url": "redis://:password-of-redis@localhost:6379/0",
    "webhook_url": "https://hooks.example.com/path-of-the-hook",
    "webhook_secret": "whsec_c2VjcmV0LW9mLXRoZS13ZWJob29rLXRoYXQtc2lnbnM=",
    "metrics_token": "token-of-prometheus",
}

Upload = Callable[..., dict[str, str]]


@pytest.fixture
def fail(service: Service) -> Callable[[str], None]:
    """Return a function that fails a job because of the storage, which keeps its upload."""

    def fail(job_id: str) -> None:
        fault = StorageUnavailableError(f"The storage is gone: {HOSTILE}")
        assert attempts.fail_waiting(service, job_id, "worker", fault)

    return fail


@pytest.fixture
def complete(service: Service) -> Callable[[str], None]:
    return lambda job_id: attempts.run_job(service, job_id, "worker")


def read_status(service: Service, job_id: str) -> JobStatus:
    return read_job(service, job_id, OPERATOR).status


def follow(client: TestClient, answer: Any) -> str:
    """Return the page to which an action leads."""
    assert answer.status_code == 303, answer.text
    page = client.get(answer.headers["location"])
    assert page.status_code == 200
    return html.unescape(page.text)


def test_overview(
    admin: TestClient, upload: Upload, fail: Callable[[str], None], complete: Callable[[str], None]
) -> None:
    assert "No job has failed." in admin.get("/admin").text
    completed, failed, waiting = upload(), upload(), upload()
    complete(completed["job_id"])
    fail(failed["job_id"])
    page = admin.get("/admin").text
    assert f'<a href="/admin/jobs/{failed["job_id"]}">' in page
    assert waiting["job_id"] not in page
    assert 'aria-label="Images completed in the last 24 hours, at most 1 in ten minutes"' in page
    assert page.count('<span class="status ok">') == 2
    assert "A worker&#39;s attempt failed: The storage is gone: &lt;script&gt;" in page
    assert "GB free of" in page


def test_bars_of_the_chart() -> None:
    now = clock.utc_now()
    bars = draw_bars([(now, 0), (now, 5), (now, 20)])
    assert [bar.height for bar in bars] == [0, 25, 100]
    assert [bar.height for bar in draw_bars([(now, 0), (now, 0)])] == [0, 0]


def test_pause_and_resume(admin: TestClient, service: Service) -> None:
    page = follow(admin, admin.post("/admin/pause"))
    assert "Paused. Uploads are still accepted" in page
    assert "<strong>Paused</strong>" in page
    paused = read_pause(service)
    assert paused
    assert paused.by == "olga"
    assert "there was nothing left to do" in follow(admin, admin.post("/admin/pause"))
    for path in ("/jobs", "/settings"):
        assert "<strong>Paused</strong>" in admin.get(f"/admin{path}").text
    page = follow(admin, admin.post("/admin/resume"))
    assert "<strong>Paused</strong>" not in page
    assert read_pause(service) is None
    done = [
        (each["event_type"], each["metadata"]["by"]) for each in actions.list_actions(service, 9)
    ]
    assert done == [("resumed", "olga"), ("paused", "olga")]
    assert admin.get("/admin/actions").text.count('<td class="cut"><bdi>olga</bdi>') == 2


def test_actions_have_pages(
    admin: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        pause(service, HOSTILE)
        admin.post("/admin/resume")
    monkeypatch.setattr("imageprocessor.server.admin.overview.PAGE_LENGTH", 3)
    first = admin.get("/admin/actions").text
    assert first.count("<tr>") == 1 + 3
    (link,) = [part for part in first.split('"') if part.startswith("/admin/actions?before=")]
    assert admin.get(html.unescape(link)).text.count("<tr>") == 1 + 1


def test_jobs_are_filtered(
    admin: TestClient, upload: Upload, fail: Callable[[str], None], complete: Callable[[str], None]
) -> None:
    done = upload("ann", "photos")["job_id"]
    failed = upload("bob & co", "avatars")["job_id"]
    complete(done)
    fail(failed)
    later = f"{clock.utc_now() + timedelta(hours=1):%Y-%m-%dT%H:%M}"
    earlier = f"{clock.utc_now() - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    for query, expected in (
        ({}, {done, failed}),
        ({"status": "failed"}, {failed}),
        ({"user": " bob & co "}, {failed}),
        ({"bucket": "photos"}, {done}),
        ({"code": "storage_unavailable"}, {failed}),
        ({"since": earlier, "before": later}, {done, failed}),
        ({"since": later}, set()),
        ({"before": earlier}, set()),
        ({"status": "completed", "user": "bob & co"}, set()),
    ):
        page = admin.get("/admin/jobs", params=query).text
        assert {job_id for job_id in (done, failed) if f">{job_id}<" in page} == expected, query
        assert ("No job matches" in page) == (not expected)
    assert 'name="user" value="bob &amp; co"' in admin.get("/admin/jobs?user=bob+%26+co").text


def test_jobs_have_pages(
    admin: TestClient, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageprocessor.server.admin.jobs.PAGE_LENGTH", 2)
    sent = [upload()["job_id"] for _ in range(5)]
    found, path = [], "/admin/jobs?status=pending"
    while path:
        page = admin.get(path).text
        found += [job_id for job_id in reversed(sent) if f">{job_id}<" in page]
        links = [part for part in page.split('"') if "after=" in part]
        path = html.unescape(links[0]) if links else ""
        assert not path or "status=pending" in path
        assert ("data-live" in page) == (len(found) <= 2)
    assert found == list(reversed(sent))


def test_job_is_found_by_any_id(admin: TestClient, upload: Upload) -> None:
    sent = upload()
    for id_ in (sent["job_id"], f" {sent['image_id'].upper()} "):
        answer = admin.get("/admin/find", params={"id": id_})
        assert sent["job_id"] in follow(admin, answer)


def test_hostile_text_stays_text(
    admin: TestClient, upload: Upload, fail: Callable[[str], None]
) -> None:
    user = HOSTILE.replace("\u202e", "")  # a token's subject is printable
    sent = upload(user, metadata=json.dumps({HOSTILE: "v" * 10_000}))
    fail(sent["job_id"])
    for path in ("", "/jobs", f"/jobs/{sent['job_id']}"):
        page = admin.get(f"/admin{path}").text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_retry(
    admin: TestClient, service: Service, upload: Upload, fail: Callable[[str], None]
) -> None:
    job_id = upload()["job_id"]
    fail(job_id)
    assert "Retry this job" in admin.get(f"/admin/jobs/{job_id}").text
    page = follow(admin, admin.post(f"/admin/jobs/{job_id}/retry"))
    assert "waiting for a worker again" in page
    assert read_status(service, job_id) is JobStatus.PENDING
    _, events = read_history(service, job_id)
    assert events[-1]["metadata"] == {"by": "olga"}
    again = admin.post(f"/admin/jobs/{job_id}/retry")
    assert again.status_code == 409
    assert "only a failed job can be retried" in again.text


def test_retry_all_matching(
    admin: TestClient, service: Service, upload: Upload, fail: Callable[[str], None]
) -> None:
    mine, others = [upload("ann")["job_id"] for _ in range(3)], upload("bob")["job_id"]
    for job_id in (*mine, others):
        fail(job_id)
    page = admin.get("/admin/jobs?status=failed&user=ann").text
    assert "Retry every failed job with user ann whose upload is still kept?" in page
    answer = admin.post("/admin/jobs/retry", data={"user": "ann", "status": "completed"})
    assert "Jobs that are waiting for a worker again: 3." in follow(admin, answer)
    assert {read_status(service, job_id) for job_id in mine} == {JobStatus.PENDING}
    assert read_status(service, others) is JobStatus.FAILED
    (action,) = actions.list_actions(service, 9)
    assert action["metadata"]["retried"] == 3
    assert "waiting for a worker again: 0." in follow(
        admin, admin.post("/admin/jobs/retry", data={"user": "ann"})
    )


def test_delete(
    admin: TestClient, service: Service, upload: Upload, complete: Callable[[str], None]
) -> None:
    sent = upload()
    complete(sent["job_id"])
    page = follow(admin, admin.post(f"/admin/images/{sent['image_id']}/delete"))
    assert "The image is deleted" in page
    assert "Its audit trail stays" in page
    assert "Delete image" not in page
    _, events = read_history(service, sent["job_id"])
    assert (events[-1]["event_type"], events[-1]["metadata"]["by"]) == ("deleted", "olga")
    assert admin.post(f"/admin/images/{sent['image_id']}/delete").status_code == 404


@pytest.mark.parametrize("settings", [{"public_reads": False}], indirect=True)
def test_images_and_their_files(
    log_in: Callable[..., TestClient],
    service: Service,
    upload: Upload,
    complete: Callable[[str], None],
) -> None:
    reader = log_in("rita", reads_all=True)
    assert "No images yet" in reader.get("/admin/images").text
    sent, waiting = upload(), upload()
    complete(sent["job_id"])
    page = reader.get("/admin/images").text
    path = f"/admin/images/{sent['image_id']}/medium"
    assert f'<img src="{path}"' in page
    assert waiting["image_id"] not in page
    job = read_job(service, sent["job_id"], OPERATOR)
    assert job.variant_keys
    file = reader.get(path)
    assert file.content == service.storage.get(job.variant_keys["medium"])
    assert file.headers["content-type"] == "image/webp"
    assert file.headers["cache-control"] == "private, max-age=300"
    assert reader.get(f"/admin/images/{sent['image_id']}/huge").status_code == 422
    timeline = reader.get(f"/admin/jobs/{sent['job_id']}").text
    assert '<span class="soft">worker</span>' in timeline
    assert "No images match" in reader.get("/admin/images?user=nobody").text


@pytest.fixture
def endpoint(service: Service) -> str:
    add_endpoint(
        service, "shop", "https://hooks.example/secret-path", resolve=lambda *_: ["93.184.216.34"]
    )
    return "shop"


def test_webhook_is_disabled_and_enabled(
    admin: TestClient, service: Service, endpoint: str, upload: Upload
) -> None:
    page = admin.get("/admin/webhooks").text
    assert "https://hooks.example" in page
    assert "secret-path" not in page + admin.get("/admin/webhooks/shop").text
    page = follow(admin, admin.post(f"/admin/webhooks/{endpoint}/disable"))
    assert "disabled by olga" in page
    upload()
    assert "image.accepted" in admin.get("/admin/webhooks/shop").text
    assert "nothing left to do" in follow(admin, admin.post("/admin/webhooks/shop/disable"))
    page = follow(admin, admin.post("/admin/webhooks/shop/enable"))
    assert "Deliveries that had waited: 1." in page
    assert read_endpoint(service, "shop").disabled_at is None


def test_events_and_deliveries_are_sent_again(
    admin: TestClient, service: Service, upload: Upload, endpoint: str
) -> None:
    disable_endpoint(service, endpoint, "for the test")
    upload()
    end_deliveries(service)
    page = admin.get("/admin/webhooks/shop?status=delivered").text
    (path,) = [part for part in page.split('"') if "/deliveries/" in part]
    page = html.unescape(admin.get(path).text)
    assert '"type": "image.accepted"' in page
    (path,) = [part for part in page.split('"') if part.endswith("/repeat")]
    assert "is sent again" in follow(admin, admin.post(path))
    assert "nothing left to do" in follow(admin, admin.post(path))
    end_deliveries(service)
    answer = admin.post("/admin/webhooks/shop/replay", data={"days": "1", "which": "all"})
    assert "Deliveries that are sent again: 1." in follow(admin, answer)
    assert admin.post("/admin/webhooks/shop/replay", data={"days": "9999"}).status_code == 422
    done = [each["event_type"] for each in actions.list_actions(service, 9)]
    assert done.count("webhook_replayed") == 2


def end_deliveries(service: Service) -> None:
    """Mark all deliveries as delivered, as the sender does."""
    values = {"status": "delivered", "ended_at": clock.to_text(clock.utc_now())}
    with service.database.write() as connection:
        connection.execute(update(webhook_deliveries).values(**values))


def test_full_lists_are_small(
    admin: TestClient,
    service: Service,
    upload: Upload,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With style and script, no page has more than 60 kB."""
    rows = 10
    for _ in range(rows + 1):
        attempts.run_job(service, upload()["job_id"], "worker")
    end_deliveries(service)
    for module in ("jobs", "images", "webhooks"):
        monkeypatch.setattr(f"imageprocessor.server.admin.{module}.PAGE_LENGTH", rows)
    sizes = {}
    for path in ("/jobs", "/images", f"/webhooks/{endpoint}?status=delivered"):
        page = admin.get(f"/admin{path}").text
        assert "Older" in page
        sizes[path] = len(page)
    frame = len(admin.get("/admin/jobs?user=nobody").text)
    full = {path: frame + (size - frame) / rows * PAGE_LENGTH for path, size in sizes.items()}
    assert max(full.values()) <= 40_000, full


@pytest.mark.parametrize("settings", [SECRETS], indirect=True)
def test_no_page_shows_a_secret(admin: TestClient, service: Service, upload: Upload) -> None:
    apply_settings(service)
    job_id = upload()["job_id"]
    paths = [
        "",
        "/jobs",
        f"/jobs/{job_id}",
        "/images",
        "/webhooks",
        "/webhooks/default",
        "/settings",
    ]
    pages = "".join(admin.get(f"/admin{path}").text for path in paths)
    assert "METRICS_TOKEN" in pages
    for secret in SECRETS.values():
        assert secret not in pages
    assert "path-of-the-hook" not in pages
    assert "password-of-redis" not in pages


def test_files_are_sent_again_only_when_they_change(client: TestClient) -> None:
    for name in ("admin.css", "admin.js"):
        first = client.get(f"/admin/static/{name}")
        assert first.status_code == 200
        again = client.get(
            f"/admin/static/{name}", headers={"If-None-Match": first.headers["etag"]}
        )
        assert again.status_code == 304
