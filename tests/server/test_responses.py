from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient


def test_every_json_answer_ends_in_a_newline(
    client: TestClient,
    image: dict[str, str],
    token: Callable[..., dict[str, str]],
    upload: Callable[..., Any],
) -> None:
    job, one_image = image["status_url"], f"/api/v1/images/{image['image_id']}"
    paths = [job, f"{job}/result", one_image, f"{one_image}/all", f"{one_image}?size=huge"]
    paths += ["/", "/openapi.json", "/livez", "/readyz", "/nowhere", "/storage/a"]
    paths += ["/api/v1/health", "/api/v1/health/stats", "/api/v1/health/failed"]
    paths += [f"/api/v1/images/batch?image_ids={image['image_id']}", "/api/v1/images/batch"]
    answers = [client.get(path, headers=token(admin=True)) for path in paths]
    answers += [upload(), upload(b"text"), client.post("/api/v1/images/upload")]
    assert {answer.status_code for answer in answers} == {200, 202, 401, 404, 415, 422}
    for answer in answers:
        assert answer.content.endswith(b"}\n"), answer.url
        assert "\n" not in answer.text[:-1]
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert json.loads(answer.content)
