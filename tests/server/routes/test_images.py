from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.core.validate import validate
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.service import Service
from tests.images import apng
from tests.server.conftest import count_jobs

IMAGES = "/api/v1/images"
UNKNOWN = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"


def test_one_size_of_an_image_is_described(client: TestClient, image: dict[str, str]) -> None:
    body = client.get(f"{IMAGES}/{image['image_id']}?size=thumbnail").json()
    assert list(body) == [
        "image_id",
        "size",
        "url",
        "width",
        "height",
        "aspect_ratio",
        "format",
        "size_bytes",
    ]
    assert (body["size"], body["width"], body["height"], body["aspect_ratio"]) == (
        "thumbnail",
        20,
        15,
        1.3333,
    )
    assert body["size_bytes"] == len(client.get(body["url"]).content)


@pytest.mark.parametrize(
    "settings",
    [{"image_sizes": {"medium": {"width": 60, "formats": ["avif", "webp"]}, "thumbnail": 20}}],
    indirect=True,
)
def test_alternates_and_srcset_lead_to_the_files(client: TestClient, image: dict[str, str]) -> None:
    one = client.get(f"{IMAGES}/{image['image_id']}").json()
    [alternate] = one["alternates"]
    result = client.get(f"{image['status_url']}/result").json()
    assert result["metadata"]["variants"]["medium"]["alternates"] == [alternate]
    assert (one["format"], one["url"]) == ("avif", result["urls"]["medium"])
    assert result["srcset"].keys() == {"image/avif", "image/webp"}
    for kind, candidates in result["srcset"].items():
        for candidate in candidates.split(", "):
            url, _, width = candidate.partition(" ")
            answer = client.get(url)
            assert answer.headers["content-type"] == kind
            assert width in ("20w", "60w")
    answer = client.get(alternate["url"])
    assert (len(answer.content), alternate["format"]) == (alternate["size_bytes"], "webp")
    batch = client.get(f"{IMAGES}/batch?image_ids={image['image_id']}").json()
    assert batch["images"] == [one]


def test_default_size_is_medium(client: TestClient, image: dict[str, str]) -> None:
    assert client.get(f"{IMAGES}/{image['image_id']}").json()["size"] == "medium"


def test_id_is_case_insensitive(client: TestClient, image: dict[str, str]) -> None:
    assert (
        client.get(f"{IMAGES}/{image['image_id'].upper()}").json()["image_id"] == image["image_id"]
    )


def test_all_sizes_equal_the_jobs_result(client: TestClient, image: dict[str, str]) -> None:
    assert (
        client.get(f"{IMAGES}/{image['image_id']}/all").json()
        == client.get(f"{image['status_url']}/result").json()
    )


MOVING = {"image_sizes": {"medium": {"width": 60, "animation": "keep"}, "still": 60}}


@pytest.mark.parametrize("settings", [MOVING], indirect=True)
def test_a_size_that_moves_says_how_long(
    client: TestClient, upload: Callable[..., Any], run: Callable[[str], None]
) -> None:
    accepted = upload(apng(3)).json()
    run(accepted["job_id"])
    url = f"{IMAGES}/{accepted['image_id']}"
    described = {size: client.get(f"{url}?size={size}").json() for size in ("medium", "still")}
    assert (described["medium"]["frames"], described["medium"]["duration_seconds"]) == (3, 0.12)
    assert "frames" not in described["still"]
    metadata = client.get(f"{url}/all").json()["metadata"]
    assert metadata["variants"]["medium"]["frames"] == 3
    assert "duration_seconds" not in metadata["variants"]["still"]
    assert metadata["warnings"] == ["animation_flattened", "not_enlarged"]
    moving = client.get(described["medium"]["url"]).content
    assert validate(moving).frames == 3


@pytest.mark.parametrize("settings", [MOVING | {"max_animation_frames": 3}], indirect=True)
def test_too_long_an_animation_is_refused_on_upload(upload: Callable[..., Any]) -> None:
    assert upload(apng(3)).status_code == 202
    answer = upload(apng(4))
    assert (answer.status_code, answer.json()["code"]) == (422, "animation_too_long")
    assert "4 frames; the limit is 3" in answer.json()["detail"]


@pytest.mark.parametrize("size", ["huge", "", "../medium", "%00", "x" * 5000])
@pytest.mark.parametrize("end", ["", "/direct"])
def test_unknown_size_is_a_422_that_lists_the_valid_ones(
    client: TestClient, image: dict[str, str], size: str, end: str
) -> None:
    answer = client.get(f"{IMAGES}/{image['image_id']}{end}?size={size}")
    assert (answer.status_code, answer.json()["code"]) == (422, "size_unknown")
    assert "thumbnail, medium" in answer.json()["detail"]
    assert len(answer.text) < 600


@pytest.mark.parametrize("end", ["", "/all", "/direct"])
def test_unfinished_image_is_a_409(
    client: TestClient, upload: Callable[..., Any], end: str
) -> None:
    answer = client.get(f"{IMAGES}/{upload().json()['image_id']}{end}")
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")


@pytest.mark.parametrize(
    ("image_id", "outcome"), [(UNKNOWN, (404, "image_not_found")), ("17", (422, "id_invalid"))]
)
@pytest.mark.parametrize(
    ("method", "end"), [("GET", ""), ("GET", "/all"), ("GET", "/direct"), ("DELETE", "")]
)
def test_unknown_image_and_invalid_id_get_different_errors(
    client: TestClient,
    token: Callable[..., dict[str, str]],
    method: str,
    end: str,
    image_id: str,
    outcome: tuple[int, str],
) -> None:
    answer = client.request(method, f"{IMAGES}/{image_id}{end}", headers=token())
    assert (answer.status_code, answer.json()["code"]) == outcome


@pytest.mark.parametrize(
    "query",
    [
        "image_ids={0}, {1},,{2},{3},",
        "image_ids={0}&image_ids={1}&image_ids={2}&image_ids={3}",
        "image_ids={0}&image_ids={1},{2}&image_ids=&image_ids={3}",
        "image_ids={0},{1}&size=thumbnail&image_ids={2},{3}",
    ],
)
def test_batch_keeps_the_order_and_lists_missing_ids(
    client: TestClient, upload: Callable[..., Any], run: Callable[[str], None], query: str
) -> None:
    first, waiting, second = (upload().json() for _ in range(3))
    for accepted in (first, second):
        run(accepted["job_id"])
    ids = [second["image_id"], UNKNOWN, first["image_id"], waiting["image_id"]]
    body = client.get(f"{IMAGES}/batch?size=thumbnail&{query.format(*ids)}").json()
    assert [found["image_id"] for found in body["images"]] == [
        second["image_id"],
        first["image_id"],
    ]
    assert body["missing"] == [UNKNOWN, waiting["image_id"]]
    assert body["images"][0] == client.get(f"{IMAGES}/{second['image_id']}?size=thumbnail").json()


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (f"image_ids={','.join([UNKNOWN] * 51)}", "id_count_invalid"),
        ("&".join([f"image_ids={UNKNOWN},{UNKNOWN}"] * 26), "id_count_invalid"),
        ("image_ids=", "id_count_invalid"),
        ("image_ids=,%20,", "id_count_invalid"),
        ("image_ids=a,b", "id_invalid"),
        ("", "request_invalid"),
    ],
)
def test_invalid_batch_request_is_refused(client: TestClient, query: str, code: str) -> None:
    answer = client.get(f"{IMAGES}/batch?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_batch_of_fifty_is_accepted(client: TestClient, image: dict[str, str]) -> None:
    body = client.get(f"{IMAGES}/batch?image_ids={','.join([image['image_id']] * 50)}").json()
    assert len(body["images"]) == 50


def test_a_deleted_image_is_gone_everywhere(
    client: TestClient,
    image: dict[str, str],
    token: Callable[..., dict[str, str]],
    service: Service,
) -> None:
    path, url = (
        f"{IMAGES}/{image['image_id']}",
        client.get(f"{IMAGES}/{image['image_id']}").json()["url"],
    )
    answer = client.delete(path, headers=token())
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.delete(path, headers=token()).status_code == 404
    for gone in (
        path,
        f"{path}/all",
        f"{path}/direct",
        url,
        image["status_url"],
        f"{image['status_url']}/result",
    ):
        assert client.get(gone).status_code == 404
    assert client.get(f"{IMAGES}/batch?image_ids={image['image_id']}").json()["missing"] == [
        image["image_id"]
    ]
    assert list(service.storage.list()) == []
    assert count_jobs(service) == 0


def test_only_the_owner_and_admins_may_delete(
    client: TestClient, image: dict[str, str], token: Callable[..., dict[str, str]]
) -> None:
    path = f"{IMAGES}/{image['image_id']}"
    answer = client.delete(path, headers=token("bob"))
    assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")
    assert client.get(path).status_code == 200
    assert client.delete(path, headers=token("root", admin=True)).status_code == 204


def test_a_waiting_upload_can_be_deleted(
    client: TestClient,
    upload: Callable[..., Any],
    run: Callable[[str], None],
    token: Callable[..., dict[str, str]],
    service: Service,
) -> None:
    accepted = upload().json()
    assert client.delete(f"{IMAGES}/{accepted['image_id']}", headers=token()).status_code == 204
    run(accepted["job_id"])
    assert list(service.staging.list()) == list(service.storage.list()) == []
    with service.database.read() as connection:
        events = [
            event["event_type"] for event in outbox.list_events(connection, accepted["job_id"])
        ]
    assert events == ["upload_initiated", "deleted"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/upload", "POST"),
        ("DELETE", "/upload", "POST"),
        ("DELETE", "/batch", "GET, POST"),
        ("PUT", f"/{UNKNOWN}", "DELETE, GET"),
        ("OPTIONS", f"/{UNKNOWN}/direct", "GET, HEAD"),
        ("POST", f"/jobs/{UNKNOWN}", "GET"),
    ],
)
def test_wrong_method_is_a_405_with_all_allowed_methods(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, f"{IMAGES}{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "method_not_allowed"
