from __future__ import annotations

from uuid import UUID

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.server.middleware.request_log import choose_id


def test_a_request_gets_a_new_id(client: TestClient) -> None:
    ids = {client.get("/livez").headers["x-request-id"] for _ in range(2)}
    assert len({UUID(found) for found in ids}) == 2


def test_the_clients_id_is_kept(client: TestClient) -> None:
    assert (
        client.get("/livez", headers={"X-Request-ID": "order-17_A.b"}).headers["x-request-id"]
        == "order-17_A.b"
    )


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a\nb", "a\n", "é", '{"a":1}', None])
def test_an_id_that_could_harm_a_log_is_replaced(sent: str | None) -> None:
    assert str(UUID(choose_id(sent))) != sent


def test_each_request_is_one_line_with_its_outcome(client: TestClient) -> None:
    with capture_logs() as logs:
        client.get("/nowhere")
    [line] = logs
    assert line.pop("milliseconds") > 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "path": "/nowhere",
        "status": 404,
    }


def test_no_query_and_no_token_is_logged(client: TestClient) -> None:
    with capture_logs() as logs:
        client.get("/livez?signature=hush", headers={"Authorization": "Bearer hush"})
    assert "hush" not in str(logs)


def test_what_a_terminal_would_obey_is_logged_encoded(client: TestClient) -> None:
    with capture_logs() as logs:
        client.get("/a%1b%5b31m%0ab")
    assert logs[0]["path"] == "/a%1B%5B31m%0Ab"
