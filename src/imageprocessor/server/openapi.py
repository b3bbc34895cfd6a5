"""What ``/openapi.json`` says beyond the routes' own signatures.

Problems, the upload's form, who must send a token.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.openapi.utils import get_openapi

from imageprocessor import errors
from imageprocessor.core.formats.registry import OUTPUT_FORMAT, join_titles
from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.images import MAX_BATCH
from imageprocessor.queue.uploads import MAX_IDEMPOTENCY_KEY_CHARACTERS
from imageprocessor.server.problems import MEDIA_TYPE, find_problem
from imageprocessor.server.schemas import IMAGE_ID, JOB_ID, Problem
from imageprocessor.settings import MIME_TYPES, Settings
from imageprocessor.storage.keys import BUCKET_PATTERN

UUID_PATTERN = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
VARIANT_CONTENT = {OUTPUT_FORMAT.mime_type: {"schema": {"type": "string", "format": "binary"}}}
ACCEPTED_HEADERS = {
    "X-RateLimit-Limit": "Uploads of one user in one window.",
    "X-RateLimit-Remaining": "What is left of them.",
    "X-RateLimit-Reset": "When the window ends, such as 2024-11-08T15:00:00Z.",
}
#: Which id in the answer to an upload each further operation takes.
ACCEPTED_LINKS = {
    "getJob": "job_id",
    "getJobResult": "job_id",
    "getImage": "image_id",
    "getImageResult": "image_id",
    "getImageFile": "image_id",
    "deleteImage": "image_id",
}
FORM = {
    "type": "object",
    "required": ["file", "bucket"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": f"The picture: {join_titles('or')}.",
        },
        "bucket": {
            "type": "string",
            "pattern": f"^{BUCKET_PATTERN.pattern}$",
            "description": "Where it is stored.",
            "examples": ["test-uploads"],
        },
        "metadata": {
            "type": "object",
            "description": "A JSON object of at most 16 KiB, nested 8 deep at most; kept and given back.",
            "examples": [{"context": "test_upload"}],
        },
    },
}
IDEMPOTENCY_KEY = {
    "name": "idempotency-key",
    "in": "header",
    "required": False,
    "description": "Makes repeating the request harmless: the same key and payload give the same job.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_IDEMPOTENCY_KEY_CHARACTERS,
        "pattern": "^[ -~]+$",
    },
}

JobId = Annotated[str, Path(json_schema_extra={"format": "uuid", "examples": [JOB_ID]})]
ImageId = Annotated[str, Path(json_schema_extra={"format": "uuid", "examples": [IMAGE_ID]})]
ImageIds = Annotated[
    str,
    Query(
        description=f"1 to {MAX_BATCH} ids, separated by commas.",
        json_schema_extra={
            "pattern": f"^{UUID_PATTERN}(,{UUID_PATTERN}){{0,{MAX_BATCH - 1}}}$",
            "examples": [IMAGE_ID],
        },
    ),
]
Size = Annotated[
    str, Query(description="One of the sizes that the service makes.", examples=["medium"])
]


def problem_responses(*error_classes: type[ImageProcessorError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for the errors that a route raises.

    And for those that every route may raise.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    every: list[type[ImageProcessorError]] = [*error_classes, errors.DatabaseUnavailableError]
    for error_class in every:
        status, title = find_problem(error_class)
        response = responses.setdefault(status, _describe_status(status))
        response["description"] += f"\n- `{error_class.code}`: {title}."
    return responses


def describe_upload() -> dict[str, Any]:
    """Return what OpenAPI says of the upload's request, which the server reads itself.

    FastAPI knows nothing of it.
    """
    encoding = {
        "file": {"contentType": ", ".join(MIME_TYPES)},
        "metadata": {"contentType": "application/json"},
    }
    content = {"schema": FORM, "encoding": encoding}
    return {
        "security": [{"bearer": []}],
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": {"multipart/form-data": content}},
    }


def describe_accepted() -> dict[str, Any]:
    """Return the OpenAPI headers of the answer to an accepted upload, and where its ids lead."""
    headers = {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in ACCEPTED_HEADERS.items()
    }
    links = {
        operation: {"operationId": operation, "parameters": {name: f"$response.body#/{name}"}}
        for operation, name in ACCEPTED_LINKS.items()
    }
    return {"headers": headers, "links": links}


def build_openapi(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the document, made once, as *settings* have it.

    The sizes there are, and who must send a token.
    """
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        for operation in (
            operation for path in schema["paths"].values() for operation in path.values()
        ):
            _drop_foreign_errors(operation)
            _name_sizes(operation, settings)
            if not settings.public_reads and {} in operation.get("security", []):
                operation["security"].remove({})
        app.openapi_schema = schema
    return app.openapi_schema


def _describe_status(status: int) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    response: dict[str, Any] = {"description": f"{HTTPStatus(status).phrase}:", "content": content}
    if status in {
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    }:
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    return response


def _drop_foreign_errors(operation: dict[str, Any]) -> None:
    """Remove the 422 that FastAPI adds to whatever has a parameter.

    This API answers with problems only.
    """
    if "application/json" in operation["responses"].get("422", {}).get("content", {}):
        del operation["responses"]["422"]


def _name_sizes(operation: dict[str, Any], settings: Settings) -> None:
    for parameter in operation.get("parameters", []):
        if (
            parameter["name"] == "size" and operation["operationId"] != "getImages"
        ):  # that refuses none
            parameter["schema"]["enum"] = [spec.name for spec in settings.image_sizes]
