"""Serving image files from local storage, or redirecting to a storage that serves them itself."""

from __future__ import annotations

import os
import re
import stat
from email.utils import parsedate
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.staticfiles import NotModifiedResponse
from starlette.types import Receive, Scope, Send

from imageprocessor import errors
from imageprocessor.core.formats.registry import find_output
from imageprocessor.errors import ObjectNotFoundError
from imageprocessor.queue.access import Caller
from imageprocessor.queue.images import find_file, read_image
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.server.dependencies import CurrentService, FileFormat, ImageId, Reader, Size
from imageprocessor.server.openapi import READER_SECURITY, VARIANT_CONTENT, problem_responses
from imageprocessor.server.routes.images import NOT_FOUND, NOT_READY
from imageprocessor.storage.keys import image_id_of

SMALL_BYTES = 256 * 1024  #: files up to this size are read and sent at once
SINGLE_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,12})-(?P<last>\d{0,12})|-(?P<suffix>\d{1,12}))")
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image.", "content": VARIANT_CONTENT},
    206: {"description": "The requested range.", "content": VARIANT_CONTENT},
    304: {"description": "Your copy is current."},
    307: {"description": "Where to fetch the image; the URL is valid for a few minutes."},
}

router = APIRouter(tags=["files"])


@router.head("/api/v1/images/{image_id:image_id}/direct", include_in_schema=False)
@router.get(
    "/api/v1/images/{image_id:image_id}/direct",
    operation_id="getImageFile",
    summary="Fetch one size of an image",
    response_class=Response,
    responses={**RESPONSES, **problem_responses(*NOT_FOUND, errors.UnknownSizeError, *NOT_READY)},
    openapi_extra=READER_SECURITY,
)
def get_image_file(
    request: Request,
    service: CurrentService,
    caller: Reader,
    image_id: ImageId,
    size: Size = "medium",
    format: FileFormat = None,  # noqa: A002 - the name of the parameter
) -> Response:
    """Return the file of a size, or redirect to it; without a `format`, that of its variant."""
    job = read_image(service, image_id, caller, size)
    name = find_file(job, size, format)
    return respond_with_variant(request, service, job, name)


@router.head("/storage/{bucket}/processed/{size}/{name}", include_in_schema=False)
@router.get(
    "/storage/{bucket}/processed/{size}/{name}",
    operation_id="getStoredFile",
    summary="Fetch an image by the path in its URL",
    response_class=Response,
    responses={
        **RESPONSES,
        **problem_responses(errors.UnauthorizedError, errors.ObjectNotFoundError),
    },
    openapi_extra=READER_SECURITY,
)
def get_stored_file(
    request: Request, service: CurrentService, caller: Reader, bucket: str, size: str, name: str
) -> Response:
    """Every `url` in this API's responses leads here."""
    job, file_name = find_stored(service, caller, f"{bucket}/processed/{size}/{name}")
    return respond_with_variant(request, service, job, file_name)


def find_stored(service: Service, caller: Caller, key: str) -> tuple[Job, str]:
    """Return the completed job that has a file stored under exactly *key*, and the file's name.

    Raises:
        ObjectNotFoundError: The job does not exist or is not visible to the caller.
    """
    try:
        job = read_image(service, image_id_of(key) or "", caller)
    except (errors.RequestError, errors.JobError):
        raise _not_found(key) from None
    for name, stored_key in (job.variant_keys or {}).items():
        if stored_key == key:
            return job, name
    raise _not_found(key)


def respond_with_variant(request: Request, service: Service, job: Job, name: str) -> Response:
    """Return the file *name*, or a redirect if the storage serves files itself.

    Raises:
        ObjectNotFoundError: The file no longer exists.
        HTTPException: The requested range lies outside the file (416).
    """
    key = (job.variant_keys or {})[name]
    location = urlsplit(service.storage.url(key))
    public = service.settings.public_reads
    headers = {"Cross-Origin-Resource-Policy": "cross-origin" if public else "same-site"}
    if location.scheme == "file":
        audience = "public" if public else "private"
        headers["Cache-Control"] = f"{audience}, max-age=31536000, immutable"
        try:
            return respond_with_file(request, Path(unquote(location.path)), headers)
        except FileNotFoundError:
            raise _not_found(key) from None
    headers["Cache-Control"] = "no-store"
    if request.method == "HEAD":  # the URL is signed for GET only; S3 would return 403
        headers["Content-Length"] = str(job.describe_file(name)["size_bytes"])
        return Response(media_type=_media_type(key), headers=headers)
    return RedirectResponse(location.geturl(), HTTPStatus.TEMPORARY_REDIRECT, headers)


def respond_with_file(request: Request, path: Path, headers: dict[str, str]) -> Response:
    """Return the file at *path*, the range of it requested by *request*, or a 304.

    Raises:
        FileNotFoundError: The file does not exist or is not a regular file.
        HTTPException: The requested range lies outside the file (416).
    """
    status = path.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(path)
    response = SingleRangeResponse(
        path,
        headers=headers,
        media_type=_media_type(path.name),
        filename=path.name,
        stat_result=status,
        content_disposition_type="inline",
    )
    if is_current(request.headers, response.headers):
        return NotModifiedResponse(response.headers)
    if request.method == "HEAD":
        return response
    check_range(request.headers.get("range", ""), status.st_size)
    if "range" not in request.headers and status.st_size <= SMALL_BYTES:
        return Response(read_small_file(path), headers=dict(response.headers))
    return response


def read_small_file(path: Path) -> bytes:
    """Return the bytes of the file at *path*; fail if it is a symbolic link.

    This runs in the thread that looked up the file. FileResponse would use three more thread calls,
    which doubles the CPU time of a small file (``python -m benchmarks service``, file read).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


class SingleRangeResponse(FileResponse):
    """A file, or the range of it that a GET requests.

    Malformed or multiple ranges are ignored, as RFC 9110, section 14.2, permits. ``FileResponse``
    would answer the former with a 400 and the latter with as many parts as the client requests. It
    would also apply ranges to HEAD, which that section forbids.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = Headers(scope=scope).get("range", "")
        if scope["method"] != "GET" or match_single_range(wanted) is None:
            headers = [header for header in scope["headers"] if header[0] != b"range"]
            scope = {**scope, "headers": headers}
        await super().__call__(scope, receive, send)


def check_range(header: str, size_bytes: int) -> None:
    """Raise HTTPException (416) if *header* has a single range and it lies outside the file."""
    match = match_single_range(header)
    if match is None:
        return
    first, suffix = match["first"], match["suffix"]
    is_outside = int(first) >= size_bytes if first else int(suffix) == 0
    if is_outside:
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )


def match_single_range(header: str) -> re.Match[str] | None:
    """Return the match of a Range header with exactly one well-formed range, else None."""
    match = SINGLE_RANGE.fullmatch(header)
    if match is None:
        return None
    first, last = match["first"], match["last"]
    is_backwards = first and last and int(last) < int(first)
    return None if is_backwards else match


def is_current(request: Headers, response: Headers) -> bool:
    """Return whether the client's copy is current (RFC 9110, sections 13.1.2 and 13.1.3)."""
    if "if-none-match" in request:
        tags = request["if-none-match"].split(",")
        known = [tag.strip().removeprefix("W/") for tag in tags]
        return response["etag"] in known or known == ["*"]
    since = parsedate(request.get("if-modified-since", ""))
    changed = parsedate(response["last-modified"])
    return since is not None and changed is not None and changed <= since


def _media_type(file_name: str) -> str | None:
    output = find_output(file_name)
    return output.mime_type if output else None


def _not_found(key: str) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"Nothing is stored under {key[:120]!r}.")
