"""Opening what a caller may pass as an image: bytes, a path or a file object."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

ImageSource = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


@contextmanager
def open_source(data: ImageSource) -> Iterator[BinaryIO]:
    """Yield ``data`` as a seekable binary file at position 0.

    A path is opened and closed. A caller's file object is read from the start, stays open, and
    keeps its position.

    >>> with open_source(b"RIFF") as file:
    ...     file.read()
    b'RIFF'

    Raises:
        FileNotFoundError: The path does not exist.
        OSError: The path is a pipe, a device or a socket, or cannot be opened.
        TypeError: ``data`` is not an ``ImageSource``, for example a file opened as text.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        yield BytesIO(bytes(data))
    elif isinstance(data, str | os.PathLike):
        if is_special_file(data):
            reason = "Not a regular file; pass its content instead"
            raise OSError(errno.EINVAL, reason, os.fspath(data))
        with Path(data).open("rb") as file:
            yield file
    else:
        read = getattr(data, "read", None)
        is_binary = read is not None and isinstance(read(0), bytes)
        if not is_binary:
            raise TypeError(
                f"Cannot read an image from {type(data).__name__}. "
                "Pass bytes, a path, or a file opened in binary mode."
            )
        position = data.tell()
        data.seek(0)
        try:
            yield data
        finally:
            data.seek(position)


def is_special_file(path: str | os.PathLike[str]) -> bool:
    """Return whether *path* is a pipe, a device or a socket.

    To open one may block for ever or have other effects, and none can be read twice.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - *path* may be text
    except OSError:  # opening it raises the same
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
