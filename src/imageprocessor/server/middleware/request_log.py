"""An id, a log line and a count for every request; query and headers are not logged."""

from __future__ import annotations

import re
import secrets
import time
from urllib.parse import quote

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imageprocessor.queue.metrics.counts import Counts

ID_HEADER = "X-Request-ID"
_ID_HEADER = ID_HEADER.lower().encode("ascii")
#: Counted by name. A client may invent any number of others.
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger(__name__)


class RequestLog:
    """ASGI middleware: assigns each request an id, returns it, and logs and counts the outcome."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = choose_id(_find_sent_id(scope))
        scope.setdefault("state", {})["request_id"] = request_id
        id_header = (_ID_HEADER, request_id.encode("ascii"))
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])  # sometimes an HTTPStatus
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        # No need to unbind: the context ends with this request's task.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            log.info(
                "request",
                method=scope["method"],
                path=quote(scope["path"]),  # keeps terminal control characters percent-encoded
                status=status,
                milliseconds=round(seconds * 1000, 1),
            )
            if service := scope["state"].get("service"):
                count_request(service.counts, scope, status, seconds)


def count_request(counts: Counts, scope: Scope, status: int, seconds: float) -> None:
    """Count a request by its method and the template of its path."""
    if not counts.is_on:
        return
    method = scope["method"]
    if method not in METHODS:
        method = OTHER
    route = getattr(scope.get("route"), "path_format", OTHER)
    counts.count_request(method, route, status, seconds)


def choose_id(sent: str | None) -> str:
    """Return the client's id if it is safe to log, else a new one.

    >>> choose_id("order-17")
    'order-17'
    """
    return sent if sent and ACCEPTED_ID.fullmatch(sent) else secrets.token_hex(16)


def _find_sent_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == _ID_HEADER:
            return str(value.decode("latin-1"))
    return None
