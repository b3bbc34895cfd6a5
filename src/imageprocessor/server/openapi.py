"""The parts of ``/openapi.json`` not derived from the routes: problems, the form, security."""

from __future__ import annotations

from copy import deepcopy
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from imageprocessor import errors
from imageprocessor.core.formats.registry import OUTPUT_FORMATS, join_titles
from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.jobs.webhooks import ENDPOINT_NAME
from imageprocessor.queue.uploads import MAX_IDEMPOTENCY_KEY_CHARACTERS
from imageprocessor.server.events.preferences import MAX_WAIT_SECONDS
from imageprocessor.server.problems import MEDIA_TYPE, find_problem
from imageprocessor.server.schemas import Problem
from imageprocessor.settings import MIME_TYPES, Settings
from imageprocessor.storage.keys import BUCKET_PATTERN

VARIANT_CONTENT = {
    output.mime_type: {"schema": {"type": "string", "format": "binary"}}
    for output in OUTPUT_FORMATS.values()
}
ACCEPTED_HEADERS = {
    "X-RateLimit-Limit": "Uploads allowed per user and window.",
    "X-RateLimit-Remaining": "Uploads left in this window.",
    "X-RateLimit-Reset": "When the window ends, for example 2024-11-08T15:00:00Z.",
}
#: Operations that take an id from the response to an upload, and which id they take.
ACCEPTED_LINKS = {
    "getJob": "job_id",
    "getJobResult": "job_id",
    "getJobEvents": "job_id",
    "getImage": "image_id",
    "getImageResult": "image_id",
    "getImageFile": "image_id",
    "deleteImage": "image_id",
}
STATUSES_WITH_RETRY_AFTER = {
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
FORM_FIELDS: dict[str, dict[str, Any]] = {
    "file": {
        "type": "string",
        "format": "binary",
        "description": "The image.",
    },
    "bucket": {
        "type": "string",
        "pattern": f"^{BUCKET_PATTERN.pattern}$",
        "description": "The bucket to store the image in.",
        "examples": ["test-uploads"],
    },
    "metadata": {
        "type": "object",
        "description": (
            "A JSON object of at most 16 KiB and 8 levels; stored and returned as `context`."
        ),
        "examples": [{"context": "test_upload"}],
    },
    "webhook": {
        "type": "string",
        "pattern": f"^{ENDPOINT_NAME.pattern}$",
        "description": "The name of a webhook endpoint that is to receive the image's events.",
    },
}
FORM = {"type": "object", "required": ["file", "bucket"], "properties": FORM_FIELDS}
BATCH_FORM = {
    "type": "object",
    "required": ["files", "bucket"],
    "properties": {
        "files": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": "The images; the parts may also be called `file` or `files[]`.",
        },
        "bucket": FORM_FIELDS["bucket"],
        "metadata": FORM_FIELDS["metadata"],
        "webhook": FORM_FIELDS["webhook"],
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"metadata": {"type": "object"}},
                "additionalProperties": False,
            },
            "description": (
                "An object for each file, in the same order; its `metadata` is added to that of "
                "the batch, and takes precedence."
            ),
            "examples": [[{"metadata": {"caption": "A cat"}}]],
        },
    },
}
IDEMPOTENCY_KEY = {
    "name": "idempotency-key",
    "in": "header",
    "required": False,
    "description": (
        "Makes it safe to repeat the request: the same key and payload return the same job."
    ),
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_IDEMPOTENCY_KEY_CHARACTERS,
        "pattern": "^[ -~]+$",
    },
}

#: See `server.events.preferences`, which reads them.
WAIT_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "wait",
        "in": "query",
        "required": False,
        "description": "Seconds to wait for the job to finish before answering.",
        "schema": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_WAIT_SECONDS,
            "default": 0,
        },
    },
    {
        "name": "prefer",
        "in": "header",
        "required": False,
        "description": (
            "`wait=10` means the same as the parameter, by RFC 7240: a larger number means "
            f"{MAX_WAIT_SECONDS}, and anything malformed is ignored. The answer then has "
            "`Preference-Applied`."
        ),
        "schema": {"type": "string"},
        "example": "wait=10",
    },
]

#: With which one file may be refused, however it was sent.
FILE_ERRORS: tuple[type[ImageProcessorError], ...] = (
    errors.RateLimitedError,
    errors.FileTooLargeError,
    errors.UnsupportedTypeError,
    errors.EmptyFileError,
    errors.TooManyPixelsError,
    errors.DimensionTooLargeError,
    errors.AnimationTooLongError,
    errors.InvalidImageError,
    errors.TruncatedImageError,
    errors.InvalidBucketError,
    errors.UnknownWebhookError,
    errors.InvalidWaitError,
    errors.JobFailedError,
    errors.StorageUnavailableError,
    errors.StorageFullError,
)
#: With which the upload of one file may be refused.
UPLOAD_ERRORS: tuple[type[ImageProcessorError], ...] = (
    errors.UnsupportedEncodingError,
    errors.InvalidFormError,
    errors.TooManyFilesError,
    errors.MissingFileError,
    *FILE_ERRORS,
)

#: Readers may send a token; if PUBLIC_READS is false, :func:`build_openapi` makes it required.
READER_SECURITY: dict[str, Any] = {"security": [{}, {"bearer": []}]}


def problem_responses(*error_classes: type[ImageProcessorError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for *error_classes* and the errors that any route can raise."""
    responses: dict[int | str, dict[str, Any]] = {}
    every: list[type[ImageProcessorError]] = [*error_classes, errors.DatabaseUnavailableError]
    for error_class in every:
        status, title = find_problem(error_class)
        response = responses.setdefault(status, _describe_status(status))
        response["description"] += f"\n- `{error_class.code}`: {title}."
    return responses


def _describe_status(status: int) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    phrase = HTTPStatus(status).phrase
    response: dict[str, Any] = {"description": f"{phrase}:", "content": content}
    if status in STATUSES_WITH_RETRY_AFTER:
        schema = {"type": "integer"}
        header = {"description": "Seconds to wait before retrying.", "schema": schema}
        response["headers"] = {"Retry-After": header}
    return response


def describe_bad_json() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI response for a JSON body that cannot be decoded."""
    status = HTTPStatus.BAD_REQUEST
    described = _describe_status(status)
    described["description"] += "\n- The body is not JSON in UTF-8."
    return {int(status): described}


def describe_upload() -> dict[str, Any]:
    """Return the OpenAPI description of an upload request, which FastAPI does not parse."""
    encoding = {
        "metadata": {"contentType": "application/json"},
    }
    content = {"multipart/form-data": {"schema": FORM, "encoding": encoding}}
    return {
        "security": [{"bearer": []}],
        "parameters": [IDEMPOTENCY_KEY, *WAIT_PARAMETERS],
        "requestBody": {"required": True, "content": content},
    }


def describe_ticket_upload(method: str) -> dict[str, Any]:
    """Return the OpenAPI description of an upload with a ticket, which FastAPI does not parse."""
    binary = {"type": "string", "format": "binary"}
    if method == "PUT":
        content: dict[str, Any] = {name: {"schema": binary} for name in MIME_TYPES}
    else:
        form = {"type": "object", "required": ["file"], "properties": {"file": binary}}
        content = {"multipart/form-data": {"schema": form}}
    return {
        "parameters": WAIT_PARAMETERS,
        "requestBody": {"required": True, "content": content},
    }


def describe_batch_upload() -> dict[str, Any]:
    """Return the OpenAPI description of the upload of a batch, which FastAPI does not parse."""
    encoding = {
        "metadata": {"contentType": "application/json"},
        "items": {"contentType": "application/json"},
    }
    content = {"multipart/form-data": {"schema": BATCH_FORM, "encoding": encoding}}
    return {
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": content},
    }


def describe_accepted() -> dict[str, Any]:
    """Return the OpenAPI headers and links of the response to an accepted upload."""
    links = {
        operation: {"operationId": operation, "parameters": {name: f"$response.body#/{name}"}}
        for operation, name in ACCEPTED_LINKS.items()
    }
    return {**describe_quota_headers(), "links": links}


def describe_quota_headers() -> dict[str, Any]:
    """Return the OpenAPI headers of the response to an accepted upload."""
    headers = {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in ACCEPTED_HEADERS.items()
    }
    return {"headers": headers}


def build_openapi(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the cached OpenAPI document, with sizes and token rules taken from *settings*."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    # Their models take 30 ms, and only this document needs them.
    from imageprocessor.server.routes import webhooks  # noqa: PLC0415

    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        webhooks=webhooks.router.routes,
    )
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    for path in [*document["paths"].values(), *document["webhooks"].values()]:
        for operation in path.values():
            _drop_validation_error(operation)
            _name_sizes(operation, settings)
            _name_formats(operation, settings)
            security = operation.get("security", [])
            if not settings.public_reads and {} in security:  # {} means no token is needed
                security.remove({})
    app.openapi_schema = document
    return document


def _drop_validation_error(operation: dict[str, Any]) -> None:
    """Remove the 422 that FastAPI adds to routes with parameters; this API returns problems."""
    response = operation["responses"].get("422", {})
    if "application/json" in response.get("content", {}):
        del operation["responses"]["422"]


def _name_sizes(operation: dict[str, Any], settings: Settings) -> None:
    if operation["operationId"] == "getImages":  # accepts unknown sizes and reports them as missing
        return
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "size":
            parameter["schema"]["enum"] = [spec.name for spec in settings.image_sizes]


def _name_formats(operation: dict[str, Any], settings: Settings) -> None:
    """Name the accepted formats in the description of an upload."""
    accepted = settings.allowed_mime_types
    body = deepcopy(operation.get("requestBody", {}))
    content = body.get("content", {})
    form = content.get("multipart/form-data")
    if content.keys() == set(MIME_TYPES):  # the body is the image itself
        operation["requestBody"] = body | {"content": {name: content[name] for name in accepted}}
    if form is None:
        return
    properties = form["schema"]["properties"]
    for name in {"file", "files"} & properties.keys():
        form.setdefault("encoding", {})[name] = {"contentType": ", ".join(accepted)}
    if "file" in properties:
        titles = join_titles("or", accepted)
        properties["file"]["description"] = f"The image: {titles}."
    operation["requestBody"] = body
