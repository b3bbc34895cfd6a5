"""Uploading with a ticket instead of a token, as a browser does it."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from imageprocessor import errors
from imageprocessor.queue.access import Caller
from imageprocessor.queue.images import find_image
from imageprocessor.queue.job_control import check_completed
from imageprocessor.server.dependencies import (
    BaseUrl,
    CurrentService,
    CurrentStorageThreads,
    ImageId,
    User,
)
from imageprocessor.server.events.preferences import describe_preference, read_wait
from imageprocessor.server.events.waiting import read_job_waiting
from imageprocessor.server.openapi import (
    FILE_ERRORS,
    UPLOAD_ERRORS,
    WAIT_PARAMETERS,
    describe_bad_json,
    describe_quota_headers,
    describe_ticket_upload,
    problem_responses,
)
from imageprocessor.server.representations import represent_upload
from imageprocessor.server.responses import JsonLine
from imageprocessor.server.schemas import IssuedTicket, TicketRequest, UploadAccepted, UploadResult
from imageprocessor.server.tickets import UPLOADS_URL, TicketText, issue_ticket, read_ticket
from imageprocessor.server.uploads import (
    accept_direct_upload,
    accept_ticket_upload,
    answer_upload,
)

#: After the ticket has expired, an upload may still be completed and its result read that long.
LEEWAY_SECONDS = 3600

router = APIRouter(prefix=UPLOADS_URL, tags=["tickets"], default_response_class=JsonLine)


@router.post(
    "",
    operation_id="createUploadTicket",
    summary="Get an address to which a browser may upload one image",
    status_code=HTTPStatus.CREATED,
    responses={
        **describe_bad_json(),
        **problem_responses(
            errors.UnauthorizedError,
            errors.AdminRequiredError,
            errors.InvalidBucketError,
            errors.InvalidMetadataError,
            errors.UnknownWebhookError,
            errors.FileTooLargeError,
            errors.DirectUnsupportedError,
            errors.StorageUnavailableError,
        ),
    },
    response_model_exclude_unset=True,
)
async def create_ticket(
    request: Request,
    service: CurrentService,
    storage_threads: CurrentStorageThreads,
    user: User,
    wanted: TicketRequest,
) -> IssuedTicket:
    """Whoever has `upload_url` may upload one image to it, and read its result, without a token.

    `upload_url` is relative to the address of the service, like every `status_url`. With `direct`,
    send the file as `direct` in the answer says, then `complete_url` a POST.

    The upload counts against the quota of the user when it is accepted.
    """
    keys, root_path = request.state.keys, request.scope["root_path"]
    if wanted.direct:  # to sign it may need new credentials from AWS
        return await storage_threads.run(issue_ticket, service, keys, user, root_path, wanted)
    return issue_ticket(service, keys, user, root_path, wanted)


async def upload_with_ticket(
    request: Request, image_id: ImageId, ticket: TicketText = ""
) -> Response:
    """Send the file itself by PUT, or a form with a part `file` by POST.

    The same file may be sent again, with the same answer. `wait`: see `uploadImage`.
    """
    permission = read_ticket(request, ticket, image_id)
    read_wait(request)  # refuse a wrong one before the body is read
    accepted = await accept_ticket_upload(request, permission)
    return await answer_upload(request, accepted, Caller(permission.user_id))


for method, operation_id in (("PUT", "putTicketUpload"), ("POST", "postTicketUpload")):
    router.add_api_route(
        "/{image_id}",
        upload_with_ticket,
        methods=[method],
        operation_id=operation_id,
        summary="Upload an image with a ticket",
        status_code=HTTPStatus.ACCEPTED,
        response_model=UploadAccepted,
        openapi_extra=describe_ticket_upload(method),
        responses={
            200: {"model": UploadResult, **describe_quota_headers()},
            202: describe_quota_headers(),
            **problem_responses(
                errors.InvalidTicketError,
                errors.SpentTicketError,
                *UPLOAD_ERRORS,
            ),
        },
    )


@router.post(
    "/{image_id}/complete",
    operation_id="completeTicketUpload",
    summary="Accept an image that was sent straight to S3",
    status_code=HTTPStatus.ACCEPTED,
    response_model=UploadAccepted,
    openapi_extra={"parameters": WAIT_PARAMETERS},
    responses={
        200: {"model": UploadResult, **describe_quota_headers()},
        202: describe_quota_headers(),
        **problem_responses(
            errors.InvalidTicketError,
            errors.SpentTicketError,
            errors.DirectUnsupportedError,
            errors.MissingUploadError,
            *FILE_ERRORS,
        ),
    },
)
async def complete_ticket_upload(
    request: Request, image_id: ImageId, ticket: TicketText = ""
) -> Response:
    """As an upload with the ticket; until an hour after it has expired, as S3 may receive slowly.

    May be repeated, with the same answer. `wait`: see `uploadImage`.
    """
    permission = read_ticket(request, ticket, image_id, leeway_seconds=LEEWAY_SECONDS)
    read_wait(request)  # refuse a wrong one before anything else
    accepted = await accept_direct_upload(request, permission)
    return await answer_upload(request, accepted, Caller(permission.user_id))


@router.get(
    "/{image_id}",
    operation_id="getTicketUpload",
    summary="Read the result of an upload with a ticket",
    responses=problem_responses(
        errors.InvalidTicketError,
        errors.ImageNotFoundError,
        errors.InvalidWaitError,
        errors.JobNotReadyError,
        errors.JobFailedError,
    ),
    response_model_exclude_unset=True,
    openapi_extra={"parameters": WAIT_PARAMETERS},
)
async def get_ticket_upload(
    request: Request, response: Response, base_url: BaseUrl, image_id: ImageId, ticket: TicketText
) -> UploadResult:
    """As the job's `/result`; also up to an hour after the ticket has expired."""
    permission = read_ticket(request, ticket, image_id, leeway_seconds=LEEWAY_SECONDS)
    user = Caller(permission.user_id)
    job = await read_job_waiting(request, find_image, permission.image_id, user)
    check_completed(job)
    response.headers.update(describe_preference(request))
    return represent_upload(job, user, base_url)
