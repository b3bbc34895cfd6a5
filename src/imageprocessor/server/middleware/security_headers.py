"""Headers that stop browsers from running any content of this service, except its own pages."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DOCS_PATH = "/docs"
UPLOAD_PAGE_PATH = "/upload"
ADMIN_PATH = "/admin"
INERT_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
#: Swagger UI needs inline scripts and styles. Nothing is loaded from, or sent to, other sites.
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:;"
    " style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: Images may come from any HTTPS address, because those in S3 are redirects to it.
UPLOAD_PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: blob: https:; script-src 'self';"
    " style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ADMIN_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self';"
    " style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def _policy_headers(policy: str, referrer: bytes = b"no-referrer") -> list[tuple[bytes, bytes]]:
    return [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", referrer),
        (b"content-security-policy", policy.encode("ascii")),
    ]


INERT_HEADERS = _policy_headers(INERT_POLICY)
PAGE_HEADERS = {
    DOCS_PATH: _policy_headers(DOCS_POLICY),
    UPLOAD_PAGE_PATH: _policy_headers(UPLOAD_PAGE_POLICY),
}
#: Without a referrer, browsers would also hide the Origin of the pages' own forms.
ADMIN_HEADERS = _policy_headers(ADMIN_POLICY, b"same-origin")


def is_admin_path(path: str) -> bool:
    """Return whether *path*, relative to the service's own, is that of an admin page."""
    return path == ADMIN_PATH or path.startswith(f"{ADMIN_PATH}/")


class SecurityHeaders:
    """ASGI middleware: adds INERT_HEADERS to every response; to pages, headers of their own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        headers = PAGE_HEADERS.get(path, INERT_HEADERS)
        if is_admin_path(path):
            headers = ADMIN_HEADERS

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.app(scope, receive, send_guarded)
