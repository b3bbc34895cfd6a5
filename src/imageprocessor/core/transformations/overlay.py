"""What lies over an image: a watermark, and the mask of round corners."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageDraw

_SAMPLES = 4
_BAND_ROWS = 256


def draw_over(
    image: Image.Image, mark: Image.Image, position: tuple[int, int], opacity: float
) -> Image.Image:
    """Return *image* with *mark* at *position*, its alpha multiplied by *opacity*, 0 to 1."""
    mark = mark.convert("RGBA")
    alpha = mark.getchannel("A").point(lambda level: round(level * opacity))
    mark.putalpha(alpha)
    drawn = image.copy()
    if image.mode == "RGBA":
        drawn.alpha_composite(mark, position)
    else:
        drawn.paste(mark, position, alpha)
    return drawn


def round_corners(image: Image.Image, radius: int) -> Image.Image:
    """Return an RGBA image whose corners are transparent outside a quarter of a circle.

    The edge is smooth: a pixel is as opaque as the part of it that is inside.
    """
    radius = min(radius, image.width // 2, image.height // 2)
    if radius == 0:
        return image
    corner = _draw_corner(radius)
    mask = Image.new("L", image.size, 255)
    right, bottom = image.width - radius, image.height - radius
    mirrored = corner.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask.paste(corner, (0, 0))
    mask.paste(mirrored, (right, 0))
    mask.paste(corner.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (0, bottom))
    mask.paste(mirrored.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (right, bottom))
    if image.mode == "RGBA":
        mask = ImageChops.multiply(mask, image.getchannel("A"))
    rounded = image.convert("RGBA")
    rounded.putalpha(mask)
    return rounded


def _draw_corner(radius: int) -> Image.Image:
    """Return the mask of the top left corner, drawn larger and then reduced, some rows at a time.

    All rows at once would need a gigabyte for the largest radius.
    """
    corner = Image.new("L", (radius, radius))
    for top in range(0, radius, _BAND_ROWS):
        rows = min(_BAND_ROWS, radius - top)
        band = Image.new("L", (radius * _SAMPLES, rows * _SAMPLES))
        start = -top * _SAMPLES
        diameter = 2 * radius * _SAMPLES
        circle = (0, start, diameter - 1, start + diameter - 1)
        ImageDraw.Draw(band).ellipse(circle, fill=255)
        corner.paste(band.reduce(_SAMPLES), (0, top))
    return corner
