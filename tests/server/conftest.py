"""Fixtures: the application on SQLite and local disk in a temporary folder, and its client."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.app import create_app
from imageprocessor.server.events.poller import EventPoller
from imageprocessor.server.routes import health
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.conftest import require_program
from tests.images import encode, photo
from tests.servers.browser import open_browser

UPLOAD = "/api/v1/images/upload"


@pytest.fixture
def make_settings(tmp_path: Path, add_sqlite: Callable[[Path], None]) -> Callable[..., Settings]:
    data_dir = tmp_path / "data"
    add_sqlite(data_dir)

    def make(**changes: Any) -> Settings:
        values = {
            "data_dir": data_dir,
            "version": "1.0.0",
            "image_sizes": {"thumbnail": 20, "medium": 60},
        }
        return Settings.model_validate(values | changes)

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    """The default settings, with the values of an indirect parametrization of this fixture."""
    return make_settings(**getattr(request, "param", {}))


@pytest.fixture(autouse=True)
def no_repeated_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a health check be as new as its request, except in the test of repeated ones."""
    monkeypatch.setattr(health, "REPEAT_SECONDS", 0.0)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    """A service on the application's database and storage, for inspecting them."""
    with open_service(settings) as opened:
        yield opened


@pytest.fixture
def pollers(monkeypatch: pytest.MonkeyPatch) -> list[EventPoller]:
    """The pollers of the applications that are started."""
    made: list[EventPoller] = []
    init = EventPoller.__init__

    def note(self: EventPoller, service: Service) -> None:
        init(self, service)
        made.append(self)

    monkeypatch.setattr(EventPoller, "__init__", note)
    return made


@pytest.fixture
def client(settings: Settings, service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


@pytest.fixture
def token(settings: Settings) -> Callable[..., dict[str, str]]:
    """Return a function that creates the authorization headers of a user."""

    def sign(user: str = "ann", *, admin: bool = False) -> dict[str, str]:
        return {"Authorization": f"Bearer {sign_token(settings, user, admin=admin)}"}

    return sign


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    return encode(photo(80, 60), "JPEG")


@pytest.fixture
def upload(
    client: TestClient, token: Callable[..., dict[str, str]], jpeg: bytes
) -> Callable[..., Any]:
    """Return a function that uploads an image and returns the response."""

    def send(data: bytes | None = None, user: str = "ann", **options: Any) -> Any:
        files = options.pop("files", {"file": ("a.jpg", jpeg if data is None else data)})
        fields = {"bucket": "photos"} | options.pop("fields", {})
        headers = token(user) | options.pop("headers", {})
        return client.post(UPLOAD, files=files, data=fields, headers=headers, **options)

    return send


@pytest.fixture
def run(service: Service) -> Callable[[str], None]:
    """Return a function that runs a job in this process."""
    return lambda job_id: run_job(service, job_id, "test")


@pytest.fixture
def image(upload: Callable[..., Any], run: Callable[[str], None]) -> dict[str, str]:
    """Ann's completed image: its ``job_id`` and ``image_id``."""
    accepted: dict[str, str] = upload(fields={"metadata": '{"activity_id": "xyz"}'}).json()
    run(accepted["job_id"])
    return accepted


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with open_browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, which checks a page's accessibility."""
    folder = tmp_path_factory.mktemp("axe")
    options = ["--no-audit", "--no-fund", "--prefix", str(folder)]
    command = [require_program("npm"), "install", *options, "axe-core@4.14.1"]
    subprocess.run(command, check=True, timeout=120)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def count_jobs(service: Service) -> int:
    with service.database.read() as connection:
        return sum(job_store.count_by_status(connection).values())
