"""Converting the queue's jobs to the response bodies that clients receive."""

from __future__ import annotations

from typing import Any

from imageprocessor.errors import describe_publicly
from imageprocessor.queue.access import Caller
from imageprocessor.queue.job_control import public_status
from imageprocessor.queue.jobs.description import describe_result, make_url
from imageprocessor.queue.jobs.job import Job
from imageprocessor.server.schemas import (
    FailedJob,
    ImageResult,
    ImageVariant,
    JobState,
    UploadResult,
)


def represent_job(job: Job, caller: Caller) -> JobState:
    """Return the state of *job*, including its context if *caller* owns it.

    Only admins read the whole error, which may describe the inside of the service.
    """
    error = job.error
    if error and not caller.admin:
        error = describe_publicly(job.error_code, error)
    state: dict[str, Any] = {
        "job_id": job.job_id,
        "image_id": job.image_id,
        "status": public_status(job),
        "created_at": job.created_at,
        "completed_at": job.completed_at,
        "error": error,
        "error_code": job.error_code,
        "attempts": job.attempts,
    }
    if caller.owns(job):
        state["context"] = job.context
    return JobState.model_validate(state)


def represent_result(job: Job, caller: Caller, base_url: str) -> ImageResult:
    """Return the result of the completed *job*, including its context if *caller* owns it."""
    result = describe_result(job, base_url)
    if caller.owns(job):
        result["context"] = job.context
    return ImageResult.model_validate(result)


def represent_upload(job: Job, caller: Caller, base_url: str) -> UploadResult:
    """Return the result of the completed *job* to the request that uploaded its image."""
    result = represent_result(job, caller, base_url)
    return UploadResult(job_id=job.job_id, **result.model_dump(exclude_unset=True))


def represent_variant(job: Job, size: str, base_url: str) -> ImageVariant:
    """Return the variant *size* of the completed *job*."""
    keys = job.variant_keys or {}
    generated = job.generated or {}
    url = make_url(keys[size], base_url)
    variant = generated["variants"][size]
    return ImageVariant(image_id=job.image_id, size=size, url=url, **variant)


def represent_failed(job: Job) -> FailedJob:
    """Return a failed *job* as admins see it."""
    return FailedJob(
        job_id=job.job_id,
        image_id=job.image_id,
        error_code=job.error_code,
        error=job.error,
        attempts=job.attempts,
        created_at=job.created_at,
        failed_at=job.completed_at,
    )
