"""Which pages of other sites may call the API (CORS)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from imageprocessor.server.middleware.request_log import ID_HEADER
from imageprocessor.server.quota_headers import NAMES
from imageprocessor.server.tickets import UPLOADS_URL

#: What a page of another site may send; `Range` needs no permission.
REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "If-Modified-Since",
    "Last-Event-ID",
    "Prefer",
    "traceparent",
    "tracestate",
    ID_HEADER,
)
#: What it may read of an answer.
ANSWER_HEADERS = (
    *NAMES,
    "Retry-After",
    "ETag",
    "Content-Range",
    "Preference-Applied",
    ID_HEADER,
)


class Cors:
    """ASGI middleware: pages of *origins* may call the API, and any page the address of a ticket.

    A ticket is a permission by itself, so its address takes no cookies and no token.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self.tickets = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["GET", "PUT", "POST"],
            allow_headers=["Content-Type", "Prefer", ID_HEADER],
            expose_headers=ANSWER_HEADERS,
        )
        if origins:
            self.app = CORSMiddleware(
                app,
                allow_origins=origins,
                allow_credentials=True,
                allow_methods=["GET", "HEAD", "POST", "DELETE"],
                allow_headers=REQUEST_HEADERS,
                expose_headers=ANSWER_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tickets_path = f"{scope.get('root_path', '')}{UPLOADS_URL}/"
        is_ticket = scope.get("path", "").startswith(tickets_path)
        app = self.tickets if is_ticket else self.app
        await app(scope, receive, send)
