"""Reading what became of an upload."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from imageprocessor import errors
from imageprocessor.queue.job_control import read_job, read_result
from imageprocessor.server.auth import READER_SECURITY
from imageprocessor.server.lookups import look_up
from imageprocessor.server.openapi import JobId, problem_responses
from imageprocessor.server.representations import answer, represent_job, represent_result
from imageprocessor.server.route_class import DirectRoute
from imageprocessor.server.schemas import ImageResult, JobState

NOT_FOUND = (errors.UnauthorizedError, errors.InvalidIdError, errors.JobNotFoundError)

router = APIRouter(prefix="/api/v1/images/jobs", tags=["jobs"], route_class=DirectRoute)


@router.get(
    "/{job_id}",
    operation_id="getJob",
    summary="Read the state of a job",
    response_model=JobState,
    responses=problem_responses(*NOT_FOUND),
    openapi_extra=READER_SECURITY,
)
async def get_job(request: Request, job_id: JobId) -> Response:
    """A job that waits for another attempt is `pending` with `attempts` above 0."""
    return answer(represent_job(*await look_up(request, read_job, job_id)))


@router.get(
    "/{job_id}/result",
    operation_id="getJobResult",
    summary="Read the result of a job",
    response_model=ImageResult,
    responses=problem_responses(*NOT_FOUND, errors.JobNotReadyError, errors.JobFailedError),
    openapi_extra=READER_SECURITY,
)
async def get_job_result(request: Request, job_id: JobId) -> Response:
    """Until the job has ended the answer is 409; if it failed, 422 with the `code` of its cause."""
    found = await look_up(request, read_result, job_id)
    return answer(represent_result(*found, request.state.service.settings.public_base_url))
