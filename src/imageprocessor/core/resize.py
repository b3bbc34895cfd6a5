"""Resizing to the largest size that is needed, then from each size to the next smaller one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from imageprocessor.core.geometry import Box, Crop, Dimensions, center_box

REDUCING_GAP = 1.5
"""How much larger than the final size an image is after the fast, coarse part of resizing."""

MOST_PIXELS_AT_ONCE = 16_000_000
"""Up to so many pixels, resizing all rows at once needs less memory than a job may use."""

_BAND_ROWS = 256

_LARGE_PIXELS = 4_000_000


def resize(
    image: Image.Image,
    size: Dimensions,
    box: Box | None = None,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Return *image*, or the part of it in *box*, resized to *size*."""
    return image.resize(size, resampling, box, reducing_gap=REDUCING_GAP)


def shrink(image: Image.Image, size: Dimensions) -> Image.Image:
    """Return an image resized to *size*, the largest size that is needed.

    For an image of more than 4 megapixels, this is the dearest step of resizing. The bicubic filter
    takes four fifths of Lanczos's time for it, and lowers the SSIM of real photos by at most 0.0012
    (``python -m benchmarks.filters``). A large opaque image is resized in bands, to save memory.
    """
    pixels = image.width * image.height
    has_alpha = image.mode in ("LA", "RGBA")
    if pixels > MOST_PIXELS_AT_ONCE and not has_alpha:
        return resize_in_bands(image, size)
    if pixels > _LARGE_PIXELS:
        return resize(image, size, resampling=Image.Resampling.BICUBIC)
    return resize(image, size)


def resize_in_bands(image: Image.Image, size: Dimensions) -> Image.Image:
    """Return an opaque image resized to *size*, in bands of some rows at a time.

    Resizing all rows at once would need memory for an image of the new width and the old height,
    but is faster by a seventh. The filter reads pixels beyond each band, so the bands leave no
    seams.
    """
    resized = Image.new(image.mode, size)
    resized.info = image.info  # its colour profile
    step = image.height / size.height
    for top in range(0, size.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, size.height)
        source_bottom = min(bottom * step, image.height)
        box = (0, top * step, image.width, source_bottom)
        band_size = Dimensions(size.width, bottom - top)
        band = resize(image, band_size, box, Image.Resampling.BICUBIC)
        resized.paste(band, (0, top))
    return resized


def resize_to_each(
    image: Image.Image, crops: Sequence[Crop], original: Dimensions
) -> Iterator[tuple[Crop, Image.Image]]:
    """Yield the image of each crop, the largest scale first; equal crops share one image.

    *image* shows the whole *original*, but may be smaller. Each result is made from the previous
    one that shows the whole image, which costs a fraction of resizing each from the full size.
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
