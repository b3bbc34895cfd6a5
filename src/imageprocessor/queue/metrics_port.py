"""Serving metrics on METRICS_PORT, by one process of each host."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from imageprocessor.queue.access import may_scrape
from imageprocessor.queue.exposition import CONTENT_TYPE, render_metrics
from imageprocessor.queue.service import Service

PATH = "/metrics"
RETRY_SECONDS = 1.0
REQUEST_SECONDS = 10  #: for a client to send its request, and to read each part of the response

log = structlog.get_logger(__name__)


@contextmanager
def serve_metrics(service: Service) -> Iterator[None]:
    """Take part in serving METRICS_PORT, if it is set, until the end of the context."""
    if service.settings.metrics_port is None:
        yield
        return
    port = MetricsPort(service)
    thread = threading.Thread(target=port.run, name="metrics port", daemon=True)
    thread.start()
    try:
        yield
    finally:
        port.stop()
        thread.join()


class MetricsPort:
    """Serves `/metrics` on METRICS_PORT as soon as no other process of DATA_DIR does."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()

    def run(self) -> None:
        """Wait for the lock, which its holder loses however it ends, then serve until stopped."""
        directory = self._service.settings.metrics_directory
        assert directory
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor = os.open(directory / "port.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            log.warning("metrics_not_served", cause=str(error))
            return
        with ExitStack() as opened:
            opened.callback(os.close, descriptor)
            while not self._stopping.is_set() and not _lock(descriptor):
                self._stopping.wait(RETRY_SECONDS)
            server = self._open_server()
            if server is None:
                return
            opened.enter_context(server)
            os.pwrite(descriptor, f"{os.getpid():<10}\n".encode(), 0)  # for operators
            serving = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
            serving.start()
            self._stopping.wait()
            server.shutdown()

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()

    def _open_server(self) -> _Server | None:
        """Return the server; None if this is to stop, while another program has the port."""
        settings = self._service.settings
        has_warned = False
        while not self._stopping.is_set():
            try:
                return _Server(self._service)
            except OSError as error:
                if not has_warned:
                    log.warning(
                        "metrics_not_served",
                        cause=f"METRICS_HOST={settings.metrics_host}, "
                        f"METRICS_PORT={settings.metrics_port}: {error.strerror}",
                        remedy="Stop the program that uses the port, or choose another one.",
                    )
                has_warned = True
                self._stopping.wait(RETRY_SECONDS)
        return None


class _Server(ThreadingHTTPServer):
    def __init__(self, service: Service) -> None:
        self.service = service
        settings = service.settings
        found = socket.getaddrinfo(
            settings.metrics_host, settings.metrics_port, type=socket.SOCK_STREAM
        )
        self.address_family, *_, (host, port, *_) = found[0]
        super().__init__((str(host), int(port)), _Handler)

    def handle_error(self, *_: object) -> None:
        """Do nothing: the client has left, or was too slow."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS
    protocol_version = "HTTP/1.1"
    server_version = "imageprocessor"
    sys_version = ""

    def do_GET(self) -> None:
        service = self.server.service
        path = self.path.partition("?")[0]
        authorization = self.headers.get("Authorization", "")
        if path != PATH or not may_scrape(service.settings, authorization):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            page = render_metrics(service).encode()
        except Exception:  # a boundary
            log.exception("metrics_not_rendered")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
