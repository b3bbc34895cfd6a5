"""Accepting uploads: refuse early what can be refused, receive the body, submit the job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from imageprocessor.errors import (
    InvalidFormError,
    InvalidIdempotencyKeyError,
    UnsupportedEncodingError,
)
from imageprocessor.queue.access import Caller
from imageprocessor.queue.incoming import IncomingFile
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import (
    MAX_IDEMPOTENCY_KEY_CHARACTERS,
    Sender,
    Upload,
    check_quota,
    counting_refusals,
    submit,
)
from imageprocessor.server.forms import TextFields, UploadForm, UploadRules
from imageprocessor.server.threads import StorageThreads, run_read


class Accepted(NamedTuple):
    """The job created by an upload, and the sender's remaining quota."""

    job: Job
    quota: Quota


async def accept_upload(request: Request, user: Caller) -> Accepted:
    """Check, receive and submit the upload in *request*.

    Raises:
        ImageProcessorError: Any error raised by :func:`admit`, :func:`receive` or ``submit``.
    """
    service: Service = request.state.service
    storage_threads: StorageThreads = request.state.storage_threads
    rules = UploadRules(service.settings.limits.max_bytes)
    with counting_refusals(service):
        sender = await admit(request, service, user, rules, check_quota)
        file = IncomingFile(service.incoming)
        try:
            with service.write_faults.watch():
                fields = await receive(request, rules, file)
                return await storage_threads.run(submit_file, service, sender, file, fields)
        finally:
            file.remove()


async def admit(
    request: Request,
    service: Service,
    user: Caller,
    rules: UploadRules,
    check_quota: Callable[[Service, Sender], Quota],
) -> Sender:
    """Return the sender, or refuse the upload if that is possible before reading its body.

    The checks run in the order of the errors below; *check_quota* makes the first.

    Raises:
        RateLimitedError: The sender's quota for this window is exhausted.
        InvalidIdempotencyKeyError: The Idempotency-Key is malformed.
        UnsupportedEncodingError: The body is compressed.
        FileTooLargeError, BatchTooLargeError: The Content-Length exceeds the limit.
    """
    assert user.user_id is not None
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # quotation marks are optional; most clients omit them
    sender = Sender(user.user_id, key, request.state.request_id)
    # Every response from here on, including errors, reports this quota in its headers.
    request.state.quota = await run_read(service, check_quota, sender)
    _check_idempotency_key(key)
    _check_encoding(request)
    content_length = request.headers.get("content-length", "")
    if content_length.isdecimal():
        rules.check_body_size(int(content_length))
    return sender


async def receive(request: Request, rules: UploadRules, file: IncomingFile) -> TextFields:
    """Read the form from the body, write its file to *file*, and return its text fields.

    Raises:
        InvalidFormError, MissingFileError, TooManyFilesError, FileTooLargeError,
        InvalidBucketError, InvalidMetadataError, UnknownWebhookError: The form is invalid.
        StorageFullError, StorageUnavailableError: The file cannot be written.
    """
    content_type = request.headers.get("content-type", "")
    form = UploadForm(content_type, rules, lambda _: file.collect)
    async for chunk in read_body(request):
        form.feed(chunk)
        if file.has_block:
            await run_in_threadpool(file.write_block)
    return form.finish()


async def read_body(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises:
        InvalidFormError: The client disconnected before its end.
    """
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise InvalidFormError("The client disconnected before the body ended.") from None


def submit_file(
    service: Service, sender: Sender, file: IncomingFile, fields: TextFields
) -> Accepted:
    """Make the received file durable and queue its job.

    Raises:
        ImageProcessorError: Any error raised by ``submit``.
    """
    content = file.complete()
    upload = Upload(content, file.sha256, fields.bucket, fields.metadata, fields.webhook)
    return Accepted(*submit(service, upload, sender))


def _check_idempotency_key(key: str | None) -> None:
    if key is None:
        return
    has_valid_length = 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS
    if not (has_valid_length and key.isascii() and key.isprintable()):
        raise InvalidIdempotencyKeyError(
            f"Idempotency-Key {key[:40]!r} is invalid. "
            f"Send 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} printable ASCII characters."
        )


def _check_encoding(request: Request) -> None:
    encodings = ",".join(request.headers.getlist("content-encoding")).lower()
    if encodings.strip() not in {"", "identity"}:
        raise UnsupportedEncodingError(
            f"Content-Encoding is {encodings[:40]!r}. Send the form uncompressed."
        )
