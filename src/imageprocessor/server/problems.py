"""Converting errors to RFC 9457 problems, with the table of HTTP statuses."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from imageprocessor import errors
from imageprocessor.errors import (
    AdminRequiredError,
    ImageProcessorError,
    JobFailedError,
    RateLimitedError,
    RequestError,
    UnauthorizedError,
    describe_publicly,
)
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.server.auth import is_admin
from imageprocessor.server.events.preferences import describe_preference
from imageprocessor.server.quota_headers import describe_quota, seconds_to_reset
from imageprocessor.server.responses import JsonLine

MEDIA_TYPE = "application/problem+json"
#: From RFC 9110; Python before 3.13 has the phrases of older RFCs.
PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
RETRY_AFTER_SECONDS = {409: 1, 503: 5, 507: 60}

#: An error without its own entry uses that of its nearest base class.
PROBLEMS: dict[type[ImageProcessorError], tuple[int, str]] = {
    errors.EmptyFileError: (422, "The file is empty"),
    errors.UnsupportedTypeError: (415, "The file type is not accepted"),
    errors.FileTooLargeError: (413, "The file is too large"),
    errors.TooManyPixelsError: (422, "The image has too many pixels"),
    errors.DimensionTooLargeError: (422, "The image is too wide or too tall"),
    errors.AnimationTooLongError: (422, "The animation is too long"),
    errors.InvalidImageError: (422, "The image is damaged"),
    errors.TruncatedImageError: (422, "The image is truncated"),
    errors.UnsupportedEncodingError: (415, "The encoding of the body is not accepted"),
    errors.InvalidFormError: (400, "The form is invalid"),
    errors.MissingFileError: (422, "The file is missing"),
    errors.TooManyFilesError: (400, "The form has more than one file"),
    errors.InvalidBucketError: (422, "The bucket is invalid"),
    errors.InvalidMetadataError: (422, "The metadata is invalid"),
    errors.UnknownSizeError: (422, "The size does not exist"),
    errors.TooManyIdsError: (422, "The number of ids is out of range"),
    errors.InvalidIdError: (422, "The id is not a UUID"),
    errors.InvalidIdempotencyKeyError: (422, "The Idempotency-Key is invalid"),
    errors.IdempotencyKeyReusedError: (422, "The Idempotency-Key was used for another upload"),
    errors.BatchTooLargeError: (413, "The batch is too large"),
    errors.InvalidItemsError: (422, "The items are invalid"),
    errors.BatchRefusedError: (422, "A file of the batch was refused"),
    errors.InvalidWaitError: (422, "The time to wait is out of range"),
    errors.InvalidCursorError: (422, "The cursor is invalid"),
    errors.ExpiredCursorError: (410, "The cursor has expired"),
    errors.TooManyStreamsError: (503, "Too many event streams are open"),
    errors.RateLimitedError: (429, "The upload limit of this window is reached"),
    errors.UnauthorizedError: (401, "A valid token is required"),
    errors.AdminRequiredError: (403, "An admin token is required"),
    errors.InvalidTicketError: (403, "The upload ticket is not valid"),
    errors.SpentTicketError: (409, "The upload ticket has been used"),
    errors.DirectUnsupportedError: (422, "Files cannot be sent straight to S3"),
    errors.MissingUploadError: (409, "The file is not in S3"),
    errors.UnknownWebhookError: (422, "The webhook does not exist"),
    errors.InvalidWebhookError: (422, "The webhook is invalid"),
    errors.InvalidWebhookUrlError: (422, "Webhooks cannot be sent to this URL"),
    errors.UnknownDeliveryError: (404, "The delivery does not exist"),
    errors.DeliveryNotRepeatableError: (409, "The delivery cannot be repeated"),
    errors.RequestError: (422, "The request is invalid"),
    errors.ObjectNotFoundError: (404, "The object does not exist"),
    errors.InvalidKeyError: (404, "The object does not exist"),
    errors.StorageUnavailableError: (503, "The storage is unavailable"),
    errors.StorageMismatchError: (503, "The storage cannot be used"),
    errors.StorageFullError: (507, "The storage is full"),
    errors.JobNotFoundError: (404, "The job does not exist"),
    errors.ImageNotFoundError: (404, "The image does not exist"),
    errors.BatchNotFoundError: (404, "The batch does not exist"),
    errors.JobNotReadyError: (409, "The job has not finished"),
    errors.JobFailedError: (422, "The job failed"),
    errors.JobNotRetryableError: (409, "The job cannot be retried"),
    errors.DatabaseUnavailableError: (503, "The database is unavailable"),
    errors.DatabaseUnusableError: (503, "The database cannot be used"),
    errors.ImageProcessorError: (500, "An unexpected error occurred"),
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """The content of a problem, without the request's id."""

    status: int
    code: str
    title: str
    detail: str
    job_id: str | None = None  #: of the job that failed


def add_problem_handlers(app: FastAPI) -> None:
    """Make *app* return a problem for expected errors; ``UnexpectedErrors`` handles the others."""
    app.add_exception_handler(ImageProcessorError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)


async def _answer_error(request: Request, error: Exception) -> JsonLine:
    assert isinstance(error, ImageProcessorError)
    status, title = find_problem(type(error))
    code = error.job_code if isinstance(error, JobFailedError) else error.code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request_failed", code=code, cause=str(error))
    if isinstance(error, UnauthorizedError):
        log.info("token_refused", cause=error.cause or "no bearer token was sent")
    detail = describe_publicly(code, str(error))
    if detail != str(error) and await is_admin(request):
        detail = str(error)
    fault = Fault(status, code, title, detail, getattr(error, "job_id", None))
    return make_problem(request, fault, _make_headers(request, error, status))


def _make_headers(request: Request, error: ImageProcessorError, status: int) -> dict[str, str]:
    if isinstance(error, RateLimitedError):
        settings = request.state.service.settings
        limit, window = settings.rate_limit_max_uploads, settings.rate_limit_window
        quota = Quota(limit, remaining=0, reset_at=error.reset_at, window=window)
        return {"Retry-After": str(seconds_to_reset(quota)), **describe_quota(quota)}
    if isinstance(error, UnauthorizedError):  # RFC 6750, section 3
        was_sent = error.cause is not None
        return {"WWW-Authenticate": 'Bearer error="invalid_token"' if was_sent else "Bearer"}
    if isinstance(error, AdminRequiredError):
        return {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    if isinstance(error, errors.UnsupportedEncodingError):
        return {"Accept-Encoding": "identity"}
    if error.retryable or isinstance(error, errors.JobNotReadyError):
        return describe_delay(status)
    return {}


async def _answer_http_exception(request: Request, error: Exception) -> JsonLine:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _find_allowed_methods(request)
    fault = fault_of(HTTPStatus(error.status_code))
    return make_problem(request, fault, headers)


def _find_allowed_methods(request: Request) -> str:
    """Return the methods of *all* routes of this path; Starlette lists only the first route's."""
    methods: set[str] = set()
    routes: list[Any] = request.app.state.routes
    for route in routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= route.methods
    return ", ".join(sorted(methods or {"GET", "HEAD"}))


async def _answer_validation_error(request: Request, error: Exception) -> JsonLine:
    assert isinstance(error, RequestValidationError)
    status, title = find_problem(RequestError)
    details = []
    for fault in error.errors():
        _, *names = fault["loc"]  # the first part is "query" or "path"
        where = ".".join(map(str, names))
        details.append(f"{where}: {fault['msg']}")
    detail = f"{'; '.join(details)}."
    return make_problem(request, Fault(status, RequestError.code, title, detail))


def find_problem(error_class: type[ImageProcessorError]) -> tuple[int, str]:
    """Return the status and title of *error_class*."""
    return next(PROBLEMS[ancestor] for ancestor in error_class.__mro__ if ancestor in PROBLEMS)


def fault_of(status: HTTPStatus) -> Fault:
    """Return a fault for which only the HTTP *status* is known."""
    phrase = PHRASES.get(status, status.phrase)
    code = phrase.lower().replace(" ", "_")
    return Fault(status, code, phrase, f"{status.description}.")


def describe_fault(fault: Fault) -> dict[str, Any]:
    """Return the members of a problem, without the request's id."""
    return {
        "type": f"urn:imageprocessor:error:{fault.code}",
        "title": fault.title,
        "status": fault.status,
        "detail": fault.detail,
        "code": fault.code,
    }


def make_problem(
    request: Request, fault: Fault, headers: dict[str, str] | None = None, **members: Any
) -> JsonLine:
    """Return the response for *fault*, with the user's quota if it has been read.

    *members* are added to the problem: its extensions in the sense of RFC 9457.
    """
    body = {**describe_fault(fault), "request_id": request.state.request_id, **members}
    if fault.job_id is not None:
        body["job_id"] = fault.job_id
    all_headers = {"Cache-Control": "no-store", **describe_preference(request)}
    quota: Quota | None = getattr(request.state, "quota", None)
    if quota is not None:
        all_headers |= describe_quota(quota)
    all_headers |= headers or {}
    return JsonLine(body, fault.status, all_headers, media_type=MEDIA_TYPE)


def describe_delay(status: int) -> dict[str, str]:
    """Return the Retry-After header for *status*, or nothing if a retry would not help."""
    seconds = RETRY_AFTER_SECONDS.get(status)
    return {} if seconds is None else {"Retry-After": str(seconds)}
