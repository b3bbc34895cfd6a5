from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from imageprocessor.queue.exposition import CONTENT_TYPE
from imageprocessor.queue.metrics_port import serve_metrics
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from tests.servers import find_free_port, listens
from tests.servers.processes import wait_for

TOKEN = "a-token-for-tests-only"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path / "data", "metrics_port": find_free_port()}
    )


@pytest.fixture
def port(service: Service) -> Iterator[int]:
    port = service.settings.metrics_port
    assert port
    with serve_metrics(service):
        wait_for(lambda: listens(port))
        yield port


def get(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.msg.set_payload(response.read())
    connection.close()
    return response


def test_page_is_served(port: int) -> None:
    response = get(port)
    assert (response.status, response.getheader("Content-Type")) == (200, CONTENT_TYPE)
    assert "imageprocessor_database_up 1" in response.msg.get_payload()
    assert response.getheader("Server") == "imageprocessor "


def test_other_paths_and_methods_are_refused(port: int) -> None:
    for path in ("/", "/metrics/", "/favicon.ico", "/../metrics", "/x?/metrics"):
        assert get(port, path).status == 404, path
    assert get(port, method="POST").status == 501


def test_token_is_required_if_there_is_one(settings: Settings) -> None:
    changed = settings.model_copy(update={"metrics_token": SecretStr(TOKEN)})
    assert changed.metrics_port
    with open_service(changed) as service, serve_metrics(service):
        wait_for(lambda: listens(changed.metrics_port or 0))
        statuses = [
            get(changed.metrics_port, **headers).status
            for headers in (
                {},
                {"Authorization": "Bearer no"},
                {"Authorization": f"bearer {TOKEN}"},
            )
        ]
    assert statuses == [404, 404, 200]


def test_nothing_is_served_without_a_port(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "metrics_token": TOKEN})
    with open_service(settings) as service:
        before = threading.active_count()
        with serve_metrics(service):
            assert threading.active_count() == before


def test_next_one_serves_when_the_first_has_ended(service: Service) -> None:
    port = service.settings.metrics_port
    assert port
    with ExitStack() as second:
        with serve_metrics(service):
            wait_for(lambda: listens(port))
            second.enter_context(serve_metrics(service))
            assert get(port).status == 200
        wait_for(lambda: listens(port), 10)
        assert get(port).status == 200
    assert not listens(port)


def test_port_of_another_program_is_taken_when_it_is_free(service: Service) -> None:
    port = service.settings.metrics_port
    with capture_logs() as logs, occupied(port or 0), serve_metrics(service):
        wait_for(lambda: logs)
    assert f"METRICS_PORT={port}: Address already in use" in logs[0]["cause"]
    with ExitStack() as serving:
        with occupied(port or 0):
            serving.enter_context(serve_metrics(service))
        wait_for(lambda: listens(port or 0), 10)
        assert get(port or 0).status == 200


@contextmanager
def occupied(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_slow_client_does_not_keep_the_service_from_ending(service: Service) -> None:
    port = service.settings.metrics_port
    with serve_metrics(service):
        wait_for(lambda: listens(port or 0))
        waiting = socket.create_connection(("127.0.0.1", port or 0))
        waiting.sendall(b"GET /met")
        assert get(port or 0).status == 200
    waiting.close()


def test_folder_that_cannot_be_written_is_logged(service: Service) -> None:
    (service.settings.data_dir / "metrics").write_text("not a folder")
    with capture_logs() as logs, serve_metrics(service):
        wait_for(lambda: logs)
    assert [line["event"] for line in logs] == ["metrics_not_served"]
