"""A small copy of an image that is the same whatever sizes are made of it."""

from __future__ import annotations

from PIL import Image

SAMPLE_SIDE = 100
"""The longest side of a sample in pixels."""

_MAX_PIXELS_READ = 1_000_000
"""To read every pixel of a 12-megapixel photo would cost one percent of its job."""


def take_sample(image: Image.Image) -> Image.Image:
    """Return a copy with half, a quarter, … of the sides, the first of at most ``SAMPLE_SIDE``.

    Each pixel is the mean of those that it stands for; in a large image, of every second, fourth, …
    row of them. A JPEG that is decoded at 1/2, 1/4 or 1/8 scale keeps the means of its blocks of 8
    × 8 pixels, so its sample is nearly the same at each scale.
    """
    factor = _factor_to(SAMPLE_SIDE, image)
    step = 1
    while image.width * image.height > _MAX_PIXELS_READ * step and step < factor:
        step *= 2
    rows = image.resize((image.width, -(-image.height // step)), Image.Resampling.NEAREST)
    return rows.reduce((factor, factor // step))


def halve_to(side: int, image: Image.Image) -> Image.Image:
    """Return a copy with its sides halved until none is longer than *side*."""
    return image.reduce(_factor_to(side, image))


def _factor_to(side: int, image: Image.Image) -> int:
    """Return the least power of two by which to divide the sides for them to be within *side*."""
    factor = 1
    while max(image.size) > side * factor:
        factor *= 2
    return factor
