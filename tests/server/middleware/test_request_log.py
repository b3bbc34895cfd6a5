from __future__ import annotations

from uuid import UUID

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.server.middleware.request_log import choose_id


def test_a_request_gets_a_new_id(client: TestClient) -> None:
    ids = {client.get("/livez").headers["x-request-id"] for _ in range(2)}
    assert len({UUID(found) for found in ids}) == 2


def test_request_id_of_the_client_is_kept(client: TestClient) -> None:
    assert (
        client.get("/livez", headers={"X-Request-ID": "order-17_A.b"}).headers["x-request-id"]
        == "order-17_A.b"
    )


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a\nb", "a\n", "é", '{"a":1}', None])
def test_unsafe_request_id_is_replaced(sent: str | None) -> None:
    assert str(UUID(choose_id(sent))) != sent


def test_each_request_logs_one_line_with_its_outcome(client: TestClient) -> None:
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


def test_query_and_token_are_not_logged(client: TestClient) -> None:
    with capture_logs() as logs:
        client.get("/livez?signature=hush", headers={"Authorization": "Bearer hush"})
    assert "hush" not in str(logs)


def test_control_characters_are_logged_percent_encoded(client: TestClient) -> None:
    with capture_logs() as logs:
        client.get("/a%1b%5b31m%0ab")
    assert logs[0]["path"] == "/a%1B%5B31m%0Ab"
