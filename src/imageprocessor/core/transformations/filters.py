"""Filters: blur, sharpen and pixelate.

Each function returns a new RGB or RGBA image. They work on premultiplied colours, so that the
hidden colour of transparent pixels does not show at the edges.
"""

from __future__ import annotations

from PIL import Image, ImageFilter

from imageprocessor.core.geometry import Dimensions

_SHARPEN_SIGMA = 1.0


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """Return the image blurred by a Gaussian filter of that standard deviation in pixels."""
    gaussian = ImageFilter.GaussianBlur(sigma)
    if image.mode == "RGBA":
        return image.convert("RGBa").filter(gaussian).convert("RGBA")
    return image.filter(gaussian)


def sharpen(image: Image.Image, percent: float) -> Image.Image:
    """Return the image with its finest detail increased; alpha stays as it is.

    The detail is the difference from the image blurred by a sigma of 1 px; 100 doubles it.
    """
    blurred = blur(image, _SHARPEN_SIGMA)
    sharpened = Image.blend(blurred, image, 1 + percent / 100)
    if image.mode == "RGBA":
        sharpened.putalpha(image.getchannel("A"))
    return sharpened


def pixelate(image: Image.Image, side: int) -> Image.Image:
    """Return the image in blocks of one colour, *side* pixels wide and high, from the top left."""
    blocks = image.reduce(side)
    size = Dimensions(*image.size)
    all_blocks = (0, 0, size.width / side, size.height / side)
    return blocks.resize(size, Image.Resampling.NEAREST, all_blocks)
