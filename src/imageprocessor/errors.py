"""Every error of the package, in one tree.

    ImageProcessorError
      InputError               the image cannot be accepted
        EmptyFileError · UnsupportedTypeError · FileTooLargeError · TooManyPixelsError
        DimensionTooLargeError · InvalidImageError · TruncatedImageError
      RequestError             the image may be fine, what came with it is not
        InvalidFormError · MissingFileError · TooManyFilesError · InvalidBucketError
        InvalidMetadataError · UnknownSizeError · TooManyIdsError · InvalidIdError
        InvalidIdempotencyKeyError · IdempotencyKeyReusedError · RateLimitedError
        UnauthorizedError · AdminRequiredError
      StorageError
        ObjectNotFoundError · InvalidKeyError · StorageUnavailableError · StorageFullError
      JobError
        JobNotFoundError · ImageNotFoundError · JobNotReadyError · JobFailedError
        JobNotRetryableError · SourceMissingError · SourceCorruptError
        WorkerLostError · DecodeTimeoutError · MemoryLimitError · UnexpectedError
      DatabaseUnavailableError · BrokerUnavailableError
      InvalidVariantError · SettingsError · MissingExtraError

``code`` is stable and meant for programs. ``retryable`` says whether the same work may succeed
later. The message says what went wrong, with which value, and what to do. None carries an HTTP
status.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


class ImageProcessorError(Exception):
    """The root: catch it to catch everything this package raises on purpose."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class InputError(ImageProcessorError):
    """The bytes are not an image that can be accepted; the same bytes will fail again."""

    code = "input_invalid"


class EmptyFileError(InputError):
    """The file has no bytes."""

    code = "file_empty"


class UnsupportedTypeError(InputError):
    """The magic bytes are not those of an accepted format."""

    code = "type_unsupported"


class FileTooLargeError(InputError):
    """The file has more bytes than the limit allows."""

    code = "file_too_large"


class TooManyPixelsError(InputError):
    """Width times height, as the header states them, is above the limit."""

    code = "image_too_large"


class DimensionTooLargeError(InputError):
    """One side, as the header states it, is longer than the limit."""

    code = "dimension_too_large"


class InvalidImageError(InputError):
    """The header or the pixels do not follow the format."""

    code = "image_invalid"


class TruncatedImageError(InputError):
    """The file ends before the image does."""

    code = "image_truncated"


class RequestError(ImageProcessorError):
    """What came with the image, or what was asked, cannot be accepted."""

    code = "request_invalid"


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
    """The bucket is missing, not a valid name, or not among the allowed ones."""

    code = "bucket_invalid"


class InvalidMetadataError(RequestError):
    """``metadata`` is not a JSON object within the limits of size and depth."""

    code = "metadata_invalid"


class UnknownSizeError(RequestError):
    """No size of that name was made."""

    code = "size_unknown"


class TooManyIdsError(RequestError):
    """A batch asks for more images than are answered at once, or for none."""

    code = "id_count_invalid"


class InvalidIdError(RequestError):
    """An id is not a UUID."""

    code = "id_invalid"


class InvalidIdempotencyKeyError(RequestError):
    """The ``Idempotency-Key`` is empty, too long or has characters that are not printable ASCII."""

    code = "idempotency_key_invalid"


class IdempotencyKeyReusedError(RequestError):
    """The ``Idempotency-Key`` was used before with another payload."""

    code = "idempotency_key_reused"


class RateLimitedError(RequestError):
    """The user's uploads of this window are spent until ``reset_at`` (UTC)."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, reset_at: datetime) -> None:
        super().__init__(message)
        self.reset_at = reset_at


class UnauthorizedError(RequestError):
    """There is no acceptable token. The message is the same for every cause."""

    code = "token_invalid"

    def __init__(self) -> None:
        super().__init__("A valid bearer token is required: send 'Authorization: Bearer <token>'.")


class AdminRequiredError(RequestError):
    """The token is good, but its ``scope`` does not contain ``images:admin``."""

    code = "admin_required"

    def __init__(self) -> None:
        super().__init__("This needs a token whose scope contains 'images:admin'.")


class StorageError(ImageProcessorError):
    """Bytes could not be stored, read or removed."""

    code = "storage_error"


class ObjectNotFoundError(StorageError):
    """Nothing is stored under that key."""

    code = "object_not_found"


class InvalidKeyError(StorageError):
    """A key that no backend accepts: empty, absolute, climbing, or with forbidden characters."""

    code = "key_invalid"


class StorageUnavailableError(StorageError):
    """The storage did not answer, or refused."""

    code = "storage_unavailable"
    retryable = True


class StorageFullError(StorageError):
    """No space is left, or a quota is used up."""

    code = "storage_full"
    retryable = True


class JobError(ImageProcessorError):
    """A job or its image is not there, not ready, or could not be done."""

    code = "job_error"


class JobNotFoundError(JobError):
    """No such job, or it is not the caller's to see."""

    code = "job_not_found"


class ImageNotFoundError(JobError):
    """No such image, or it is not the caller's to see."""

    code = "image_not_found"


class JobNotReadyError(JobError):
    """The job has not ended yet: ask again later."""

    code = "job_not_ready"


class JobFailedError(JobError):
    """The job ended without a result; ``job_code`` is the code of its cause."""

    code = "job_failed"

    def __init__(self, message: str, *, job_code: str) -> None:
        super().__init__(message)
        self.job_code = job_code


class JobNotRetryableError(JobError):
    """Only a failed job whose source is still kept can be tried again."""

    code = "job_not_retryable"


class SourceMissingError(JobError):
    """The staged upload is gone."""

    code = "source_missing"


class SourceCorruptError(JobError):
    """The staged upload is not what was received: its SHA-256 differs."""

    code = "source_corrupt"


class WorkerLostError(JobError):
    """The worker process ended in the middle of the job."""

    code = "worker_lost"
    retryable = True


class DecodeTimeoutError(JobError):
    """The job ran longer than JOB_TIMEOUT_SECONDS."""

    code = "decode_timeout"
    retryable = True


class MemoryLimitError(JobError):
    """The job needed more than JOB_MEMORY_LIMIT_MB."""

    code = "memory_exceeded"
    retryable = True


class UnexpectedError(JobError):
    """A fault of this package: the log has the traceback."""

    code = "internal_error"
    retryable = True


class DatabaseUnavailableError(ImageProcessorError):
    """The database is locked, read-only or unreachable."""

    code = "database_unavailable"
    retryable = True


class BrokerUnavailableError(ImageProcessorError):
    """Redis does not answer. Jobs wait in the database."""

    code = "broker_unavailable"
    retryable = True


class InvalidVariantError(ImageProcessorError, ValueError):
    """A variant's name, width, height, fit, quality or effort is out of range."""

    code = "variant_invalid"


class SettingsError(ImageProcessorError):
    """One or more settings are wrong; the message lists them all."""

    code = "settings_invalid"


class MissingExtraError(ImageProcessorError):
    """A feature needs an optional dependency; the message has the install line."""

    code = "extra_missing"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: run  pip install 'imageprocessor[{extra}]'")
        self.extra = extra
