"""Borders: removing one of one colour, and adding one."""

from __future__ import annotations

from PIL import Image, ImageChops

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.transformations.geometry import PixelBox

Color = tuple[int, int, int, int]
"""Red, green, blue and alpha, 0 to 255."""

_TRIM_TOLERANCE = 10
_TRANSPARENT = (0, 0, 0, 0)


def find_content(image: Image.Image) -> PixelBox:
    """Return the box of *image* without a border that has the colour of its top left pixel.

    A pixel belongs to the border if no channel differs by more than 10 levels; a transparent one
    has no colour. An image of only one colour has no border.
    """
    if image.mode == "RGBA":
        image = image.convert("RGBa")
    border = Image.new(image.mode, image.size, image.getpixel((0, 0)))
    difference = ImageChops.difference(image, border)
    largest, *others = difference.split()
    for band in others:
        largest = ImageChops.lighter(largest, band)
    content = largest.point(lambda level: 255 * (level > _TRIM_TOLERANCE)).getbbox()
    return content or (0, 0, *image.size)


def extend(
    image: Image.Image, size: Dimensions, position: tuple[int, int], background: Color | None
) -> Image.Image:
    """Return *image* on a canvas of *size*, on *background* or on transparency."""
    if size == image.size and (background is None or image.mode == "RGB"):
        return image
    is_opaque = background is not None and background[3] == 255
    if image.mode == "RGB" and is_opaque:
        canvas = Image.new("RGB", size, background)
        canvas.paste(image, position)
        return canvas
    canvas = Image.new("RGBA", size, background or _TRANSPARENT)
    if image.mode == "RGB":
        canvas.paste(image, position)
    else:
        canvas.alpha_composite(image, position)
    return canvas.convert("RGB") if is_opaque else canvas


def read_color(text: str | None) -> Color | None:
    """Return the colour that "rrggbb" or "rrggbbaa" describes."""
    if text is None:
        return None
    red, green, blue, *alpha = bytes.fromhex(text)
    return red, green, blue, alpha[0] if alpha else 255
