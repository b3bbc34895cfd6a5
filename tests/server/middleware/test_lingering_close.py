from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from imageprocessor.server.middleware import lingering_close
from imageprocessor.settings import Settings
from tests.server.live import chunk, form_body, form_start, serve, upload_head, wire

MEGABYTE = 1024 * 1024


@pytest.fixture
def port(settings: Settings) -> Iterator[int]:
    with serve(settings) as port:
        yield port


def test_refused_upload_is_drained_and_the_connection_stays_open(
    port: int,
) -> None:
    body = form_body(b"x" * 9 * MEGABYTE)
    with wire(port) as client:
        for _ in range(3):
            client.send(upload_head(f"Content-Length: {len(body)}") + body)
            response, _ = client.answer()
            assert (response.status, response.getheader("Connection")) == (401, None)


def test_body_of_a_too_large_file_is_drained(
    port: int, token: Callable[..., dict[str, str]]
) -> None:
    head = upload_head("Transfer-Encoding: chunked", f"Authorization: {token()['Authorization']}")
    with wire(port) as client:
        client.send(head + chunk(form_start()))
        for _ in range(20):
            client.send(chunk(b"x" * MEGABYTE))
        client.send(b"0\r\n\r\n")
        assert client.answer()[0].status == 413


def test_draining_an_endless_body_stops_after_a_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering_close, "DRAIN_SECONDS", 0.2)
    with wire(port) as client:
        client.send(upload_head("Content-Length: 1000"))
        started = time.monotonic()
        assert client.answer()[0].status == 401
        assert client.connection.recv(1) == b"", "the connection is closed"
        assert time.monotonic() - started < 15
