"""Checking an image by its header, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.core.formats.container import add_durations, file_size
from imageprocessor.core.formats.sniff import sniff
from imageprocessor.core.limits import Limits, check_dimensions, check_size
from imageprocessor.core.source import ImageSource, open_source


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header declares.

    ``format`` is a name in ``core.formats.registry.FORMATS``, such as "JPEG". Width and height are
    in pixels as stored, before orientation. A JPEG or HEIC that contains further images has one
    frame. ``duration`` is that of an animation, played once, in seconds; None for a still image.
    """

    format: str
    mime_type: str
    width: int
    height: int
    frames: int
    duration: float | None = None


def validate(data: ImageSource, limits: Limits = Limits()) -> ImageInfo:
    """Check the size, type and dimensions of ``data`` without running a decoder.

    A valid header does not mean that the pixels are valid; only decoding shows that.

    Raises:
        FileTooLargeError: The file has more than ``limits.max_bytes``.
        EmptyFileError: The file has no bytes.
        UnsupportedTypeError: The type is not in ``limits.mime_types``.
        DimensionTooLargeError: A side is longer than ``limits.max_side``.
        TooManyPixelsError: The image has more than ``limits.max_pixels``.
        InvalidImageError: The header does not follow the format.
        TruncatedImageError: The file ends before its header does.
    """
    with open_source(data) as file:
        check_size(file_size(file), limits)
        image_format = sniff(file, limits.mime_types)
        header = image_format.container.read_header(file)
        duration = None
        if header.frames > 1 and image_format.read_durations is not None:
            duration = add_durations(image_format.read_durations(file))
    check_dimensions(header.width, header.height, limits)
    if header.decoded is not None:
        check_dimensions(*header.decoded, limits)
    return ImageInfo(
        format=image_format.name,
        mime_type=image_format.mime_type,
        width=header.width,
        height=header.height,
        frames=header.frames,
        duration=duration,
    )
