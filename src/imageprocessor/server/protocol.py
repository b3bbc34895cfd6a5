"""uvicorn's HTTP protocol with size and time limits on requests.

The application sees a request only when its head is complete, so the cost of endless or very slow
heads must be limited here.

uvicorn has no public hook for this: :class:`Connection` overrides methods of its protocol and reads
its ``cycle``, ``flow``, ``headers``, ``parser`` and ``pipeline``. pyproject.toml therefore caps
uvicorn's version, and tests/server/test_protocol.py checks that these internals have not changed.
"""

from __future__ import annotations

import asyncio
import re
import resource
from enum import Enum, auto
from http import HTTPStatus

import structlog
from fastapi import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imageprocessor.queue.incoming import MAX_BODY_SECONDS
from imageprocessor.server.middleware.request_log import ID_HEADER, choose_id
from imageprocessor.server.middleware.security_headers import INERT_HEADERS
from imageprocessor.server.problems import describe_delay, fault_of, make_problem

MAX_TARGET_BYTES = 8 * 1024  #: path and query; 50 ids need 2 KiB
MAX_HEADERS = 100
MAX_HEAD_BYTES = 128 * 1024  #: all headers together; also the most that may arrive unparsed
MAX_WAITING_REQUESTS = 100  #: pipelined requests that wait for earlier responses
HEAD_SECONDS = 10  #: from a request's first byte to the end of its head
BODY_SECONDS = 10  #: MIN_BODY_BYTES must arrive in each such period
MIN_BODY_BYTES = 10 * 1024
SEND_SECONDS = 60  #: for a slow client to read most of the buffered response, some 64 KiB
LINGER_SECONDS = 2  #: from refusal to close; a client still sending would lose the response
RESERVED_FILES = 128  #: descriptors for the database, listening sockets, logs, uploads
HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]*|\[[\w.:]+\])(:\d*)?", re.ASCII)

log = structlog.get_logger(__name__)


class Stage(Enum):
    """What the server expects from the client next."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()
    END = auto()  #: the client was refused; whatever it still sends is ignored


class RequestRefusedError(Exception):
    """Raised in a parser callback to stop the parser."""


class Connection(HttpToolsProtocol):
    """Enforces size and time limits on requests, and answers violations with a problem response."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        super().connection_made(transport)
        # With a high-water mark of 0, pause_writing is called, and times the client, whenever the
        # client leaves any data unread.
        transport.set_write_buffer_limits(high=0)
        self._stage = Stage.NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._parser_status = HTTPStatus.BAD_REQUEST  # the response's status if the parser stops
        self._target_bytes = 0
        self._header_count = 0
        self._head_bytes = 0
        self._pending_bytes = 0  # received since the parser last called a method below
        self._body_bytes = 0  # received in this period
        self._body_ends_by = 0.0  # the event loop's time
        self._expect_head()
        if len(self.connections) > max_connections() and not self._close_idle_connection():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stage = Stage.END
        self._stop_timer()
        super().connection_lost(exc)
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._stage is Stage.END:
            return
        if self._stage is Stage.NOTHING:
            self._expect_head()
        self._pending_bytes += len(data)
        super().data_received(data)
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._target_bytes = self._header_count = self._head_bytes = 0
        if self._stage is not Stage.HEAD:  # the request follows another in the same packet
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._target_bytes += len(url)
        if self._target_bytes > MAX_TARGET_BYTES:
            self._stop_parser(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer after a chunked body."""
        super().on_header(name, value)
        self._pending_bytes = 0
        self._header_count += 1
        self._head_bytes += len(name) + len(value)
        if self._header_count > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            self._stop_parser(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if not self._has_valid_host():
            self._stop_parser(HTTPStatus.BAD_REQUEST)
        super().on_headers_complete()
        if len(self.pipeline) > MAX_WAITING_REQUESTS:
            self._stop_parser(HTTPStatus.BAD_REQUEST)
        self._stage = Stage.BODY
        self._pending_bytes = self._body_bytes = 0
        self._body_ends_by = self.loop.time() + MAX_BODY_SECONDS
        self._start_timer(BODY_SECONDS)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._pending_bytes = 0
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stage = Stage.NOTHING
        self._pending_bytes = 0
        self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        body_is_unread = self._stage is Stage.BODY and self.cycle.response_complete
        if body_is_unread:  # LingeringClose has drained as much as it may
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse the request; uvicorn calls this for every exception in the parser."""
        self._refuse(self._parser_status)

    def _has_valid_host(self) -> bool:
        """Return whether Host is as RFC 9112, section 3.2, requires."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            return bool(self.parser.get_http_version() == "1.0")
        return len(hosts) == 1 and HOST.fullmatch(hosts[0]) is not None

    def _close_idle_connection(self) -> bool:
        """Close a connection that waits for its next request; return whether there was one."""
        for connection in self.connections:
            if isinstance(connection, Connection) and connection._is_idle():
                connection.transport.close()
                return True
        return False

    def _is_idle(self) -> bool:
        is_open = not self.transport.is_closing()
        return self._stage is Stage.NOTHING and self._is_answerable() and is_open

    def _expect_head(self) -> None:
        self._stage = Stage.HEAD
        self._start_timer(HEAD_SECONDS)

    def _stop_parser(self, status: HTTPStatus) -> None:
        self._parser_status = status
        raise RequestRefusedError

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._end_period)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end_period(self) -> None:
        if self._stage is Stage.END:
            self.transport.close()
        elif self._is_in_time():
            self._body_bytes = 0
            self._start_timer(BODY_SECONDS)
        elif self._stage is Stage.HEAD and self._pending_bytes + self._head_bytes == 0:
            self.transport.close()  # silently: browsers open connections that they never use
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _is_in_time(self) -> bool:
        """Return whether enough arrived in this period, or the application caused the delay.

        A body that takes longer than MAX_BODY_SECONDS is late in any case.
        """
        if self._stage is Stage.BODY:
            if self.loop.time() >= self._body_ends_by:
                return False
            return self._body_bytes >= MIN_BODY_BYTES or self.flow.read_paused
        return not self._is_answerable()  # the response to an earlier request is still due

    def _refuse(self, status: HTTPStatus) -> None:
        """Send a problem with *status*, unless another response is due first, then close."""
        if self._stage is Stage.END or self.transport.is_closing():
            return
        is_answerable = self._is_answerable()
        self._stage = Stage.END
        if self.cycle is not None:  # make the application see a disconnected client
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = choose_id(None)
        log.info("connection_refused", status=status.value, request_id=request_id)
        if is_answerable:
            self.transport.write(_render_problem(status, request_id))
        self.transport.write_eof()
        self._start_timer(LINGER_SECONDS)

    def _is_answerable(self) -> bool:
        """Return whether the client would take a response sent now as that to its last request."""
        if self._stage is Stage.BODY:
            return not self.pipeline and not self.cycle.response_started
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr] # uvicorn's type is wrong


def max_connections() -> int:
    """Return how many connections a process may hold if each may also need an open file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return 1_000_000
    return max(1, (files - RESERVED_FILES) // 2)


def _render_problem(status: HTTPStatus, request_id: str) -> bytes:
    """Return the problem for *status* as the bytes of an HTTP response."""
    request = Request({"type": "http", "state": {"request_id": request_id}})
    headers = {"Connection": "close", ID_HEADER: request_id, **describe_delay(status)}
    answer = make_problem(request, fault_of(status), headers)
    lines = [f"HTTP/1.1 {status} {status.phrase}".encode()]
    for name, value in [*answer.raw_headers, *INERT_HEADERS]:
        lines.append(name + b": " + value)
    lines += [b"", bytes(answer.body)]
    return b"\r\n".join(lines)
