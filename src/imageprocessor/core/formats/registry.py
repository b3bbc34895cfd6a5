"""The accepted formats, told by their magic bytes alone.

Names and MIME types of clients decide nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import BinaryIO

import filetype

from imageprocessor.core.limits import Limits
from imageprocessor.errors import EmptyFileError, UnsupportedTypeError

_SIGNATURE_BYTES = 8192  # as much as filetype looks at


class ImageFormat(StrEnum):
    """A format; the value is Pillow's name of the decoder to pin."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"

    @property
    def mime_type(self) -> str:
        return f"image/{self.value.lower()}"


def sniff(file: BinaryIO, limits: Limits) -> ImageFormat:
    """Tell the format of ``file`` by its first bytes; the file is left at position 0.

    Raises:
        EmptyFileError: there are no bytes.
        UnsupportedTypeError: the bytes are of no format in ``limits.mime_types``.
    """
    file.seek(0)
    signature = file.read(_SIGNATURE_BYTES)
    file.seek(0)
    if not signature:
        raise EmptyFileError("The file is empty (0 bytes): send the picture itself.")
    mime_type = filetype.guess_mime(signature)
    if mime_type == "image/apng":  # a PNG with more than one frame
        mime_type = ImageFormat.PNG.mime_type
    for image_format in ImageFormat:
        if image_format.mime_type == mime_type and mime_type in limits.mime_types:
            return image_format
    accepted = ", ".join(sorted(limits.mime_types))
    raise UnsupportedTypeError(
        f"The file is {mime_type or 'of an unknown type'}: send one of {accepted}."
    )
