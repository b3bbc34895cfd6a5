"""Where a visitor finds the documentation: ``/`` and ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import DOCS_PATH
from imageprocessor.server.responses import JsonLine
from imageprocessor.server.schemas import Index

OPENAPI_PATH = "/openapi.json"

router = APIRouter(tags=["docs"], default_response_class=JsonLine)


@router.get("/", operation_id="getIndex", summary="Find the documentation")
async def get_index(request: Request, service: CurrentService) -> Index:
    """The docs page has a form for each request; OpenAPI describes them for programs."""
    root_path = request.scope["root_path"]
    return Index(
        service=service.settings.service_name,
        version=request.app.version,
        docs=f"{root_path}{DOCS_PATH}",
        openapi=f"{root_path}{OPENAPI_PATH}",
    )


@router.head(OPENAPI_PATH, include_in_schema=False)
@router.get(OPENAPI_PATH, include_in_schema=False)
async def get_openapi(request: Request) -> JsonLine:
    """Return the OpenAPI document, as FastAPI's own route would without the newline."""
    document: dict[str, Any] = request.app.openapi()
    root_path = request.scope["root_path"]
    if root_path:
        document = {**document, "servers": [{"url": root_path}]}
    return JsonLine(document)
