"""Colours: brightness, contrast, saturation, grayscale and sepia, defined as CSS filters are.

Each function returns a new RGB or RGBA image; alpha stays as it is. The formulas are those of the
W3C's Filter Effects, on sRGB levels, so that a style sheet can preview them.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

Matrix = tuple[float, ...]
"""Four factors for each of red, green and blue: of red, green, blue and 1."""

_RED, _GREEN, _BLUE = 0.2126, 0.7152, 0.0722
"""How much each channel adds to the luminance (ITU-R BT.709)."""

_SEPIA: Matrix = (0.393, 0.769, 0.189, 0, 0.349, 0.686, 0.168, 0, 0.272, 0.534, 0.131, 0)


def change_brightness(image: Image.Image, percent: float) -> Image.Image:
    """Return the image with all levels multiplied: -100 is black, 100 twice as bright."""
    factor = 1 + percent / 100
    return _map_levels(image, lambda level: level * factor)


def change_contrast(image: Image.Image, percent: float) -> Image.Image:
    """Return the image with all differences from medium gray multiplied: -100 is gray."""
    factor = 1 + percent / 100
    return _map_levels(image, lambda level: (level - 127.5) * factor + 127.5)


def change_saturation(image: Image.Image, percent: float) -> Image.Image:
    """Return the image with all differences from its luminance multiplied: -100 is grayscale."""
    factor = 1 + percent / 100
    red, green, blue = (weight * (1 - factor) for weight in (_RED, _GREEN, _BLUE))
    matrix = (
        *(red + factor, green, blue, 0),
        *(red, green + factor, blue, 0),
        *(red, green, blue + factor, 0),
    )
    return _multiply(image, matrix)


def to_grayscale(image: Image.Image) -> Image.Image:
    """Return the image without colours."""
    return change_saturation(image, -100)


def to_sepia(image: Image.Image) -> Image.Image:
    """Return the image in the brown tones of an old photograph."""
    return _multiply(image, _SEPIA)


def _map_levels(image: Image.Image, change: Callable[[float], float]) -> Image.Image:
    table = []
    for level in range(256):
        changed = int(change(level) + 0.5)
        table.append(min(max(changed, 0), 255))
    if image.mode == "RGBA":
        return image.point(table * 3 + list(range(256)))
    return image.point(table * 3)


def _multiply(image: Image.Image, matrix: Matrix) -> Image.Image:
    multiplied = image.convert("RGB").convert("RGB", matrix)
    if image.mode == "RGBA":
        multiplied.putalpha(image.getchannel("A"))
    return multiplied
