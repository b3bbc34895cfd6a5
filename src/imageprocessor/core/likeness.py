"""How alike an image and its encoded file look."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import Image, ImageMath

_BLOCK = 8
_BAND_ROWS = 32 * _BLOCK
"""Rows that are compared at once, to save memory: the products take 20 bytes per pixel."""

# Wang et al. 2004, for levels up to 255
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def compare(image: Image.Image, data: bytes) -> float:
    """Return the mean structural similarity (SSIM) of *image* and the file, in blocks of 8 × 8 px.

    It compares brightness: 1 is equal. What is transparent counts as white.
    """
    with Image.open(BytesIO(data)) as opened:
        coded = _to_luma(opened)
    total = 0.0
    for box, rows in _list_bands(image):
        bands = _to_luma(image.crop(box)).convert("F"), coded.crop(box).convert("F")
        total += _compare_band(*bands) * rows
    return total / image.height


def _to_luma(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L")


def _list_bands(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    for top in range(0, image.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, image.height)
        yield (0, top, image.width, bottom), bottom - top


def _compare_band(first: Image.Image, second: Image.Image) -> float:
    """Return the mean similarity of two images of floats."""
    similarity = ImageMath.lambda_eval(
        _similarity,
        x=first.reduce(_BLOCK),
        y=second.reduce(_BLOCK),
        xx=_multiply(first, first).reduce(_BLOCK),
        yy=_multiply(second, second).reduce(_BLOCK),
        xy=_multiply(first, second).reduce(_BLOCK),
    )
    return float(similarity.reduce(similarity.size).getpixel((0, 0)))


def _multiply(first: Image.Image, second: Image.Image) -> Image.Image:
    product: Image.Image = ImageMath.lambda_eval(lambda of: of["a"] * of["b"], a=first, b=second)
    return product


def _similarity(of: dict[str, Any]) -> Any:
    """Return the similarity of blocks with the means x and y, and those of their products."""
    product, squares = of["x"] * of["y"], of["x"] * of["x"] + of["y"] * of["y"]
    covariance = of["xy"] - product
    variances = of["xx"] + of["yy"] - squares
    luminance = (product * 2.0 + _C1) / (squares + _C1)
    return luminance * (covariance * 2.0 + _C2) / (variances + _C2)
