"""Lists of jobs, and everything about one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from imageprocessor.errors import RequestError
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.job_control import parse_id, read_history, retry_job
from imageprocessor.queue.job_search import JobFilter, retry_matching, search_jobs
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.webhooks import list_job_deliveries
from imageprocessor.server.admin.access import Operator, Viewer
from imageprocessor.server.admin.pages import (
    PAGE_LENGTH,
    AdminRoute,
    Form,
    redirect,
    render_for_admin,
    write_query,
)
from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import ADMIN_PATH

#: What can be searched for, as the names of the form's fields.
FILTERS = ("status", "user", "bucket", "code", "since", "before")

router = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


@router.get("/jobs")
def get_jobs(
    request: Request, service: CurrentService, _viewer: Viewer, after: str | None = None
) -> Response:
    """List the jobs that match the filter in the query, newest first."""
    asked = read_filter_fields(request.query_params)
    page = search_jobs(service, parse_filter(asked), PAGE_LENGTH, after or None)
    return render_for_admin(
        request,
        "jobs.html",
        asked=asked,
        page=page,
        statuses=[status.value for status in JobStatus],
        is_first=not after,
    )


@router.get("/find")
def find_job(request: Request, _viewer: Viewer, id: str = "") -> Response:  # noqa: A002
    """Go to a job by its own id or its image's."""
    return redirect(request, f"/jobs/{parse_id(id.strip())}")


@router.post("/jobs/retry")
def post_retry_matching(
    request: Request,
    service: CurrentService,
    operator: Operator,
    form: Form,
) -> Response:
    """Retry all failed jobs that match the filter in the form."""
    asked = read_filter_fields(form) | {"status": JobStatus.FAILED.value}
    retried = retry_matching(service, parse_filter(asked), operator.user_id)
    notice = "retried_many" if retried.is_complete else "retried_some"
    return redirect(request, f"/jobs?{write_query(asked)}", notice, retried.retried)


@router.get("/jobs/{any_id}")
def get_job(request: Request, service: CurrentService, _viewer: Viewer, any_id: str) -> Response:
    """Show a job, by its own id or its image's: its state, files, timeline and deliveries."""
    job, events = read_history(service, any_id)
    job_id = job.job_id if job else events[0]["job_id"]
    return render_for_admin(
        request,
        "job.html",
        job=job,
        job_id=job_id,
        image_id=job.image_id if job else events[0]["image_id"],
        files=list_files(job) if job else [],
        events=events,
        deliveries=list_job_deliveries(service, job_id),
    )


@router.post("/jobs/{job_id}/retry")
def post_retry(
    request: Request, service: CurrentService, operator: Operator, job_id: str
) -> Response:
    """Retry a failed job."""
    job = retry_job(service, job_id, operator.user_id)
    return redirect(request, f"/jobs/{job.job_id}", "retried")


@router.post("/images/{image_id}/delete")
def post_delete(
    request: Request, service: CurrentService, operator: Operator, image_id: str
) -> Response:
    """Delete an image, whatever state its job is in."""
    delete_image(service, image_id, operator)
    return redirect(request, f"/jobs/{image_id}", "deleted")


def read_filter_fields(fields: Any) -> dict[str, str]:
    """Return what *fields* has of FILTERS, without spaces around it."""
    return {name: fields.get(name, "").strip() for name in FILTERS}


def parse_filter(asked: dict[str, str]) -> JobFilter:
    """Return the filter that *asked* describes.

    Raises:
        RequestError: A status or time is not one.
    """
    status = asked["status"]
    if status and status not in list(JobStatus):
        raise RequestError(f"{status[:40]!r} is not a status. Known: {', '.join(JobStatus)}.")
    return JobFilter(
        status=JobStatus(status) if status else None,
        user_id=asked["user"] or None,
        bucket=asked["bucket"] or None,
        error_code=asked["code"] or None,
        created_after=_parse_time(asked["since"]),
        created_before=_parse_time(asked["before"]),
    )


def list_files(job: Job) -> list[dict[str, Any]]:
    """Return what is known of each file of a completed job, with its ``name``."""
    files = [{"name": name, **job.describe_file(name)} for name in job.variant_keys or {}]
    return sorted(files, key=lambda file: (file["width"], file["size_bytes"]))


def _parse_time(text: str) -> datetime | None:
    """Return a time of a form's field, which is in UTC unless it says otherwise."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"{text[:40]!r} is not a time. Write one as 2024-11-08T14:00, in UTC."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
