"""For the service's operator: whether it is alive and can work, its statistics, failed jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from imageprocessor import errors
from imageprocessor.queue.health import check_health, check_readiness, oldest_open_seconds
from imageprocessor.queue.job_control import list_jobs
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.service import Service
from imageprocessor.queue.statistics import collect_statistics
from imageprocessor.server.dependencies import Admin, CurrentService
from imageprocessor.server.openapi import problem_responses
from imageprocessor.server.representations import represent_failed
from imageprocessor.server.schemas import FailedJobs, Health, Liveness, Statistics

API = "/api/v1/health"
#: More than any check needs to find that a part is away; less than a prober waits.
CHECK_SECONDS = 5.0

Check = Callable[[Service], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of each check, and the age of the oldest open job."""

    checks: dict[str, str]
    oldest_open_job_seconds: float | None = None


router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="getLiveness", summary="Tell whether the process answers")
async def get_liveness() -> Liveness:
    """Depends on nothing: where this fails, restart the process."""
    return Liveness()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Tell whether uploads can be taken",
    responses={503: {"model": Health}},
)
async def get_readiness(request: Request, response: Response, service: CurrentService) -> Health:
    """Answer 503 where a check is not `ok`: send no uploads there for now."""
    return await _answer(request, response, service, check_readiness)


@router.get(
    API, operation_id="getHealth", summary="Check every part", responses={503: {"model": Health}}
)
async def get_health(request: Request, response: Response, service: CurrentService) -> Health:
    """Answer 503 where a check is not `ok`.

    While only the queue is away uploads are taken, and their jobs wait.
    """
    return await _answer(request, response, service, check_health)


async def _answer(request: Request, response: Response, service: Service, check: Check) -> Health:
    findings = await _examine_shared(request.state.examinations, service, check)
    is_healthy = all(result == "ok" for result in findings.checks.values())
    response.status_code = 200 if is_healthy else 503
    return Health(
        status="healthy" if is_healthy else "unhealthy",
        service=service.settings.service_name,
        version=request.app.version,
        checks=findings.checks,
        oldest_open_job_seconds=findings.oldest_open_job_seconds,
    )


async def _examine_shared(
    running: dict[Check, asyncio.Task[Findings]], service: Service, check: Check
) -> Findings:
    """Return the findings of the examination that runs, or else of a new one.

    So while a check hangs, all requests together hold one thread.
    """
    if check not in running or running[check].done():
        examination = to_thread.run_sync(_examine, service, check, abandon_on_cancel=True)
        running[check] = asyncio.ensure_future(examination)
    try:
        return await asyncio.wait_for(asyncio.shield(running[check]), CHECK_SECONDS)
    except TimeoutError:
        fault = f"The checks do not end within {CHECK_SECONDS:g} s: what one of them asks hangs."
        return Findings({"service": fault})


def _examine(service: Service, check: Check) -> Findings:
    checks = check(service)
    if checks["database"] != "ok":
        return Findings(checks)
    return Findings(checks, oldest_open_seconds(service))


@router.get(
    f"{API}/stats",
    operation_id="getStatistics",
    summary="Count jobs",
    responses=problem_responses(),
    response_model_exclude_unset=True,
)
def get_statistics(service: CurrentService) -> Statistics:
    """Aggregates only."""
    return Statistics.model_validate(collect_statistics(service))


@router.get(
    f"{API}/failed",
    operation_id="getFailedJobs",
    summary="List the newest failed jobs",
    responses=problem_responses(
        errors.UnauthorizedError, errors.AdminRequiredError, errors.RequestError
    ),
)
def get_failed_jobs(
    service: CurrentService, _admin: Admin, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> FailedJobs:
    """For admins: job ids are keys to images."""
    failed = list_jobs(service, JobStatus.FAILED, limit)
    jobs = [represent_failed(job) for job in failed]
    return FailedJobs(count=len(jobs), jobs=jobs)
