"""Recognizing a file's format by its magic bytes, whatever its name or MIME type."""

from __future__ import annotations

from typing import BinaryIO

import filetype

from imageprocessor.core.formats.registry import FORMATS, ImageFormat
from imageprocessor.core.limits import Limits
from imageprocessor.errors import EmptyFileError, UnsupportedTypeError

_SIGNATURE_BYTES = 8192  # the most that filetype reads


def sniff(file: BinaryIO, limits: Limits) -> ImageFormat:
    """Return the format of ``file`` by its first bytes, and rewind the file.

    Raises:
        EmptyFileError: The file has no bytes.
        UnsupportedTypeError: The file's format is not in ``limits.mime_types``.
    """
    file.seek(0)
    signature = file.read(_SIGNATURE_BYTES)
    file.seek(0)
    if not signature:
        raise EmptyFileError("The file is empty (0 bytes). Send the image itself.")
    found = filetype.guess_mime(signature)
    for image_format in FORMATS.values():
        if found in image_format.mime_types:
            if image_format.mime_type in limits.mime_types:
                return image_format
            found = image_format.mime_type
    kind = found or "of an unknown type"
    accepted = ", ".join(sorted(limits.mime_types))
    raise UnsupportedTypeError(f"The file is {kind}. Send one of {accepted}.")
