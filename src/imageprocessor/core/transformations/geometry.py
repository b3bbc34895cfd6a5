"""Where an image's pixels go: the sizes and the boxes of each operation, without any pixels."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import NamedTuple

from imageprocessor.core.geometry import (
    Crop,
    Dimensions,
    fit_inside,
    largest_crop,
    scaled,
)
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.core.transformations.values import split_numbers
from imageprocessor.errors import InvalidTransformationError

PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom, in whole pixels."""


class ResizePlan(NamedTuple):
    """How an image is resized.

    ``area`` of it becomes ``size``, on a ``canvas`` that only "pad" makes larger than that.
    ``density`` is the part of ``dpr`` that is reached.
    """

    area: Dimensions
    size: Dimensions
    canvas: Dimensions
    density: float


def plan_resize(wanted: Transformation, source: Dimensions) -> ResizePlan:
    """Return how an image of size *source* is resized, after crop, trim and rotation."""
    area, size = _fit(wanted, source, wanted.dpr)
    density = 1.0
    if wanted.dpr != 1:
        _, single = _fit(wanted, source, 1)
        reached = max(size) / max(single)
        density = min(max(reached, 1.0), wanted.dpr)
    canvas = size
    if wanted.fit == "pad":
        width, height = find_bounds(wanted, source, density)
        canvas = Dimensions(max(width or 0, size.width), max(height or 0, size.height))
    return ResizePlan(area, size, canvas, density)


def find_bounds(
    wanted: Transformation, source: Dimensions, density: float = 1
) -> tuple[int | None, int | None]:
    """Return the bounds of the width and the height, with the aspect ratio taken into account."""
    width = None if wanted.width is None else max(1, round(wanted.width * density))
    height = None if wanted.height is None else max(1, round(wanted.height * density))
    if wanted.aspect_ratio is None:
        return width, height
    aspect = _read_aspect(wanted.aspect_ratio)
    if width is not None:
        return width, scaled(width, aspect.height, aspect.width)
    if height is not None:
        return scaled(height, aspect.width, aspect.height), height
    if wanted.fit == "cover":
        return largest_crop(source, aspect)
    is_wider = source.width * aspect.height >= source.height * aspect.width
    if is_wider:
        return source.width, scaled(source.width, aspect.height, aspect.width)
    return scaled(source.height, aspect.width, aspect.height), source.height


def find_cropped(wanted: Transformation, original: Dimensions) -> Dimensions:
    """Return the size of the image after crop and rotation; trimming can still make it smaller.

    Raises:
        InvalidTransformationError: The crop is not within the image.
    """
    left, top, right, bottom = find_crop_box(wanted, original)
    cropped = Dimensions(right - left, bottom - top)
    return cropped.turned() if wanted.rotate in (90, 270) else cropped


def find_needed(wanted: Transformation, original: Dimensions) -> Crop:
    """Return the area of the upright image that is needed, and the least size to have it in.

    A smaller size would lose detail. Trimming needs all pixels, because a border of one colour ends
    at a sharp edge.

    Raises:
        InvalidTransformationError: The crop is not within the image.
    """
    if wanted.trim:
        find_cropped(wanted, original)
        return Crop(original, original)
    area, size, _, _ = plan_resize(wanted, find_cropped(wanted, original))
    scale = max(Fraction(size.width, area.width), Fraction(size.height, area.height))
    if wanted.rotate in (90, 270):
        area, size = area.turned(), size.turned()
    if scale >= 1:
        return Crop(area, area)
    needed = Dimensions(ceil(area.width * scale), ceil(area.height * scale))
    return Crop(area, size if wanted.fit != "fill" else needed)


def find_crop_box(wanted: Transformation, original: Dimensions) -> PixelBox:
    """Return the box of ``crop`` in the upright image, or all of it.

    >>> find_crop_box(Transformation(crop="50p:0p:50p:100p"), Dimensions(301, 200))
    (150, 0, 301, 200)

    Raises:
        InvalidTransformationError: The crop is not within the image.
    """
    if wanted.crop is None:
        return 0, 0, *original
    (left, top, width, height), is_percent = split_numbers(wanted.crop)
    right, bottom = left + width, top + height
    if is_percent:
        left, right = _round_within(left, right, original.width)
        top, bottom = _round_within(top, bottom, original.height)
    if right > original.width or bottom > original.height:
        raise InvalidTransformationError(
            f"crop {wanted.crop} is not within the image of {original.width} x {original.height} "
            "pixels. Use a smaller one, or percent as 10p:0p:50p:50p."
        )
    return int(left), int(top), int(right), int(bottom)


def find_focus(gravity: str, original: Dimensions) -> tuple[float, float] | None:
    """Return the point of *gravity* in pixels of the upright image, or None if it is no point."""
    if ":" not in gravity:
        return None
    (x, y), is_percent = split_numbers(gravity)
    if is_percent:
        x, y = x * original.width / 100, y * original.height / 100
    return float(x), float(y)


def place(gravity: str, outer: Dimensions, inner: Dimensions) -> tuple[int, int]:
    """Return left and top of *inner* within *outer*, for a direction such as "ne".

    >>> place("center", Dimensions(10, 10), Dimensions(3, 4))
    (3, 3)
    >>> place("se", Dimensions(10, 10), Dimensions(3, 4))
    (7, 6)
    """
    directions = "" if gravity == "center" else gravity
    spare_width, spare_height = outer.width - inner.width, outer.height - inner.height
    left, top = spare_width // 2, spare_height // 2
    if "w" in directions:
        left = 0
    elif "e" in directions:
        left = spare_width
    if "n" in directions:
        top = 0
    elif "s" in directions:
        top = spare_height
    return left, top


def place_around(
    focus: tuple[float, float], outer: Dimensions, inner: Dimensions
) -> tuple[int, int]:
    """Return left and top of *inner* within *outer*, as close around the point as possible."""
    left = min(max(round(focus[0] - inner.width / 2), 0), outer.width - inner.width)
    top = min(max(round(focus[1] - inner.height / 2), 0), outer.height - inner.height)
    return left, top


def fit_mark(mark: Dimensions, image: Dimensions, percent: int) -> Dimensions:
    """Return the size of a watermark within *percent* of the image's width and height."""
    width = max(1, image.width * percent // 100)
    height = max(1, image.height * percent // 100)
    return _grow_to(mark, width, height)


def _round_within(start: Fraction, end: Fraction, length: int) -> tuple[Fraction, Fraction]:
    """Return a range in percent of *length* in whole pixels, of which it has at least one."""
    first = min(round(start * length / 100), length - 1)
    last = max(round(end * length / 100), first + 1)
    return Fraction(first), Fraction(last)


def _fit(wanted: Transformation, source: Dimensions, density: float) -> Crop:
    """Return the area of *source* to keep, and the size to resize it to."""
    width, height = find_bounds(wanted, source, density)
    if wanted.fit in ("inside", "pad"):
        size = _grow_to(source, width, height) if wanted.enlarge else None
        return Crop(source, size or fit_inside(source, width, height))
    assert width is not None
    assert height is not None
    box = Dimensions(width, height)
    if wanted.fit == "fill":
        return Crop(source, box if wanted.enlarge else fit_inside(box, *source))
    if wanted.enlarge:
        return Crop(largest_crop(source, aspect=box), box)
    box = fit_inside(box)
    area = largest_crop(source, aspect=box)
    is_large_enough = area.width >= box.width and area.height >= box.height
    return Crop(area, box if is_large_enough else fit_inside(area))


def _grow_to(source: Dimensions, width: int | None, height: int | None) -> Dimensions:
    """Return the size with the source's aspect ratio that fills one of the bounds, or both."""
    if width is None and height is None:
        return source
    width_decides = height is None or (
        width is not None and width * source.height <= height * source.width
    )
    if width_decides:
        assert width is not None
        return Dimensions(width, scaled(source.height, width, source.width))
    assert height is not None
    return Dimensions(scaled(source.width, height, source.height), height)


def _read_aspect(text: str) -> Dimensions:
    """Return an aspect ratio in whole numbers, such as 1910 and 1000 for "1.91:1"."""
    width, height = (int(Fraction(side) * 1000) for side in text.split(":"))
    return Dimensions(width, height)
