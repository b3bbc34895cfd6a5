"""Files of the service's own pages, which are part of the package."""

from __future__ import annotations

import hashlib
from functools import cache
from http import HTTPStatus
from importlib.resources import files

from fastapi import Request, Response


@cache
def read_page_file(path: str) -> bytes:
    """Return a file in ``pages``, such as ``"upload/page.css"``."""
    return files("imageprocessor.server").joinpath("pages", path).read_bytes()


def answer_page_file(request: Request, path: str, media_type: str, **headers: str) -> Response:
    """Return a file in ``pages``; see :func:`answer_content`."""
    return answer_content(request, read_page_file(path), media_type, **headers)


def answer_content(request: Request, content: bytes, media_type: str, **headers: str) -> Response:
    """Return *content*, or a 304 if the client has it. A new version is used at once."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", **headers}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
