"""Uploading several images at once, and reading what became of them."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from imageprocessor import errors
from imageprocessor.errors import BatchRefusedError
from imageprocessor.server.batches import accept_batch
from imageprocessor.server.dependencies import Atomic, BatchId, User
from imageprocessor.server.events.preferences import describe_preference
from imageprocessor.server.events.waiting import read_batch_waiting
from imageprocessor.server.openapi import (
    WAIT_PARAMETERS,
    describe_batch_upload,
    describe_quota_headers,
    problem_responses,
)
from imageprocessor.server.problems import Fault, find_problem, make_problem
from imageprocessor.server.quota_headers import describe_quota
from imageprocessor.server.representations import represent_batch, represent_outcome
from imageprocessor.server.responses import JsonLine, make_json
from imageprocessor.server.schemas import BatchAccepted, BatchState

BATCHES_URL = "/api/v1/batches"

router = APIRouter(prefix="/api/v1", tags=["batches"], default_response_class=JsonLine)


@router.post(
    "/images/batch",
    operation_id="uploadBatch",
    summary="Upload several images for processing in the background",
    status_code=HTTPStatus.MULTI_STATUS,
    response_model=BatchAccepted,
    openapi_extra=describe_batch_upload(),
    responses={
        207: describe_quota_headers(),
        **problem_responses(
            errors.UnauthorizedError,
            errors.RateLimitedError,
            errors.UnsupportedEncodingError,
            errors.InvalidFormError,
            errors.BatchTooLargeError,
            errors.MissingFileError,
            errors.InvalidBucketError,
            errors.InvalidMetadataError,
            errors.InvalidItemsError,
            errors.UnknownWebhookError,
            errors.InvalidIdempotencyKeyError,
            errors.IdempotencyKeyReusedError,
            errors.BatchRefusedError,
            errors.StorageUnavailableError,
            errors.StorageFullError,
        ),
    },
)
async def upload_batch(request: Request, user: User, atomic: Atomic = False) -> Response:
    """Each file is accepted or refused for itself: see its item.

    The item's `status` is 202, or that of the problem in `error`. The response is sent as soon as
    the accepted files are durable.

    With `atomic=true`, the batch is refused if a file is; `items` of the problem has those files.
    """
    root_path = request.scope["root_path"]
    try:
        batch, quota = await accept_batch(request, user, is_atomic=atomic)
    except BatchRefusedError as error:
        refused = [
            represent_outcome(index, outcome, root_path).model_dump(exclude_unset=True)
            for index, outcome in enumerate(error.outcomes)
            if outcome.job_id is None
        ]
        status, title = find_problem(BatchRefusedError)
        fault = Fault(status, error.code, title, str(error))
        return make_problem(request, fault, items=refused)
    items = [
        represent_outcome(index, outcome, root_path) for index, outcome in enumerate(batch.outcomes)
    ]
    accepted = sum(item.error is None for item in items)
    body = BatchAccepted(
        batch_id=batch.batch_id,
        status_url=f"{root_path}{BATCHES_URL}/{batch.batch_id}",
        accepted=accepted,
        refused=len(items) - accepted,
        items=items,
    )
    return make_json(body, HTTPStatus.MULTI_STATUS, describe_quota(quota))


@router.get(
    "/batches/{batch_id}",
    operation_id="getBatch",
    summary="Read the state of a batch",
    responses=problem_responses(
        errors.UnauthorizedError,
        errors.InvalidIdError,
        errors.InvalidWaitError,
        errors.BatchNotFoundError,
    ),
    response_model_exclude_unset=True,
    openapi_extra={"parameters": WAIT_PARAMETERS},
)
async def get_batch(
    request: Request, response: Response, user: User, batch_id: BatchId
) -> BatchState:
    """For the owner and admins. Images that were deleted since are `deleted`.

    With `wait`, the answer is sent as soon as the batch is completed, or when the time is over.
    """
    progress = await read_batch_waiting(request, batch_id, user)
    response.headers.update(describe_preference(request))
    return represent_batch(progress, user)
