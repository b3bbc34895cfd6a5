"""Uploads that a browser sends straight to S3: sign its request, later check and accept the file.

The browser's request stores the file in staging, under the id of its image, and could replace it
until the request expires. So what was checked is copied to the key of its job, by S3 itself and on
the condition that the ETag is the same: no other bytes are accepted, and nobody outside can change
or delete what a 202 has confirmed. The sweep deletes what is never completed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from imageprocessor.core.limits import check_size
from imageprocessor.errors import (
    DirectUnsupportedError,
    InputError,
    MissingUploadError,
    ObjectNotFoundError,
    RequestError,
    StorageError,
)
from imageprocessor.queue.client_metadata import parse_context
from imageprocessor.queue.incoming import IncomingFile
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import (
    Sender,
    Upload,
    check_bucket_name,
    find_accepted,
    make_job,
    queue_staged,
)
from imageprocessor.storage.keys import staging_key
from imageprocessor.storage.s3 import S3Storage, SignedUpload


@dataclass(frozen=True, slots=True)
class DirectUpload:
    """A file that is sent straight to S3, and the fields of its ticket."""

    image_id: str
    bucket: str
    max_bytes: int
    metadata: str = ""
    webhook: str = ""

    @property
    def key(self) -> str:
        """Where the browser's request stores the file. No job has this key."""
        return staging_key(self.bucket, self.image_id)


def sign_upload(
    service: Service, upload: DirectUpload, size_bytes: int | None, seconds: int
) -> SignedUpload:
    """Return a request that stores the file in staging, for *seconds*.

    Raises:
        DirectUnsupportedError: The storage is not S3.
        RequestError: *size_bytes* is None, and the request is to be a PUT.
        StorageUnavailableError: There are no credentials to sign with.
    """
    staging = _require_s3(service)
    if service.settings.s3_direct_uploads == "post":
        return staging.sign_post(upload.key, upload.max_bytes, seconds)
    if size_bytes is None:
        raise RequestError(
            "size is missing: files are sent to this S3 server by PUT, and its signature covers "
            "their size. Send the file's size in bytes as 'size'."
        )
    return staging.sign_put(upload.key, size_bytes, seconds)


def complete_upload(service: Service, upload: DirectUpload, sender: Sender) -> tuple[Job, Quota]:
    """Check the file that was sent to S3, count it and queue its job; see ``uploads.submit``.

    Return the same job if it is already queued.

    Raises:
        DirectUnsupportedError: The storage is not S3.
        MissingUploadError: The file is not in S3, or was replaced while it was read.
        InputError: The file is refused; it is deleted.
        ImageProcessorError: Any other error raised by ``uploads.submit``. The file stays, so that
            the request can be repeated.
    """
    staging = _require_s3(service)
    check_bucket_name(service, upload.bucket)
    if accepted := find_accepted(service, sender):
        return accepted
    try:
        job, size_bytes = _stage(service, staging, upload, sender)
    except ObjectNotFoundError:
        if accepted := find_accepted(service, sender):  # by another request, meanwhile
            return accepted
        raise MissingUploadError(
            f"The file of image {upload.image_id} is not in S3, or was replaced while it was read. "
            "Send it as the ticket says, then complete the upload again."
        ) from None
    except InputError:
        _discard(staging, upload)
        raise
    accepted = queue_staged(service, job, size_bytes, sender)
    _discard(staging, upload)
    return accepted


def _stage(
    service: Service, staging: S3Storage, upload: DirectUpload, sender: Sender
) -> tuple[Job, int]:
    """Check the file and copy it to the key of a new job; return this job and the file's size.

    Raises:
        ObjectNotFoundError: The file is not in S3, or was replaced meanwhile.
        InputError: The file is refused.
    """
    limits = replace(service.settings.limits, max_bytes=upload.max_bytes)
    file = IncomingFile(service.incoming)
    try:
        with staging.open(upload.key) as sent:
            check_size(sent.size_bytes, limits)  # not every S3 server does
            for piece in sent.pieces:
                file.collect(piece)
                if file.has_block:
                    file.write_block()
        content = file.complete()
        received = Upload(content, file.sha256, upload.bucket, upload.metadata, upload.webhook)
        job = make_job(service, received, parse_context(upload.metadata), sender)
    finally:
        file.remove()
    assert job.staging_key is not None
    staging.copy(upload.key, job.staging_key, sent.etag)
    return job, sent.size_bytes


def _discard(staging: S3Storage, upload: DirectUpload) -> None:
    """Delete what the browser sent. If that fails, the sweep does it."""
    with suppress(StorageError):
        staging.delete(upload.key)


def _require_s3(service: Service) -> S3Storage:
    if not isinstance(service.staging, S3Storage):
        raise DirectUnsupportedError(
            "This service stores images on its own disk, so files cannot be sent straight to S3. "
            "Leave out 'direct' and send the file to 'upload_url'."
        )
    return service.staging
