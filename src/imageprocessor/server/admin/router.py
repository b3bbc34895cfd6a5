"""All routes of the admin pages."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.routing import Match

from imageprocessor.server.admin import events, images, jobs, login, overview, settings, webhooks
from imageprocessor.server.admin.access import AdminRefusalError, Viewer
from imageprocessor.server.admin.pages import AdminRoute
from imageprocessor.server.middleware.request_log import METHODS
from imageprocessor.server.middleware.security_headers import ADMIN_PATH

others = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


@others.api_route("/{path:path}", methods=sorted(METHODS))
async def refuse(request: Request, _viewer: Viewer) -> Response:
    """Answer what no other route does."""
    matches = [route.matches(request.scope)[0] for route in request.app.state.routes]
    if Match.PARTIAL in matches:
        raise AdminRefusalError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "That is no page",
            "This address is that of an action. Go to the page that has its button.",
        )
    raise AdminRefusalError(
        HTTPStatus.NOT_FOUND, "Not found", "There is no such page. Choose one above."
    )


ROUTERS = (
    overview.router,
    jobs.router,
    images.router,
    webhooks.router,
    settings.router,
    events.router,
    login.router,
    others,
)
