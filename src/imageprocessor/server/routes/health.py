"""Health checks, statistics and failed jobs, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import structlog
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from imageprocessor import errors
from imageprocessor.errors import ImageProcessorError, describe_publicly
from imageprocessor.queue.health import Faults, check_health, check_readiness, oldest_open_seconds
from imageprocessor.queue.job_search import JobFilter, search_jobs
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.service import Service
from imageprocessor.queue.statistics import collect_statistics
from imageprocessor.server.auth import is_admin
from imageprocessor.server.dependencies import Admin, CurrentService
from imageprocessor.server.openapi import problem_responses
from imageprocessor.server.representations import represent_failed
from imageprocessor.server.responses import JsonLine
from imageprocessor.server.schemas import FailedJobs, Health, Liveness, Statistics

API = "/api/v1/health"
#: Longer than any check needs to notice an outage; shorter than a prober's timeout.
CHECK_SECONDS = 5.0

#: For so long, answers are repeated: these routes are open to anyone. With 20 clients that each ask
#: twice a second, beside a million jobs, uploads kept 0.75 of their rate without it.
REPEAT_SECONDS = 0.5

Check = Callable[[Service], Faults]
Found = TypeVar("Found")


class Run(NamedTuple):
    """A call of a function in a thread, and when it began, on the loop's clock."""

    task: asyncio.Task[Any]
    began_at: float


Runs = dict[str, Run]  #: by name

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Findings:
    """The fault that each check found, if any, and the age of the oldest open job."""

    faults: Faults
    oldest_open_job_seconds: float | None = None


router = APIRouter(tags=["health"], default_response_class=JsonLine)


@router.get("/livez", operation_id="getLiveness", summary="Check whether the process responds")
async def get_liveness() -> Liveness:
    """This check depends on nothing else. If it fails, restart the process."""
    return Liveness()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check whether uploads can be accepted",
    responses={503: {"model": Health}},
)
async def get_readiness(request: Request, response: Response, service: CurrentService) -> Health:
    """Return 503 if any check is not `ok`; send no uploads until it passes.

    The log has the cause, and an admin's token shows it.
    """
    return await _answer(request, response, service, check_readiness)


@router.get(
    API, operation_id="getHealth", summary="Check every part", responses={503: {"model": Health}}
)
async def get_health(request: Request, response: Response, service: CurrentService) -> Health:
    """Return 503 if any check is not `ok`.

    While only the queue is unavailable, uploads are still accepted and their jobs wait. The log has
    the cause, and an admin's token shows it.
    """
    return await _answer(request, response, service, check_health)


async def _answer(request: Request, response: Response, service: Service, check: Check) -> Health:
    findings = await find_faults(request.state.shared_runs, service, check)
    faults = {name: fault for name, fault in findings.faults.items() if fault is not None}
    checks = dict.fromkeys(findings.faults, "ok")
    if faults:
        response.status_code = 503
        shows_cause = await is_admin(request)
        for name, fault in faults.items():
            log.warning("check_failed", check=name, code=fault.code, cause=str(fault))
            checks[name] = _describe(fault, shows_cause=shows_cause)
    return Health(
        status="unhealthy" if faults else "healthy",
        service=service.settings.service_name,
        version=request.app.version,
        checks=checks,
        oldest_open_job_seconds=findings.oldest_open_job_seconds,
    )


def _describe(fault: ImageProcessorError, *, shows_cause: bool) -> str:
    cause = str(fault)
    return f"{fault.code}: {cause if shows_cause else describe_publicly(fault.code, cause)}"


async def find_faults(runs: Runs, service: Service, check: Check) -> Findings:
    """Return the findings of *check*, or that it hangs."""
    found = _run_shared(runs, check.__name__, partial(_run_check, service, check))
    try:
        return await asyncio.wait_for(found, CHECK_SECONDS)
    except TimeoutError:
        fault = f"The checks did not finish within {CHECK_SECONDS:g} s. One of them hangs."
        return Findings({"service": ImageProcessorError(fault)})


async def _run_shared(runs: Runs, name: str, function: Callable[[], Found]) -> Found:
    """Return what *function* returns in a thread, or what the last run of that *name* returned.

    A run in progress is joined. The result of one that began less than REPEAT_SECONDS ago is
    returned again. However many clients ask, and even if the function hangs, they occupy only one
    thread.
    """
    now = asyncio.get_running_loop().time()
    last = runs.get(name)
    if last is None or (last.task.done() and now - last.began_at >= REPEAT_SECONDS):
        task = asyncio.ensure_future(to_thread.run_sync(function, abandon_on_cancel=True))
        last = runs[name] = Run(task, now)
    found: Found = await asyncio.shield(last.task)
    return found


def _run_check(service: Service, check: Check) -> Findings:
    faults = check(service)
    if faults["database"] is not None:
        return Findings(faults)
    return Findings(faults, oldest_open_seconds(service))


@router.get(
    f"{API}/stats",
    operation_id="getStatistics",
    summary="Count jobs",
    responses=problem_responses(),
    response_model_exclude_unset=True,
)
async def get_statistics(request: Request, service: CurrentService) -> Statistics:
    """Totals and averages only; no individual jobs.

    The last 24 hours begin on a full ten minutes.
    """
    collect = partial(collect_statistics, service)
    found = await _run_shared(request.state.shared_runs, "statistics", collect)
    return Statistics.model_validate(found)


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
    """Admins only, because job ids give access to images."""
    page = search_jobs(service, JobFilter(status=JobStatus.FAILED), limit)
    jobs = [represent_failed(job) for job in page.jobs]
    return FailedJobs(count=len(jobs), jobs=jobs)
