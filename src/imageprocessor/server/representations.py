"""Converting the queue's jobs to the response bodies that clients receive."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from imageprocessor.errors import ImageProcessorError, describe_publicly, find_class
from imageprocessor.queue.access import Caller
from imageprocessor.queue.batches import BatchProgress
from imageprocessor.queue.job_control import public_status
from imageprocessor.queue.jobs.batch_store import Outcome
from imageprocessor.queue.jobs.description import describe_result, describe_variant, make_url
from imageprocessor.queue.jobs.job import Job
from imageprocessor.server.problems import Fault, describe_fault, find_problem
from imageprocessor.server.schemas import (
    BatchOutcome,
    BatchState,
    FailedJob,
    ImageResult,
    ImageVariant,
    JobState,
    UploadResult,
)

JOBS_URL = "/api/v1/images/jobs"


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
    url = make_url(job.sizes[size], base_url)
    variant = describe_variant(job, size, base_url)
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


def represent_outcome(index: int, outcome: Outcome, root_path: str) -> BatchOutcome:
    """Return the outcome of the file at *index* of a batch, as it was when the batch was sent."""
    if outcome.job_id:
        accepted = {
            "index": index,
            "filename": outcome.filename,
            "status": HTTPStatus.ACCEPTED,
            "job_id": outcome.job_id,
            "image_id": outcome.image_id,
            "status_url": f"{root_path}{JOBS_URL}/{outcome.job_id}",
        }
        return BatchOutcome.model_validate(accepted)
    code = outcome.error_code or ImageProcessorError.code
    status, title = find_problem(find_class(code))
    detail = describe_publicly(code, outcome.error or "")
    refused = {
        "index": index,
        "filename": outcome.filename,
        "status": status,
        "error": describe_fault(Fault(status, code, title, detail)),
    }
    return BatchOutcome.model_validate(refused)


def represent_batch(progress: BatchProgress, caller: Caller) -> BatchState:
    """Return the state of a batch, with its files in the order sent.

    Only admins read the whole of an error, as in :func:`represent_job`.
    """
    batch = progress.batch
    items = []
    for index, outcome in enumerate(batch.outcomes):
        status = progress.describe_status(outcome)
        item: dict[str, Any] = {"index": index, "filename": outcome.filename, "status": status}
        error_code, error = outcome.error_code, outcome.error
        if outcome.job_id:
            item |= {"job_id": outcome.job_id, "image_id": outcome.image_id}
            job = progress.jobs.get(outcome.job_id)
            error_code, error = (job.error_code, job.error) if job else (None, None)
        if error_code and error:
            shown = error if caller.admin else describe_publicly(error_code, error)
            item |= {"error": shown, "error_code": error_code}
        items.append(item)
    state = {
        "batch_id": batch.batch_id,
        "status": "completed" if batch.completed_at else "processing",
        "created_at": batch.created_at,
        "completed_at": batch.completed_at,
        "counts": progress.count_statuses(),
        "items": items,
    }
    return BatchState.model_validate(state)
