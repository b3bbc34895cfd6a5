"""Reading the state and result of jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from imageprocessor import errors
from imageprocessor.queue.job_control import check_completed, read_job
from imageprocessor.server.auth import read_caller
from imageprocessor.server.dependencies import BaseUrl, JobId, Reader
from imageprocessor.server.direct_route import DirectRoute
from imageprocessor.server.events.preferences import describe_preference
from imageprocessor.server.events.waiting import read_job_waiting
from imageprocessor.server.openapi import READER_SECURITY, WAIT_PARAMETERS, problem_responses
from imageprocessor.server.representations import represent_job, represent_result
from imageprocessor.server.responses import JsonLine, make_json
from imageprocessor.server.schemas import ImageResult, JobState

NOT_FOUND = (errors.UnauthorizedError, errors.InvalidIdError, errors.JobNotFoundError)

router = APIRouter(prefix="/api/v1/images/jobs", tags=["jobs"], default_response_class=JsonLine)


async def get_job(request: Request, job_id: JobId) -> Response:
    """A job that waits for a retry is `pending` with `attempts` above 0.

    With `wait`, the answer is sent as soon as the job has finished, or when the time is over.
    """
    caller = await read_caller(request)
    job = await read_job_waiting(request, read_job, job_id, caller)
    return make_json(represent_job(job, caller), headers=describe_preference(request))


# Without DirectRoute, the status check misses its budget; see its module.
router.add_api_route(
    "/{job_id}",
    get_job,
    methods=["GET"],
    operation_id="getJob",
    summary="Read the state of a job",
    response_model=JobState,
    responses=problem_responses(*NOT_FOUND, errors.InvalidWaitError),
    openapi_extra={**READER_SECURITY, "parameters": WAIT_PARAMETERS},
    route_class_override=DirectRoute,
)


@router.get(
    "/{job_id}/result",
    operation_id="getJobResult",
    summary="Read the result of a job",
    responses=problem_responses(
        *NOT_FOUND, errors.InvalidWaitError, errors.JobNotReadyError, errors.JobFailedError
    ),
    response_model_exclude_unset=True,
    openapi_extra={**READER_SECURITY, "parameters": WAIT_PARAMETERS},
)
async def get_job_result(
    request: Request, response: Response, caller: Reader, base_url: BaseUrl, job_id: JobId
) -> ImageResult:
    """Returns 409 until the job has finished, and 422 with the cause's `code` if it failed.

    With `wait`, it first waits for the job to finish.
    """
    job = await read_job_waiting(request, read_job, job_id, caller)
    check_completed(job)
    response.headers.update(describe_preference(request))
    return represent_result(job, caller, base_url)
