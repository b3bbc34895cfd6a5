"""From jobs, as the queue knows them, to the bodies that clients see."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from imageprocessor.queue.access import Caller
from imageprocessor.queue.job_control import shown_status
from imageprocessor.queue.jobs.job import Job
from imageprocessor.server.schemas import FailedJob, ImageResult, ImageVariant, JobState


def answer(
    body: BaseModel, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return *body* as JSON, without what was not set.

    FastAPI would check again what was checked when it was built.
    """
    return Response(
        body.model_dump_json(exclude_unset=True), status, headers, media_type="application/json"
    )


def represent_job(job: Job, caller: Caller) -> JobState:
    """Return the state of *job*."""
    return JobState.model_validate(
        {
            "job_id": job.job_id,
            "image_id": job.image_id,
            "status": shown_status(job),
            "created_at": job.created_at,
            "completed_at": job.completed_at,
            "error": job.error,
            "error_code": job.error_code,
            "attempts": job.attempts,
            **_context(job, caller),
        }
    )


def represent_result(job: Job, caller: Caller, base_url: str) -> ImageResult:
    """Return what became of the completed *job*, with every URL after *base_url*."""
    return ImageResult.model_validate(
        {
            "image_id": job.image_id,
            "status": job.status,
            "urls": {size: _url(key, base_url) for size, key in (job.variant_keys or {}).items()},
            "metadata": job.generated,
            "completed_at": job.completed_at,
            **_context(job, caller),
        }
    )


def represent_variant(job: Job, size: str, base_url: str) -> ImageVariant:
    """Return one *size* of the completed *job*."""
    keys, generated = job.variant_keys or {}, job.generated or {}
    url = _url(keys[size], base_url)
    return ImageVariant(image_id=job.image_id, size=size, url=url, **generated["variants"][size])


def represent_failed(job: Job) -> FailedJob:
    """Return a failed *job* for whoever looks into it."""
    return FailedJob(
        job_id=job.job_id,
        image_id=job.image_id,
        error_code=job.error_code,
        error=job.error,
        attempts=job.attempts,
        created_at=job.created_at,
        failed_at=job.completed_at,
    )


def _url(key: str, base_url: str) -> str:
    return f"{base_url}/storage/{key}"


def _context(job: Job, caller: Caller) -> dict[str, Any]:
    return {"context": job.context} if caller.owns(job) else {}
