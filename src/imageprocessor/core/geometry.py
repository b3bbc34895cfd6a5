"""Sizes and boxes, in pixels."""

from __future__ import annotations

from math import floor, sqrt
from typing import NamedTuple

MAX_OUTPUT_SIDE = 16_383
"""The longest side that WebP can store, in pixels (14 bits, RFC 9649)."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class Dimensions(NamedTuple):
    """A width and a height in pixels."""

    width: int
    height: int

    def turned(self) -> Dimensions:
        """Return width and height swapped."""
        return Dimensions(self.height, self.width)


class Crop(NamedTuple):
    """The area to keep from the middle of an image, and the size to resize it to."""

    area: Dimensions
    size: Dimensions

    @property
    def pixel_ratio(self) -> float:
        """Output pixels per pixel of the area."""
        pixels_in = self.area.width * self.area.height
        pixels_out = self.size.width * self.size.height
        return pixels_out / pixels_in

    @property
    def scale(self) -> float:
        """Output length divided by area length, along the side that shrinks less."""
        x_scale = self.size.width / self.area.width
        y_scale = self.size.height / self.area.height
        return max(x_scale, y_scale)


def fit_inside(
    source: Dimensions, width: int | None = None, height: int | None = None
) -> Dimensions:
    """Return the largest size with the source's aspect ratio within the bounds and WebP's limit.

    It is never larger than the source.

    >>> fit_inside(Dimensions(3024, 4032), width=150)
    Dimensions(width=150, height=200)
    """
    bound_width = min(width or source.width, source.width, MAX_OUTPUT_SIDE)
    bound_height = min(height or source.height, source.height, MAX_OUTPUT_SIDE)
    width_decides = bound_width * source.height <= bound_height * source.width
    if width_decides:
        scaled_height = scaled(source.height, bound_width, source.width)
        return Dimensions(bound_width, scaled_height)
    scaled_width = scaled(source.width, bound_height, source.height)
    return Dimensions(scaled_width, bound_height)


def fit_pixels(size: Dimensions, max_pixels: int) -> Dimensions:
    """Return *size*, or the largest size with its aspect ratio that has at most *max_pixels*.

    >>> fit_pixels(Dimensions(4000, 3000), max_pixels=4_200_000)
    Dimensions(width=2366, height=1774)
    """
    pixels = size.width * size.height
    if pixels <= max_pixels:
        return size
    scale = sqrt(max_pixels / pixels)
    return Dimensions(max(1, floor(size.width * scale)), max(1, floor(size.height * scale)))


def largest_crop(source: Dimensions, aspect: Dimensions) -> Dimensions:
    """Return the largest size within *source* that has the aspect ratio of *aspect*.

    >>> largest_crop(Dimensions(3000, 2000), aspect=Dimensions(1, 1))
    Dimensions(width=2000, height=2000)
    """
    width_decides = source.width * aspect.height <= source.height * aspect.width
    if width_decides:
        height = scaled(source.width, aspect.height, aspect.width)
        return Dimensions(source.width, height)
    width = scaled(source.height, aspect.width, aspect.height)
    return Dimensions(width, source.height)


def center_box(area: Dimensions, source: Dimensions, size: Dimensions) -> Box:
    """Return the middle *area* of *source* as a box in the same image resized to *size*.

    >>> center_box(Dimensions(100, 100), source=Dimensions(300, 100), size=Dimensions(150, 50))
    (50.0, 0.0, 100.0, 50.0)
    """
    x_scale = size.width / source.width
    y_scale = size.height / source.height
    left = (source.width - area.width) // 2
    top = (source.height - area.height) // 2
    # A rounding error could make the products exceed the image, which Pillow rejects.
    right = min((left + area.width) * x_scale, size.width)
    bottom = min((top + area.height) * y_scale, size.height)
    return left * x_scale, top * y_scale, right, bottom


def scaled(length: int, numerator: int, denominator: int) -> int:
    """Return *length* times a fraction, rounded (halves to even), at least 1."""
    return max(1, round(length * numerator / denominator))
