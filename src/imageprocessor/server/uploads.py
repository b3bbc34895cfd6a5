"""Accepting uploads: refuse early what can be refused, receive the body, submit the job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from imageprocessor.errors import (
    InvalidFormError,
    InvalidIdempotencyKeyError,
    InvalidTicketError,
    MissingFileError,
    UnsupportedEncodingError,
)
from imageprocessor.queue.access import Caller
from imageprocessor.queue.direct_uploads import complete_upload
from imageprocessor.queue.incoming import IncomingFile
from imageprocessor.queue.job_control import check_completed
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
from imageprocessor.server.dependencies import provide_base_url
from imageprocessor.server.events.preferences import describe_preference, read_wait
from imageprocessor.server.events.waiting import wait_for_upload
from imageprocessor.server.forms import TextFields, TicketRules, UploadForm, UploadRules
from imageprocessor.server.quota_headers import describe_quota
from imageprocessor.server.representations import JOBS_URL, represent_upload
from imageprocessor.server.responses import make_json
from imageprocessor.server.schemas import ACCEPTED, UploadAccepted
from imageprocessor.server.threads import StorageThreads, run_read
from imageprocessor.server.tickets import make_direct
from imageprocessor.tokens import Ticket


class Accepted(NamedTuple):
    """The job created by an upload, and the sender's remaining quota."""

    job: Job
    quota: Quota


async def answer_upload(request: Request, accepted: Accepted, user: Caller) -> Response:
    """Return the result if the request may wait for it and it comes in time, or else a 202.

    Raises:
        InvalidWaitError: See :func:`preferences.read_wait`.
        JobFailedError: The job failed while the request waited.
    """
    job, quota = accepted
    seconds = read_wait(request)
    headers = {**describe_quota(quota), **describe_preference(request)}
    if seconds:
        request.state.quota = quota  # for the problem if the job failed
        ended = await wait_for_upload(request, job, seconds)
        if ended is not None:
            check_completed(ended)
            completed = represent_upload(ended, user, await provide_base_url(request))
            return make_json(completed, headers=headers)
    body = UploadAccepted(
        job_id=job.job_id,
        image_id=job.image_id,
        status_url=f"{request.scope['root_path']}{JOBS_URL}/{job.job_id}",
        message=ACCEPTED,
    )
    return make_json(body, HTTPStatus.ACCEPTED, headers)


async def accept_upload(request: Request, user: Caller) -> Accepted:
    """Check, receive and submit the upload in *request*.

    Raises:
        ImageProcessorError: Any error raised by :func:`admit`, :func:`receive` or ``submit``.
    """
    service: Service = request.state.service
    rules = UploadRules(service.settings.limits.max_bytes)
    return await _receive_and_submit(request, read_sender(request, user), rules, receive)


async def accept_ticket_upload(request: Request, ticket: Ticket) -> Accepted:
    """Check, receive and submit the upload in *request*: a file by PUT, or a form by POST.

    Its bucket, metadata and webhook are those of the ticket. The same file may be sent again.

    Raises:
        InvalidTicketError: The form names another bucket than the ticket.
        ImageProcessorError: See :func:`accept_upload`.
    """

    async def receive_one(request: Request, rules: UploadRules, file: IncomingFile) -> TextFields:
        if request.method == "PUT":
            await receive_file(request, rules, file)
        else:
            sent = await receive(request, rules, file)
            if sent.bucket not in ("", ticket.bucket):
                raise InvalidTicketError(f"it is for the bucket {ticket.bucket!r}")
        return TextFields(ticket.bucket, ticket.metadata, ticket.webhook)

    service: Service = request.state.service
    rules = TicketRules(min(ticket.max_bytes, service.settings.limits.max_bytes))
    return await _receive_and_submit(request, _make_sender(request, ticket), rules, receive_one)


async def accept_direct_upload(request: Request, ticket: Ticket) -> Accepted:
    """Submit the file that was sent straight to S3 with *ticket*.

    Raises:
        RateLimitedError: The sender's quota for this window is exhausted.
        ImageProcessorError: Any error raised by ``complete_upload``.
    """
    service: Service = request.state.service
    storage_threads: StorageThreads = request.state.storage_threads
    sender = _make_sender(request, ticket)
    upload = make_direct(ticket)
    with counting_refusals(service):
        request.state.quota = await run_read(service, check_quota, sender)
        with service.write_faults.watch():
            submitted = await storage_threads.run(complete_upload, service, upload, sender)
    return Accepted(*submitted)


def _make_sender(request: Request, ticket: Ticket) -> Sender:
    """Return the sender of an upload with *ticket*, which the image's id spends."""
    key = f"ticket:{ticket.image_id}"
    return Sender(ticket.user_id, key, request.state.request_id, ticket.image_id)


async def _receive_and_submit(
    request: Request,
    sender: Sender,
    rules: UploadRules,
    receive: Callable[[Request, UploadRules, IncomingFile], Awaitable[TextFields]],
) -> Accepted:
    """Admit the upload; by *receive*, write its file and get its fields; submit it."""
    service: Service = request.state.service
    storage_threads: StorageThreads = request.state.storage_threads
    with counting_refusals(service):
        await admit(request, service, sender, rules, check_quota)
        file = IncomingFile(service.incoming)
        try:
            with service.write_faults.watch():
                fields = await receive(request, rules, file)
                return await storage_threads.run(submit_file, service, sender, file, fields)
        finally:
            file.remove()


def read_sender(request: Request, user: Caller) -> Sender:
    """Return the sender of *request*, with the Idempotency-Key as it was sent."""
    assert user.user_id is not None
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # quotation marks are optional; most clients omit them
    return Sender(user.user_id, key, request.state.request_id)


async def admit(
    request: Request,
    service: Service,
    sender: Sender,
    rules: UploadRules,
    check_quota: Callable[[Service, Sender], Quota],
) -> None:
    """Refuse the upload if that is possible before reading its body.

    The checks run in the order of the errors below; *check_quota* makes the first.

    Raises:
        RateLimitedError: The sender's quota for this window is exhausted.
        InvalidIdempotencyKeyError: The Idempotency-Key is malformed.
        UnsupportedEncodingError: The body is compressed.
        FileTooLargeError, BatchTooLargeError: The Content-Length exceeds the limit.
    """
    # Every response from here on, including errors, reports this quota in its headers.
    request.state.quota = await run_read(service, check_quota, sender)
    _check_idempotency_key(sender.idempotency_key)
    _check_encoding(request)
    content_length = request.headers.get("content-length", "")
    if content_length.isdecimal():
        rules.check_body_size(int(content_length))


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


async def receive_file(request: Request, rules: UploadRules, file: IncomingFile) -> None:
    """Write the body, which is the file itself, to *file*.

    Raises:
        FileTooLargeError: It is larger than the limit.
        MissingFileError: The body is empty.
        StorageFullError, StorageUnavailableError: The file cannot be written.
    """
    size_bytes = 0
    async for chunk in read_body(request):
        size_bytes += len(chunk)
        if size_bytes > rules.max_bytes:
            raise rules.make_size_error()
        file.collect(chunk)
        if file.has_block:
            await run_in_threadpool(file.write_block)
    if size_bytes == 0:
        raise MissingFileError("The body is empty. Send the image itself.")


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
