"""Errors as RFC 9457 problems.

The one table from an error to its HTTP status; every failing answer is made here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imageprocessor import errors
from imageprocessor.errors import (
    ImageProcessorError,
    JobFailedError,
    RateLimitedError,
    RequestError,
    UnexpectedError,
)
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.server.quota_headers import describe_quota, seconds_to_reset

MEDIA_TYPE = "application/problem+json"
#: As in RFC 9110; Python before 3.13 has those of older standards.
PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
RETRY_AFTER_SECONDS = {409: 1, 503: 5, 507: 60}

#: The nearest class in an error's ancestry counts.
PROBLEMS: dict[type[ImageProcessorError], tuple[int, str]] = {
    errors.EmptyFileError: (422, "The file is empty"),
    errors.UnsupportedTypeError: (415, "The file is not of an accepted type"),
    errors.FileTooLargeError: (413, "The file is too large"),
    errors.TooManyPixelsError: (422, "The picture has too many pixels"),
    errors.DimensionTooLargeError: (422, "A side of the picture is too long"),
    errors.InvalidImageError: (422, "The picture is damaged"),
    errors.TruncatedImageError: (422, "The picture is cut short"),
    errors.InvalidFormError: (400, "The form cannot be read"),
    errors.MissingFileError: (422, "The file is missing"),
    errors.TooManyFilesError: (400, "There is more than one file"),
    errors.InvalidBucketError: (422, "The bucket is not acceptable"),
    errors.InvalidMetadataError: (422, "The metadata is not acceptable"),
    errors.UnknownSizeError: (422, "There is no such size"),
    errors.TooManyIdsError: (422, "The number of ids is not acceptable"),
    errors.InvalidIdError: (422, "The id is not a UUID"),
    errors.InvalidIdempotencyKeyError: (422, "The Idempotency-Key is not acceptable"),
    errors.IdempotencyKeyReusedError: (422, "The Idempotency-Key belongs to another upload"),
    errors.RateLimitedError: (429, "The uploads of this window are used up"),
    errors.UnauthorizedError: (401, "A valid token is required"),
    errors.AdminRequiredError: (403, "An admin's token is required"),
    errors.RequestError: (422, "The request is not acceptable"),
    errors.ObjectNotFoundError: (404, "There is no such object"),
    errors.InvalidKeyError: (404, "There is no such object"),
    errors.StorageUnavailableError: (503, "The storage is unavailable"),
    errors.StorageFullError: (507, "The storage is full"),
    errors.JobNotFoundError: (404, "There is no such job"),
    errors.ImageNotFoundError: (404, "There is no such image"),
    errors.JobNotReadyError: (409, "The job has not ended"),
    errors.JobFailedError: (422, "The job failed"),
    errors.JobNotRetryableError: (409, "The job cannot be tried again"),
    errors.DatabaseUnavailableError: (503, "The database is unavailable"),
    errors.ImageProcessorError: (500, "An unexpected fault"),
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """What a problem tells, but for the request's id."""

    status: int
    code: str
    title: str
    detail: str


def add_problem_handlers(app: FastAPI) -> None:
    """Make *app* answer every expected error with a problem.

    ``UnexpectedErrors`` is for the others.
    """
    app.add_exception_handler(ImageProcessorError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)


class UnexpectedErrors:
    """ASGI middleware, the server's one boundary.

    One traceback in the log, a 500 without details for the client.

    A request that the server gives up, because it stops and has waited long enough, is a 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception:
            if (
                started or scope["type"] != "http"
            ):  # nothing can be said any more: the server logs it and hangs up
                raise
            log.exception("unexpected_error")
            await _make_unexpected(Request(scope))(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not started:  # else the server hangs up
                await _make_stopped(Request(scope))(scope, receive, send)


def find_problem(error_class: type[ImageProcessorError]) -> tuple[int, str]:
    """Return the status and title of *error_class*."""
    return next(PROBLEMS[ancestor] for ancestor in error_class.__mro__ if ancestor in PROBLEMS)


def fault_of(status: HTTPStatus) -> Fault:
    """Return the fault that *status* alone tells, of requests that reach no route."""
    phrase = PHRASES.get(status, status.phrase)
    return Fault(status, phrase.lower().replace(" ", "_"), phrase, f"{status.description}.")


def make_problem(
    request: Request, fault: Fault, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the answer for *fault*, with the quota of the user where one was read."""
    body = {
        "type": f"urn:imageprocessor:error:{fault.code}",
        "title": fault.title,
        "status": fault.status,
        "detail": fault.detail,
        "code": fault.code,
        "request_id": request.state.request_id,
    }
    quota: Quota | None = getattr(request.state, "quota", None)
    common = {"Cache-Control": "no-store", **(describe_quota(quota) if quota else {})}
    return JSONResponse(body, fault.status, {**common, **(headers or {})}, media_type=MEDIA_TYPE)


def describe_delay(status: int) -> dict[str, str]:
    """Return the header that says after how many seconds to try again.

    For a *status* that may pass.
    """
    seconds = RETRY_AFTER_SECONDS.get(status)
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _make_unexpected(request: Request) -> JSONResponse:
    title = find_problem(ImageProcessorError)[1]
    return make_problem(
        request, Fault(500, UnexpectedError.code, title, "The log has the details.")
    )


def _make_stopped(request: Request) -> JSONResponse:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    fault = replace(fault_of(status), detail="The service is being stopped: try again.")
    return make_problem(request, fault, describe_delay(status))


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageProcessorError)
    status, title = find_problem(type(error))
    code = error.job_code if isinstance(error, JobFailedError) else error.code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request_failed", code=code, cause=str(error))
    return make_problem(
        request, Fault(status, code, title, str(error)), _headers(request, error, status)
    )


def _headers(request: Request, error: ImageProcessorError, status: int) -> dict[str, str]:
    if isinstance(error, RateLimitedError):
        settings = request.state.service.settings
        quota = Quota(
            settings.rate_limit_max_uploads, 0, error.reset_at, settings.rate_limit_window
        )
        return {"Retry-After": str(seconds_to_reset(quota)), **describe_quota(quota)}
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    if error.retryable or isinstance(error, errors.JobNotReadyError):
        return describe_delay(status)
    return {}


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed_methods(request)
    return make_problem(request, fault_of(HTTPStatus(error.status_code)), headers)


async def _answer_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
    status, title = find_problem(RequestError)
    return make_problem(request, Fault(status, RequestError.code, title, f"{'; '.join(faults)}."))


def _allowed_methods(request: Request) -> str:
    """Return what *all* routes of this path accept; Starlette names those of the first one only."""
    routes: list[Any] = request.app.state.routes
    methods = {
        name
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for name in route.methods
    }
    return ", ".join(sorted(methods or {"GET", "HEAD"}))
