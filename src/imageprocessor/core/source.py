"""What a caller may pass as an image, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

ImageSource = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


@contextmanager
def open_source(data: ImageSource) -> Iterator[BinaryIO]:
    """Yield ``data`` as a seekable binary file at position 0.

    A path is opened and closed. The caller's own file object is read from its start, stays open,
    and is left at its former position.

    >>> with open_source(b"RIFF") as file:
    ...     file.read()
    b'RIFF'

    Raises:
        FileNotFoundError: no file is at that path.
        TypeError: ``data`` is not an ``ImageSource``, such as a file opened as text.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        yield BytesIO(bytes(data))
    elif isinstance(data, str | os.PathLike):
        with Path(data).open("rb") as file:
            yield file
    else:
        read = getattr(data, "read", None)
        is_binary = read is not None and isinstance(read(0), bytes)
        if not is_binary:
            raise TypeError(
                f"A picture cannot be read from {type(data).__name__}: "
                "pass bytes, a path, or a file opened in binary mode."
            )
        position = data.tell()
        data.seek(0)
        try:
            yield data
        finally:
            data.seek(position)
