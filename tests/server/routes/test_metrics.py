from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from imageprocessor.queue.exposition import CONTENT_TYPE
from imageprocessor.settings import Settings
from tests.server.live import serve, wire

TOKEN = "a-token-for-tests-only"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
counting = pytest.mark.parametrize("settings", [{"metrics_token": TOKEN}], indirect=True)


def scrape(client: TestClient) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples by the name of the metric and the values of its labels."""
    response = client.get("/metrics", headers=WITH_TOKEN)
    assert (response.status_code, response.headers["content-type"]) == (200, CONTENT_TYPE)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            by_labels = found.setdefault(sample.name.removeprefix("imageprocessor_"), {})
            by_labels[tuple(sample.labels.values())] = sample.value
    return found


@counting
def test_without_the_token_the_path_seems_unknown(client: TestClient) -> None:
    unknown = client.get("/nowhere").json()
    wrong = [f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer ", "Bearer é"]
    for value in ("", *wrong):
        response = client.get("/metrics", headers=[(b"Authorization", value.encode())])
        assert response.status_code == 404
        assert response.json() == {**unknown, "request_id": response.json()["request_id"]}


@counting
def test_token_of_an_admin_is_not_that_of_prometheus(
    client: TestClient, token: Callable[..., dict[str, str]]
) -> None:
    assert client.get("/metrics", headers=token(admin=True)).status_code == 404


@pytest.mark.parametrize("settings", [{}, {"metrics_port": 1}], indirect=True)
def test_without_a_token_in_the_settings_the_path_is_unknown(client: TestClient) -> None:
    for headers in ({}, WITH_TOKEN):
        assert client.get("/metrics", headers=headers).status_code == 404
    assert client.post("/metrics").status_code == 404


@counting
def test_requests_are_counted_by_the_template_of_their_path(client: TestClient) -> None:
    for number in range(3):
        client.get(f"/api/v1/images/jobs/{number}")
    client.get("/livez")
    found = scrape(client)
    route = "/api/v1/images/jobs/{job_id}"
    assert found["http_requests_total"] == {("GET", route, "422"): 3, ("GET", "/livez", "200"): 1}
    assert found["http_request_duration_seconds_count"]["GET", route] == 3
    assert found["http_request_duration_seconds_bucket"]["GET", route, "+Inf"] == 3


@counting
def test_hostile_paths_and_methods_share_one_value(settings: Settings, client: TestClient) -> None:
    targets = ["/x" * 100, "/%00", '/"},evil="', "/docs/../%0a", "/api/v1/images/jobs//x"]
    requests = [("GET", target) for target in targets]
    requests += [(method, "/livez") for method in ("TRACE", "PURGE", "MKACTIVITY")]
    with serve(settings) as port, wire(port) as connection:
        for method, target in requests:
            connection.send(f"{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            assert connection.answer(method)[0].status in {404, 405, 422}
    found = scrape(client)["http_requests_total"]
    assert found == {("GET", "other", "404"): len(targets), ("other", "/livez", "405"): 3}


@pytest.mark.parametrize(
    "settings", [{"metrics_token": TOKEN, "rate_limit_max_uploads": 3}], indirect=True
)
def test_uploads_are_counted_by_outcome(
    client: TestClient, upload: Callable[..., Any], jpeg: bytes
) -> None:
    upload()
    for _ in range(2):
        assert upload(headers={"Idempotency-Key": "one"}).status_code == 202
    upload(b"not an image")
    upload(fields={"bucket": "NO"})
    assert upload().status_code == 202
    assert upload().status_code == 429
    found = scrape(client)
    assert found["uploads_total"] == {
        ("accepted",): 3,
        ("repeated",): 1,
        ("refused",): 2,
        ("rate_limited",): 1,
    }
    assert found["upload_bytes_sum"] == {(): 3 * len(jpeg)}


@counting
def test_files_of_a_batch_are_counted(
    client: TestClient, token: Callable[..., dict[str, str]], jpeg: bytes
) -> None:
    files = [("files", ("a.jpg", data)) for data in (jpeg, b"not an image", jpeg)]
    for query in ("", "?atomic=true"):
        url = f"/api/v1/images/batch{query}"
        client.post(url, files=files, data={"bucket": "photos"}, headers=token())
    found = scrape(client)["uploads_total"]
    assert found == {("accepted",): 2, ("refused",): 2}
