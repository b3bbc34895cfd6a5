"""Running a real server on a free local port, and sending it requests byte by byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse

import uvicorn

from imageprocessor.server.app import create_app
from imageprocessor.server.process import Server
from imageprocessor.server.protocol import Connection
from imageprocessor.settings import Settings

BOUNDARY = "live-server-boundary"


@contextmanager
def serve(settings: Settings, finish_seconds: int | None = None) -> Iterator[int]:
    """Run uvicorn in a thread and yield its port; at the end, wait for requests to finish."""
    config = uvicorn.Config(
        create_app(settings),
        port=0,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=finish_seconds,
    )
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@dataclass(slots=True)
class Wire:
    """A connection that sends exactly the bytes it is given."""

    port: int
    connection: socket.socket

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, method: str = "POST") -> tuple[HTTPResponse, bytes]:
        response = HTTPResponse(self.connection, method=method)
        response.begin()
        return response, response.read()

    def rest(self) -> bytes:
        """Return everything received until the connection ends, for whatever reason."""
        received = bytearray()
        with suppress(ConnectionError):
            while data := self.connection.recv(65_536):
                received += data
        return bytes(received)


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield Wire(port, connection)


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    """Send a request; ``if_none_match=...`` becomes the header ``If-None-Match``."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def upload_head(*lines: str) -> bytes:
    """Return the head of an upload request; the body follows it."""
    first = (
        "POST /api/v1/images/upload HTTP/1.1",
        "Host: test",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
    )
    return "\r\n".join([*first, *lines, "", ""]).encode()


def form_start(bucket: str = "photos") -> bytes:
    """Return a form up to the first byte of its image."""
    fields = (f'name="bucket"\r\n\r\n{bucket}\r\n', 'name="file"; filename="a.jpg"\r\n\r\n')
    return "".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {field}" for field in fields
    ).encode()


def form_body(data: bytes, bucket: str = "photos") -> bytes:
    """Return a complete form with an image and a bucket."""
    return form_start(bucket) + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
