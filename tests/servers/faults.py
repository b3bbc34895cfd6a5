"""An HTTP proxy that injects the faults of networks and servers, and a slow line to a server."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["none", "reset", "hang", "stall", "cut", "slow"] | int
SLOW_SECONDS = 0.3


class FaultyProxy(ThreadingHTTPServer):
    """A proxy to *upstream_port* that applies ``fault`` to requests whose head contains ``only``.

    A fault is a status to answer, ``reset`` (RST at once), ``hang`` (no answer), ``stall`` (half of
    the body, then nothing), ``cut`` (half of the body, then the connection is closed) or ``slow``
    (a delayed answer).
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, upstream_port: int, handler: type[BaseHTTPRequestHandler] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler or ProxyHandler)
        self.upstream_port = upstream_port
        self.fault: Fault = "none"
        self.only = ""
        self.code = "Fault"  #: the S3 error code in an answer with a fault's status
        self.heads: list[str] = []  #: first line and headers of every request
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, fault: Fault, only: str = "", code: str = "Fault") -> None:
        """Apply *fault* from now on to requests whose head contains *only*."""
        self.fault, self.only, self.code = fault, only, code

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients are expected to give up."""


class ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_GET(self) -> None:
        self.close_connection = True
        head = f"{self.requestline}\n{self.headers}"
        self.server.heads.append(head)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault if self.server.only in head else "none"
        if isinstance(fault, int):
            return self._refuse(fault)
        if fault == "reset":
            return self._reset()
        if fault == "hang":
            return self._hang()
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        return self.pass_on(body, fault)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - names that http.server requires

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def _refuse(self, status: int) -> None:
        code = f"<Code>{self.server.code}</Code>"
        body = f"<Error>{code}<Message>injected by the test</Message></Error>".encode()
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        self.answer(status, headers, body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _hang(self) -> None:
        self.server.ended.wait()

    def pass_on(self, body: bytes, fault: Fault) -> None:
        upstream = HTTPConnection("127.0.0.1", self.server.upstream_port)
        upstream.request(
            self.command, self.path, body, dict(self.headers) | {"Connection": "close"}
        )
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        half = fault in {"stall", "cut"} and len(data) > 1
        self.answer(
            response.status, _end_to_end(response), data[: len(data) // 2] if half else data
        )
        if half and fault == "stall":
            self._hang()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()


def _end_to_end(response: HTTPResponse) -> dict[str, str]:
    hop_by_hop = {"connection", "transfer-encoding", "date", "server"}
    return {name: value for name, value in response.getheaders() if name.lower() not in hop_by_hop}


@contextmanager
def run_faulty_proxy(upstream_port: int) -> Iterator[FaultyProxy]:
    """Run a proxy to *upstream_port* until the context ends."""
    with FaultyProxy(upstream_port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            proxy.shutdown()
            thread.join()


@contextmanager
def run_slow_line(port: int, delay_seconds: float) -> Iterator[int]:
    """Run a line to *port* that delays all bytes and closings both ways; yield its own port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, delay_seconds), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)  # ends the thread


def _accept(listener: socket.socket, port: int, delay_seconds: float) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_connect, args=(near, port, delay_seconds), daemon=True).start()


def _connect(near: socket.socket, port: int, delay_seconds: float) -> None:
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=_carry, args=(far, near, delay_seconds), daemon=True)
        back.start()
        _carry(near, far, delay_seconds)
        back.join()


def _carry(source: socket.socket, target: socket.socket, delay_seconds: float) -> None:
    with suppress(OSError):  # the other side was reset
        while data := source.recv(65_536):
            time.sleep(delay_seconds)
            target.sendall(data)
    time.sleep(delay_seconds)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
