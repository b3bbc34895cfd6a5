"""Reading the state and result of jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from imageprocessor import errors
from imageprocessor.queue.job_control import read_job, read_result
from imageprocessor.server.auth import read_caller
from imageprocessor.server.dependencies import BaseUrl, CurrentService, JobId, Reader
from imageprocessor.server.direct_route import DirectRoute
from imageprocessor.server.openapi import READER_SECURITY, problem_responses
from imageprocessor.server.representations import represent_job, represent_result
from imageprocessor.server.responses import JsonLine, make_json
from imageprocessor.server.schemas import ImageResult, JobState
from imageprocessor.server.threads import run_read

NOT_FOUND = (errors.UnauthorizedError, errors.InvalidIdError, errors.JobNotFoundError)

router = APIRouter(prefix="/api/v1/images/jobs", tags=["jobs"], default_response_class=JsonLine)


async def get_job(request: Request, job_id: JobId) -> Response:
    """A job that waits for a retry is `pending` with `attempts` above 0."""
    caller = await read_caller(request)
    job = await run_read(request.state.service, read_job, job_id, caller)
    return make_json(represent_job(job, caller))


# Without DirectRoute, the status check misses its budget; see its module.
router.add_api_route(
    "/{job_id}",
    get_job,
    methods=["GET"],
    operation_id="getJob",
    summary="Read the state of a job",
    response_model=JobState,
    responses=problem_responses(*NOT_FOUND),
    openapi_extra=READER_SECURITY,
    route_class_override=DirectRoute,
)


@router.get(
    "/{job_id}/result",
    operation_id="getJobResult",
    summary="Read the result of a job",
    responses=problem_responses(*NOT_FOUND, errors.JobNotReadyError, errors.JobFailedError),
    response_model_exclude_unset=True,
    openapi_extra=READER_SECURITY,
)
async def get_job_result(
    service: CurrentService, caller: Reader, base_url: BaseUrl, job_id: JobId
) -> ImageResult:
    """Returns 409 until the job has finished, and 422 with the cause's `code` if it failed."""
    job = await run_read(service, read_result, job_id, caller)
    return represent_result(job, caller, base_url)
