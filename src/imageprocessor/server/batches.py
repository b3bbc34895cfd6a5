"""Accepting batches: refuse early what can be refused, receive the body, submit all files."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from imageprocessor.queue.access import Caller
from imageprocessor.queue.batches import (
    MAX_FILENAME_CHARACTERS,
    BatchUpload,
    ReceivedFile,
    check_quota,
    submit_batch,
)
from imageprocessor.queue.incoming import IncomingFile
from imageprocessor.queue.jobs.batch_store import Batch
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender, counting_refusals
from imageprocessor.server.forms import BatchRules, TextFields, UploadForm
from imageprocessor.server.threads import StorageThreads
from imageprocessor.server.uploads import admit, read_body
from imageprocessor.settings import BYTES_PER_MB


class AcceptedBatch(NamedTuple):
    """The batch created by an upload, and the sender's remaining quota."""

    batch: Batch
    quota: Quota


async def accept_batch(request: Request, user: Caller, *, is_atomic: bool) -> AcceptedBatch:
    """Check, receive and submit the batch in *request*.

    Raises:
        ImageProcessorError: Any error raised by :func:`admit`, :meth:`IncomingBatch.receive` or
            ``submit_batch``.
    """
    service: Service = request.state.service
    storage_threads: StorageThreads = request.state.storage_threads
    settings = service.settings
    rules = BatchRules(settings.batch_max_files, settings.batch_max_mb * BYTES_PER_MB)
    with counting_refusals(service):
        sender = await admit(request, service, user, rules, check_quota)
        incoming = IncomingBatch(service)
        try:
            with service.write_faults.watch():
                fields = await incoming.receive(request, rules)
                return await storage_threads.run(
                    submit_files, service, sender, incoming, fields, is_atomic=is_atomic
                )
        finally:
            incoming.remove()


def submit_files(
    service: Service,
    sender: Sender,
    incoming: IncomingBatch,
    fields: TextFields,
    *,
    is_atomic: bool,
) -> AcceptedBatch:
    """Make the received files durable and queue their jobs.

    Raises:
        ImageProcessorError: Any error raised by ``submit_batch``.
    """
    files = [file.complete() for file in incoming.files]
    upload = BatchUpload(
        files, fields.bucket, fields.metadata, fields.webhook, fields.items, is_atomic
    )
    return AcceptedBatch(*submit_batch(service, upload, sender))


class IncomingBatch:
    """The files of a batch as they are received. In every case, call :meth:`remove`.

    Of the files received so far, at most MAX_KEPT_BYTES each stay in memory.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unwritten: list[IncomingBatchFile] = []  #: that may have something to write
        self.files: list[IncomingBatchFile] = []

    async def receive(self, request: Request, rules: BatchRules) -> TextFields:
        """Read the form from the body, write its files, and return its text fields.

        Raises:
            InvalidFormError, MissingFileError, BatchTooLargeError, InvalidBucketError,
            InvalidMetadataError, InvalidItemsError, UnknownWebhookError: The form is invalid.
            StorageFullError, StorageUnavailableError: A file cannot be written.
        """
        content_type = request.headers.get("content-type", "")
        form = UploadForm(content_type, rules, self._begin)
        async for chunk in read_body(request):
            form.feed(chunk)
            await self._write()
        return form.finish()

    def remove(self) -> None:
        """Delete the files on disk that are still there."""
        for file in self.files:
            file.content.remove()

    async def _write(self) -> None:
        """Write to disk what is not to stay in memory."""
        for file in self._unwritten:
            has_ended = file is not self.files[-1]
            if file.content.has_block or (has_ended and file.content.has_rest):
                await run_in_threadpool(file.content.write_block)
        self._unwritten = self.files[-1:]

    def _begin(self, filename: str | None) -> Callable[[memoryview], None]:
        file = IncomingBatchFile(self._service, filename)
        self.files.append(file)
        self._unwritten.append(file)
        return file.collect


class IncomingBatchFile:
    """One file of a batch as it is received; what exceeds the limit for a file is discarded."""

    def __init__(self, service: Service, filename: str | None) -> None:
        self._filename = filename[:MAX_FILENAME_CHARACTERS] if filename else filename
        self._max_bytes = service.settings.limits.max_bytes
        self._size_bytes = 0
        self.content = IncomingFile(service.incoming)

    def collect(self, data: memoryview) -> None:
        """Add *data* in memory, as far as the limit allows; this never blocks."""
        room = max(0, self._max_bytes - self._size_bytes)
        self._size_bytes += len(data)
        self.content.collect(data[:room])

    def complete(self) -> ReceivedFile:
        """Return the whole file.

        Raises:
            StorageFullError, StorageUnavailableError: See :meth:`IncomingFile.write_block`.
        """
        content = self.content.complete()
        is_whole = self._size_bytes <= self._max_bytes
        return ReceivedFile(
            self._filename,
            content if is_whole else None,
            self._size_bytes,
            self.content.sha256,
        )
