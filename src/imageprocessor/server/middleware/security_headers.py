"""Headers that stop browsers from running any content of this service, except the docs page."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DOCS_PATH = "/docs"
INERT_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
#: Swagger UI needs inline scripts and styles. Nothing is loaded from, or sent to, other sites.
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:;"
    " style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def _policy_headers(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", policy.encode("ascii")),
    ]


INERT_HEADERS = _policy_headers(INERT_POLICY)
DOCS_HEADERS = _policy_headers(DOCS_POLICY)


class SecurityHeaders:
    """ASGI middleware: adds INERT_HEADERS to every response, DOCS_HEADERS to the docs page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_docs = scope.get("path") == scope.get("root_path", "") + DOCS_PATH
        headers = DOCS_HEADERS if is_docs else INERT_HEADERS

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.app(scope, receive, send_guarded)
