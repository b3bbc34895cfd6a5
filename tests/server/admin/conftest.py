"""Fixtures: browsers without a screen that have logged in to the admin pages, or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.service import Service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def settings(make_settings: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    changes = getattr(request, "param", {})
    return make_settings(**({"admin_ui": True, "max_retries": 0} | changes))


@pytest.fixture
def client(settings: Settings, service: Service) -> Iterator[TestClient]:
    """Nobody has logged in. Redirects are answers to look at."""
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def log_in(client: TestClient, settings: Settings) -> Callable[..., TestClient]:
    """Return a function that logs in, and returns the client."""

    def log_in(user: str = "olga", *, reads_all: bool = False) -> TestClient:
        token = sign_token(settings, user, admin=not reads_all, reads_all=reads_all)
        answer = client.post("/admin/login", data={"token": token}, headers=OWN)
        assert answer.status_code == 303, answer.text
        return client

    return log_in


@pytest.fixture
def admin(log_in: Callable[..., TestClient]) -> TestClient:
    """An admin, whose requests come from the pages."""
    client = log_in()
    client.headers.update(OWN)
    return client


@pytest.fixture
def upload(
    client: TestClient, token: Callable[..., dict[str, str]]
) -> Callable[..., dict[str, str]]:
    """Return a function that uploads an image, and returns the answer's body."""
    jpeg = encode(photo(80, 60), "JPEG")

    def send(user: str = "ann", bucket: str = "photos", metadata: str = "{}") -> dict[str, Any]:
        answer = client.post(
            "/api/v1/images/upload",
            files={"file": ("a.jpg", jpeg)},
            data={"bucket": bucket, "metadata": metadata},
            headers=token(user),
        )
        assert answer.status_code == 202, answer.text
        body: dict[str, Any] = answer.json()
        return body

    return send
