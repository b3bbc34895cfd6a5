"""An id and a log line for every request; query and headers are not logged."""

from __future__ import annotations

import re
import secrets
import time
from urllib.parse import quote

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ID_HEADER = "X-Request-ID"
_ID_HEADER = ID_HEADER.lower().encode("ascii")
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger(__name__)


class RequestLog:
    """ASGI middleware: assigns each request an id, returns it, and logs the outcome."""

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
