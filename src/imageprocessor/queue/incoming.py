"""A file as it is received: hashed on arrival, written to disk only if it is large."""

from __future__ import annotations

import errno
import hashlib
import uuid
from pathlib import Path

from imageprocessor.errors import StorageFullError, StorageUnavailableError

BLOCK_BYTES = 1024 * 1024  #: buffered in memory before each write; a smaller file stays in memory
MAX_KEPT_BYTES = 128 * 1024  #: of each file of a batch in memory while others are received
#: from the first byte of a body to the last; the sweep takes older files for abandoned
MAX_BODY_SECONDS = 3600


class IncomingFile:
    """A file received in pieces: its SHA-256 and its bytes, in memory or in *folder*.

    Call :meth:`collect` for each piece, :meth:`write_block` whenever ``has_block`` is true, and
    :meth:`complete` at the end. In every case, call :meth:`remove`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._pending = bytearray()
        self._digest = hashlib.sha256()

    @property
    def has_block(self) -> bool:
        """Whether enough bytes have been collected to write a block."""
        return len(self._pending) >= BLOCK_BYTES

    @property
    def has_rest(self) -> bool:
        """Whether to write what is left of a file whose end has arrived, to free its memory."""
        return len(self._pending) > (0 if self._path else MAX_KEPT_BYTES)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the completed file, in hexadecimal."""
        return self._digest.hexdigest()

    def collect(self, data: bytes | memoryview) -> None:
        """Add *data* in memory; this never blocks."""
        self._pending += data

    def write_block(self) -> None:
        """Append the collected bytes to the file on disk, which the first block creates.

        Raises:
            StorageFullError, StorageUnavailableError: The bytes could not be written.
        """
        block, self._pending = self._pending, bytearray()
        self._digest.update(block)
        if self._path is None:
            self._path = self._folder / uuid.uuid4().hex
        try:
            with self._path.open("ab") as file:
                file.write(block)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFullError(
                    "No space is left to receive the upload. Try again later."
                ) from error
            raise StorageUnavailableError(
                f"The upload cannot be written ({error.strerror}). Try again later."
            ) from error

    def complete(self) -> bytes | Path:
        """Return the whole file: its bytes if no block was written, otherwise its path.

        Raises:
            StorageFullError, StorageUnavailableError: See :meth:`write_block`.
        """
        if self._path is not None:
            self.write_block()
            return self._path
        self._digest.update(self._pending)
        return bytes(self._pending)

    def remove(self) -> None:
        """Delete the file on disk if it is still there."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
