"""Resizing: to the largest size that is needed, then from each size to the next smaller one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from imageprocessor.core.geometry import Box, Crop, Dimensions, center_box

REDUCING_GAP = 1.5
"""How much larger than its result the fast, coarse part of resizing leaves an image."""

_BAND_ROWS = 256


def resize(image: Image.Image, size: Dimensions, box: Box | None = None) -> Image.Image:
    """Return the *box* of an image, or all of it, resized to *size*."""
    return image.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=REDUCING_GAP)


def resize_in_bands(image: Image.Image, size: Dimensions) -> Image.Image:
    """Return an opaque image resized to *size*, some rows at a time.

    Resizing it at once would take memory for an image of the new width and the old height. The
    filter looks beyond each band, so the bands leave no seams.
    """
    resized = Image.new(image.mode, size)
    resized.info = image.info  # its colour profile
    step = image.height / size.height
    for top in range(0, size.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, size.height)
        source_bottom = min(bottom * step, image.height)
        box = (0, top * step, image.width, source_bottom)
        band_size = Dimensions(size.width, bottom - top)
        band = resize(image, band_size, box)
        resized.paste(band, (0, top))
    return resized


def resize_to_each(
    image: Image.Image, crops: Sequence[Crop], original: Dimensions
) -> Iterator[tuple[Crop, Image.Image]]:
    """Yield the image of each crop, the largest scale first; equal crops give one image.

    *image* shows all of the *original*, which it may be smaller than. Each result is made from the
    last one that shows all of it: that costs a fraction of resizing all from the full size.
    """
    distinct = dict.fromkeys(crops)
    for crop in sorted(distinct, key=lambda crop: crop.pixel_ratio, reverse=True):
        if crop.area != original:
            box = center_box(crop.area, original, Dimensions(*image.size))
            yield crop, resize(image, crop.size, box)
            continue
        if crop.size != image.size:
            image = resize(image, crop.size)
        yield crop, image
