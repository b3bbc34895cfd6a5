"""What clients receive when the server stops before their requests have finished."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPResponse

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from imageprocessor.settings import Settings
from imageprocessor.storage.protocol import MARKER_NAME
from tests.server.live import Wire, form_start, serve, upload_head, wire

FINISH_SECONDS = 1
LARGE_BYTES = 40_000_000  # more than the buffers between server and client


def begin_upload(stack: ExitStack, port: int, *lines: str) -> Wire:
    """Send the head and part of the body of an upload, once the server asks for the body."""
    line = stack.enter_context(wire(port))
    line.send(upload_head("Content-Length: 1000000", "Expect: 100-continue", *lines))
    assert line.connection.recv(100).startswith(b"HTTP/1.1 100 "), "the route asks for the body"
    line.send(form_start() + b"x" * 1000)
    return line


def test_unfinished_upload_is_a_503_and_leaves_no_files(
    settings: Settings, token: Callable[..., dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        with capture_logs() as logs, serve(settings, finish_seconds=FINISH_SECONDS) as port:
            line = begin_upload(stack, port, f"Authorization: {token()['Authorization']}")
        response, body = line.answer()
    problem = json.loads(body)
    assert (response.status, problem["code"], response.getheader("Retry-After")) == (
        503,
        "service_unavailable",
        "5",
    )
    assert "shutting down" in problem["detail"]
    assert statuses(logs) == [503]
    assert not any(record.exc_info for record in caplog.records), "no traceback"
    left = [path.name for path in settings.data_dir.glob("[is]*/**/*") if path.is_file()]
    assert set(left) == {MARKER_NAME}, "of storage and staging"


def test_unread_response_is_aborted_without_a_traceback(
    settings: Settings, image: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    path = f"storage/photos/processed/medium/{image['image_id']}_medium.webp"
    os.truncate(settings.data_dir / path, LARGE_BYTES)
    with ExitStack() as stack:
        with capture_logs() as logs, serve(settings, finish_seconds=FINISH_SECONDS) as port:
            line = stack.enter_context(wire(port))
            line.send(f"GET /{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            head = line.connection.recv(1000)
        assert len(line.rest()) < LARGE_BYTES
    assert head.startswith(b"HTTP/1.1 200 ")
    assert statuses(logs) == [200]
    assert not any(record.exc_info for record in caplog.records), "no traceback"


def test_request_on_a_kept_connection_is_answered_while_the_server_stops(
    settings: Settings,
) -> None:
    """A proxy could not repeat an upload; it is asked to close the connection instead."""
    request = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"

    def ask_again(line: Wire) -> HTTPResponse:
        time.sleep(0.3)
        line.send(request)
        return line.answer()[0]

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        with serve(settings, finish_seconds=FINISH_SECONDS) as port:
            line = stack.enter_context(wire(port))
            line.send(request)
            first, _ = line.answer()
            second = pool.submit(ask_again, line)
        answer = second.result(10)
    assert (first.status, first.getheader("Connection")) == (200, None)
    assert (answer.status, answer.getheader("Connection")) == (200, "close")


def statuses(logs: list[EventDict]) -> list[int]:
    return [entry["status"] for entry in logs if entry["event"] == "request"]
