"""An upload on its way in.

Refused before its body is read if it must be, then streamed and hashed.
"""

from __future__ import annotations

import errno
import hashlib
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from imageprocessor.errors import (
    InvalidFormError,
    InvalidIdempotencyKeyError,
    StorageFullError,
    StorageUnavailableError,
)
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import (
    MAX_IDEMPOTENCY_KEY_CHARACTERS,
    Sender,
    Upload,
    check_quota,
    submit,
)
from imageprocessor.server.auth import bearer, require_user
from imageprocessor.server.forms import UploadForm, check_body_size
from imageprocessor.server.lookups import query
from imageprocessor.server.storage_turns import in_turn

BLOCK_BYTES = 1024 * 1024


@dataclass(slots=True)
class IncomingFile:
    """What arrived of a picture.

    Its SHA-256, and the file in *folder* that holds it unless it came in one block.
    """

    folder: Path
    path: Path | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    def append(self, block: bytearray) -> None:
        """Write the next *block*; the first makes the file.

        Raises:
            StorageFullError, StorageUnavailableError: It could not be written.
        """
        self.digest.update(block)
        self.path = self.path or self.folder / uuid.uuid4().hex
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFullError(
                    "No space is left to receive the upload: try again later."
                ) from error
            raise StorageUnavailableError(
                f"The upload cannot be written ({error.strerror}): try again later."
            ) from error

    def end(self, block: bytearray) -> bytes | Path:
        """Take the last *block*, and return the picture: a small one never was in a file."""
        if self.path:
            self.append(block)
            return self.path
        self.digest.update(block)
        return bytes(block)

    def remove(self) -> None:
        """Remove the file, if it is still there."""
        if self.path:
            self.path.unlink(missing_ok=True)


async def admit(request: Request) -> Sender:
    """Refuse what can be refused before the body is read; note the quota, for the answer's headers.

    Raises:
        UnauthorizedError, RateLimitedError, InvalidIdempotencyKeyError, FileTooLargeError: In this
            order.
    """
    service: Service = request.state.service
    user = await require_user(request, await bearer(request))
    assert user.user_id is not None
    sender = Sender(
        user.user_id, _unquote(request.headers.get("idempotency-key")), request.state.request_id
    )
    request.state.quota = await query(service, check_quota, sender)
    _check_key(sender.idempotency_key)
    length = request.headers.get("content-length", "")
    check_body_size(int(length) if length.isdecimal() else 0, service.settings.limits.max_bytes)
    return sender


async def receive(request: Request, sender: Sender) -> tuple[Job, Quota]:
    """Read the form, a large file by way of ``incoming``, and submit it.

    Whatever comes of it, nothing remains there.

    Raises:
        InvalidFormError, MissingFileError, TooManyFilesError, FileTooLargeError: The form is not
            acceptable.
        StorageFullError, StorageUnavailableError: The file could not be written.
        ImageProcessorError: As ``submit``.
    """
    service: Service = request.state.service
    form = UploadForm(request.headers.get("content-type", ""), service.settings.limits.max_bytes)
    file = IncomingFile(service.incoming)
    try:
        await _read_body(request, form, file)
        return await in_turn(request.state.turns, _submit, service, sender, form, file)
    finally:
        file.remove()


async def _read_body(request: Request, form: UploadForm, file: IncomingFile) -> None:
    try:
        async for chunk in request.stream():
            form.feed(chunk)
            if len(form.file_bytes) >= BLOCK_BYTES:
                await run_in_threadpool(file.append, form.take_file_bytes())
    except ClientDisconnect:
        raise InvalidFormError("The client went away before the body ended.") from None
    form.finish()


def _submit(
    service: Service, sender: Sender, form: UploadForm, file: IncomingFile
) -> tuple[Job, Quota]:
    picture = file.end(form.take_file_bytes())
    upload = Upload(picture, file.digest.hexdigest(), form.text("bucket"), form.text("metadata"))
    return submit(service, upload, sender)


def _unquote(key: str | None) -> str | None:
    """Return the key without the quotation marks that the IETF draft asks for and most clients leave out."""
    return key[1:-1] if key and len(key) > 1 and key[0] == key[-1] == '"' else key


def _check_key(key: str | None) -> None:
    if key is not None and not (
        0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS and key.isascii() and key.isprintable()
    ):
        raise InvalidIdempotencyKeyError(
            f"Idempotency-Key {key[:40]!r} is no key: send 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} printable ASCII"
            " characters."
        )
