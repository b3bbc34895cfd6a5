"""The upload page, and the element <image-upload> for anybody's page."""

from __future__ import annotations

import hashlib
from functools import cache
from http import HTTPStatus
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import UPLOAD_PAGE_PATH

WIDGET = "image-upload.js"
PAGE_FILES = {"page.css": "text/css", "page.js": "text/javascript"}

router = APIRouter(include_in_schema=False)


@router.get(UPLOAD_PAGE_PATH)
async def get_page(request: Request, service: CurrentService) -> Response:
    """Return the page, with the first of ALLOWED_BUCKETS as its bucket."""
    _require_page(service.settings.upload_page)
    buckets = service.settings.allowed_buckets
    page = _read("index.html")
    if buckets:  # their names need no escaping
        page = page.replace(b'value="photos"', f'value="{buckets[0]}"'.encode())
    return _answer(request, page, "text/html")


@router.get(f"{UPLOAD_PAGE_PATH}/{{name}}")
async def get_page_file(request: Request, service: CurrentService, name: str) -> Response:
    """Return a script or style of the page; the element <image-upload> to pages of any site."""
    if name == WIDGET:
        for_any_site = {"Access-Control-Allow-Origin": "*"}
        return _answer(request, _read(name), "text/javascript", for_any_site)
    _require_page(service.settings.upload_page and name in PAGE_FILES)
    return _answer(request, _read(name), PAGE_FILES[name])


def _require_page(is_there: bool) -> None:
    if not is_there:
        raise HTTPException(HTTPStatus.NOT_FOUND)


@cache
def _read(name: str) -> bytes:
    return files("imageprocessor.server").joinpath("pages", "upload", name).read_bytes()


def _answer(
    request: Request, content: bytes, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """Return *content*, or a 304 if the client has it. A new version is used at once."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", **(headers or {})}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
