"""The limits on an image, checked against its header."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.core.formats.registry import list_default_mime_types, require_installed
from imageprocessor.errors import (
    AnimationTooLongError,
    DimensionTooLargeError,
    FileTooLargeError,
    InvalidImageError,
    TooManyPixelsError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Inclusive upper bounds for an image, and the accepted MIME types.

    ``max_frames`` only counts where a size keeps the animation; ``max_pixels`` is then also the
    limit on all frames together. JPEG, PNG and WebP are accepted unless *mime_types* names others:
    "image/gif", "image/avif" or "image/heic".

    Raises:
        MissingExtraError: The decoder of a format that *mime_types* names is not installed.
    """

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 65_535
    max_frames: int = 300
    mime_types: frozenset[str] = frozenset(list_default_mime_types())

    def __post_init__(self) -> None:
        require_installed(self.mime_types)


def check_size(size_bytes: int, limits: Limits) -> None:
    """Raise ``FileTooLargeError`` if the file has more bytes than allowed."""
    if size_bytes > limits.max_bytes:
        raise FileTooLargeError(
            f"The file has {size_bytes} bytes; the limit is {limits.max_bytes}. "
            "Send a smaller or more compressed file."
        )


def check_dimensions(width: int, height: int, limits: Limits) -> None:
    """Raise an error if an image of *width* x *height* pixels is not accepted.

    >>> check_dimensions(4000, 3000, Limits())

    Raises:
        InvalidImageError: A side has no pixels.
        DimensionTooLargeError: A side is longer than ``max_side``.
        TooManyPixelsError: The image has more than ``max_pixels`` pixels.
    """
    if min(width, height) < 1:
        raise InvalidImageError(
            f"The header declares {width} x {height} pixels. An image needs at least 1 x 1."
        )
    if max(width, height) > limits.max_side:
        raise DimensionTooLargeError(
            f"The image is {width} x {height} pixels; the limit for a side is {limits.max_side}. "
            "Scale it down."
        )
    pixels = width * height
    if pixels > limits.max_pixels:
        raise TooManyPixelsError(
            f"The image is {width} x {height} = {pixels} pixels; "
            f"the limit is {limits.max_pixels}. Scale it down."
        )


def check_animation(frames: int, pixels: int, limits: Limits) -> None:
    """Raise ``AnimationTooLongError`` if so many frames of *pixels* each are not accepted.

    >>> check_animation(100, 480 * 270, Limits())
    """
    if frames > limits.max_frames:
        raise AnimationTooLongError(
            f"The animation has {frames} frames; the limit is {limits.max_frames}. Shorten it."
        )
    if frames * pixels > limits.max_pixels:
        raise AnimationTooLongError(
            f"The animation has {frames} frames of {pixels} pixels, {frames * pixels} in all; "
            f"the limit is {limits.max_pixels}. Shorten it or scale it down."
        )
