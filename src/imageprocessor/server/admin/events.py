"""The stream of events that keeps the pages up to date."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from imageprocessor.server.admin.access import Viewer
from imageprocessor.server.admin.pages import AdminRoute
from imageprocessor.server.dependencies import BaseUrl, CurrentService
from imageprocessor.server.events.stream import EventStream, Selection
from imageprocessor.server.middleware.security_headers import ADMIN_PATH
from imageprocessor.server.routes.events import find_start, prepare_stream
from imageprocessor.server.threads import run_read

router = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


@router.get("/events")
async def get_events(
    request: Request, service: CurrentService, base_url: BaseUrl, _viewer: Viewer
) -> Response:
    """Stream all events from now on, without the contexts of uploads."""
    poller = prepare_stream(request, service)
    position = await run_read(service, find_start, None)
    selection = Selection(shows_context=False)
    return EventStream(service, poller, selection, position, base_url)
