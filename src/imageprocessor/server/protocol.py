"""One client's connection: uvicorn's, with limits on what is sent before a request is known.

The application sees a request only once its head is whole, so what an endless or very slow one
costs is bounded here.

There is no public hook for this, so :class:`Connection` overrides methods of uvicorn's protocol and
reads its ``cycle``, ``flow`` and ``pipeline``. pyproject.toml therefore bounds uvicorn's version,
and tests/server/test_protocol.py checks that these internals are where they were.
"""

from __future__ import annotations

import asyncio
import resource
from enum import Enum, auto
from http import HTTPStatus

import structlog
from fastapi import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imageprocessor.server.middleware.request_log import ID_HEADER, choose_id
from imageprocessor.server.middleware.security_headers import INERT_HEADERS
from imageprocessor.server.problems import describe_delay, fault_of, make_problem

MAX_TARGET_BYTES = 8 * 1024  #: path and query; 50 ids need 2 KiB
MAX_HEADERS = 100
MAX_HEAD_BYTES = 128 * 1024  #: all headers; also what may arrive without completing one
MAX_WAITING_REQUESTS = 100  #: requests that were sent before the answer to an earlier one
HEAD_SECONDS = 10  #: from a request's first byte to the end of its head
BODY_SECONDS = 10  #: in each such period MIN_BODY_BYTES must arrive
MIN_BODY_BYTES = 10 * 1024
SEND_SECONDS = 60  #: until a client that is slow has read most of what waits for it, some 64 KiB
LINGER_SECONDS = 2  #: between refusing and closing; a client that still sends would lose the answer
RESERVED_FILES = 128  #: descriptors for the database, sockets that listen, logs, uploads

log = structlog.get_logger(__name__)


class Stage(Enum):
    """What is expected of the client."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()
    END = auto()  #: it was refused; what it still sends is ignored


class RequestRefusedError(Exception):
    """Stops the parser."""


class Connection(HttpToolsProtocol):
    """Enforces size and time limits on requests, and answers violations with a problem response."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        super().connection_made(transport)
        # So that pause_writing is called, and a client timed, whenever it leaves anything unread.
        transport.set_write_buffer_limits(high=0)
        self._stage = Stage.NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._parser_status = HTTPStatus.BAD_REQUEST  # the answer if the parser stops
        self._target_bytes = 0
        self._header_count = 0
        self._head_bytes = 0
        self._pending_bytes = 0  # what the parser took without calling one of the methods below
        self._body_bytes = 0  # in this period
        if len(self.connections) > max_connections():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._expect_head()

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
        if self._stage is not Stage.HEAD:  # it follows another in the same packet
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._target_bytes += len(url)
        if self._target_bytes > MAX_TARGET_BYTES:
            self._stop_parser(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; it may also be a trailer, after a chunked body."""
        super().on_header(name, value)
        self._pending_bytes = 0
        self._header_count += 1
        self._head_bytes += len(name) + len(value)
        if self._header_count > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            self._stop_parser(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if len(self.pipeline) > MAX_WAITING_REQUESTS:
            self._stop_parser(HTTPStatus.BAD_REQUEST)
        self._stage = Stage.BODY
        self._pending_bytes = self._body_bytes = 0
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
        if body_is_unread:  # LingeringClose has read enough of it
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
        """Answer what the parser did not accept: uvicorn calls this for every exception in it."""
        self._refuse(self._parser_status)

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
            self.transport.close()  # browsers open connections that they may never use
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _is_in_time(self) -> bool:
        """Return whether enough came in this period, or the application was what took the time."""
        if self._stage is Stage.BODY:
            return self._body_bytes >= MIN_BODY_BYTES or self.flow.read_paused
        return not self._is_answerable()  # an earlier request has no answer yet

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer the current request with *status* if no other answer is due first, then close."""
        if self._stage is Stage.END or self.transport.is_closing():
            return
        is_answerable = self._is_answerable()
        self._stage = Stage.END
        if self.cycle is not None:  # for the application the client is gone
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = choose_id(None)
        log.info("connection_refused", status=status.value, request_id=request_id)
        if is_answerable:
            self.transport.write(_render_problem(status, request_id))
        self.transport.write_eof()
        self._start_timer(LINGER_SECONDS)

    def _is_answerable(self) -> bool:
        """Return whether the client would take an answer for that to what it sends now."""
        if self._stage is Stage.BODY:
            return not self.pipeline and not self.cycle.response_started
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr] # uvicorn's type lies


def max_connections() -> int:
    """Return how many connections a process may hold, each of which may be sent a file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return 1_000_000
    return max(1, (files - RESERVED_FILES) // 2)


def _render_problem(status: HTTPStatus, request_id: str) -> bytes:
    """Return the problem for *status* as bytes on the wire."""
    request = Request({"type": "http", "state": {"request_id": request_id}})
    headers = {"Connection": "close", ID_HEADER: request_id, **describe_delay(status)}
    answer = make_problem(request, fault_of(status), headers)
    lines = [f"HTTP/1.1 {status} {status.phrase}".encode()]
    for name, value in [*answer.raw_headers, *INERT_HEADERS]:
        lines.append(name + b": " + value)
    lines += [b"", bytes(answer.body)]
    return b"\r\n".join(lines)
