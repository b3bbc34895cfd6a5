"""The upload page, and the element <image-upload> for anybody's page."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import UPLOAD_PAGE_PATH
from imageprocessor.server.page_files import answer_content, answer_page_file, read_page_file

WIDGET = "image-upload.js"
PAGE_FILES = {"page.css": "text/css", "page.js": "text/javascript"}
FOR_ANY_SITE = {"Access-Control-Allow-Origin": "*"}

router = APIRouter(include_in_schema=False)


@router.get(UPLOAD_PAGE_PATH)
async def get_page(request: Request, service: CurrentService) -> Response:
    """Return the page, with the first of ALLOWED_BUCKETS as its bucket."""
    _require_page(service.settings.upload_page)
    buckets = service.settings.allowed_buckets
    page = read_page_file("upload/index.html")
    if buckets:  # their names need no escaping
        page = page.replace(b'value="photos"', f'value="{buckets[0]}"'.encode())
    return answer_content(request, page, "text/html")


@router.get(f"{UPLOAD_PAGE_PATH}/{{name}}")
async def get_page_file(request: Request, service: CurrentService, name: str) -> Response:
    """Return a script or style of the page; the element <image-upload> to pages of any site."""
    if name == WIDGET:
        return answer_page_file(request, f"upload/{name}", "text/javascript", **FOR_ANY_SITE)
    _require_page(service.settings.upload_page and name in PAGE_FILES)
    return answer_page_file(request, f"upload/{name}", PAGE_FILES[name])


def _require_page(is_there: bool) -> None:
    if not is_there:
        raise HTTPException(HTTPStatus.NOT_FOUND)
