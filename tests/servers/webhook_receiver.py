"""A receiver of webhooks over HTTP or HTTPS, which answers as a test decides."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.processes import wait_for


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it arrived."""

    path: str
    headers: Message  #: names are found in any case
    body: bytes
    time: float  #: in seconds since 1970


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver does with a request after it has read it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_seconds: float = 0
    seconds_per_byte: float = 0  #: a pause after each byte of the answer
    resets: bool = False  #: reset the connection instead
    raw: bytes | None = None  #: send these bytes instead of status, headers and body, and close


class WebhookReceiver(ThreadingHTTPServer):
    """A receiver on 127.0.0.1 that runs as a context manager.

    *answer* returns the answer to a request; it may be replaced at any time. With *certificate*, a
    PEM file with key and certificate, the receiver speaks TLS. *name* is the host in ``url``.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[ReceivedRequest], Answer] = lambda _: Answer(),
        certificate: Path | None = None,
        name: str = "127.0.0.1",
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[ReceivedRequest] = []
        self.connections = 0  #: how many clients have connected, with or without a request
        self.stopping = threading.Event()
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://{name}:{self.server_port}/hook"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # A client that never ends its handshake must not occupy the thread that accepts.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def wait_for(self, count: int, seconds: float = 30) -> list[ReceivedRequest]:
        """Wait until *count* requests have arrived, and return all."""
        wait_for(lambda: len(self.requests) >= count, seconds)
        return list(self.requests)

    def verify_request(self, *_: object) -> bool:
        """Count the connection; http.server calls this once for each."""
        self.connections += 1
        return True

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients are expected to give up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebhookReceiver

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:  # the sender was killed
            self.close_connection = True
            return
        request = ReceivedRequest(self.path, self.headers, body, time.time())
        self.server.requests.append(request)
        answer = self.server.answer(request)
        self.server.stopping.wait(answer.delay_seconds)
        if answer.resets:
            self._reset()
        elif answer.raw is not None:
            self.close_connection = True
            self._write(answer.raw, answer.seconds_per_byte)
        else:
            self._write(_render(answer), answer.seconds_per_byte)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _write(self, data: bytes, seconds_per_byte: float) -> None:
        if not seconds_per_byte:
            self.wfile.write(data)
            return
        for position in range(len(data)):
            self.wfile.write(data[position : position + 1])
            if self.server.stopping.wait(seconds_per_byte):
                return


def _render(answer: Answer) -> bytes:
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    if answer.status == 204:
        del headers["Content-Length"]
    head = f"HTTP/1.1 {answer.status} -\r\n"
    for name, value in headers.items():
        head += f"{name}: {value}\r\n"
    return f"{head}\r\n".encode() + answer.body
