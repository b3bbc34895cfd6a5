"""Fixtures: one deployment per combination of engines, and new users for every test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.deployments import Deployment, connect, make_bucket, run_deployment
from tests.servers import Server, create_database, run_redis

ENGINES = [
    "sqlite-local-embedded",
    "sqlite-local-celery",
    "postgresql-s3-celery",
    "postgresql-s3-embedded",
]
ONCE_EACH = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ENGINES]


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=ONCE_EACH)
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    settings: dict[str, str] = {}
    for engine in request.param.split("-"):
        settings |= choose_engine(engine, request)
    with run_deployment(settings, tmp_path_factory.mktemp(request.param)) as running:
        yield running


def choose_engine(engine: str, request: pytest.FixtureRequest) -> dict[str, str]:
    match engine:
        case "postgresql":
            return {"DATABASE_URL": create_database(request.getfixturevalue("postgres"))}
        case "s3":
            return make_bucket(request.getfixturevalue("s3"))
        case "celery":  # each deployment has its own Redis database
            url = f"redis://127.0.0.1:{request.getfixturevalue('redis').port}/{ENGINES.index(request.param)}"
            return {"QUEUE_BACKEND": "celery", "REDIS_URL": url}
    return {}  # SQLite, a local folder and embedded workers are the defaults


@pytest.fixture
def http(deployment: Deployment) -> Iterator[httpx.Client]:
    """The client of a new user."""
    with connect(deployment.url, f"user-{uuid.uuid4()}") as client:
        yield client


@pytest.fixture
def stranger(deployment: Deployment) -> Iterator[httpx.Client]:
    with connect(deployment.url, f"stranger-{uuid.uuid4()}") as client:
        yield client


@pytest.fixture
def admin(deployment: Deployment) -> Iterator[httpx.Client]:
    with connect(deployment.url, "operator", scope="images:admin") as client:
        yield client
