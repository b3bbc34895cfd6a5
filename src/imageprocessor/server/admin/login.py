"""Logging in and out, and the files of the pages."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from imageprocessor.server.admin.access import (
    AdminRefusalError,
    LoginRequiredError,
    log_in,
    log_out,
    require_own_page,
    require_private_transport,
)
from imageprocessor.server.admin.pages import (
    HEADERS,
    AdminRoute,
    Form,
    find_base,
    redirect,
    show_login,
)
from imageprocessor.server.middleware.security_headers import ADMIN_PATH
from imageprocessor.server.page_files import answer_page_file

FILES = {"admin.css": "text/css", "admin.js": "text/javascript"}

log = structlog.get_logger(__name__)
router = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


async def require_login_form(request: Request) -> None:
    """Raise AdminRefusalError unless one of these pages sent the request, over a private way."""
    require_private_transport(request)
    require_own_page(request)


@router.get("/login")
async def get_login(request: Request) -> Response:
    """Show the login form. Other pages answer with it, too, if nobody has logged in."""
    require_private_transport(request)
    return show_login(request, "Paste an admin's token. It is not stored.", HTTPStatus.OK)


@router.post("/login", dependencies=[Depends(require_login_form)])
async def post_login(request: Request, form: Form) -> Response:
    """Exchange an admin's token for a cookie, and go where they wanted to."""
    response = RedirectResponse(_find_wanted(request, form), HTTPStatus.SEE_OTHER, HEADERS)
    try:
        session = log_in(request, response, form.get("token", ""))
    except LoginRequiredError as refusal:
        log.warning("admin_login_refused", cause=refusal.advice)
        raise
    log.info("admin_login", user=session.caller.user_id, may_act=session.caller.admin)
    return response


@router.post("/logout", dependencies=[Depends(require_login_form)])
async def post_logout(request: Request) -> Response:
    """Delete the cookie."""
    response = redirect(request, "/login", "logged_out")
    log_out(request, response)
    return response


@router.get("/static/{name}")
async def get_file(request: Request, name: str) -> Response:
    """Return a script or style of the pages."""
    if name not in FILES:
        raise AdminRefusalError(
            HTTPStatus.NOT_FOUND, "Not found", f"The pages have no file {name!r}."
        )
    return answer_page_file(request, f"admin/{name}", FILES[name])


def _find_wanted(request: Request, form: dict[str, str]) -> str:
    """Return the page that was asked for before the login, if it is one of ours."""
    base = find_base(request)
    wanted = form.get("wanted", base)
    is_ours = wanted.startswith((f"{base}/", f"{base}?")) and wanted.isprintable()
    return wanted if is_ours and "\\" not in wanted else base
