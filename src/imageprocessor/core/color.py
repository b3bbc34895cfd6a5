"""Colour: to 8-bit sRGB from whatever the decoders give, and the dominant colour of an image."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from itertools import compress, product

from PIL import Image, ImageChops, ImageCms

from imageprocessor.core.geometry import Dimensions, fit_inside
from imageprocessor.core.resize import resize

MAX_PROFILE_BYTES = 8 * 1024 * 1024
"""A longer profile is ignored; the largest that printers publish have about 3 MB."""

_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
"""The colour space of a fitting profile, by Pillow's mode."""

_OPAQUE_FROM = 128
_DOMINANT_SIDE = 150
_DOMINANT_COLORS = 8
_MANY_PIXELS = 10_000


def to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the image as 8-bit sRGB with an empty ``info``, and warnings.

    Its mode is RGB, or RGBA if some pixel is not opaque. Accepted are the modes L, LA, RGB, RGBA
    and CMYK, with the profile in ``image.info["icc_profile"]``. The image given is used up: its
    pixels may be changed in place, because a copy of a large one costs hundreds of megabytes. A
    profile that is broken, belongs to another kind of pixels, or is longer than 8 MiB is ignored
    with the warning ``"icc_invalid"``. CMYK without a usable one is converted as
    ``(255 - ink) * (255 - black) / 255``.

    The rendering intent is perceptual, without black point compensation. Measured with LittleCMS
    2.19 and ImageMagick 6.9 on 16 384 colours of a SWOP CMYK profile, its result is the middle one
    of what colour-managed programs show: mean dE2000 1.5 from relative colorimetric, 1.1 from the
    same with black point compensation, 1.4 and 0.3 from ImageMagick without and with it; each other
    choice is 2.5 or more from some of them. For profiles made of a matrix and curves, such as
    Display P3 and Adobe RGB, all of them agree within 0.25.
    """
    warnings: tuple[str, ...] = ()
    if "icc_profile" in image.info:
        try:
            image = _apply_profile(image, image.info["icc_profile"])
        except (OSError, TypeError, ValueError):
            warnings = ("icc_invalid",)
    is_translucent = False
    if image.mode in ("LA", "RGBA"):
        least_and_most = image.getchannel("A").getextrema()
        is_translucent = least_and_most != (255, 255)
    mode = "RGBA" if is_translucent else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    image.info = {}
    return image, warnings


def dominant_color_of(image: Image.Image) -> str:
    """Return the most frequent colour of an RGB or RGBA image as ``"#RRGGBB"``.

    If no pixel is opaque, that is ``"#FFFFFF"``.

    The image, shrunk to at most 150 × 150 px, is reduced to 8 colours by median cut (Heckbert
    1982); pixels less than half opaque do not count. Of more than 10 000 pixels every second one in
    both directions is looked at, which costs a quarter: of 21 photographs one had another colour
    for it, by more than 24 levels of 255.

    >>> dominant_color_of(Image.new("RGB", (4, 4), (58, 95, 140)))
    '#3A5F8C'
    """
    size = fit_inside(Dimensions(*image.size), _DOMINANT_SIDE, _DOMINANT_SIDE)
    small = resize(image, size)
    if small.width * small.height > _MANY_PIXELS:
        half = (small.width // 2, small.height // 2)
        small = small.resize(half, Image.Resampling.NEAREST)
    opaque = _opaque_pixels(small)
    if opaque is None:
        return "#FFFFFF"

    reduced = opaque.quantize(_DOMINANT_COLORS, Image.Quantize.MEDIANCUT)
    counts = reduced.histogram()
    index = counts.index(max(counts))
    palette = reduced.getpalette("RGB") or []
    start = 3 * index
    red, green, blue = palette[start : start + 3]
    return f"#{red:02X}{green:02X}{blue:02X}"


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the image in sRGB, converted from the profile's colours, in place if the mode stays.

    Raises:
        ValueError, OSError: the profile is unusable.
    """
    if image.mode == "LA":
        gray, alpha = image.split()
        image = _apply_profile(gray, profile).convert("RGB")
        image.putalpha(alpha)
        return image
    transform = _transform_to_srgb(profile, image.mode)
    if image.mode != "CMYK" and _changes_nothing(transform, image.mode):
        return image
    target = image if image.mode == transform.output_mode else None
    return transform.apply(image, target)


def _transform_to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform:
    """Return the conversion to sRGB of pixels of that mode; raise ``ValueError`` on a misfit."""
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        raise ValueError("the colour profile is missing, cut or too long")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
        raise ValueError("the colour profile is for another kind of pixels")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    output_mode = "RGBA" if mode == "RGBA" else "RGB"
    return ImageCms.ImageCmsTransform(source, srgb, mode, output_mode, ImageCms.Intent.PERCEPTUAL)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether the profile is sRGB in effect: no colour moves by more than one level."""
    probe = _probe_colors(mode)
    converted = transform.apply(probe)
    unchanged = probe.convert(transform.output_mode)
    difference = ImageChops.difference(converted, unchanged)
    for band in difference.split():
        counts_by_level = band.histogram()
        if any(counts_by_level[2:]):
            return False
    return True


@cache
def _probe_colors(mode: str) -> Image.Image:
    """Return an image of all levels of gray and of each primary, and of a grid of 18³ colours.

    Curves differ in the former, gamuts in the latter.
    """
    levels = bytes(range(256))
    if mode == "L":
        return Image.frombytes("L", (256, 1), levels)
    pixels = bytearray()
    for level in levels:
        pixels += bytes((level, level, level))
        pixels += bytes((level, 0, 0))
        pixels += bytes((0, level, 0))
        pixels += bytes((0, 0, level))
    for color in product(levels[::15], repeat=3):
        pixels += bytes(color)
    row = (len(pixels) // 3, 1)
    probe = Image.frombytes("RGB", row, bytes(pixels))
    return probe.convert(mode)


def _opaque_pixels(image: Image.Image) -> Image.Image | None:
    """Return the opaque pixels as one row of an RGB image, or None if there are none."""
    if image.mode == "RGB":
        return image
    opaque = image.getchannel("A").point(lambda alpha: 255 * (alpha >= _OPAQUE_FROM))
    mask = Image.merge("RGB", (opaque, opaque, opaque))
    pixels = image.convert("RGB").tobytes()
    kept = bytes(compress(pixels, mask.tobytes()))
    if not kept:
        return None
    return Image.frombytes("RGB", (len(kept) // 3, 1), kept)
