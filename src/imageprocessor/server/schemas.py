"""The API's JSON bodies. Field names and examples come from the specification."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imageprocessor.queue.jobs.webhooks import ENDPOINT_NAME
from imageprocessor.storage.keys import BUCKET_PATTERN

JOB_ID = "0b1f6c1e-5f0e-4d8e-9c57-3a6f1d2b7c90"
IMAGE_ID = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
BATCH_ID = "01930c1e-3a00-7f0c-9d52-6a8e1f4b2c73"
REFUSED = {
    "type": "urn:imageprocessor:error:type_unsupported",
    "title": "The file type is not accepted",
    "status": 415,
    "detail": "The file is image/gif. Send one of image/jpeg, image/png, image/webp.",
    "code": "type_unsupported",
}
Format = Literal["avif", "webp", "jpeg", "png"]
ALTERNATES_NOTE = "The same image in the other formats of its size; missing if there are none."
FRAMES_NOTE = "Only of an animation: its number of frames."
DURATION_NOTE = "Only of an animation: how long it plays once."
CONTEXT_NOTE = "The `metadata` sent with the upload; visible only to its owner and admins."


def example(**body: Any) -> ConfigDict:
    """Return a model configuration with an example for the API documentation."""
    return ConfigDict(json_schema_extra={"examples": [body]})


ACCEPTED = "Upload accepted. Processing initiated."


class UploadAccepted(BaseModel):
    """A durable upload that will be processed."""

    model_config = example(
        job_id=JOB_ID,
        image_id=IMAGE_ID,
        status_url=f"/api/v1/images/jobs/{JOB_ID}",
        message=ACCEPTED,
    )

    job_id: str
    image_id: str
    status_url: str
    message: str


class TicketRequest(BaseModel):
    """What one upload with a ticket may be."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"bucket": "photos", "expires_in": 600}]}
    )

    bucket: str = Field(
        description="The bucket of the image.",
        json_schema_extra={"pattern": f"^{BUCKET_PATTERN.pattern}$"},
    )
    metadata: dict[str, Any] | None = Field(None, description=CONTEXT_NOTE)
    max_bytes: int | None = Field(
        None, ge=1, description="A limit below MAX_UPLOAD_SIZE_MB for this upload."
    )
    expires_in: int = Field(
        600, ge=1, le=3600, description="Seconds until the ticket can no longer be used."
    )
    sub: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="The user who will own the image; only admins may name another.",
    )
    webhook: str | None = Field(
        None,
        description="The name of a webhook endpoint that is to receive the image's events.",
        json_schema_extra={"pattern": f"^{ENDPOINT_NAME.pattern}$"},
    )
    direct: bool = Field(
        False, description="Send the file straight to S3; only if the service stores images there."
    )
    size: int | None = Field(
        None,
        ge=1,
        description="The file's size in bytes, if it is known; required for a direct PUT.",
    )


class DirectRequest(BaseModel):
    """The request that sends the file straight to S3, without a token."""

    method: Literal["POST", "PUT"]
    url: str = Field(description="Absolute: S3 is another host.")
    fields: dict[str, str] | None = Field(
        None, description="Of a POST: the fields of the form, in front of the part `file`."
    )
    headers: dict[str, str] | None = Field(None, description="Of a PUT: the headers to send.")
    max_bytes: int = Field(description="Of the file.")


class IssuedTicket(BaseModel):
    """An address that accepts one image without a token."""

    model_config = example(
        upload_url=f"/api/v1/uploads/{IMAGE_ID}?ticket=eyJhbGciOi…",
        image_id=IMAGE_ID,
        expires_at="2026-11-27T12:10:00Z",
    )

    upload_url: str = Field(description="Relative to the address of the service.")
    image_id: str = Field(description="The id that the image will have.")
    expires_at: datetime
    direct: DirectRequest | None = Field(
        None, description="Only if the ticket was to be direct; `upload_url` works, too."
    )
    complete_url: str | None = Field(
        None, description="To be called when the file is in S3; relative like `upload_url`."
    )


class Fault(BaseModel):
    """Why a file of a batch was refused: a problem without the request's id."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable identifier of the cause, for programs.")


class BatchOutcome(BaseModel):
    """What became of one file: 202 and the ids of its job, or why it was refused."""

    index: int = Field(description="The file's place in the form, from 0.")
    filename: str | None = Field(description="As it was sent, at most 255 characters of it.")
    status: int = Field(description="202, or the status of `error`.")
    job_id: str | None = None
    image_id: str | None = None
    status_url: str | None = None
    error: Fault | None = None


class BatchAccepted(BaseModel):
    """The outcomes of all files, in the order sent. The accepted ones are durable."""

    model_config = example(
        batch_id=BATCH_ID,
        status_url=f"/api/v1/batches/{BATCH_ID}",
        accepted=1,
        refused=1,
        items=[
            {
                "index": 0,
                "filename": "cat.jpg",
                "status": 202,
                "job_id": JOB_ID,
                "image_id": IMAGE_ID,
                "status_url": f"/api/v1/images/jobs/{JOB_ID}",
            },
            {"index": 1, "filename": "notes.txt", "status": 415, "error": REFUSED},
        ],
    )

    batch_id: str
    status_url: str
    accepted: int
    refused: int
    items: list[BatchOutcome]


class BatchCounts(BaseModel):
    """How many files of a batch are in each status."""

    pending: int
    processing: int
    completed: int
    failed: int
    deleted: int
    refused: int


class BatchItem(BaseModel):
    """The state of one file of a batch."""

    index: int = Field(description="The file's place in the form, from 0.")
    filename: str | None
    status: Literal["pending", "processing", "completed", "failed", "deleted", "refused"]
    job_id: str | None = None
    image_id: str | None = None
    error: str | None = Field(
        None, description="Why the file was refused or its last attempt failed, in a sentence."
    )
    error_code: str | None = None


class BatchState(BaseModel):
    """The state of a batch. It is `completed` once each of its jobs has ended or was deleted."""

    model_config = example(
        batch_id=BATCH_ID,
        status="completed",
        created_at="2024-11-08T14:00:00Z",
        completed_at="2024-11-08T14:00:05Z",
        counts={
            "pending": 0,
            "processing": 0,
            "completed": 1,
            "failed": 0,
            "deleted": 0,
            "refused": 1,
        },
        items=[
            {
                "index": 0,
                "filename": "cat.jpg",
                "status": "completed",
                "job_id": JOB_ID,
                "image_id": IMAGE_ID,
            },
            {
                "index": 1,
                "filename": "notes.txt",
                "status": "refused",
                "error": REFUSED["detail"],
                "error_code": REFUSED["code"],
            },
        ],
    )

    batch_id: str
    status: Literal["processing", "completed"]
    created_at: datetime
    completed_at: datetime | None = Field(description="When the last of its jobs had ended.")
    counts: BatchCounts
    items: list[BatchItem] = Field(description="In the order sent.")


class JobState(BaseModel):
    """The state of a job."""

    model_config = example(
        job_id=JOB_ID,
        image_id=IMAGE_ID,
        status="completed",
        created_at="2024-11-08T14:00:00Z",
        completed_at="2024-11-08T14:00:05Z",
        error=None,
        error_code=None,
        attempts=1,
    )

    job_id: str
    image_id: str
    status: Literal["pending", "processing", "completed", "failed"]
    created_at: datetime
    completed_at: datetime | None = Field(description="When the job completed or failed.")
    error: str | None = Field(description="Why the last attempt failed, in a sentence.")
    error_code: str | None
    attempts: int
    context: dict[str, Any] | None = Field(None, description=CONTEXT_NOTE)


class Dimensions(BaseModel):
    """Width and height in pixels, after the image's orientation is applied."""

    width: int
    height: int


class FileMetadata(BaseModel):
    """One file: dimensions in pixels, aspect ratio (width divided by height), and bytes."""

    width: int
    height: int
    aspect_ratio: float
    format: Format
    size_bytes: int
    frames: int | None = Field(None, description=FRAMES_NOTE)
    duration_seconds: float | None = Field(None, description=DURATION_NOTE)


class Placeholder(BaseModel):
    """What to show in the place of an image until it is loaded; a page needs one of the two."""

    thumbhash: str = Field(description="A ThumbHash, in Base64.")
    data_url: str = Field(description="A tiny WebP as a data URL of at most 400 characters.")


class Alternate(FileMetadata):
    """The same image in another format."""

    url: str


class VariantMetadata(FileMetadata):
    """One size."""

    alternates: list[Alternate] = Field([], description=ALTERNATES_NOTE)


class ImageMetadata(BaseModel):
    """What is known about an image besides its files.

    The fields with a default are absent if an earlier version of the service processed the image.
    """

    dominant_color: str
    palette: list[str] = Field(
        [], description="Up to five colours, the most frequent first, each as `#RRGGBB`."
    )
    placeholder: Placeholder | None = None
    has_alpha: bool | None = Field(None, description="Whether some pixel is not opaque.")
    animated: bool | None = Field(None, description="Whether the upload has several frames.")
    original_dimensions: Dimensions
    variants: dict[str, VariantMetadata]
    warnings: list[str] = Field(description="What was lost, for example `animation_flattened`.")
    removed: list[str] = Field(
        [], description="Kinds of metadata removed from the upload, for example `gps`."
    )
    responsive: list[str] = Field(
        [], description="The sizes that `srcset` is made of, the narrowest first."
    )


VARIANTS = {
    name: {
        "width": width,
        "height": height,
        "aspect_ratio": 0.75,
        "format": "webp",
        "size_bytes": size_bytes,
    }
    for name, width, height, size_bytes in (
        ("thumbnail", 150, 200, 12453),
        ("medium", 600, 800, 73120),
        ("large", 1200, 1600, 241876),
        ("original", 3024, 4032, 1320417),
    )
}
URLS = {name: f"/storage/bucket/processed/{name}/{IMAGE_ID}_{name}.webp" for name in VARIANTS}
SRCSET = {
    "image/webp": ", ".join(f"{URLS[name]} {size['width']}w" for name, size in VARIANTS.items())
}


TINY_WEBP = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"
RESULT = {
    "image_id": IMAGE_ID,
    "status": "completed",
    "urls": URLS,
    "srcset": SRCSET,
    "metadata": {
        "dominant_color": "#3A5F8C",
        "palette": ["#3A5F8C", "#E8D9C4", "#1F2A38"],
        "placeholder": {
            "thumbhash": "HecNFQJWeH+KR2g3iIWod5VwYigH",
            "data_url": f"data:image/webp;base64,{TINY_WEBP}",
        },
        "has_alpha": False,
        "animated": False,
        "original_dimensions": {"width": 3024, "height": 4032},
        "variants": VARIANTS,
        "warnings": [],
        "removed": ["exif", "gps", "icc", "thumbnail", "xmp"],
        "responsive": list(VARIANTS),
    },
    "completed_at": "2024-11-08T14:00:05Z",
}


class ImageResult(BaseModel):
    """All sizes of an image."""

    model_config = example(**RESULT)

    image_id: str
    status: Literal["completed"]
    urls: dict[str, str]
    srcset: dict[str, str] = Field(
        {},
        description=(
            "Values of an HTML `srcset` by MIME type, smaller files first: one URL for each width "
            "in which the whole image was made."
        ),
    )
    metadata: ImageMetadata
    completed_at: datetime
    context: dict[str, Any] | None = Field(None, description=CONTEXT_NOTE)


class UploadResult(ImageResult):
    """The result of an upload that waited for its job."""

    model_config = example(job_id=JOB_ID, **RESULT)

    job_id: str


class ImageVariant(BaseModel):
    """One size of an image."""

    model_config = example(
        image_id=IMAGE_ID, size="medium", url=URLS["medium"], **VARIANTS["medium"]
    )

    image_id: str
    size: str
    url: str
    width: int
    height: int
    aspect_ratio: float
    format: Format
    size_bytes: int
    alternates: list[Alternate] = Field([], description=ALTERNATES_NOTE)
    frames: int | None = Field(None, description=FRAMES_NOTE)
    duration_seconds: float | None = Field(None, description=DURATION_NOTE)


class ImageBatch(BaseModel):
    """One size of several images."""

    images: list[ImageVariant] = Field(description="In the order requested.")
    missing: list[str] = Field(
        description="Ids not available: unknown, deleted, not finished, or without that size."
    )


class Index(BaseModel):
    """What this service is, and the paths of its documentation."""

    model_config = example(
        service="image-processor", version="1.0.0", docs="/docs", openapi="/openapi.json"
    )

    service: str
    version: str
    docs: str
    openapi: str


class Liveness(BaseModel):
    """The process responds."""

    model_config = example(status="alive")

    status: Literal["alive"] = "alive"


class Health(BaseModel):
    """The results of the checks, and the age of the oldest open job."""

    model_config = example(
        status="healthy",
        service="image-processor",
        version="1.0.0",
        checks={"database": "ok", "storage": "ok", "queue": "ok"},
        oldest_open_job_seconds=1.5,
    )

    status: Literal["healthy", "unhealthy"]
    service: str
    version: str
    checks: dict[str, str] = Field(description="`ok`, or the code and text of an error.")
    oldest_open_job_seconds: float | None = Field(
        description="Age of the oldest job that has not finished."
    )


class Performance(BaseModel):
    """Jobs completed in the last 24 hours."""

    completed_24h: int
    avg_processing_time_seconds: float | None


class StorageFigures(BaseModel):
    """How many images and jobs are stored."""

    total_images: int
    total_jobs: int


class WorkerFigures(BaseModel):
    """The running workers, and how many jobs they are processing."""

    backend: str
    active_workers: int
    active_tasks: int


class WebhookFigures(BaseModel):
    """The endpoints of webhooks, and the deliveries that wait for them."""

    endpoints: int
    disabled: int
    failing: int = Field(description="Endpoints that have accepted nothing since a failure.")
    waiting: int = Field(description="Deliveries not yet accepted; counted up to 1000.")
    oldest_waiting_seconds: float | None = Field(
        description="Age of the oldest event that waits, also for a disabled endpoint."
    )


class EventFigures(BaseModel):
    """How far the feed of events is behind."""

    lag_seconds: float = Field(
        description=(
            "Age of the oldest event that the feed does not show yet, because of a transaction in "
            "progress in PostgreSQL."
        )
    )


class Statistics(BaseModel):
    """Jobs by status, performance in the last 24 hours, totals, workers, webhooks, and events."""

    model_config = example(
        status_breakdown={
            "completed": 1543,
            "pending": 2,
            "processing": 1,
            "failed": 12,
            "retrying": 0,
        },
        performance_24h={"completed_24h": 234, "avg_processing_time_seconds": 4.23},
        storage={"total_images": 1543, "total_jobs": 1558},
        workers={"backend": "embedded", "active_workers": 4, "active_tasks": 1},
        paused_since=None,
        webhooks={
            "endpoints": 1,
            "disabled": 0,
            "failing": 0,
            "waiting": 3,
            "oldest_waiting_seconds": 1.8,
        },
        events={"lag_seconds": 0.0},
    )

    status_breakdown: dict[str, int]
    performance_24h: Performance
    storage: StorageFigures
    workers: WorkerFigures
    paused_since: datetime | None = Field(
        description="When an operator paused the workers; null while they are not paused."
    )
    webhooks: WebhookFigures
    events: EventFigures
    celery: WorkerFigures | None = Field(
        None, description="The same as `workers`; present only if Celery runs the jobs."
    )


class EventPage(BaseModel):
    """Some events, oldest first, and where the next page begins."""

    model_config = example(
        events=[
            {
                "id": "0199c6f2-8a4d-7f6b-9c1e-2d7a5b8c0e13",
                "type": "image.completed",
                "timestamp": "2024-11-08T14:00:05Z",
                "job_id": JOB_ID,
                "bucket": "photos",
                **RESULT,
                "context": {"album": "summer"},
            }
        ],
        next="0-1543",
    )

    events: list[dict[str, Any]]
    next: str = Field(description="Send it as `after` to read what follows.")


class FailedJob(BaseModel):
    """A failed job."""

    job_id: str
    image_id: str
    error_code: str | None
    error: str | None
    attempts: int
    created_at: datetime
    failed_at: datetime | None


class FailedJobs(BaseModel):
    """The newest failed jobs."""

    count: int
    jobs: list[FailedJob] = Field(description="Newest first.")


class Problem(Fault):
    """An error response in the format of RFC 9457."""

    model_config = example(**REFUSED, request_id="7c9d2f4e1b3a4c5d8e6f0a1b2c3d4e5f")

    request_id: str
    job_id: str | None = Field(None, description="The job that failed, if one did.")
