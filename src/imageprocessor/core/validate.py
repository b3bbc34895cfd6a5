"""What a picture is, told by its header alone."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.core.formats import jpeg, png, webp
from imageprocessor.core.formats.container import Container, file_size
from imageprocessor.core.formats.registry import ImageFormat, sniff
from imageprocessor.core.limits import Limits, check_dimensions, check_size
from imageprocessor.core.source import ImageSource, open_source

CONTAINERS: dict[str, Container] = {
    ImageFormat.JPEG: jpeg,
    ImageFormat.PNG: png,
    ImageFormat.WEBP: webp,
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header says.

    ``format`` is "JPEG", "PNG" or "WEBP"; width and height are pixels as stored, before
    orientation. A JPEG that carries further pictures is a JPEG of one frame.
    """

    format: str
    mime_type: str
    width: int
    height: int
    frames: int


def validate(data: ImageSource, limits: Limits = Limits()) -> ImageInfo:
    """Check the size, type and dimensions of ``data`` without running a decoder.

    That the header is right does not mean that the pixels are: only decoding tells.

    Raises:
        FileTooLargeError: more bytes than ``limits.max_bytes``.
        EmptyFileError: no bytes.
        UnsupportedTypeError: not one of ``limits.mime_types``.
        DimensionTooLargeError: a side is longer than ``limits.max_side``.
        TooManyPixelsError: more pixels than ``limits.max_pixels``.
        InvalidImageError: the header does not follow the format.
        TruncatedImageError: the file ends before its header does.
    """
    with open_source(data) as file:
        check_size(file_size(file), limits)
        image_format = sniff(file, limits)
        header = CONTAINERS[image_format].read_header(file)
    check_dimensions(header.width, header.height, limits)
    return ImageInfo(
        image_format.value, image_format.mime_type, header.width, header.height, header.frames
    )
