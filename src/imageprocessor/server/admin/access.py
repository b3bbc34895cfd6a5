"""Who may see the admin pages and act on them: login, cookie, and where requests come from."""

from __future__ import annotations

from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response

from imageprocessor.errors import UnauthorizedError
from imageprocessor.queue.access import Caller
from imageprocessor.server.middleware.security_headers import ADMIN_PATH
from imageprocessor.tokens import (
    ADMIN_SCOPE,
    READ_ALL_SCOPE,
    Session,
    check_session,
    open_session,
    sign_session,
)

#: With this prefix, browsers accept a cookie only over HTTPS and for this host alone.
SECURE_COOKIE = "__Host-imageprocessor-admin"
LOOPBACK_COOKIE = "imageprocessor-admin"


class AdminRefusalError(Exception):
    """A request that the admin pages refuse; *advice* says what to do instead."""

    def __init__(self, status: HTTPStatus, heading: str, advice: str) -> None:
        super().__init__(heading)
        self.status = status
        self.heading = heading
        self.advice = advice


class LoginRequiredError(AdminRefusalError):
    """Nobody has logged in, or the session has ended: the page shows the form to log in."""

    def __init__(self, advice: str) -> None:
        super().__init__(HTTPStatus.UNAUTHORIZED, "Log in", advice)


def require_private_transport(request: Request) -> None:
    """Raise AdminRefusalError if a token or cookie would cross a network in the clear."""
    if _is_https(request) or _is_loopback(request.headers.get("host", "")):
        return
    raise AdminRefusalError(
        HTTPStatus.FORBIDDEN,
        "This page needs HTTPS",
        "Over plain HTTP, anybody on the way could read your token. Open the page by its https:// "
        "address, or on this machine as http://localhost. If a proxy in front of the service has "
        "the certificate, let it send X-Forwarded-Proto, and set FORWARDED_ALLOW_IPS to the "
        "address of the proxy.",
    )


def require_own_page(request: Request) -> None:
    """Raise AdminRefusalError unless the request was sent by a page of this service.

    Browsers say so in Sec-Fetch-Site; old ones only in Origin.
    """
    site = request.headers.get("sec-fetch-site")
    if site is None:
        own = f"{request.scope['scheme']}://{request.headers.get('host')}"
        is_own = request.headers.get("origin") == own
    else:
        is_own = site == "same-origin"
    if not is_own:
        raise AdminRefusalError(
            HTTPStatus.FORBIDDEN,
            "This was not sent by these pages",
            "Nothing was done. Another site may have tried to act in your name. If it was you, "
            "open the admin pages and do it there.",
        )


def log_in(request: Request, response: Response, token: str) -> Session:
    """Put a cookie into *response* for the admin, or reader, whose *token* it is.

    Raises:
        LoginRequiredError: The token is not valid, or not an admin's.
    """
    state = request.state
    settings = state.service.settings
    try:
        session = open_session(token.strip(), state.keys, settings)
    except UnauthorizedError as error:
        raise LoginRequiredError(f"That token is not valid: {error.cause}.") from None
    if not _may_look(session.caller):
        raise LoginRequiredError(
            f"That token is a user's. These pages need one whose scope has {ADMIN_SCOPE}, or "
            f"{READ_ALL_SCOPE} to look without changing anything."
        )
    name, path = _describe_cookie(request)
    response.set_cookie(
        name,
        sign_session(state.keys, settings, session),
        expires=session.expires_at,
        path=path,
        secure=_is_https(request),
        httponly=True,
        samesite="lax",
    )
    return session


def log_out(request: Request, response: Response) -> None:
    """Delete the cookie."""
    name, path = _describe_cookie(request)
    is_https = _is_https(request)
    response.delete_cookie(name, path, secure=is_https, httponly=True, samesite="lax")


async def require_viewer(request: Request) -> Caller:
    """Return who has logged in and may see everything.

    Raises:
        AdminRefusalError: The request may not come this way.
        LoginRequiredError: Nobody has logged in, or the session has ended.
    """
    require_private_transport(request)
    name, _ = _describe_cookie(request)
    cookie = request.cookies.get(name)
    if cookie is None:
        raise LoginRequiredError("Paste an admin's token. It is not stored.")
    session = check_session(cookie, request.state.keys, request.state.service.settings)
    if session is None or not _may_look(session.caller):
        raise LoginRequiredError("Your session has ended. Log in again.")
    request.state.viewer = session.caller
    return session.caller


async def require_operator(
    request: Request, caller: Annotated[Caller, Depends(require_viewer)]
) -> Caller:
    """Return who has logged in, sent the request from these pages, and may change things.

    Raises:
        AdminRefusalError: See :func:`require_own_page`; or they may only look.
        LoginRequiredError: See :func:`require_viewer`.
    """
    require_own_page(request)
    if not caller.admin:
        raise AdminRefusalError(
            HTTPStatus.FORBIDDEN,
            "You may look, but not change anything",
            f"Nothing was done. Log in with a token whose scope has {ADMIN_SCOPE}.",
        )
    return caller


Viewer = Annotated[Caller, Depends(require_viewer)]
Operator = Annotated[Caller, Depends(require_operator)]


def _may_look(caller: Caller) -> bool:
    return caller.admin or caller.reads_all


def _describe_cookie(request: Request) -> tuple[str, str]:
    """Return the name and path of the cookie for the scheme of *request*."""
    if _is_https(request):
        return SECURE_COOKIE, "/"  # the prefix demands this path
    return LOOPBACK_COOKIE, f"{request.scope['root_path']}{ADMIN_PATH}"


def _is_https(request: Request) -> bool:
    return bool(request.scope["scheme"] == "https")


def _is_loopback(authority: str) -> bool:
    """Return whether a Host header names this machine itself."""
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
