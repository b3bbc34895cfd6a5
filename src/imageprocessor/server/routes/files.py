"""The images themselves: a file of local storage, or the way to where the storage gives it out."""

from __future__ import annotations

import os
import re
import stat
from http import HTTPStatus
from os import stat_result
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import NotModifiedResponse

from imageprocessor import errors
from imageprocessor.core.formats.registry import OUTPUT_FORMAT
from imageprocessor.errors import ImageProcessorError, ObjectNotFoundError
from imageprocessor.queue.images import read_image
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.server.auth import READER_SECURITY, CurrentService, Reader
from imageprocessor.server.lookups import look_up
from imageprocessor.server.openapi import VARIANT_CONTENT, ImageId, Size, problem_responses
from imageprocessor.server.route_class import DirectRoute
from imageprocessor.server.routes.images import NOT_FOUND, NOT_READY
from imageprocessor.storage.keys import image_id_of

WHOLE_BYTES = (
    256 * 1024
)  #: what is read in the thread that looked for it: a FileResponse goes through three more
SINGLE_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,12})-(?P<last>\d{0,12})|-(?P<suffix>\d{1,12}))")
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image.", "content": VARIANT_CONTENT},
    206: {"description": "The range asked for.", "content": VARIANT_CONTENT},
    304: {"description": "What you have is current."},
    307: {"description": "The image is there; the address holds for a few minutes."},
}

router = APIRouter(tags=["files"])
direct_router = APIRouter(tags=["files"], route_class=DirectRoute)


@router.head("/api/v1/images/{image_id:image_id}/direct", include_in_schema=False)
@router.get(
    "/api/v1/images/{image_id:image_id}/direct",
    operation_id="getImageFile",
    summary="Fetch one size of an image",
    response_class=Response,
    responses={**ANSWERS, **problem_responses(*NOT_FOUND, errors.UnknownSizeError, *NOT_READY)},
    openapi_extra=READER_SECURITY,
)
def get_image_file(
    request: Request,
    service: CurrentService,
    caller: Reader,
    image_id: ImageId,
    size: Size = "medium",
) -> Response:
    """The bytes as WebP, or a redirect to them."""
    return _send(request, service, read_image(service, image_id, caller, size), size)


@direct_router.head("/storage/{bucket}/processed/{size}/{name}", include_in_schema=False)
@direct_router.get(
    "/storage/{bucket}/processed/{size}/{name}",
    operation_id="getStoredFile",
    summary="Fetch an image by the path in its URL",
    response_class=Response,
    responses={
        **ANSWERS,
        **problem_responses(errors.UnauthorizedError, errors.ObjectNotFoundError),
    },
    openapi_extra=READER_SECURITY,
)
async def get_stored_file(request: Request, bucket: str, size: str, name: str) -> Response:
    """What every `url` of this API leads to."""
    job = await _find_stored(request, f"{bucket}/processed/{size}/{name}", size)
    return await run_in_threadpool(_send, request, request.state.service, job, size)


async def _find_stored(request: Request, key: str, size: str) -> Job:
    """Return the completed job whose variant is stored under exactly *key*.

    Whatever is wrong, it is not found.
    """
    try:
        job, _ = await look_up(request, read_image, image_id_of(key) or "", size)
    except errors.UnauthorizedError:
        raise
    except (errors.RequestError, errors.JobError):
        raise _not_found(key) from None
    if (job.variant_keys or {})[size] != key:
        raise _not_found(key)
    return job


def _send(request: Request, service: Service, job: Job, size: str) -> Response:
    key = (job.variant_keys or {})[size]
    location = urlsplit(service.storage.url(key))
    if location.scheme == "file":
        try:
            return _send_file(request, service, job, size, Path(unquote(location.path)))
        except FileNotFoundError:
            raise _not_found(key) from None
    if request.method == "HEAD":  # the address is signed for GET alone: S3 would answer 403
        length = (job.generated or {})["variants"][size]["size_bytes"]
        return Response(
            media_type=OUTPUT_FORMAT.mime_type,
            headers={"Cache-Control": "no-store", "Content-Length": str(length)},
        )
    return RedirectResponse(
        location.geturl(), HTTPStatus.TEMPORARY_REDIRECT, {"Cache-Control": "no-store"}
    )


def _send_file(request: Request, service: Service, job: Job, size: str, path: Path) -> Response:
    status = _look_up(path)
    _settle_range(request, status.st_size)
    audience = "public" if service.settings.public_reads else "private"
    response = FileResponse(
        path,
        headers={"Cache-Control": f"{audience}, max-age=31536000, immutable"},
        media_type=OUTPUT_FORMAT.mime_type,
        filename=f"{job.image_id}_{size}{OUTPUT_FORMAT.suffix}",
        stat_result=status,
        content_disposition_type="inline",
    )
    if _is_current(request, response):
        return NotModifiedResponse(response.headers)
    if request.method == "GET" and "range" not in request.headers and status.st_size <= WHOLE_BYTES:
        return Response(_read(path, status.st_size), headers=dict(response.headers))
    return response


def _look_up(path: Path) -> stat_result:
    status = path.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(path)
    return status


def _read(path: Path, size_bytes: int) -> bytes:
    """Return a small file in three system calls.

    Each one hands over the interpreter, and a file object makes nine.
    """
    descriptor, data = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), b""
    try:
        while len(data) < size_bytes and (block := os.read(descriptor, size_bytes - len(data))):
            data += block
    finally:
        os.close(descriptor)
    return data


def _not_found(key: str) -> ImageProcessorError:
    return ObjectNotFoundError(f"Nothing is stored under {key[:120]!r}.")


def _is_current(request: Request, response: FileResponse) -> bool:
    """Tell whether the client's copy is the one we have (RFC 9110, 13.1.2)."""
    known = [
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    ]
    return response.headers["etag"] in known or known == ["*"]


def _settle_range(request: Request, size_bytes: int) -> None:
    """Refuse a range outside the file.

    Forget any that is malformed or multiple, as RFC 9110, 14.2, permits.
    """
    wanted = SINGLE_RANGE.fullmatch(request.headers.get("range", ""))
    first, last, suffix = wanted.group("first", "last", "suffix") if wanted else ("", "", "")
    if not wanted or (first and last and int(last) < int(first)):
        request.scope["headers"] = [
            header for header in request.scope["headers"] if header[0] != b"range"
        ]
    elif (first and int(first) >= size_bytes) or (suffix and int(suffix) == 0):
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
