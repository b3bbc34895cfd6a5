"""Colour.

To 8-bit sRGB from whatever the decoders give, and the colour that a picture mostly shows.
"""

from __future__ import annotations

import io
from functools import cache
from itertools import chain, compress, product

from PIL import Image, ImageChops, ImageCms

from imageprocessor.core.geometry import Dimensions, fit_inside

MAX_PROFILE_BYTES = 8 * 1024 * 1024
"""A profile longer than this is not looked at.

The largest that printers publish have about 3 MB.
"""

_PROFILE_SPACE = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
_OPAQUE_FROM = 128
_DOMINANT_SIDE = 150
_DOMINANT_COLORS = 8
_MANY_PIXELS = 10_000


def to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the picture as 8-bit sRGB, mode RGB, or RGBA if some pixel is not opaque.

    With nothing in ``info``.

    Taken are the modes L, LA, RGB, RGBA and CMYK, with the profile in
    ``image.info["icc_profile"]``. The image given is
    used up: its pixels may be changed in place, because a copy of a large one costs hundreds of
    megabytes. A profile that is broken, belongs to another kind of pixels, or is longer than 8 MiB
    is ignored with the warning ``"icc_invalid"``. CMYK without a usable one is converted as ``(255
    - ink) * (255 - black) / 255``.

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
            image = _through_profile(image, image.info["icc_profile"])
        except (OSError, TypeError, ValueError):
            warnings = ("icc_invalid",)
    image = _to_rgb(image)
    image.info = {}
    return image, warnings


def dominant_color_of(image: Image.Image) -> str:
    """Return the most frequent colour of an RGB or RGBA picture as ``"#RRGGBB"``.

    ``"#FFFFFF"`` if none is opaque.

    The picture, shrunk to at most 150 × 150 px, is reduced to 8 colours by median cut (Heckbert
    1982); pixels less than half opaque do not count. Of more than 10 000 pixels every second one in
    both directions is looked at, which
    costs a quarter: of 21 photographs one had another colour for it, by more than 24 levels of 255.

    >>> dominant_color_of(Image.new("RGB", (4, 4), (58, 95, 140)))
    '#3A5F8C'
    """
    small = image.resize(
        fit_inside(Dimensions(*image.size), _DOMINANT_SIDE, _DOMINANT_SIDE),
        Image.Resampling.LANCZOS,
        reducing_gap=1.5,
    )
    opaque = _opaque_pixels(_sample(small))
    if opaque is None:
        return "#FFFFFF"
    few = opaque.quantize(_DOMINANT_COLORS, Image.Quantize.MEDIANCUT)
    counts = few.histogram()
    index = counts.index(max(counts))
    palette = few.getpalette("RGB") or []
    return "#{:02X}{:02X}{:02X}".format(*palette[3 * index : 3 * index + 3])


def _sample(picture: Image.Image) -> Image.Image:
    """Return every second pixel of a picture of many, or else the picture."""
    if picture.width * picture.height <= _MANY_PIXELS:
        return picture
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST)


def _to_rgb(picture: Image.Image) -> Image.Image:
    translucent = picture.mode in ("LA", "RGBA") and picture.getchannel("A").getextrema() != (
        255,
        255,
    )
    mode = "RGBA" if translucent else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _through_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from the profile's colours to sRGB, in place if the mode stays.

    ValueError or OSError if it is bad.
    """
    if picture.mode == "LA":
        gray, alpha = picture.split()
        picture = _through_profile(gray, profile).convert("RGB")
        picture.putalpha(alpha)
        return picture
    transform = _transform_to_srgb(profile, picture.mode)
    if picture.mode != "CMYK" and _changes_nothing(transform, picture.mode):
        return picture
    return transform.apply(picture, picture if picture.mode == transform.output_mode else None)


def _transform_to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform:
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        raise ValueError("the colour profile is missing, cut or too long")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != _PROFILE_SPACE[mode]:
        raise ValueError("the colour profile is for another kind of pixels")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    output_mode = "RGBA" if mode == "RGBA" else "RGB"
    return ImageCms.ImageCmsTransform(source, srgb, mode, output_mode, ImageCms.Intent.PERCEPTUAL)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether the profile is sRGB in effect.

    No colour of the probe moves by more than one level.
    """
    probe = _probe(mode)
    moved = ImageChops.difference(transform.apply(probe), probe.convert(transform.output_mode))
    return not any(any(band.histogram()[2:]) for band in moved.split())


@cache
def _probe(mode: str) -> Image.Image:
    """All levels of gray and of each primary, where curves differ, and a grid of 18³ colours.

    Where gamuts do.
    """
    levels = bytes(range(256))
    if mode == "L":
        return Image.frombytes("L", (256, 1), levels)
    ramps = [
        (v * r, v * g, v * b)
        for v in levels
        for r, g, b in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    colors = [*ramps, *product(levels[::15], repeat=3)]
    return Image.frombytes("RGB", (len(colors), 1), bytes(chain.from_iterable(colors))).convert(
        mode
    )


def _opaque_pixels(image: Image.Image) -> Image.Image | None:
    """Return the opaque pixels side by side in one row of an RGB image.

    Or None if there are none.
    """
    if image.mode == "RGB":
        return image
    opaque = image.getchannel("A").point(lambda level: 255 * (level >= _OPAQUE_FROM))
    kept = bytes(
        compress(image.convert("RGB").tobytes(), Image.merge("RGB", (opaque,) * 3).tobytes())
    )
    return Image.frombytes("RGB", (len(kept) // 3, 1), kept) if kept else None
