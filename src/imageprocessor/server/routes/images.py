"""Uploading, reading and deleting images."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from imageprocessor import errors
from imageprocessor.queue.images import delete_image, read_image, read_images
from imageprocessor.server.auth import bearer, require_user
from imageprocessor.server.dependencies import (
    BaseUrl,
    CurrentService,
    CurrentStorageThreads,
    ImageId,
    ImageIds,
    Reader,
    Size,
    User,
)
from imageprocessor.server.direct_route import DirectRoute
from imageprocessor.server.events.preferences import read_wait
from imageprocessor.server.openapi import (
    READER_SECURITY,
    UPLOAD_ERRORS,
    describe_accepted,
    describe_upload,
    problem_responses,
)
from imageprocessor.server.representations import (
    represent_result,
    represent_variant,
)
from imageprocessor.server.responses import JsonLine
from imageprocessor.server.schemas import (
    ImageBatch,
    ImageResult,
    ImageVariant,
    UploadAccepted,
    UploadResult,
)
from imageprocessor.server.threads import run_read
from imageprocessor.server.uploads import accept_upload, answer_upload

NOT_READY = (errors.JobNotReadyError, errors.JobFailedError)
NOT_FOUND = (errors.UnauthorizedError, errors.InvalidIdError, errors.ImageNotFoundError)

router = APIRouter(prefix="/api/v1/images", tags=["images"], default_response_class=JsonLine)


async def upload_image(request: Request) -> Response:
    """Check, receive and submit an upload; respond as soon as it is durable, or has ended."""
    user = await require_user(request, await bearer(request))
    read_wait(request)  # refuse a wrong one before the body is read
    accepted = await accept_upload(request, user)
    return await answer_upload(request, accepted, user)


# Without DirectRoute, an upload of 100 KB misses its budget; see its module.
router.add_api_route(
    "/upload",
    upload_image,
    methods=["POST"],
    response_model=UploadAccepted,
    operation_id="uploadImage",
    summary="Upload an image for processing in the background",
    description=(
        "Send the image as `multipart/form-data` with the parts `file`, `bucket` and, optionally, "
        "`metadata`.\n\nThe response is sent as soon as the upload is durable. Poll `status_url`, "
        "or its `/result`, for the outcome.\n\nWith `wait`, the response is the result if the job "
        "completes in time, and a 422 if it fails. When the time is over, it is a 202."
    ),
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=describe_upload(),
    responses={
        200: {"model": UploadResult, **describe_accepted()},
        202: describe_accepted(),
        **problem_responses(
            errors.UnauthorizedError,
            errors.InvalidMetadataError,
            errors.InvalidIdempotencyKeyError,
            errors.IdempotencyKeyReusedError,
            *UPLOAD_ERRORS,
        ),
    },
    route_class_override=DirectRoute,
)


@router.get(
    "/batch",
    operation_id="getImages",
    summary="Read one size of up to 50 images",
    responses=problem_responses(
        errors.UnauthorizedError, errors.TooManyIdsError, errors.InvalidIdError
    ),
    response_model_exclude_unset=True,
    openapi_extra=READER_SECURITY,
)
def get_images(
    service: CurrentService,
    caller: Reader,
    base_url: BaseUrl,
    image_ids: ImageIds,
    size: Size = "medium",
) -> ImageBatch:
    """Images are in the order requested; ids without an available image are in `missing`."""
    stripped = (image_id.strip() for image_id in ",".join(image_ids).split(","))
    wanted = [image_id for image_id in stripped if image_id]
    jobs, missing = read_images(service, wanted, caller, size)
    images = [represent_variant(job, size, base_url) for job in jobs]
    return ImageBatch(images=images, missing=missing)


@router.get(
    "/{image_id:image_id}",
    operation_id="getImage",
    summary="Read one size of an image",
    responses=problem_responses(*NOT_FOUND, errors.UnknownSizeError, *NOT_READY),
    response_model_exclude_unset=True,
    openapi_extra=READER_SECURITY,
)
async def get_image(
    service: CurrentService,
    caller: Reader,
    base_url: BaseUrl,
    image_id: ImageId,
    size: Size = "medium",
) -> ImageVariant:
    """The `url` never expires, so it can be stored."""
    job = await run_read(service, read_image, image_id, caller, size)
    return represent_variant(job, size, base_url)


@router.get(
    "/{image_id:image_id}/all",
    operation_id="getImageResult",
    summary="Read all sizes of an image",
    responses=problem_responses(*NOT_FOUND, *NOT_READY),
    response_model_exclude_unset=True,
    openapi_extra=READER_SECURITY,
)
async def get_image_result(
    service: CurrentService, caller: Reader, base_url: BaseUrl, image_id: ImageId
) -> ImageResult:
    """The response is the same as that of the job's `/result`."""
    job = await run_read(service, read_image, image_id, caller)
    return represent_result(job, caller, base_url)


@router.delete(
    "/{image_id:image_id}",
    operation_id="deleteImage",
    summary="Delete an image and all its sizes",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses=problem_responses(*NOT_FOUND, errors.StorageUnavailableError),
)
async def remove_image(
    service: CurrentService, storage_threads: CurrentStorageThreads, user: User, image_id: ImageId
) -> None:
    """Only the owner and admins may delete it. It disappears at once, even during processing."""
    await storage_threads.run(delete_image, service, image_id, user)
