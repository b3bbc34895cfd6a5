"""Reading what became of an upload."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from imageprocessor import errors
from imageprocessor.queue.images import read_job, read_result
from imageprocessor.server.auth import READER_SECURITY, CurrentService, Reader, read_caller
from imageprocessor.server.openapi import JobId, problem_responses
from imageprocessor.server.representations import represent_job, represent_result
from imageprocessor.server.schemas import ImageResult, JobState

NOT_FOUND = (errors.UnauthorizedError, errors.InvalidIdError, errors.JobNotFoundError)

router = APIRouter(prefix="/api/v1/images/jobs", tags=["jobs"])


@router.get(
    "/{job_id}",
    operation_id="getJob",
    summary="Read the state of a job",
    responses=problem_responses(*NOT_FOUND),
    response_model_exclude_unset=True,
    openapi_extra=READER_SECURITY,
)
async def get_job(request: Request, job_id: JobId) -> JobState:
    """A job that waits for another attempt is `pending` with `attempts` above 0."""
    # Clients poll this one: a thread costs more than SQLite's query, and so do two of FastAPI's dependencies.
    service, caller = request.state.service, await read_caller(request)
    if service.settings.sqlite_path:
        return represent_job(read_job(service, job_id, caller), caller)
    return represent_job(await run_in_threadpool(read_job, service, job_id, caller), caller)


@router.get(
    "/{job_id}/result",
    operation_id="getJobResult",
    summary="Read the result of a job",
    responses=problem_responses(*NOT_FOUND, errors.JobNotReadyError, errors.JobFailedError),
    response_model_exclude_unset=True,
    openapi_extra=READER_SECURITY,
)
def get_job_result(service: CurrentService, caller: Reader, job_id: JobId) -> ImageResult:
    """Until the job has ended the answer is 409; if it failed, 422 with the `code` of its cause."""
    return represent_result(read_result(service, job_id, caller), caller, service.settings.public_base_url)
