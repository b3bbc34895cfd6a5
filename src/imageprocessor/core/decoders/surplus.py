"""Finding out whether the coded data of an image goes on behind its last pixel."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.formats.registry import ImageFormat
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import validate
from imageprocessor.errors import InputError, InvalidImageError

_SMALLEST = Dimensions(1, 1)
_MAX_HEADER_BYTES = 100
"""The most that a frame's own header adds to it."""


def check_coded_data(data: bytes, image_format: ImageFormat, limits: Limits) -> None:
    """Decode a file without metadata; raise an error if its coded data is too short or too long.

    Raises:
        TruncatedImageError: Pixels are missing.
        InvalidImageError: The pixels do not follow the format, or coded data follows the last one.
    """
    limits = replace(limits, max_bytes=len(data) + _MAX_HEADER_BYTES)
    if image_format.shorten is None:
        _decode(data, limits)
        return
    for frame, copies_of_chunks in image_format.shorten(data):
        pixels = _decode(frame, limits)
        for copies in copies_of_chunks:
            if all(_has_pixels(copy, pixels, limits) for copy in copies):
                raise InvalidImageError(
                    f"The {image_format.title} is damaged: there is image data behind its last "
                    "pixel. Send the file again."
                )


def _has_pixels(data: bytes, pixels: bytes, limits: Limits) -> bool:
    try:
        return _decode(data, limits) == pixels
    except InputError:
        return False


def _decode(data: bytes, limits: Limits) -> bytes:
    """Return the pixels, of a JPEG those at its smallest scale."""
    file = BytesIO(data)
    info = validate(file, limits)
    unpacked = unpack(file, info)
    return decode(unpacked, info, limits, at_least=_SMALLEST).tobytes()
