"""Uploading, reading and deleting images."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from imageprocessor import errors
from imageprocessor.queue.images import delete_image, read_image, read_images
from imageprocessor.server.auth import READER_SECURITY, CurrentService, Reader, User
from imageprocessor.server.lookups import look_up
from imageprocessor.server.openapi import (
    ImageId,
    ImageIds,
    Size,
    describe_accepted,
    describe_upload,
    problem_responses,
)
from imageprocessor.server.quota_headers import describe_quota
from imageprocessor.server.representations import answer, represent_result, represent_variant
from imageprocessor.server.route_class import DirectRoute
from imageprocessor.server.schemas import (
    ACCEPTED,
    ImageBatch,
    ImageResult,
    ImageVariant,
    UploadAccepted,
)
from imageprocessor.server.storage_turns import in_turn
from imageprocessor.server.uploads import admit, receive

JOBS_URL = "/api/v1/images/jobs"
NOT_READY = (errors.JobNotReadyError, errors.JobFailedError)
NOT_FOUND = (errors.UnauthorizedError, errors.InvalidIdError, errors.ImageNotFoundError)


class ImageIdConvertor(Convertor[str]):
    """Whatever stands in an id's place, except the names of other routes.

    Else theirs would be answered by this one.
    """

    regex = "(?!(?:upload|batch|jobs)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("image_id", ImageIdConvertor())
router = APIRouter(prefix="/api/v1/images", tags=["images"])
direct_router = APIRouter(prefix="/api/v1/images", tags=["images"], route_class=DirectRoute)


@direct_router.post(
    "/upload",
    operation_id="uploadImage",
    summary="Upload a picture; it is processed in the background",
    status_code=202,
    response_model=UploadAccepted,
    openapi_extra=describe_upload(),
    responses={
        202: describe_accepted(),
        **problem_responses(
            errors.UnauthorizedError,
            errors.RateLimitedError,
            errors.InvalidFormError,
            errors.TooManyFilesError,
            errors.FileTooLargeError,
            errors.UnsupportedTypeError,
            errors.EmptyFileError,
            errors.TooManyPixelsError,
            errors.DimensionTooLargeError,
            errors.InvalidImageError,
            errors.TruncatedImageError,
            errors.MissingFileError,
            errors.InvalidBucketError,
            errors.InvalidMetadataError,
            errors.InvalidIdempotencyKeyError,
            errors.IdempotencyKeyReusedError,
            errors.StorageUnavailableError,
            errors.StorageFullError,
        ),
    },
)
async def upload_image(request: Request) -> Response:
    """Take a picture as `multipart/form-data` with the parts `file`, `bucket` and, if you like, `metadata`.

    The answer comes as soon as the upload is durable; poll `status_url`, or its `/result`, for the outcome.
    """
    job, quota = await receive(request, await admit(request))
    status_url = f"{JOBS_URL}/{job.job_id}"
    accepted = UploadAccepted(
        job_id=job.job_id, image_id=job.image_id, status_url=status_url, message=ACCEPTED
    )
    return answer(accepted, HTTPStatus.ACCEPTED, describe_quota(quota))


@router.get(
    "/batch",
    operation_id="getImages",
    summary="Read one size of up to 50 images",
    responses=problem_responses(
        errors.UnauthorizedError, errors.TooManyIdsError, errors.InvalidIdError
    ),
    openapi_extra=READER_SECURITY,
)
def get_images(
    service: CurrentService, caller: Reader, image_ids: ImageIds, size: Size = "medium"
) -> ImageBatch:
    """Images come in the order asked; ids that have nothing to show are listed as `missing`."""
    wanted = [image_id for item in image_ids.split(",") if (image_id := item.strip())]
    jobs, missing = read_images(service, wanted, caller, size)
    base_url = service.settings.public_base_url
    return ImageBatch(
        images=[represent_variant(job, size, base_url) for job in jobs], missing=missing
    )


@router.get(
    "/{image_id:image_id}",
    operation_id="getImage",
    summary="Read one size of an image",
    response_model=ImageVariant,
    responses=problem_responses(*NOT_FOUND, errors.UnknownSizeError, *NOT_READY),
    openapi_extra=READER_SECURITY,
)
async def get_image(
    request: Request, service: CurrentService, image_id: ImageId, size: Size = "medium"
) -> Response:
    """Its `url` never expires: it can be kept."""
    job, _ = await look_up(request, read_image, image_id, size)
    return answer(represent_variant(job, size, service.settings.public_base_url))


@direct_router.get(
    "/{image_id:image_id}/all",
    operation_id="getImageResult",
    summary="Read all sizes of an image",
    response_model=ImageResult,
    responses=problem_responses(*NOT_FOUND, *NOT_READY),
    openapi_extra=READER_SECURITY,
)
async def get_image_result(request: Request, image_id: ImageId) -> Response:
    """The same answer as the job's result gives."""
    found = await look_up(request, read_image, image_id)
    return answer(represent_result(*found, request.state.service.settings.public_base_url))


@router.delete(
    "/{image_id:image_id}",
    operation_id="deleteImage",
    summary="Delete an image and all its sizes",
    status_code=204,
    response_class=Response,
    responses=problem_responses(*NOT_FOUND, errors.StorageUnavailableError),
)
async def remove_image(
    request: Request, service: CurrentService, caller: User, image_id: ImageId
) -> None:
    """Only its owner and admins may. It is gone at once, even while it is being processed."""
    await in_turn(request.state.turns, delete_image, service, image_id, caller)
