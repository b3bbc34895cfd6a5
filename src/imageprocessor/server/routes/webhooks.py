"""What the service posts to webhooks: the section `webhooks` of the OpenAPI document.

These are requests to receivers, not to this service: it has no such routes.
"""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from imageprocessor.server.schemas import BATCH_ID, IMAGE_ID, JOB_ID, RESULT, ImageMetadata, example

EVENT_ID = "0199c6f2-8a4d-7f6b-9c1e-2d7a5b8c0e13"
HAPPENED = {"id": EVENT_ID, "timestamp": "2024-11-08T14:00:05Z"}
SUBJECT = {"job_id": JOB_ID, "image_id": IMAGE_ID, "bucket": "photos"}
CONTEXT = {"album": "summer"}
CONTEXT_NOTE = "The `metadata` of the upload; left out if the body would exceed 20 kB."


class Event(BaseModel):
    """What every event says of itself."""

    id: str = Field(description="As in the header `webhook-id`.")
    timestamp: datetime = Field(description="When it happened.")


class ImageEvent(Event):
    """What every event of an image says."""

    job_id: str
    image_id: str
    bucket: str


class ImageAccepted(ImageEvent):
    """An upload was accepted."""

    model_config = example(
        type="image.accepted", **HAPPENED, **SUBJECT, status="pending", context=CONTEXT
    )

    type: Literal["image.accepted"]
    status: Literal["pending"]
    context: dict[str, Any] | None = Field(None, description=CONTEXT_NOTE)


class ImageCompleted(ImageEvent):
    """The result of an image, as its job's `/result` has it."""

    model_config = example(
        type="image.completed", **HAPPENED, **{**SUBJECT, **RESULT}, context=CONTEXT
    )

    type: Literal["image.completed"]
    status: Literal["completed"]
    urls: dict[str, str] = Field(description="With a host only if PUBLIC_BASE_URL is set.")
    srcset: dict[str, str] = Field(description="Values of an HTML `srcset` by MIME type.")
    metadata: ImageMetadata
    completed_at: datetime
    context: dict[str, Any] | None = Field(None, description=CONTEXT_NOTE)


class ImageFailed(ImageEvent):
    """Why an image could not be processed."""

    model_config = example(
        type="image.failed",
        **HAPPENED,
        **SUBJECT,
        status="failed",
        error="The image ends early. Send the complete file.",
        error_code="image_truncated",
        completed_at="2024-11-08T14:00:05Z",
        context=CONTEXT,
    )

    type: Literal["image.failed"]
    status: Literal["failed"]
    error: str = Field(description="The cause, in a sentence.")
    error_code: str = Field(description="The cause, for programs.")
    completed_at: datetime = Field(description="When the job ended.")
    context: dict[str, Any] | None = Field(None, description=CONTEXT_NOTE)


class ImageDeleted(ImageEvent):
    """An image was deleted."""

    model_config = example(type="image.deleted", **HAPPENED, **SUBJECT, status="deleted")

    type: Literal["image.deleted"]
    status: Literal["deleted"]


class EndedFile(BaseModel):
    """How a file of a batch ended."""

    index: int = Field(description="The file's place in the form, from 0.")
    status: Literal["completed", "failed", "deleted", "refused"]
    job_id: str | None = None
    image_id: str | None = None
    error_code: str | None = None


class BatchCompleted(Event):
    """How the files of a batch ended."""

    model_config = example(
        type="batch.completed",
        **HAPPENED,
        batch_id=BATCH_ID,
        bucket="photos",
        status="completed",
        counts={"completed": 1, "failed": 0, "deleted": 0, "refused": 1},
        items=[
            {"index": 0, "status": "completed", "job_id": JOB_ID, "image_id": IMAGE_ID},
            {"index": 1, "status": "refused", "error_code": "type_unsupported"},
        ],
    )

    type: Literal["batch.completed"]
    batch_id: str
    bucket: str
    status: Literal["completed"]
    counts: dict[str, int]
    items: list[EndedFile]


Id = Annotated[
    str,
    Header(
        alias="webhook-id",
        description="The event's id, the same at each try.",
        examples=[EVENT_ID],
    ),
]
Timestamp = Annotated[
    int,
    Header(
        alias="webhook-timestamp",
        description="When this try was sent, in seconds since 1970.",
        examples=[1731074405],
    ),
]
Signature = Annotated[
    str,
    Header(
        alias="webhook-signature",
        description=(
            "`v1,` and the HMAC-SHA256 of `webhook-id.webhook-timestamp.body` in base64 (Standard "
            "Webhooks 1.0). Two of them, with a space between, while a secret is replaced."
        ),
        examples=["v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="],
    ),
]

router = APIRouter(tags=["webhooks"])
RECEIVED: dict[str, Any] = {
    "status_code": HTTPStatus.NO_CONTENT,
    "response_description": "Received. After any status but 2xx, it is sent again.",
}


@router.post("image.accepted", operation_id="receiveImageAccepted", **RECEIVED)
def image_accepted(
    event: ImageAccepted, event_id: Id, timestamp: Timestamp, signature: Signature
) -> None:
    """An upload is safe; its image will be processed."""


@router.post("image.completed", operation_id="receiveImageCompleted", **RECEIVED)
def image_completed(
    event: ImageCompleted, event_id: Id, timestamp: Timestamp, signature: Signature
) -> None:
    """All sizes of an image can be read."""


@router.post("image.failed", operation_id="receiveImageFailed", **RECEIVED)
def image_failed(
    event: ImageFailed, event_id: Id, timestamp: Timestamp, signature: Signature
) -> None:
    """An image could not be processed."""


@router.post("image.deleted", operation_id="receiveImageDeleted", **RECEIVED)
def image_deleted(
    event: ImageDeleted, event_id: Id, timestamp: Timestamp, signature: Signature
) -> None:
    """An image was deleted."""


@router.post("batch.completed", operation_id="receiveBatchCompleted", **RECEIVED)
def batch_completed(
    event: BatchCompleted, event_id: Id, timestamp: Timestamp, signature: Signature
) -> None:
    """Each job of a batch has ended, or its image was deleted."""
