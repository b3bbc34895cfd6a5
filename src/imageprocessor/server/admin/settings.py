"""The settings that the service runs with."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request, Response

from imageprocessor.environment import DEFAULT, list_settings
from imageprocessor.server.admin.access import Viewer
from imageprocessor.server.admin.pages import AdminRoute, render_for_admin
from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import ADMIN_PATH

router = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


@router.get("/settings")
def get_settings(request: Request, service: CurrentService, _viewer: Viewer) -> Response:
    """List all settings, without their secrets."""
    rows = list_settings(service.settings, os.environ)
    changed = [row for row in rows if row["origin"] != DEFAULT]
    defaults = [row for row in rows if row["origin"] == DEFAULT]
    return render_for_admin(request, "settings.html", changed=changed, defaults=defaults)
