"""What Prometheus reads. The route exists only with METRICS_TOKEN."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request, Response

from imageprocessor.queue.access import may_scrape
from imageprocessor.queue.exposition import CONTENT_TYPE, render_metrics
from imageprocessor.queue.metrics_port import PATH
from imageprocessor.server.dependencies import CurrentService

router = APIRouter()


@router.get(PATH, include_in_schema=False)
def get_metrics(request: Request, service: CurrentService) -> Response:
    """Return the metrics; without the token, the response is that of an unknown path."""
    if not may_scrape(service.settings, request.headers.get("authorization", "")):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    page = render_metrics(service)
    return Response(page, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
