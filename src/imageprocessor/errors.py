"""All errors of the package, in one tree.

    ImageProcessorError
      InputError               the file is not an acceptable image
        EmptyFileError · UnsupportedTypeError · FileTooLargeError · TooManyPixelsError
        DimensionTooLargeError · AnimationTooLongError · InvalidImageError
        TruncatedImageError · StripUnsupportedError
      RequestError             the request is wrong; the image may be fine
        UnsupportedEncodingError · InvalidFormError · MissingFileError · TooManyFilesError
        InvalidBucketError · InvalidMetadataError · UnknownSizeError · TooManyIdsError
        InvalidIdError · InvalidIdempotencyKeyError · IdempotencyKeyReusedError
        BatchTooLargeError · InvalidItemsError · BatchRefusedError
        InvalidWaitError · InvalidCursorError · ExpiredCursorError · TooManyStreamsError
        RateLimitedError · UnauthorizedError · AdminRequiredError
        InvalidTicketError · SpentTicketError
        DirectUnsupportedError · MissingUploadError
        UnknownWebhookError · InvalidWebhookError · InvalidWebhookUrlError
        UnknownDeliveryError · DeliveryNotRepeatableError
      StorageError
        ObjectNotFoundError · InvalidKeyError · StorageUnavailableError · StorageFullError
        StorageMismatchError     a StorageUnavailableError
      JobError
        JobNotFoundError · ImageNotFoundError · BatchNotFoundError · JobNotReadyError
        JobFailedError · JobNotRetryableError · SourceMissingError · SourceCorruptError
        WorkerLostError · DecodeTimeoutError · MemoryLimitError · UnexpectedError
      DatabaseUnavailableError · BrokerUnavailableError · NoWorkerError
        DatabaseUnusableError    a DatabaseUnavailableError
      InvalidVariantError · InvalidTransformationError · SettingsError · MissingExtraError

Each class has a stable ``code``, which programs can rely on, and ``retryable``: whether the same
work may succeed later. The message states the problem, the value and the remedy. No error carries
an HTTP status.

A message may name hosts, folders and buckets, which clients of the service must not learn. They
read ``public_message``, or the message itself where that is None: see :func:`describe_publicly`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar


class ImageProcessorError(Exception):
    """The base class of all errors that this package raises deliberately."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    public_message: ClassVar[str | None] = (
        "The service failed. Try again later, or send its operator the request id."
    )


class InputError(ImageProcessorError):
    """The bytes are not an acceptable image; the same bytes will fail again."""

    code = "input_invalid"
    public_message = None


class EmptyFileError(InputError):
    """The file has no bytes."""

    code = "file_empty"


class UnsupportedTypeError(InputError):
    """The file's magic bytes do not match any accepted format."""

    code = "type_unsupported"


class FileTooLargeError(InputError):
    """The file has more bytes than the limit allows."""

    code = "file_too_large"


class TooManyPixelsError(InputError):
    """Width times height, according to the header, exceeds the limit."""

    code = "image_too_large"


class DimensionTooLargeError(InputError):
    """The width or height declared in the header exceeds the limit."""

    code = "dimension_too_large"


class AnimationTooLongError(InputError):
    """A size keeps the animation, which has too many frames, or too many pixels in all frames."""

    code = "animation_too_long"


class InvalidImageError(InputError):
    """The header or the pixel data does not follow the format."""

    code = "image_invalid"


class TruncatedImageError(InputError):
    """The file ends before the image does, or the last part of its pixels is missing."""

    code = "image_truncated"


class StripUnsupportedError(InputError):
    """The metadata of an AVIF or HEIC cannot be removed without re-encoding the image."""

    code = "strip_unsupported"


class RequestError(ImageProcessorError):
    """The request cannot be accepted, although the image may be fine."""

    code = "request_invalid"
    public_message = None


class UnsupportedEncodingError(RequestError):
    """The request's ``Content-Encoding`` is not ``identity``: its body is compressed."""

    code = "encoding_unsupported"


class InvalidFormError(RequestError):
    """The body is not well-formed ``multipart/form-data``."""

    code = "form_invalid"


class MissingFileError(RequestError):
    """The form has no part called ``file``."""

    code = "file_missing"


class TooManyFilesError(RequestError):
    """The form has more than one file."""

    code = "file_repeated"


class InvalidBucketError(RequestError):
    """The bucket is missing, is not a valid name, or is not an allowed bucket."""

    code = "bucket_invalid"


class InvalidMetadataError(RequestError):
    """``metadata`` is not a JSON object, or it exceeds the size or depth limit."""

    code = "metadata_invalid"


class UnknownSizeError(RequestError):
    """The image has no variant with that size name, or the variant no file in that format."""

    code = "size_unknown"


class TooManyIdsError(RequestError):
    """A batch request lists no ids, or more than the limit."""

    code = "id_count_invalid"


class InvalidIdError(RequestError):
    """An id is not a UUID."""

    code = "id_invalid"


class InvalidIdempotencyKeyError(RequestError):
    """The ``Idempotency-Key`` is empty, is too long, or is not printable ASCII."""

    code = "idempotency_key_invalid"


class IdempotencyKeyReusedError(RequestError):
    """The ``Idempotency-Key`` was already used with a different payload."""

    code = "idempotency_key_reused"


class BatchTooLargeError(RequestError):
    """The batch has more files than BATCH_MAX_FILES, or more bytes than BATCH_MAX_MB."""

    code = "batch_too_large"


class InvalidItemsError(RequestError):
    """``items`` is not a JSON array with an object for each file of the batch."""

    code = "items_invalid"


class BatchRefusedError(RequestError):
    """A file of a batch with ``atomic=true`` was refused, so none was accepted.

    ``outcomes`` are those of the files, in their order, as ``queue.batches`` describes them.
    """

    code = "batch_refused"

    def __init__(self, message: str, outcomes: Sequence[Any]) -> None:
        super().__init__(message)
        self.outcomes = outcomes


class InvalidWaitError(RequestError):
    """``wait`` is not a whole number of seconds from 0 to 30."""

    code = "wait_invalid"


class InvalidCursorError(RequestError):
    """``after`` or ``Last-Event-ID`` is not a cursor that this service returned."""

    code = "cursor_invalid"


class ExpiredCursorError(RequestError):
    """Events that follow the cursor are no longer kept, or it belongs to another database."""

    code = "cursor_expired"


class TooManyStreamsError(RequestError):
    """The process has as many open event streams as MAX_EVENT_STREAMS allows."""

    code = "stream_count_exceeded"
    retryable = True


class RateLimitedError(RequestError):
    """The user's uploads for this window are used up until ``reset_at`` (UTC)."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, reset_at: datetime) -> None:
        super().__init__(message)
        self.reset_at = reset_at


class UnauthorizedError(RequestError):
    """The token is missing or not valid. The message is the same for every cause."""

    code = "token_invalid"

    def __init__(self, cause: str | None = None) -> None:
        super().__init__("A valid bearer token is required. Send 'Authorization: Bearer <token>'.")
        self.cause = cause  #: why the token was refused, for the log; None if no token was sent


class AdminRequiredError(RequestError):
    """The token is valid, but its ``scope`` does not contain ``images:admin``."""

    code = "admin_required"

    def __init__(self) -> None:
        super().__init__("This request needs a token whose scope contains 'images:admin'.")


class InvalidTicketError(RequestError):
    """The upload ticket is missing, expired, or not one that this service issued for the image."""

    code = "ticket_invalid"

    def __init__(self, cause: str) -> None:
        super().__init__(f"The upload ticket is not valid: {cause}. Ask for a new one.")


class SpentTicketError(RequestError):
    """The upload ticket has already been used for another file, or its image was deleted."""

    code = "ticket_spent"


class DirectUnsupportedError(RequestError):
    """The service stores images on its own disk, so no file can be sent straight to S3."""

    code = "direct_unsupported"


class MissingUploadError(RequestError):
    """Nothing has been sent to S3 with the ticket, or it was replaced while it was read."""

    code = "upload_missing"


class UnknownWebhookError(RequestError):
    """There is no webhook endpoint with this name, or an upload names one that is disabled."""

    code = "webhook_unknown"


class InvalidWebhookError(RequestError):
    """A webhook endpoint cannot be added or changed like this; the message says why."""

    code = "webhook_invalid"


class InvalidWebhookUrlError(RequestError):
    """Webhooks cannot be sent to this URL: its form is wrong, or its host is not public."""

    code = "webhook_url_invalid"


class UnknownDeliveryError(RequestError):
    """There is no webhook delivery with this id, or it is no longer kept."""

    code = "delivery_not_found"


class DeliveryNotRepeatableError(RequestError):
    """A webhook about an image is not sent again once the image is deleted."""

    code = "delivery_not_repeatable"


class StorageError(ImageProcessorError):
    """A file could not be stored, read or deleted."""

    code = "storage_error"


class ObjectNotFoundError(StorageError):
    """Nothing is stored under this key."""

    code = "object_not_found"
    public_message = "There is no such file."


class InvalidKeyError(StorageError):
    """The key is empty, too long or absolute, or contains ``..`` or forbidden characters."""

    code = "key_invalid"
    public_message = "There is no such file."


class StorageUnavailableError(StorageError):
    """The storage did not answer, or it refused the request."""

    code = "storage_unavailable"
    retryable = True
    public_message = "The storage is unavailable. Try again later."


class StorageMismatchError(StorageUnavailableError):
    """The storage belongs to another database, or is not the one that this database has used."""

    code = "storage_mismatch"
    public_message = "The storage cannot be used. The service's operator must act."


class StorageFullError(StorageError):
    """The storage has no space left, or its quota is used up."""

    code = "storage_full"
    retryable = True
    public_message = "The storage is full. Try again later."


class JobError(ImageProcessorError):
    """A job or its image does not exist, is not ready, or failed."""

    code = "job_error"


class JobNotFoundError(JobError):
    """The job does not exist or is not visible to the caller."""

    code = "job_not_found"
    public_message = None


class ImageNotFoundError(JobError):
    """The image does not exist, was deleted, or is not visible to the caller."""

    code = "image_not_found"
    public_message = None


class BatchNotFoundError(JobError):
    """The batch does not exist, is no longer kept, or does not belong to the caller."""

    code = "batch_not_found"
    public_message = None


class JobNotReadyError(JobError):
    """The job has not finished yet; ask again later."""

    code = "job_not_ready"
    public_message = None


class JobFailedError(JobError):
    """The job failed; ``job_code`` is the error code of the cause."""

    code = "job_failed"
    public_message = "The job failed. Send the image again."

    def __init__(self, message: str, *, job_code: str, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_code = job_code
        self.job_id = job_id


class JobNotRetryableError(JobError):
    """Only a failed job whose source is still stored can be retried."""

    code = "job_not_retryable"
    public_message = None


class SourceMissingError(JobError):
    """The uploaded file is no longer in staging."""

    code = "source_missing"
    public_message = "The upload is no longer stored. Send the image again."


class SourceCorruptError(JobError):
    """The staged file is not the one that was uploaded: its SHA-256 differs."""

    code = "source_corrupt"
    public_message = "The stored upload differs from what was received. Send the image again."


class WorkerLostError(JobError):
    """The worker process ended before it finished the job."""

    code = "worker_lost"
    retryable = True
    public_message = "The worker ended during the job. Send the image again."


class DecodeTimeoutError(JobError):
    """The job ran longer than JOB_TIMEOUT_SECONDS."""

    code = "decode_timeout"
    retryable = True
    public_message = "The image takes too long to process. Send a smaller one."


class MemoryLimitError(JobError):
    """The job needed more memory than JOB_MEMORY_LIMIT_MB."""

    code = "memory_exceeded"
    retryable = True
    public_message = "The image needs too much memory. Send a smaller one."


class UnexpectedError(JobError):
    """An unexpected error in this package; the traceback is in the log."""

    code = "internal_error"
    retryable = True
    public_message = "An unexpected error stopped the job. Send the image again."


class DatabaseUnavailableError(ImageProcessorError):
    """The database is locked or unreachable."""

    code = "database_unavailable"
    retryable = True
    public_message = "The database is unavailable. Try again later."


class DatabaseUnusableError(DatabaseUnavailableError):
    """The database is damaged, read-only, deleted or not this service's; an operator must act."""

    code = "database_unusable"
    retryable = False
    public_message = "The database cannot be used. The service's operator must act."


class BrokerUnavailableError(ImageProcessorError):
    """Redis does not answer; jobs wait in the database."""

    code = "broker_unavailable"
    retryable = True
    public_message = "The queue is unavailable. Jobs wait until it is back."


class NoWorkerError(ImageProcessorError):
    """Jobs wait, but no worker is running."""

    code = "worker_missing"
    retryable = True
    public_message = "No worker is running. Uploads are accepted, but their jobs wait."


class InvalidVariantError(ImageProcessorError, ValueError):
    """An option of a variant, such as its name or width, is out of range."""

    code = "variant_invalid"


class InvalidTransformationError(ImageProcessorError, ValueError):
    """An operation on an image is unknown, is repeated, has a wrong value, or does not fit it."""

    code = "transformation_invalid"
    public_message = None


class SettingsError(ImageProcessorError):
    """One or more settings are invalid; the message lists all of them."""

    code = "settings_invalid"


def find_install_command(extra: str) -> str:
    """Return the shell command that adds *extra* to this installation.

    A package that was installed from a checkout, with or without ``-e``, is installed so again.
    """
    # Only an error needs these, and each would delay every import of this package.
    import json  # noqa: PLC0415
    import shlex  # noqa: PLC0415
    from importlib import metadata  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415

    try:
        origin = metadata.distribution("imageprocessor").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # it runs from its source
        origin = None
    location = json.loads(origin or "{}")
    folder = unquote(urlsplit(location.get("url", "")).path)
    if "dir_info" not in location or not Path(folder, "pyproject.toml").exists():
        return f"pip install 'imageprocessor[{extra}]'"
    option = "-e " if location["dir_info"].get("editable") else ""
    return f"cd {shlex.quote(folder)} && pip install {option}'.[{extra}]'"


class MissingExtraError(ImageProcessorError):
    """A feature needs an optional dependency; the message has the install command."""

    code = "extra_missing"

    def __init__(self, feature: str, extra: str) -> None:
        self.command = find_install_command(extra)
        super().__init__(f"{feature} needs an extra: run  {self.command}")
        self.extra = extra


def describe_publicly(code: str | None, message: str) -> str:
    """Return what clients may read of the error with *code* and *message*."""
    public_message = find_class(code).public_message
    return message if public_message is None else public_message


def find_class(code: str | None) -> type[ImageProcessorError]:
    """Return the class with *code*, or the base class if there is none."""
    return _index_classes().get(code, ImageProcessorError)


@cache
def _index_classes() -> dict[str | None, type[ImageProcessorError]]:
    return {error_class.code: error_class for error_class in _walk_tree(ImageProcessorError)}


def _walk_tree(error_class: type[ImageProcessorError]) -> Iterator[type[ImageProcessorError]]:
    yield error_class
    for child in error_class.__subclasses__():
        yield from _walk_tree(child)
