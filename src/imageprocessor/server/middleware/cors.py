"""Which pages of other sites may call the API (CORS)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from imageprocessor.server.middleware.request_log import ID_HEADER
from imageprocessor.server.middleware.security_headers import is_admin_path
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

    A ticket is a permission by itself, so its address takes no cookies and no token. No other page
    may read the admin pages, whose cookie a browser would send along.
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
        self.api = app
        if origins:
            self.api = CORSMiddleware(
                app,
                allow_origins=origins,
                allow_credentials=True,
                allow_methods=["GET", "HEAD", "POST", "DELETE"],
                allow_headers=REQUEST_HEADERS,
                expose_headers=ANSWER_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path.startswith(f"{UPLOADS_URL}/"):
            await self.tickets(scope, receive, send)
        elif is_admin_path(path):
            await self.app(scope, receive, send)
        else:
            await self.api(scope, receive, send)
