"""How large an image is accepted, checked from what its header says."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.core.formats.registry import list_mime_types
from imageprocessor.errors import (
    DimensionTooLargeError,
    FileTooLargeError,
    InvalidImageError,
    TooManyPixelsError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds (inclusive) for an image, and the MIME types accepted."""

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 65_535
    mime_types: frozenset[str] = frozenset(list_mime_types())


def check_size(size_bytes: int, limits: Limits) -> None:
    """Raise ``FileTooLargeError`` if the file has more bytes than allowed."""
    if size_bytes > limits.max_bytes:
        raise FileTooLargeError(
            f"The file has {size_bytes} bytes, the limit is {limits.max_bytes}: "
            "send a smaller or more compressed one."
        )


def check_dimensions(width: int, height: int, limits: Limits) -> None:
    """Raise an error if an image of that width and height in pixels is not accepted.

    >>> check_dimensions(4000, 3000, Limits())

    Raises:
        InvalidImageError: there is not one pixel.
        DimensionTooLargeError: a side is longer than ``max_side``.
        TooManyPixelsError: there are more than ``max_pixels``.
    """
    if min(width, height) < 1:
        raise InvalidImageError(
            f"The header says {width} x {height} pixels: a picture needs at least one."
        )
    if max(width, height) > limits.max_side:
        raise DimensionTooLargeError(
            f"The picture is {width} x {height} pixels, a side may have {limits.max_side}: "
            "scale it down."
        )
    pixels = width * height
    if pixels > limits.max_pixels:
        raise TooManyPixelsError(
            f"The picture is {width} x {height} = {pixels} pixels, "
            f"the limit is {limits.max_pixels}: scale it down."
        )
